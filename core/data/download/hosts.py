"""What is known of each host: its checked addresses, what its robots.txt and tdmrep.json say, who waits for it.

A host is a scheme, name and port. Names are resolved in a few threads; a name server that has gone silent is recognised
and waited for, so that a long list is not burnt through while no name can be resolved.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor

from commonart.core import log
from commonart.core.data.download import addresses
from commonart.core.data.download.addresses import AddressError, Target
from commonart.core.data.download.limits import Download, DownloadError, Limits
from commonart.core.data.download.opt_out import Rules, read_robots, read_tdmrep
from commonart.core.data.download.request import PendingDownload
from commonart.core.errors import CommonArtError

ADDRESS_SECONDS = 600.0
RULES_SECONDS = 86400.0  # RFC 9309, 2.4
RULES_BYTES = 500 << 10  # RFC 9309, 2.5
ERROR_SECONDS = 60.0
MANY = 50_000  # hosts that are remembered
RESOLVERS = 16  # names at a time: more makes small name servers fall silent
WINDOW = 30  # the last so many look-ups tell whether the name server answers


class Host:
    """One host and its queues."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.queue: deque[PendingDownload] = deque()  # tickets that wait for the rules
        self.bare: deque[PendingDownload] = deque()  # tickets that ask for them
        self.addresses: list[str] = []
        self.addresses_until = 0.0
        self.resolving = False
        self.rules = Rules()
        self.rules_until = 0.0
        self.asking = 0  # how many of the two files are on their way
        self.error: DownloadError | None = None
        self.error_until = 0.0
        self.active = 0
        self.next_start = 0.0
        self.lined = False  # stands in the engine's line, or a timer will put it there

    def startable(self) -> bool:
        """Whether a ticket of this host may start now."""
        return bool(self.bare or (self.queue and not self.asking and time.monotonic() < self.rules_until))

    def next(self, only: Container[PendingDownload] | None) -> PendingDownload | None:
        """The next ticket, among `only` where that is given; None when there is none."""
        if self.bare:
            return self.bare.popleft()
        if not self.startable():
            return None
        if only is None:
            return self.queue.popleft()
        found = next((ticket for ticket in self.queue if ticket in only), None)
        if found is not None:
            self.queue.remove(found)
        return found

    def drain(self) -> list[PendingDownload]:
        """Take out every ticket that waits."""
        found = [*self.bare, *self.queue]
        self.bare.clear()
        self.queue.clear()
        return found

    def fail(self, error: DownloadError) -> None:
        """Remember for a while that this host cannot be asked."""
        self.error, self.error_until = error, time.monotonic() + ERROR_SECONDS


def forget_idle(known: OrderedDict[str, Host]) -> None:
    """Keep the number of remembered hosts bounded; those used longest ago go first."""
    while len(known) > MANY:
        name = next((n for n, h in known.items() if not (h.active or h.queue or h.bare or h.resolving or h.asking)), "")
        if not name:
            return
        del known[name]


def ask_rules(host: Host, ask: Callable[[str, Callable[[Download | DownloadError], None], Host], None]) -> None:
    """Ask for robots.txt and tdmrep.json; the host may be asked for images when both have been answered."""
    host.asking = 2
    host.rules = Rules()
    failed: DownloadError | None = None

    def answered() -> None:
        host.asking -= 1
        if not host.asking and failed is None:
            host.rules_until = time.monotonic() + RULES_SECONDS

    def robots(answer: Download | DownloadError) -> None:
        nonlocal failed
        if isinstance(answer, Download):
            read_robots(answer.data, host.rules)
        elif answer.reason == "http_429" or answer.reason.startswith("http_5"):
            # RFC 9309, 2.3.1.4: a robots.txt that the server fails to give forbids everything, for now.
            failed = DownloadError("robots_unavailable", answer.reason)
        elif not answer.reason.startswith("http_") and answer.reason not in ("redirects", "encoded", "bad_answer"):
            failed = answer  # the image would fail in the same way
        if failed is not None:
            host.fail(failed)
        answered()

    def tdmrep(answer: Download | DownloadError) -> None:
        if isinstance(answer, Download):
            read_tdmrep(answer.data, host.rules)
        answered()

    ask(f"{host.target.site}/robots.txt", robots, host)
    ask(f"{host.target.site}/.well-known/tdmrep.json", tdmrep, host)


class Resolver:
    """Names to checked addresses, in threads of its own.

    A silent name server (`dns_temporary` for nearly all of the last look-ups) is said once; names then wait, up to
    `limits.outage` seconds, after which the answer is a CommonArtError that ends the run.
    """

    def __init__(self, limits: Limits, post: Callable[[Callable[[], None]], None]) -> None:
        self.limits, self._post = limits, post
        self._pool = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="commonart-dns")
        self._silent: deque[bool] = deque(maxlen=WINDOW)
        self._since: float | None = None
        self._closing = False

    def close(self) -> None:
        """End the threads without waiting for the name server."""
        self._closing = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def resolve(self, target: Target, then: Callable[[list[str] | DownloadError], None]) -> None:
        """Call `then` in the engine's thread with the addresses, all of them checked, or with the error."""
        self._pool.submit(self._work, target, then)

    def _work(self, target: Target, then: Callable[[list[str] | DownloadError], None]) -> None:
        pause = 0.25
        while True:
            found: list[str] | DownloadError
            try:
                found = addresses.resolve(target.host, target.port, allow_private=self.limits.allow_private)
            except AddressError as error:
                found = DownloadError(error.reason, error.detail)
            except Exception as error:  # whatever a name does to the system's resolver, it is no address
                found = DownloadError("dns_unknown", f"{target.host[:80]}: {error}")
            self._silent.append(isinstance(found, DownloadError) and found.reason == "dns_temporary")
            if not self._silent[-1] and self._since is not None:
                self._since = None
                self._silent.clear()
                log.say("The name server answers again.")
            if not isinstance(found, DownloadError) or found.reason != "dns_temporary" or not self._outage():
                break
            assert self._since is not None
            if self._closing or time.monotonic() - self._since > self.limits.outage:
                self._post(_raiser(self.limits.outage))
                return
            time.sleep(pause)
            pause = min(pause * 2, 10.0)
        self._post(lambda: then(found))

    def _outage(self) -> bool:
        if self._since is None and len(self._silent) == WINDOW and sum(self._silent) > 0.9 * WINDOW:
            self._since = time.monotonic()
            log.warn(
                f"the name server is silent: {sum(self._silent)} of the last {WINDOW} host names could not be resolved. "
                f"Waiting up to {self.limits.outage:.0f} s for it."
            )
        return self._since is not None


def _raiser(seconds: float) -> Callable[[], None]:
    def act() -> None:
        raise CommonArtError(
            f"No host name could be resolved for {seconds:.0f} s: this machine's name server or network is down.",
            "Mend that and run the same command again: it goes on where it stopped.",
        )

    return act
