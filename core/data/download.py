"""One image over http(s), within limits of bytes and time, from public addresses only.

    commonart fetch list.csv -o raw/

Failures carry a reason code: `http_404`, `timeout`, `dns`, `connect`, `tls`, `private_address`, `bad_url`, `redirects`,
`too_many_bytes`, `incomplete`, `encoded`. Only those that may pass (timeouts, 429, 5xx) are tried again.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urljoin

from commonart.core.data.address import AddressError, Target, resolve, split_url

USER_AGENT = "commonart/0.1 (collects openly licensed images; honours X-Robots-Tag and TDM reservations)"
AGENT = "commonart"
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
MOVED = frozenset({301, 302, 303, 307, 308})
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex", "noml")
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one image may cost."""

    max_bytes: int = 64 << 20
    seconds: float = 30.0  # for one attempt, redirects included
    redirects: int = 5
    attempts: int = 3
    pause: float = 0.5  # seconds before the second attempt; doubled before each further one
    longest_pause: float = 30.0  # a server's Retry-After beyond this ends the attempts
    allow_private: bool = False


class DownloadError(Exception):
    """An image that did not come. `retry` when it might come later; `pause` the seconds the server asked for."""

    def __init__(self, reason: str, detail: str = "", *, retry: bool = False, pause: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.retry, self.pause = reason, detail, retry, pause


class Download(NamedTuple):
    """The bytes, where they came from in the end, and the opt-out signals of the answer."""

    data: bytes
    url: str
    opt_out: list[str]


def download(url: str, limits: Limits = Limits(), *, sleep: Callable[[float], None] = time.sleep) -> Download:
    """Get `url`, following redirects, trying again what may pass.

    Raises:
        DownloadError: see the module's docstring for the reasons.
    """
    pause = limits.pause
    for attempt in range(1, limits.attempts + 1):
        try:
            return _attempt(url, limits)
        except DownloadError as error:
            wait = max(pause, error.pause)
            if not error.retry or attempt == limits.attempts or wait > limits.longest_pause:
                raise
            sleep(wait)
            pause *= 2
    raise AssertionError("attempts is at least 1")


def _attempt(url: str, limits: Limits) -> Download:
    deadline = time.monotonic() + limits.seconds
    for _ in range(limits.redirects + 1):
        try:
            target = split_url(url)
            addresses = resolve(target.host, target.port, allow_private=limits.allow_private)
            answer = _ask(target, addresses, limits, deadline)
        except AddressError as error:
            raise DownloadError(error.reason, error.detail, retry=error.retry) from error
        except TimeoutError as error:
            raise DownloadError("timeout", url, retry=True) from error
        except ssl.SSLError as error:
            raise DownloadError("tls", error.reason or str(error)) from error
        except (http.client.HTTPException, OSError) as error:
            raise DownloadError("connect", f"{type(error).__name__}: {error}", retry=True) from error
        if isinstance(answer, str):
            url = urljoin(url, answer)
        else:
            return Download(answer[0], url, answer[1])
    raise DownloadError("redirects", f"more than {limits.redirects}")


def _ask(target: Target, addresses: list[str], limits: Limits, deadline: float) -> str | tuple[bytes, list[str]]:
    """One request -> the address to go on to, or (bytes, opt-out signals)."""
    connection = http.client.HTTPConnection(target.host, target.port)
    raw = _connect(addresses, target.port, deadline)
    try:
        if target.https:
            raw.settimeout(_left(deadline))
            raw = _tls().wrap_socket(raw, server_hostname=target.host)
        connection.sock = _Timed(raw, deadline)  # type: ignore[assignment]  # the four methods that http.client calls
        connection.request(
            "GET", target.path, headers={"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
        )
        answer = connection.getresponse()
        if answer.status in MOVED and (location := answer.getheader("Location")):
            return location
        if answer.status != 200:
            pause = answer.getheader("Retry-After", "")
            raise DownloadError(
                f"http_{answer.status}",
                answer.reason[:80],
                retry=answer.status in AGAIN,
                pause=float(pause) if pause.isdecimal() else 0.0,
            )
        if answer.getheader("Content-Encoding", "identity").lower() != "identity":
            raise DownloadError("encoded", answer.getheader("Content-Encoding", ""))
        return _body(answer, limits), _signals(answer)
    finally:
        connection.close()
        raw.close()


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    problem: OSError = OSError("no address")
    for address in addresses[:4]:
        try:
            # An address and no name: nothing is resolved a second time.
            return socket.create_connection((address, port), timeout=min(10.0, _left(deadline)))
        except OSError as error:
            problem = error
    raise problem


def _body(answer: http.client.HTTPResponse, limits: Limits) -> bytes:
    promised = answer.length
    if promised is not None and promised > limits.max_bytes:
        raise DownloadError("too_many_bytes", f"{promised:,}")
    data = bytearray()
    while chunk := answer.read(CHUNK):
        data += chunk
        if len(data) > limits.max_bytes:
            raise DownloadError("too_many_bytes", f"more than {limits.max_bytes:,}")
    if promised is not None and len(data) < promised:
        raise DownloadError("incomplete", f"{len(data):,} of {promised:,} bytes", retry=True)
    return bytes(data)


def _signals(answer: http.client.HTTPResponse) -> list[str]:
    """The answer's opt-out signals: X-Robots-Tag for everybody or for us, and TDMRep's `tdm-reservation: 1`."""
    found: list[str] = []
    for header in answer.headers.get_all("X-Robots-Tag") or []:
        agent, colon, rest = header.lower().partition(":")
        named = bool(colon) and agent.strip() not in ("unavailable_after", "max-snippet", "max-image-preview")
        if named and agent.strip() not in (AGENT, "*"):
            continue
        rules = [rule.strip() for rule in (rest if named else header.lower()).split(",")]
        found += [f"x-robots-tag:{rule}" for rule in rules if rule in OPT_OUTS]
    if (answer.getheader("tdm-reservation") or "").strip() == "1":
        found.append("tdm-reservation")
    return list(dict.fromkeys(found))


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Timed:
    """A socket whose every read and write counts against one deadline: a sender of one byte a second cannot hold us."""

    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self.raw, self.deadline = raw, deadline

    def sendall(self, data: Any) -> None:
        self.raw.settimeout(_left(self.deadline))
        self.raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self.raw, self.deadline), CHUNK)

    def close(self) -> None:
        """The response still reads; `_ask` closes the socket."""


class _Reader(io.RawIOBase):
    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self.raw, self.deadline = raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.raw.settimeout(_left(self.deadline))
        return self.raw.recv_into(buffer)
