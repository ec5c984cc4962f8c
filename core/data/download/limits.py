"""What a download may cost, what it returns, and why it failed: the reason codes and which of them are transient.

The same command again asks for what failed with a transient reason, and for nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

# May pass by themselves: asked again at the end of the run and by the next call. HTTP states come as `http_503`.
TRANSIENT = frozenset(
    ["timeout", "connect", "connection_lost", "incomplete", "tls_handshake", "dns_temporary", "robots_unavailable"]
    + [f"http_{status}" for status in (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)]
)
# Will not pass: bad_url private_address dns_unknown tls redirects bad_answer encoded too_many_bytes, any other http_NNN.
# Refused by rule: opt_out. From the decoder: empty not_an_image too_many_pixels damaged.


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one image may cost, and how politely hosts are asked."""

    max_bytes: int = 64 << 20
    seconds: float = 30.0  # of transfer for one attempt, redirects included
    connect_seconds: float = 10.0
    redirects: int = 5
    attempts: int = 3
    pause: float = 0.5  # seconds before the second attempt; doubled before each further one
    longest_pause: float = 10.0  # what has to wait longer is left to the last pass
    workers: int = 64  # transfers at a time
    per_host: int = 16  # of these, at one host
    delay: float = 0.0  # seconds between the starts of two requests to one host; a Crawl-delay may lengthen it
    buffer: int = 48 << 20  # bytes that arrived and are not written yet; no transfer starts beyond it
    outage: float = 120.0  # seconds of silence from the name server after which the run stops
    allow_private: bool = False
    opt_outs: bool = True  # what robots.txt or tdmrep.json reserves is not asked for


class DownloadError(Exception):
    """An image that could not be downloaded: a reason code, and details."""

    def __init__(self, reason: str, detail: str = "", *, pause: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.pause = pause  # seconds that the server asked us to wait

    @property
    def retry(self) -> bool:
        """Whether asking again later may succeed."""
        return self.reason in TRANSIENT


class Download(NamedTuple):
    """The bytes, where they came from in the end, and the opt-out signals met on the way.

    `data` is empty where a signal was obeyed and nothing was asked for.
    """

    data: bytes
    url: str
    opt_out: list[str]
    total: int = 0  # of a range: the size of the whole file
