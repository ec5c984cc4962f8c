"""One thread's work: libcurl's transfers by epoll, timers, and what other threads want done here."""

from __future__ import annotations

import heapq
import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pycurl

from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.download.transfer import Transfer

_EVENTS = ((select.EPOLLIN, pycurl.CSELECT_IN), (select.EPOLLOUT, pycurl.CSELECT_OUT))
_ERRORS = select.EPOLLERR | select.EPOLLHUP


class Loop:
    """`turn` in the one thread that owns it; `post` from any. `ended` is called with each finished exchange."""

    def __init__(self, limits: Limits, ended: Callable[[Transfer, DownloadError | None], None]) -> None:
        self._ended = ended
        self._inbox: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._curl_due: float | None = None
        self._woken = False
        self._wake_out, self._wake_in = os.pipe()
        self._poll = select.epoll()
        self._poll.register(self._wake_out, select.EPOLLIN)
        self._multi = pycurl.CurlMulti()
        for option, value in (
            (pycurl.M_SOCKETFUNCTION, self._socket),
            (pycurl.M_TIMERFUNCTION, self._timer),
            (pycurl.M_PIPELINING, 2),  # CURLPIPE_MULTIPLEX
            (pycurl.M_MAXCONNECTS, limits.workers * 2),
            (pycurl.M_MAX_TOTAL_CONNECTIONS, limits.workers),
            (pycurl.M_MAX_HOST_CONNECTIONS, limits.per_host),
        ):
            self._multi.setopt(option, value)

    def post(self, act: Callable[[], None]) -> None:
        """Have `act` called in the loop's thread, soon; from any thread."""
        self._inbox.append(act)
        if not self._woken:
            self._woken = True
            os.write(self._wake_in, b"x")

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have `act` called after a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._number), act))

    def begin(self, exchange: Transfer) -> None:
        """Start an exchange that is ready."""
        self._multi.add_handle(exchange.curl)

    def end(self, exchange: Transfer) -> None:
        """Take a finished exchange out, so that its handle can be used again."""
        self._multi.remove_handle(exchange.curl)

    def due(self) -> None:
        """Call what was posted and what is due."""
        self._woken = False
        while self._inbox:
            self._inbox.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def turn(self) -> None:
        """Let libcurl work until something is finished, due or posted."""
        for handle, events in self._poll.poll(self._patience()):
            if handle == self._wake_out:
                os.read(handle, 4096)
                continue
            mask = sum(ours for theirs, ours in _EVENTS if events & theirs)
            self._multi.socket_action(handle, mask | (pycurl.CSELECT_ERR if events & _ERRORS else 0))
        if self._curl_due is not None and time.monotonic() >= self._curl_due:
            self._curl_due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        left = 1
        while left:
            left, good, bad = self._multi.info_read(64)
            for curl in good:
                self._ended(curl.exchange, None)
            for curl, code, message in bad:
                self._ended(curl.exchange, curl.exchange.failure(code, message))

    def close(self) -> None:
        """End every transfer; what is posted from now on is never called."""
        self._woken = True  # nothing is written to the pipe any more
        self._multi.close()
        self._poll.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _patience(self) -> float:
        dues = [due for due in (self._curl_due, self._timers[0][0] if self._timers else None) if due is not None]
        return 0.0 if self._inbox else min(1.0, max(0.0, min(dues) - time.monotonic())) if dues else 1.0

    def _socket(self, what: int, handle: int, *_: object) -> None:
        if what == pycurl.POLL_REMOVE:
            with suppress(OSError, ValueError):  # closed already, which takes it out as well
                self._poll.unregister(handle)
            return
        events = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            self._poll.modify(handle, events)
        except FileNotFoundError:
            self._poll.register(handle, events)

    def _timer(self, milliseconds: int) -> None:
        self._curl_due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000
