"""What every source records of a work in the same way: its licence, when that was observed, and its captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from commonart.core.data.download.limits import Limits
from commonart.core.data.record import Caption, Record, make_caption
from commonart.core.data.text import language_of
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.statements import CONFLICT, flickr, resolve_license, resolve_structured

# Where a person was and what they said of others is not needed for training, so it is not kept. Only letters are compared.
_PERSONAL = re.compile(
    r"(?:gps|geo|exif).*|(?:lat|long)(?:itude)?|lon|lng|location|coordinates?|(?:user|machine)tags|e?mail"
)
# Columns in which a list may state a licence; the first one present counts, and the others must agree with it.
LICENSE_NAMES = ("license_raw", "licensename", "license_name", "license", "licence", "rights")
# Others may state one too: by their name, or by the page that they hold. What is understood there must agree.
_LICENSE_LIKE = re.compile(r"licen[cs]|rights|copyright|ライセンス|許諾|著作権", re.IGNORECASE)
_LICENSE_PAGE = re.compile(r"https?://(?:www\.)?creativecommons\.org/(?:licen[cs]es|publicdomain)/\S+", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,3})(?:\.0)?")  # a table of numbers may hold 4 as 4.0
_CAPTION_TEXT = ("text", "caption", "raw", "value")  # of a caption that is a struct, the first one present
_FLICKR = re.compile(r"https?://(?:[\w-]+\.)*(?:static)?flickr\.com/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the user says of a source."""

    license: str = ""  # of works of which the source says nothing; "card": what the card of a hub's data set states
    lang: str = "en"  # of captions whose script does not tell
    column_map: Mapping[str, str] = field(default_factory=dict)  # record field -> column; "" for none
    images: str | None = None  # the folder that holds the files that a COCO JSON or a table names
    limits: Limits = field(default_factory=Limits)  # of the download of annotations


@dataclass(frozen=True, slots=True)
class SetStatement:
    """What a data set states of all its works together: `raw` as `licenses.parse` reads it, the page, and when it was seen."""

    raw: str
    url: str
    observed_at: str


def modified_at(path: Path) -> str:
    """Return when a file's statements were written down: its modification time, so that a second run says the same."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def other_statements(row: Mapping[str, Any]) -> list[str]:
    """Return what the columns of a row say of licences that LICENSE_NAMES does not know, as far as it is understood."""
    found = []
    for name, value in row.items():
        if not isinstance(value, str) or name.lower() in LICENSE_NAMES or not value:
            continue
        if page := _LICENSE_PAGE.fullmatch(value.strip()):
            found.append(page[0])
        elif _LICENSE_LIKE.search(name) and normalize(value) is not None:
            found.append(value.strip())
    return found


@lru_cache(maxsize=1024)  # asked for each cell of a list, whose names are few
def is_personal(name: str) -> bool:
    """Return whether a field of this name says where somebody was, or what they said of others."""
    return _PERSONAL.fullmatch("".join(filter(str.isalpha, name.lower()))) is not None


def set_license(
    record: Record,
    raw: str,
    url: str,
    observed_at: str,
    row: Mapping[str, Any] = MappingProxyType({}),
    set_statement: SetStatement | None = None,
) -> None:
    """Write what a source states about rights into `record`, and the licence that follows; "" when it is not understood.

    Args:
        record: the work's, with its addresses: a bare number is a licence at Flickr only.
        raw, url: the licence's name and page, as the source has them.
        row: everything that the source says of the work: `licenses.statements.resolve_structured` reads the fields of museums
            and of Wikimedia, and every other column of LICENSE_NAMES must agree.
        set_statement: what holds where the source says nothing of the work itself. It stays a statement of the set:
            `license_basis` is "set".
    """
    names = [value.strip() for name, value in row.items() if name.lower() in LICENSE_NAMES and isinstance(value, str)]
    known = {text for text in names if text != raw and not _NUMBER.fullmatch(text)}
    others = sorted(known | {text for text in other_statements(row) if text not in (raw, url)})
    number = _NUMBER.fullmatch(raw) or _NUMBER.fullmatch(str(row.get("license", "")))
    if number and any(_FLICKR.match(str(record.get(page, ""))) for page in ("image_url", "source_url")):
        name = "" if _NUMBER.fullmatch(raw) else raw
        license, reason = flickr(number[1], name, url)
        if license and resolve_license(license.id, *others)[0] is None:
            license, reason = None, CONFLICT
        raw = name or url or f"Flickr license {number[1]}"
    elif (verdict := resolve_structured(row)) is not None:
        license, reason = resolve_license(url, raw, verdict[0].id) if verdict[0] else verdict
        raw = raw or url or (license.id if license else "")
    else:
        if set_statement is not None and not (raw or url or others):
            set_license(record, set_statement.raw, set_statement.url, set_statement.observed_at)
            record["license_basis"] = "set"
            return
        license, reason = resolve_license(url, raw, *others)
        reason = reason if others else ""
    # license-filter reads `license_raw` again, and must not take one statement for all of them.
    if not license and reason:
        raw = f"{raw}: {reason}" if raw else reason
    record["license"] = license.id if license else ""
    record["license_url"] = url or (license.url if license else "")
    record["license_raw"] = raw or url
    record["license_basis"] = license.basis if license else ""
    record["license_observed_at"] = observed_at


def source_caption(text: str, lang: str, model: str, license: str = "", synthetic: bool = False) -> Caption:
    """Return a caption that came with the work."""
    return make_caption(text.strip(), language_of(text, lang), model, license, synthetic)


def caption_texts(value: Any, lang: str) -> Iterator[tuple[str, str]]:
    """Yield the (text, language) of a field: a caption, a struct that holds one, or a list of either."""
    if isinstance(value, str):
        if value.strip():
            yield value, lang
    elif isinstance(value, list):
        for item in value:
            yield from caption_texts(item, lang)
    elif isinstance(value, dict):
        named = str(value.get("lang") or value.get("language") or lang)
        text = next((value[name] for name in _CAPTION_TEXT if name in value), None)
        yield from caption_texts(text, named)
