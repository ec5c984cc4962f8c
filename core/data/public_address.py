"""Addresses without what opens a door: names and passwords, and the parameters by which a link was signed for a while."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

_USER = re.compile(r"([a-z][a-z0-9+.-]*://)[^/?#]*@", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Of Amazon, Google, Alibaba, Tencent, Azure (sig), CloudFront and Akamai, and the usual names of tokens.
_SECRET = re.compile(
    r"x-(?:amz|goog|oss|cos|ms|obs|tos)-.*|q-(?:ak|sign.*|signature)|sig|signature|awsaccesskeyid|ossaccesskeyid|googleaccessid"
    r"|key-pair-id|policy|expires|hdn(?:ea|ts)|hmac|(?:.*[-_])?token|auth|authorization|jwt|api[-_]?key|pass(?:word|wd)?|secret",
    re.IGNORECASE,
)


def public_address(url: str) -> str:
    """Return an address without userinfo and signing parameters; one that has neither comes back as it is."""
    if "@" in url:
        url = _USER.sub(r"\1", url, count=1)
    if "?" not in url:
        return url
    address, _, rest = url.partition("?")
    query, hash_, fragment = rest.partition("#")
    parts = query.split("&")
    kept = [part for part in parts if not _SECRET.fullmatch(unquote(part.partition("=")[0]))]
    if len(kept) == len(parts):
        return url
    return f"{address}{'?' if kept else ''}{'&'.join(kept)}{hash_}{fragment}"


def with_public_addresses(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose addresses, under whatever name, are `public_address`."""
    return {
        name: public_address(value) if type(value) is str and _ADDRESS.match(value) else value
        for name, value in record.items()
    }
