"""Markdown and plain lines of other people's text: markup, and what turns the direction of the writing, does nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from commonart.core.data.text import printable
from commonart.core.licenses.license import ONE_OF, PREFIX

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")  # as far as BCP 47 can be checked without its registry
_MARKUP = re.compile(r"[\\`*\[\]<>|~$&#@]|(?<!\w)_|_(?!\w)|(?<=:)//|(?<=www)\.")
FIRST, POP = "\u2068", "\u2069"  # isolate whose direction is that of its first letter; end of it


def plain(text: str) -> str:
    """Return other people's text for a line of plain text: on one line, and isolated where it is written from right to left."""
    text = printable(" ".join(text.split()))
    if text.isascii() or not any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in text):
        return text
    return f"{FIRST}{text}{POP}"


def language_tag(text: str) -> str:
    """Return a language where it is written as BCP 47 wants it, else "": records may state anything there."""
    return text if _LANGUAGE.fullmatch(text) else ""


def many(count: int, what: str) -> str:
    """Return `1 work`, or `1,234 works`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def license_name(id: str) -> str:
    """Return a licence's id as people read it: without the prefix that SPDX demands of what is not on its list."""
    if id.startswith(ONE_OF):
        return f"one of {', '.join(map(license_name, id.removeprefix(ONE_OF).split('..')))}"
    return id.replace(PREFIX, "")


def license_names(counted: Mapping[str, int]) -> dict[str, int]:
    """Return a histogram of works by licence, in words."""
    named = dict[str, int]()
    for id, count in counted.items():
        named[license_name(id)] = named.get(license_name(id), 0) + count
    return named


def escaped(text: str) -> str:
    """Return other people's text for Markdown: nothing in it is markup, a link or HTML."""
    return _MARKUP.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0]), plain(text))


def code(text: str) -> str:
    """Return other people's text as code, in which no escape is read; "" for none."""
    text = re.sub("[`|]", "", plain(text))
    return f"`{text}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table. Cells are Markdown; numbers are set to the right, with thousands apart."""
    rows = list(rows)
    made = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    numbers = [bool(rows) and all(isinstance(row[n], int) for row in rows) for n in range(len(head))]
    rule = ["---:" if number else "---" for number in numbers]
    return [f"| {' | '.join(cells)} |" for cells in ([str(name) for name in head], rule, *made)] + [""]


def counts(counted: Mapping[str, int], most: int = 0, none: str = "not stated") -> str:
    """Return `name 1,234, name 12` of a histogram, the `most` frequent (0: all), as Markdown."""
    entries = list(counted.items())
    shown = entries[:most] if most else entries
    named = [f"{escaped(name) or none} {count:,}" for name, count in shown]
    return ", ".join(named + ([f"{len(entries) - most:,} more"] if most and len(entries) > most else []))
