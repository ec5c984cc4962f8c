"""What every source says of a work in the same way: its licence, when that was seen, and the captions that came with it.

commonart fetch photos/ --license CC-BY-4.0 --list | head -1
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from commonart.core.data.language import lang_of
from commonart.core.data.record import Record
from commonart.core.licenses.statements import CONFLICT, flickr, judge, stated_in

# Where a person was and what they said of others: not needed for training, so not kept. Letters alone are compared.
_PERSONAL = re.compile(
    r"(?:gps|geo|exif).*|(?:lat|long)(?:itude)?|lon|lng|location|coordinates?|(?:user|machine)tags|e?mail"
)
# Columns in which a list may say a licence, the first one before the others, with which it must agree.
LICENSE_NAMES = ("license_raw", "licensename", "license_name", "license", "licence", "rights")
_NUMBER = re.compile(r"(\d{1,3})(?:\.0)?")  # a table of numbers may hold 4 as 4.0
_FLICKR = re.compile(r"https?://(?:[\w-]+\.)*(?:static)?flickr\.com/", re.IGNORECASE)


def observed(path: Path) -> str:
    """When the statement in a file was written down: its modification time, so that a second run says the same."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=1024)  # asked for each cell of a list, whose names are few
def is_personal(name: str) -> bool:
    """Whether a field of this name says where somebody was, or what they said of others."""
    return _PERSONAL.fullmatch("".join(filter(str.isalpha, name.lower()))) is not None


def state_license(
    record: Record, raw: str, url: str, observed_at: str, row: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write what a source said about rights into `record`, and what that means; "" when it is not understood.

    Args:
        raw, url: a licence's name and page. A bare number means something at Flickr only.
        row: all that was said of the work; `core.licenses.stated_in` reads the fields of museums and Wikimedia, and every
            other of LICENSE_NAMES must agree.
    """
    said = [value.strip() for name, value in row.items() if name.lower() in LICENSE_NAMES and isinstance(value, str)]
    others = sorted({text for text in said if text != raw and not _NUMBER.fullmatch(text)})
    number = _NUMBER.fullmatch(raw) or _NUMBER.fullmatch(str(row.get("license", "")))
    if number and any(_FLICKR.match(str(record.get(page, ""))) for page in ("image_url", "source_url")):
        name = "" if _NUMBER.fullmatch(raw) else raw
        found, reason = flickr(number[1], name, url)
        if found and judge(found.id, *others)[0] is None:
            found, reason = None, CONFLICT
        raw = name or url or f"Flickr license {number[1]}"
    elif (own := stated_in(row)) is not None:
        found, reason = judge(url, raw, own[0].id) if own[0] else own
        raw = raw or url or (found.id if found else "")
    else:
        found, reason = judge(url, raw, *others)
        reason = reason if others else ""
    if not found and reason:  # whoever judges the record again must not take one part of it for the whole
        raw = f"{raw}: {reason}" if raw else reason
    record["license"] = found.id if found else ""
    record["license_url"] = url or (found.url if found else "")
    record["license_raw"] = raw or url
    record["license_basis"] = found.basis if found else ""
    record["license_observed_at"] = observed_at


def shipped_caption(text: str, lang: str, model: str, license: str = "", synthetic: bool = False) -> dict[str, Any]:
    """A caption that came with the work. Who or what wrote it (`model`) is known by name only, so `revision` is empty."""
    return {
        "text": text.strip(),
        "lang": lang_of(text) if lang == "en" else lang,
        "model": model,
        "revision": "",
        "license": license,
        "synthetic": synthetic,
        "translated_from": None,
    }
