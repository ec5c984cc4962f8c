"""One URL on its way through the engine: what was asked for, where it stands, and the answer, which somebody waits for."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from commonart.core.data.download.addresses import Target
from commonart.core.data.download.limits import Download

if TYPE_CHECKING:
    from commonart.core.data.download.client import DownloadClient


class PendingDownload:
    """One URL on its way. `take` waits for it."""

    __slots__ = (
        "attempts",
        "bare",
        "done",
        "engine",
        "held",
        "hops",
        "max_bytes",
        "range",
        "signals",
        "spent",
        "start",
        "target",
        "url",
    )

    def __init__(self, engine: DownloadClient, url: str, max_bytes: int, bare: bool = False, range: str = "") -> None:
        self.engine, self.url, self.start, self.max_bytes = engine, url, url, max_bytes
        self.range = range  # "0-99": these bytes and no others
        self.bare = bare  # asks for robots.txt itself, and so goes before it
        self.target: Target | None = None
        self.hops = 0  # redirects followed in this attempt
        self.attempts = 1
        self.spent = 0.0  # seconds of transfer in this attempt
        self.held = 0  # bytes that wait to be taken
        self.signals: list[str] = []
        self.done: Future[Download] = Future()

    def take(self) -> Download:
        """Wait for the answer; it is given once.

        Raises:
            DownloadError: with the reason code. CommonArtError: the engine had to stop.
        """
        if not self.done.done():
            self.engine.await_(self)
        try:
            return self.done.result()
        finally:
            self.engine.taken(self)
