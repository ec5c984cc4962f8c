"""One HTTP request and its answer by libcurl: what is sent, how the answer is read, and what its failures are called.

`Transfer` is a reusable libcurl handle. It connects to checked addresses only: libcurl shows us each address right before
it opens a socket, whatever the URL, a redirect or a name server made of it, and a private one is never sent a packet.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

import pycurl

from commonart.core.data.download.addresses import Target, is_public
from commonart.core.data.download.hosts import Host
from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.download.opt_out import AGENT
from commonart.core.data.download.request import Request

USER_AGENT = f"{AGENT}/0.1 (collects openly licensed images; honours robots.txt, X-Robots-Tag and TDM reservations)"
MOVED = frozenset({301, 302, 303, 307, 308})
MAX_HEADERS = 64 << 10

# libcurl's result -> reason code; anything else is `connection_lost`.
_REASONS = {
    pycurl.E_URL_MALFORMAT: "bad_url",
    pycurl.E_COULDNT_RESOLVE_HOST: "dns_temporary",
    pycurl.E_COULDNT_CONNECT: "connect",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_PARTIAL_FILE: "incomplete",
    pycurl.E_SSL_CONNECT_ERROR: "tls_handshake",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls",
    pycurl.E_SSL_CACERT_BADFILE: "tls",
    pycurl.E_SSL_CIPHER: "tls",
    pycurl.E_FILESIZE_EXCEEDED: "too_many_bytes",
    pycurl.E_UNSUPPORTED_PROTOCOL: "bad_answer",  # no HTTP at all: libcurl takes it for HTTP/0.9
    8: "bad_answer",  # CURLE_WEIRD_SERVER_REPLY, which pycurl does not name
    100: "bad_answer",  # CURLE_TOO_LARGE
}


class Transfer:
    """A libcurl handle with the answer that it is reading: `headers`, `body`."""

    owner: tuple[Request, Host]  # whose transfer this is, and with whom

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.curl = curl = pycurl.Curl()
        curl.transfer = self
        for option, value in (
            (pycurl.USERAGENT, USER_AGENT),
            (pycurl.HTTPHEADER, ["Accept: image/*, */*;q=0.1", "Accept-Encoding: identity"]),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.FOLLOWLOCATION, 0),  # the scheduler follows, so that robots.txt is asked at every host
            (pycurl.PATH_AS_IS, 1),
            (pycurl.PROXY, ""),  # behind a proxy no address could be checked
            (pycurl.NOSIGNAL, 1),
            (pycurl.CONNECTTIMEOUT_MS, int(limits.connect_seconds * 1000)),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS),
            (pycurl.PIPEWAIT, 1),  # a second stream of one HTTP/2 connection rather than a second connection
            (pycurl.BUFFERSIZE, 256 << 10),
            (pycurl.DNS_CACHE_TIMEOUT, 300),
            (pycurl.HEADERFUNCTION, self._header),
            (pycurl.WRITEFUNCTION, self._write),
            (pycurl.OPENSOCKETFUNCTION, self._open_socket),
        ):
            curl.setopt(option, value)
        if authorities := ca_file():
            curl.setopt(pycurl.CAINFO, authorities)

    def prepare(self, request: Request, target: Target, host: Host) -> None:
        """Make the handle ready to ask for `target`, at the addresses that its host's name was resolved to."""
        self.owner, self.max_bytes = (request, host), request.max_bytes
        self.body = bytearray()
        self.lines: list[bytes] = []
        self.header_bytes = 0
        self.refused = ""  # a private address that was not connected to
        self.too_long = False
        curl = self.curl
        curl.setopt(pycurl.URL, target.site + target.path)
        # libcurl asks no name server itself: it gets what was checked, for as long as DNS_CACHE_TIMEOUT (the plus).
        addresses = ",".join(f"[{a.partition('%')[0]}]" if ":" in a else a for a in host.addresses)
        named = ":" not in target.host and target.host not in host.addresses
        curl.setopt(pycurl.RESOLVE, [f"+{target.host}:{target.port}:{addresses}"] if named else [])
        if request.byte_range:
            curl.setopt(pycurl.RANGE, request.byte_range)
        else:
            curl.unsetopt(pycurl.RANGE)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int((self.limits.seconds - request.seconds) * 1000)))
        # Of rules the beginning is enough.
        curl.setopt(pycurl.MAXFILESIZE_LARGE, 0 if request.for_rules else request.max_bytes)

    def clear(self) -> None:
        """Forget the answer: idle handles hold no memory."""
        del self.owner
        self.body = bytearray()

    def _open_socket(self, purpose: int, address: tuple[int, int, int, tuple[str, int]]) -> socket.socket | int:
        family, kind, protocol, name = address
        if not self.limits.allow_private and not is_public(name[0] if isinstance(name, tuple) else ""):
            self.refused = str(name)
            return pycurl.SOCKET_BAD
        return socket.socket(family, kind, protocol)

    def _header(self, line: bytes) -> int | None:
        if line.startswith(b"HTTP/"):
            self.lines.clear()  # what came before was a `100 Continue` or `103 Early Hints`
        self.lines.append(line)
        self.header_bytes += len(line)
        return None if self.header_bytes <= MAX_HEADERS else -1

    def _write(self, data: bytes) -> int | None:
        if len(self.body) + len(data) > self.max_bytes:
            self.body += data[: self.max_bytes - len(self.body)]
            self.too_long = True
            return -1
        self.body += data
        return None

    def headers(self) -> dict[str, list[str]]:
        """Return the answer's headers, names in lower case."""
        headers: dict[str, list[str]] = {}
        for line in self.lines[1:]:
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                headers.setdefault(name.strip().lower(), []).append(value.strip())
        return headers

    def failure(self, code: int, message: str) -> DownloadError:
        """Return the error behind libcurl's result `code`."""
        if self.refused:
            return DownloadError("private_address", self.refused)
        if self.too_long or code == pycurl.E_FILESIZE_EXCEEDED:
            return DownloadError("too_many_bytes", f"more than {self.max_bytes:,}")
        if self.header_bytes > MAX_HEADERS:
            return DownloadError("bad_answer", "more than 64 KiB of headers")
        return DownloadError(_REASONS.get(code, "connection_lost"), message[:200])


def is_complete(status: int, headers: Mapping[str, Sequence[str]], size: int) -> bool:
    """Return whether an answer of `size` bytes is the whole file: 200, 203 (by way of a proxy), or 206 of all bytes."""
    content_range = "".join(headers.get("content-range", ())).lower().replace(" ", "")
    return status in (200, 203) or (status == 206 and content_range == f"bytes0-{size - 1}/{size}")


def parse_retry_after(retry_after: str) -> float:
    """Return the seconds that a Retry-After header asks to wait; it gives a number of seconds or a date."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def ca_file() -> str:
    """Return the file of certificate authorities: SSL_CERT_FILE, the system's, else certifi's."""
    paths = ssl.get_default_verify_paths()
    for path in filter(None, (os.environ.get("SSL_CERT_FILE"), paths.cafile, "/etc/ssl/certs/ca-certificates.crt")):
        if os.path.isfile(path):
            return path
    try:
        import certifi
    except ImportError:
        return ""
    return str(certifi.where())
