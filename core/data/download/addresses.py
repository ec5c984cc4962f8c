"""Which network addresses may be asked for data: public ones only, judged after resolution.

A URL in somebody's list must not make this machine read its own network (server-side request forgery). Names are resolved
once, and the connection goes to an address that was checked: a name that means another one a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import idna

from commonart.core.data.download.limits import DownloadError

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: how a host without IPv4 reaches one that has no IPv6
# What `is_global` takes for public: site-local (RFC 3879), documentation (RFC 9637), 6to4's relays (RFC 7526), and the
# address at which Azure's machines find their host's services.
_NOT_PUBLIC = tuple(
    map(ipaddress.ip_network, ("fec0::/10", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"))
)
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: before an IPv4 address in the last 64 bits
_ENCODED = re.compile(r"%([0-9a-fA-F]{2})")
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # IPv4-compatible, deprecated by RFC 4291

# EAI_SYSTEM is not defined on Windows.
_TEMPORARY = {getattr(socket, name, None) for name in ("EAI_AGAIN", "EAI_FAIL", "EAI_SYSTEM")} - {None}


class Target(NamedTuple):
    """A URL taken apart: what is connected to and what is asked for."""

    https: bool
    host: str  # in ASCII, without brackets
    port: int
    path: str  # with query, percent-encoded

    @property
    def site(self) -> str:
        """Scheme, host and port, as the beginning of a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.https else ''}://{host}:{self.port}"


def split_url(url: str) -> Target:
    """Take apart an http(s) URL.

    Raises DownloadError: bad_url for any other scheme, a user name, control characters, a backslash, no host, a bad port.
    """
    if any(ord(c) < 32 or c in "\\\x7f" for c in url):
        raise DownloadError("bad_url", "control characters or a backslash")
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise DownloadError("bad_url", str(error)) from error
    if parts.scheme not in ("http", "https"):
        raise DownloadError("bad_url", f"scheme {parts.scheme or 'missing'}")
    if parts.username is not None or parts.password is not None:
        raise DownloadError("bad_url", "a user name in the URL")
    if not host:
        raise DownloadError("bad_url", "no host")
    try:
        name = host if ":" in host else ascii_host(host)
    except (UnicodeError, ValueError) as error:
        raise DownloadError("bad_url", f"host {host!r}") from error
    if any(c.isspace() or c in "/?#@%<>\"'`{}|^[]" for c in name):
        raise DownloadError("bad_url", f"host {host!r}")
    # Dot segments are resolved here, so that robots.txt is asked about the path that is sent.
    path = plain_path(parts.path)
    path = urlsplit(urljoin("http://host/", "/." + path)).path if "/." in path else path  # `//a` is no host there
    path = quote(path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    https = parts.scheme == "https"
    return Target(https, name, (443 if https else 80) if port is None else port, path)


def ascii_host(host: str) -> str:
    """Return the name that is asked for a host, as browsers and curl do: UTS 46 without transitional processing.

    `faß.de` is xn--fa-hia.de. To IDNA 2003, and so to Python's own codec, it would be fass.de, which is somebody else's.
    Raises UnicodeError where no such name can exist.
    """
    if host.isascii():
        return host.encode("idna").decode("ascii")  # checks the length of its labels, and changes nothing
    labels = idna.uts46_remap(host, std3_rules=False, transitional=False).split(".")
    for number, label in enumerate(labels):
        if label.isascii():
            continue
        idna.check_initial_combiner(label)
        idna.check_bidi(label)
        joiners = (index for index, character in enumerate(label) if character in "\u200c\u200d")
        if label.startswith("xn--") or not all(idna.valid_contextj(label, index) for index in joiners):
            raise UnicodeError(f"{label!r} cannot be encoded")
        labels[number] = "xn--" + label.encode("punycode").decode("ascii")
    return ".".join(labels).encode("idna").decode("ascii")


def plain_path(path: str) -> str:
    """Return a path whose letters, digits and -._~ stand for themselves: `/%70rivate` is `/private` (RFC 9309, 2.2.2)."""

    def plain(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character.isascii() and (character.isalnum() or character in "-._~") else match[0].upper()

    return _ENCODED.sub(plain, path)


def is_public(address: str) -> bool:
    """Return whether an address in text form is one of the public internet, also when it hides in a longer one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_public(inner) for inner in _hidden(ip))


def _hidden(ip: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    if isinstance(ip, IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    if ip in _NAT64:
        return [IPv4Address(int(ip) & 0xFFFFFFFF)]
    hidden: list[IPv4Address | IPv6Address] = [ip]
    if ip.sixtofour is not None:
        hidden.append(ip.sixtofour)
    if ip.teredo is not None:
        hidden += ip.teredo
    if ip in _COMPATIBLE or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
        hidden.append(IPv4Address(int(ip) & 0xFFFFFFFF))
    return hidden


def _public(ip: IPv4Address | IPv6Address) -> bool:
    return ip.is_global and not (
        any(ip in network for network in _NOT_PUBLIC if network.version == ip.version)
        or ip.is_multicast
        or ip.is_reserved
        or ip.is_unspecified
        or ip.is_loopback
        or ip.is_link_local
    )


def resolve(host: str, port: int, *, allow_private: bool = False) -> list[str]:
    """Resolve a host to its addresses and check all of them: one private address among public ones refuses the host.

    Raises DownloadError: dns_unknown (there is no such name), dns_temporary (the name server did not say) or private_address.
    """
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = "dns_temporary" if getattr(error, "errno", None) in _TEMPORARY else "dns_unknown"
        raise DownloadError(reason, f"{host}: {getattr(error, 'strerror', None) or error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    private = [] if allow_private else [address for address in addresses if not is_public(address)]
    if private or not addresses:
        raise DownloadError("private_address", f"{host} is {', '.join(private)}")
    return addresses
