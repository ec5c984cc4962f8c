"""One thread's work: libcurl's transfers by the system's selector, timers, and what other threads want done here."""

from __future__ import annotations

import heapq
import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pycurl

from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.download.transfer import Transfer


class EventLoop:
    """`call_soon` from any thread; everything else in the one that calls `poll`, which calls `finished`.

    A prepared transfer starts when its handle is added to `multi`.
    """

    def __init__(self, limits: Limits, finished: Callable[[Transfer, DownloadError | None], None]) -> None:
        self._finished = finished
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._curl_due = math.inf
        self._woken = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._wake_fd = self._selector.register(self._wake_receiver, selectors.EVENT_READ).fd
        self.multi = pycurl.CurlMulti()
        for option, value in (
            (pycurl.M_SOCKETFUNCTION, self._watch),
            (pycurl.M_TIMERFUNCTION, self._set_timer),
            (pycurl.M_PIPELINING, 2),  # CURLPIPE_MULTIPLEX
            (pycurl.M_MAXCONNECTS, limits.workers * 2),
            (pycurl.M_MAX_TOTAL_CONNECTIONS, limits.workers),
            (pycurl.M_MAX_HOST_CONNECTIONS, limits.per_host),
        ):
            self.multi.setopt(option, value)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have `function` called in the loop's thread, soon; from any thread."""
        self._calls.append(function)
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # the loop was closed at this very moment: nobody is left to wake
                self._wake_sender.send(b"x")

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have `function` called after a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._number), function))

    def run_due(self) -> None:
        """Call what other threads want called and what is due."""
        self._woken = False
        while self._calls:
            self._calls.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def poll(self) -> None:
        """Let libcurl work until something is finished or due, or another thread calls."""
        due = min(self._curl_due, self._timers[0][0] if self._timers else math.inf)
        timeout = 0.0 if self._calls else min(1.0, max(0.0, due - time.monotonic()))
        for key, events in self._selector.select(timeout):
            if key.fd == self._wake_fd:
                self._wake_receiver.recv(4096)
                continue
            readable = pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0
            writable = pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
            self.multi.socket_action(key.fd, readable | writable)
        if time.monotonic() >= self._curl_due:
            self._curl_due = math.inf
            self.multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        left = 1
        while left:
            left, succeeded, failed = self.multi.info_read(64)
            for curl in succeeded:
                self._finished(curl.transfer, None)
            for curl, code, message in failed:
                self._finished(curl.transfer, curl.transfer.failure(code, message))

    def close(self) -> None:
        """End every transfer; functions that are handed in from now on are never called."""
        self._woken = True  # nobody sends to the closed socket any more
        self.multi.close()
        self._selector.close()
        self._wake_sender.close()
        self._wake_receiver.close()

    def _watch(self, what: int, fd: int, *_: object) -> None:
        """libcurl says which events of a socket it waits for."""
        if what == pycurl.POLL_REMOVE:
            with suppress(KeyError, ValueError):  # it was never watched
                self._selector.unregister(fd)
            return
        reading = selectors.EVENT_READ if what & pycurl.POLL_IN else 0
        writing = selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        try:
            self._selector.modify(fd, reading | writing)
        except KeyError:
            self._selector.register(fd, reading | writing)

    def _set_timer(self, milliseconds: int) -> None:
        self._curl_due = math.inf if milliseconds < 0 else time.monotonic() + milliseconds / 1000
