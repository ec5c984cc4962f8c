"""What is known of each host: its checked addresses, what its robots.txt and tdmrep.json say, who waits for it.

A host is a scheme, name and port. A name server that has gone silent is recognised and waited for, so that a long list is
not burnt through while no name can be resolved.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor

from commonart.core import log
from commonart.core.data.download import addresses
from commonart.core.data.download.addresses import Target
from commonart.core.data.download.limits import Download, DownloadError, Limits
from commonart.core.data.download.opt_out import Rules, read_robots, read_tdmrep
from commonart.core.data.download.request import Request
from commonart.core.errors import CommonArtError

ADDRESS_SECONDS = 600.0
RULES_SECONDS = 86400.0  # RFC 9309, 2.4
RULES_BYTES = 500 << 10  # RFC 9309, 2.5
ERROR_SECONDS = 60.0
MAX_HOSTS = 50_000  # hosts that are remembered
RESOLVERS = 16  # names at a time: more makes small name servers fall silent
ROBOTS = "/robots.txt"
RULES = {ROBOTS: read_robots, "/.well-known/tdmrep.json": read_tdmrep}
WINDOW = 30  # the last look-ups, which tell whether the name server answers


class Host:
    """One host and its queues."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.queue: deque[Request] = deque()  # requests that wait for the rules
        self.rules_queue: deque[Request] = deque()  # requests for the rules themselves
        self.addresses: list[str] = []
        self.addresses_until = 0.0
        self.resolving = False
        self.rules = Rules()
        self.rules_until = 0.0
        self.rules_pending = 0  # how many of the two files have not been answered yet
        self.error: DownloadError | None = None
        self.error_until = 0.0
        self.active = 0  # transfers under way
        self.next_start = 0.0
        self.in_line = False  # stands in the scheduler's line, or a timer will put it there

    def startable(self) -> bool:
        """Return whether a request of this host may start now."""
        return bool(self.rules_queue or (self.queue and not self.rules_pending and time.monotonic() < self.rules_until))

    def idle(self) -> bool:
        """Return whether nothing waits or is under way here."""
        return not (self.active or self.resolving or self.rules_pending or self.queue or self.rules_queue)

    def next(self, only: Container[Request] | None) -> Request | None:
        """Take out the next request, among `only` where that is given; None when there is none."""
        if self.rules_queue:
            return self.rules_queue.popleft()
        if not self.startable():
            return None
        request = next((request for request in self.queue if only is None or request in only), None)
        if request is not None:
            self.queue.remove(request)
        return request

    def drain(self) -> list[Request]:
        """Take out every request that waits."""
        waiting = [*self.rules_queue, *self.queue]
        self.rules_queue.clear()
        self.queue.clear()
        return waiting

    def fail(self, error: DownloadError) -> None:
        """Remember for a while that this host cannot be asked."""
        self.error, self.error_until = error, time.monotonic() + ERROR_SECONDS

    def take_rules(self, path: str, answer: Download | DownloadError) -> None:
        """Take what the host answered to a request for one of RULES."""
        if isinstance(answer, Download):
            RULES[path](answer.data, self.rules)
        elif path == ROBOTS and (answer.reason == "http_429" or answer.reason.startswith("http_5")):
            # RFC 9309, 2.3.1.4: a robots.txt that the server fails to give forbids everything, for now.
            self.fail(DownloadError("robots_unavailable", answer.reason))
        elif path == ROBOTS and not answer.reason.startswith(("http_", "redirects", "encoded", "bad_answer")):
            self.fail(answer)  # the image would fail in the same way
        self.rules_pending -= 1
        if not self.rules_pending and self.error is None:
            self.rules_until = time.monotonic() + RULES_SECONDS


class Resolver:
    """Names to checked addresses, in threads of its own.

    A silent name server (`dns_temporary` for nearly all of the last look-ups) is reported once; names then wait, up to
    `limits.outage` seconds, after which a CommonArtError ends the run.
    """

    def __init__(self, limits: Limits, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self.limits, self._call_soon = limits, call_soon
        self._pool = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="commonart-dns")
        self._silent: deque[bool] = deque(maxlen=WINDOW)
        self._since: float | None = None
        self._closing = False

    def close(self) -> None:
        """End the threads without waiting for the name server."""
        self._closing = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def resolve(self, target: Target, then: Callable[[list[str] | DownloadError], None]) -> None:
        """Call `then` in the scheduler's thread with the addresses, all of them checked, or with the error."""
        self._pool.submit(self._resolve, target, then)

    def _resolve(self, target: Target, then: Callable[[list[str] | DownloadError], None]) -> None:
        pause = 0.25
        while True:
            answer = self._look_up(target)
            silent = isinstance(answer, DownloadError) and answer.reason == "dns_temporary"
            self._silent.append(silent)
            if not silent and self._since is not None:
                self._since = None
                self._silent.clear()
                log.say("The name server answers again.")
            if not silent or not self._outage():
                break
            assert self._since is not None
            if self._closing or time.monotonic() - self._since > self.limits.outage:
                self._call_soon(self._give_up)
                return
            time.sleep(pause)
            pause = min(pause * 2, 10.0)
        self._call_soon(lambda: then(answer))

    def _look_up(self, target: Target) -> list[str] | DownloadError:
        try:
            return addresses.resolve(target.host, target.port, allow_private=self.limits.allow_private)
        except DownloadError as error:
            return error
        except Exception as error:  # whatever a name does to the system's resolver, it is not an address
            return DownloadError("dns_unknown", f"{target.host[:80]}: {error}")

    def _outage(self) -> bool:
        if self._since is None and len(self._silent) == WINDOW and sum(self._silent) > 0.9 * WINDOW:
            self._since = time.monotonic()
            log.warn(
                f"the name server is silent: {sum(self._silent)} of the last {WINDOW} host names could not be resolved. "
                f"Waiting up to {self.limits.outage:.0f} s for it."
            )
        return self._since is not None

    def _give_up(self) -> None:
        problem = f"No host name could be resolved for {self.limits.outage:.0f} s"
        raise CommonArtError(
            f"{problem}: this machine's name server or network is down.",
            "Run the same command again when it is back: it goes on where it stopped.",
        )
