"""Many images over http(s) at a time: one thread, few connections that are kept, bounded memory, polite to each host.

    with DownloadClient(Limits()) as engine:
        tickets = [engine.submit(url) for url in urls]
        data = tickets[0].take().data

Before the first GET at a host its name is resolved and checked once, and its robots.txt and tdmrep.json are asked.
Redirects go through the same gate. A ticket that failed for a transient reason is tried again after a pause, where that
is short; the caller may ask again later for the others.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from urllib.parse import urljoin

from commonart.core.data.download import hosts
from commonart.core.data.download.addresses import AddressError, split_url
from commonart.core.data.download.event_loop import Loop
from commonart.core.data.download.hosts import Host
from commonart.core.data.download.limits import Download, DownloadError, Limits
from commonart.core.data.download.opt_out import header_signals
from commonart.core.data.download.request import PendingDownload
from commonart.core.data.download.transfer import MOVED, Transfer, seconds_asked


class DownloadClient:
    """Use as a context manager; `submit` from any thread. Leaving the block ends what is still on its way."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.limits = limits
        self.hosts: OrderedDict[str, Host] = OrderedDict()
        self._awaited = set[PendingDownload]()
        self._ready: deque[Host] = deque()  # hosts that have something to ask and may be asked
        self._free: list[Transfer] = []
        self._made = 0
        self._busy = set[PendingDownload]()  # every ticket that is not answered yet
        self._held = 0
        self._closing = self._over = False
        self._error: BaseException | None = None
        self._loop = Loop(limits, self._ended)
        self.resolver = hosts.Resolver(limits, self._loop.post)
        self._thread = threading.Thread(target=self._run, name="commonart-fetch", daemon=True)

    # --- for the caller ----------------------------------------------------------------------------------------------

    def __enter__(self) -> DownloadClient:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.post(self._close)
        self._thread.join()

    def submit(self, url: str, range: str = "") -> PendingDownload:
        """Ask for `url`, or for a range of its bytes ("0-99"); the order of submission is about that of the answers."""
        ticket = PendingDownload(self, url, self.limits.max_bytes, range=range)
        self._busy.add(ticket)
        self._loop.post(lambda: self._route(ticket))
        if self._over:
            with suppress(InvalidStateError):  # its end has seen this ticket already
                ticket.done.set_exception(self._error or DownloadError("timeout", "the run has ended"))
        return ticket

    def await_(self, ticket: PendingDownload) -> None:
        """Somebody waits for this one: it starts even when the buffer is full."""
        self._loop.post(lambda: None if ticket.done.done() else self._awaited.add(ticket))

    def taken(self, ticket: PendingDownload) -> None:
        """Its bytes are no longer held here."""
        if ticket.held:
            self._loop.post(lambda: self._let_go(ticket))

    def forgive(self) -> None:
        """Ask hosts again that did not answer a while ago, rather than remember it of them."""

        def act() -> None:
            for host in self.hosts.values():
                host.error = None

        self._loop.post(act)

    # --- the engine's thread -----------------------------------------------------------------------------------------

    def _close(self) -> None:
        self._closing = True

    def _run(self) -> None:
        try:
            while not self._closing:
                self._loop.due()
                self._start()
                if not self._closing:
                    self._loop.turn()
        except BaseException as error:
            self._error = error
        finally:
            self._end()

    def _end(self) -> None:
        self.resolver.close()
        self._over = True
        for ticket in list(self._busy):
            ticket.done.set_exception(self._error or DownloadError("timeout", "the run ended first"))
        self._busy.clear()
        self._loop.close()

    # --- from URL to answer ------------------------------------------------------------------------------------------

    def _route(self, ticket: PendingDownload) -> None:
        """Send a ticket to its host, which is made ready first when it is new."""
        try:
            ticket.target = split_url(ticket.url)
        except AddressError as error:
            return self._fail(ticket, DownloadError(error.reason, error.detail))
        site = ticket.target.site
        host = self.hosts.get(site)
        if host is None:
            host = self.hosts[site] = Host(ticket.target)
            hosts.forget_idle(self.hosts)
        self.hosts.move_to_end(site)
        (host.bare if ticket.bare else host.queue).append(ticket)
        self._prepare(host)

    def _prepare(self, host: Host) -> None:
        """Resolve, ask for rules, and put the host into line: whichever comes next."""
        now = time.monotonic()
        if host.error is not None and now < host.error_until:
            for ticket in host.drain():
                self._fail(ticket, host.error)
        elif host.resolving or not (host.queue or host.bare):
            return
        elif now >= host.addresses_until:
            host.resolving = True
            self.resolver.resolve(host.target, lambda found: self._resolved(host, found))
        else:
            if now >= host.rules_until and not host.asking and host.queue:
                hosts.ask_rules(host, self._bare)
            self._line_up(host)

    def _resolved(self, host: Host, found: list[str] | DownloadError) -> None:
        host.resolving = False
        if isinstance(found, DownloadError):
            host.fail(found)
        else:
            host.addresses = found
            host.addresses_until = time.monotonic() + hosts.ADDRESS_SECONDS
        self._prepare(host)

    def _bare(self, url: str, then: Callable[[Download | DownloadError], None], host: Host) -> None:
        """Ask for robots.txt or tdmrep.json; `then` runs in this thread, and the host goes on after it."""
        ticket = PendingDownload(self, url, hosts.RULES_BYTES, bare=True)

        def done(answer: Future[Download]) -> None:
            error = answer.exception()
            if not self._over:
                assert error is None or isinstance(error, DownloadError)
                then(error or answer.result())
                self._let_go(ticket)
                self._prepare(host)

        ticket.done.add_done_callback(done)
        self._busy.add(ticket)
        self._route(ticket)

    def _line_up(self, host: Host) -> None:
        if host.lined or host.active >= self.limits.per_host or not host.startable():
            return
        wait = host.next_start - time.monotonic()
        if wait > 0 and not host.bare:
            host.lined = True

            def now() -> None:
                host.lined = False
                self._line_up(host)

            self._loop.later(wait, now)
            return
        host.lined = True
        self._ready.append(host)

    def _start(self) -> None:
        """Start what may start: hosts in turn, as long as a connection and memory are left."""
        while self._ready and (self._free or self._made < self.limits.workers):
            full = self._held >= self.limits.buffer
            if full and not self._awaited and not any(host.bare for host in self._ready):
                return
            host = self._ready.popleft()
            host.lined = False
            ticket = host.next(self._awaited if full else None)
            if ticket is None:
                if full:  # nothing here that may start in spite of the full buffer
                    host.lined = True
                    self._ready.append(host)
                    if all(not h.bare and not any(t in self._awaited for t in h.queue) for h in self._ready):
                        return
                continue
            self._ask(host, ticket)
            self._line_up(host)

    def _ask(self, host: Host, ticket: PendingDownload) -> None:
        assert ticket.target is not None
        if not ticket.bare:
            if host.error is not None and time.monotonic() < host.error_until:
                return self._fail(ticket, host.error)
            ticket.signals += host.rules.signals(ticket.target.path)
            if ticket.signals and self.limits.opt_outs:
                return self._give(ticket, b"")
            host.next_start = time.monotonic() + max(self.limits.delay, host.rules.delay)
        if self._free:
            exchange = self._free.pop()
        else:
            exchange = Transfer(self.limits)
            self._made += 1
        seconds = self.limits.seconds - ticket.spent
        host.active += 1
        exchange.begin(ticket, ticket.target, host.addresses, max_bytes=ticket.max_bytes, seconds=seconds)
        exchange.host = host
        self._loop.begin(exchange)

    def _ended(self, exchange: Transfer, error: DownloadError | None) -> None:
        ticket: PendingDownload = exchange.ticket
        host: Host = exchange.host
        ticket.spent += exchange.seconds
        status, headers, body = exchange.status, exchange.headers(), bytes(exchange.body)
        self._loop.end(exchange)
        if error is not None and error.reason == "connect":
            host.addresses_until = 0.0  # the name may mean another machine by now
        exchange.ticket = None
        exchange.body = bytearray()
        self._free.append(exchange)
        host.active -= 1
        if error is not None and not (ticket.bare and error.reason == "too_many_bytes"):  # 500 KiB of rules are enough
            self._failed(ticket, error)
        elif status in MOVED and headers.get("location"):
            self._redirected(ticket, headers["location"][0])
        elif status != (206 if ticket.range else 200):
            self._failed(
                ticket, DownloadError(f"http_{status}", pause=seconds_asked(headers.get("retry-after", [""])[0]))
            )
        elif (packed := headers.get("content-encoding", ["identity"])[0].lower()) not in ("identity", ""):
            self._failed(ticket, DownloadError("encoded", packed[:80]))
        else:
            ticket.signals += header_signals(headers)
            total = headers.get("content-range", [""])[0].rpartition("/")[2] if ticket.range else ""
            self._give(ticket, body, int(total) if total.isdecimal() else 0)
        self._prepare(host)

    def _redirected(self, ticket: PendingDownload, location: str) -> None:
        ticket.hops += 1
        if ticket.hops > self.limits.redirects:
            return self._fail(ticket, DownloadError("redirects", f"more than {self.limits.redirects}"))
        with suppress(UnicodeError):  # headers are read as latin-1; many servers send UTF-8 as it is
            location = location.encode("latin-1").decode("utf-8")
        try:
            ticket.url = urljoin(ticket.url, location)
        except ValueError as error:
            return self._fail(ticket, DownloadError("bad_url", str(error)))
        self._route(ticket)

    def _failed(self, ticket: PendingDownload, error: DownloadError) -> None:
        """Try again after a pause, or give up for now."""
        pause = max(self.limits.pause * 2 ** (ticket.attempts - 1), error.pause)
        again = error.retry and error.reason != "timeout" and ticket.attempts < self.limits.attempts
        if not again or pause > self.limits.longest_pause:
            return self._fail(ticket, error)
        ticket.attempts += 1
        ticket.url, ticket.hops, ticket.spent, ticket.signals = ticket.start, 0, 0.0, []
        self._loop.later(pause, lambda: self._route(ticket))

    def _fail(self, ticket: PendingDownload, error: BaseException) -> None:
        self._busy.discard(ticket)
        self._awaited.discard(ticket)
        ticket.done.set_exception(error)

    def _give(self, ticket: PendingDownload, data: bytes, total: int = 0) -> None:
        self._busy.discard(ticket)
        self._awaited.discard(ticket)
        ticket.held = len(data)
        self._held += len(data)
        ticket.done.set_result(Download(data, ticket.url, list(dict.fromkeys(ticket.signals)), total))

    def _let_go(self, ticket: PendingDownload) -> None:
        self._held -= ticket.held
        ticket.held = 0
