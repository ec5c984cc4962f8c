"""From requests to answers, in one thread: hosts in turn, as many transfers as the limits allow.

Before the first GET at a host its name is resolved and checked once, and its robots.txt and tdmrep.json are asked. Redirects
go through the same gate. A request that failed for a transient reason is tried again after a pause, where that is short.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from urllib.parse import urljoin

import pycurl

from commonart.core.data.download.addresses import split_url
from commonart.core.data.download.content_encoding import decode
from commonart.core.data.download.event_loop import EventLoop
from commonart.core.data.download.hosts import ADDRESS_SECONDS, MAX_HOSTS, RULES, RULES_BYTES, Host, Resolver
from commonart.core.data.download.limits import Download, DownloadError, Limits
from commonart.core.data.download.opt_out import Rules, header_signals
from commonart.core.data.download.request import Request
from commonart.core.data.download.transfer import MOVED, Transfer, is_complete, parse_retry_after


class Scheduler:
    """The thread that downloads; it runs until `stop`. The first five methods may be called from any thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._hosts: OrderedDict[str, Host] = OrderedDict()
        self._ready: deque[Host] = deque()  # hosts that have something to ask and may be asked
        self._idle: list[Transfer] = []
        self._transfers = 0  # made so far, idle ones included
        self._unanswered = set[Request]()
        self._awaited = set[Request]()  # these start even when the buffer is full
        self._buffered = 0  # bytes that arrived and that nobody has taken yet
        self._stopping = self._stopped = False
        self._error: BaseException | None = None
        self._loop = EventLoop(limits, self._finished)
        self._resolver = Resolver(limits, self._loop.call_soon)
        self._thread = threading.Thread(target=self._run, name="commonart-fetch", daemon=True)
        self._thread.start()

    def submit(self, url: str, byte_range: str = "") -> Request:
        """Ask for `url`, or for a range of its bytes."""
        request = Request(url, self.limits.max_bytes, byte_range, waited_for=self._prioritize, taken=self._release_soon)
        self._unanswered.add(request)
        self._loop.call_soon(lambda: self._route(request))
        if self._stopped:
            with suppress(InvalidStateError):  # the thread's end has seen this request already
                request.future.set_exception(self._error or DownloadError("timeout", "the run has ended"))
        return request

    def _prioritize(self, request: Request) -> None:
        """Somebody waits for this request: it starts even when the buffer is full."""
        self._loop.call_soon(lambda: None if request.future.done() else self._awaited.add(request))

    def _release_soon(self, request: Request) -> None:
        """Stop counting the bytes of a request that were read."""
        if request.buffered:
            self._loop.call_soon(lambda: self._release(request))

    def forget_errors(self) -> None:
        """Ask hosts again that did not answer a while ago."""

        def forget() -> None:
            for host in self._hosts.values():
                host.error = None

        self._loop.call_soon(forget)

    def stop(self) -> None:
        """End what is still on its way, and wait for the thread's end."""
        self._stopping = True
        self._loop.call_soon(lambda: None)  # to wake it
        self._thread.join()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._loop.run_due()
                self._start_transfers()
                if not self._stopping:
                    self._loop.poll()
        except BaseException as error:
            self._error = error
        finally:
            self._resolver.close()
            self._stopped = True
            for request in list(self._unanswered):
                request.future.set_exception(self._error or DownloadError("timeout", "the run ended first"))
            self._unanswered.clear()
            self._loop.close()

    def _route(self, request: Request) -> None:
        """Queue a request at its host, which is prepared first when it is new."""
        try:
            request.target = split_url(request.url)
        except DownloadError as error:
            return self._fail(request, error)
        site = request.target.site
        host = self._hosts.get(site)
        if host is None:
            host = self._hosts[site] = Host(request.target)
            while len(self._hosts) > MAX_HOSTS and (idle := next((k for k, h in self._hosts.items() if h.idle()), "")):
                del self._hosts[idle]  # those used longest ago go first
        self._hosts.move_to_end(site)
        (host.rules_queue if request.for_rules else host.queue).append(request)
        self._prepare(host)

    def _prepare(self, host: Host) -> None:
        """Resolve the host, ask for its rules, or put it into line: whichever comes next."""
        now = time.monotonic()
        if host.error is not None and now < host.error_until:
            for request in host.drain():
                self._fail(request, host.error)
        elif host.resolving or not (host.queue or host.rules_queue):
            return
        elif now >= host.addresses_until:
            host.resolving = True
            self._resolver.resolve(host.target, lambda addresses: self._resolved(host, addresses))
        else:
            if now >= host.rules_until and not host.rules_pending and host.queue:
                self._ask_rules(host)
            self._line_up(host)

    def _resolved(self, host: Host, addresses: list[str] | DownloadError) -> None:
        host.resolving = False
        if isinstance(addresses, DownloadError):
            host.fail(addresses)
        else:
            host.addresses = addresses
            host.addresses_until = time.monotonic() + ADDRESS_SECONDS
        self._prepare(host)

    def _ask_rules(self, host: Host) -> None:
        """Ask for robots.txt and tdmrep.json; images wait until both have been answered."""
        host.rules, host.error, host.rules_pending = Rules(), None, len(RULES)
        for path in RULES:
            request = Request(host.target.site + path, RULES_BYTES, for_rules=True)
            request.future.add_done_callback(partial(self._rules_answered, host, path, request))
            self._unanswered.add(request)
            self._route(request)

    def _rules_answered(self, host: Host, path: str, request: Request, future: Future[Download]) -> None:
        error = future.exception()
        if not self._stopped:
            assert error is None or isinstance(error, DownloadError)
            host.take_rules(path, error or future.result())
            self._release(request)
            self._prepare(host)

    def _line_up(self, host: Host) -> None:
        """Put a host that may start a transfer into line, once its delay is over."""
        if host.in_line or host.active >= self.limits.per_host or not host.startable():
            return
        host.in_line = True
        wait = host.next_start - time.monotonic()
        if wait <= 0 or host.rules_queue:
            self._ready.append(host)
            return

        def line_up() -> None:
            host.in_line = False
            self._line_up(host)

        self._loop.call_later(wait, line_up)

    def _start_transfers(self) -> None:
        """Start what may start: hosts in turn, as long as a connection and memory are left."""
        while self._ready and (self._idle or self._transfers < self.limits.workers):
            full = self._buffered >= self.limits.buffer
            if full and not self._awaited and not any(host.rules_queue for host in self._ready):
                return
            host = self._ready.popleft()
            host.in_line = False
            request = host.next(self._awaited if full else None)
            if request is None:
                if full:  # nothing here that may start in spite of the full buffer
                    host.in_line = True
                    self._ready.append(host)
                    if all(not h.rules_queue and self._awaited.isdisjoint(h.queue) for h in self._ready):
                        return
                continue
            self._start(host, request)
            self._line_up(host)

    def _start(self, host: Host, request: Request) -> None:
        assert request.target is not None
        if not request.for_rules:
            if host.error is not None and time.monotonic() < host.error_until:
                return self._fail(request, host.error)
            request.signals += host.rules.signals(request.target.path)
            if request.signals and self.limits.opt_outs:
                return self._answer(request, b"")
            host.next_start = time.monotonic() + max(self.limits.delay, host.rules.delay)
        if self._idle:
            transfer = self._idle.pop()
        else:
            transfer = Transfer(self.limits)
            self._transfers += 1
        host.active += 1
        transfer.prepare(request, request.target, host)
        self._loop.multi.add_handle(transfer.curl)

    def _finished(self, transfer: Transfer, error: DownloadError | None) -> None:
        request, host = transfer.owner
        request.seconds += transfer.curl.getinfo(pycurl.TOTAL_TIME)
        status, headers, body = transfer.curl.getinfo(pycurl.RESPONSE_CODE), transfer.headers(), bytes(transfer.body)
        self._loop.multi.remove_handle(transfer.curl)
        if error is not None and error.reason == "connect":
            host.addresses_until = 0.0  # the name may mean another machine by now
        transfer.clear()
        self._idle.append(transfer)
        host.active -= 1
        # Of rules the first 500 KiB are enough.
        if error is not None and not (request.for_rules and error.reason == "too_many_bytes"):
            self._retry(request, error)
        elif status in MOVED and headers.get("location"):
            self._redirect(request, headers["location"][0])
        elif not (status == 206 if request.byte_range else is_complete(status, headers, len(body))):
            pause = parse_retry_after(headers.get("retry-after", [""])[0])
            self._retry(request, DownloadError(f"http_{status}", pause=pause))
        else:
            self._received(request, headers, body)
        self._prepare(host)

    def _received(self, request: Request, headers: dict[str, list[str]], body: bytes) -> None:
        encodings = headers.get("content-encoding", [])
        try:
            data = body if request.byte_range else decode(body, encodings, request.max_bytes, cut=request.for_rules)
        except DownloadError as error:
            return self._retry(request, error)
        request.signals += header_signals(headers)
        total = headers.get("content-range", [""])[0].rpartition("/")[2] if request.byte_range else ""
        self._answer(request, data, int(total) if total.isdecimal() else 0)

    def _redirect(self, request: Request, location: str) -> None:
        request.redirects += 1
        if request.redirects > self.limits.redirects:
            return self._fail(request, DownloadError("redirects", f"more than {self.limits.redirects}"))
        with suppress(UnicodeError):  # headers are read as latin-1; many servers send UTF-8 as it is
            location = location.encode("latin-1").decode("utf-8")
        try:
            request.url = urljoin(request.url, location)
        except ValueError as error:
            return self._fail(request, DownloadError("bad_url", str(error)))
        self._route(request)

    def _retry(self, request: Request, error: DownloadError) -> None:
        """Try again after a pause, or give up for now."""
        pause = max(self.limits.pause * 2 ** (request.attempts - 1), error.pause)
        again = error.retry and error.reason != "timeout" and request.attempts < self.limits.attempts
        if not again or pause > self.limits.longest_pause:
            return self._fail(request, error)
        request.restart()
        self._loop.call_later(pause, lambda: self._route(request))

    def _fail(self, request: Request, error: DownloadError) -> None:
        self._unanswered.discard(request)
        self._awaited.discard(request)
        request.future.set_exception(error)

    def _answer(self, request: Request, data: bytes, total: int = 0) -> None:
        self._unanswered.discard(request)
        self._awaited.discard(request)
        request.buffered = len(data)
        self._buffered += len(data)
        request.future.set_result(Download(data, request.url, list(dict.fromkeys(request.signals)), total))

    def _release(self, request: Request) -> None:
        self._buffered -= request.buffered
        request.buffered = 0
