"""One URL on its way: what was asked for, how far it has come, and the future that holds the answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from commonart.core.data.download.addresses import Target
from commonart.core.data.download.limits import Download


@dataclass(slots=True, eq=False)
class Request:
    """State of one URL; changed only in the scheduler's thread. `result` is how other threads see the outcome."""

    first_url: str
    max_bytes: int
    byte_range: str = ""  # "0-99": these bytes and no others
    for_rules: bool = False  # asks for robots.txt or tdmrep.json, and so does not wait for them
    url: str = field(init=False)  # changes with each redirect
    target: Target | None = None
    redirects: int = 0  # followed in this attempt
    attempts: int = 0
    seconds: float = 0.0  # of transfer in this attempt
    buffered: int = 0  # bytes that arrived and that nobody has taken yet
    signals: list[str] = field(default_factory=list)  # opt-out signals met on the way
    future: Future[Download] = field(default_factory=Future)
    waited_for: Callable[[Request], None] = field(default=lambda _: None)
    taken: Callable[[Request], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin the first or the next attempt at the first URL."""
        self.url, self.redirects, self.seconds, self.signals = self.first_url, 0, 0.0, []
        self.attempts += 1

    def result(self) -> Download:
        """Wait for the answer, and release the client's buffer of it: it is given once.

        Raises DownloadError, with the reason code, or CommonArtError where the client had to stop.
        """
        if not self.future.done():
            self.waited_for(self)
        try:
            return self.future.result()
        finally:
            self.taken(self)
