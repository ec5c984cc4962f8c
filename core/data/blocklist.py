"""A list of works and people to leave out: keys, sha256, URLs and authors, in a file of any length.

    commonart license-filter --blocklist removed.txt raw/ -o kept.jsonl

One entry a line; a line that begins with `#` is a comment. How an entry is read:

    64 hexadecimal digits                 sha256 of an image's original bytes (or of those in a shard)
    ...://... or host.name/...            URL: of the image, of the work's page, or of the author's page
    anything else                         both a key and an author's name
    key: sha256: url: author: before it   that kind and no other

URLs are compared without scheme, credentials, `www.`, fragment and last slash; authors without case, width, HTML and doubled
blanks.
In memory an entry is a 64-bit hash (8 bytes, 16 where it may be key or author): ten million take 160 MB, and one record in
10^11 would be left out by chance.
"""

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from commonart.core.data.files import sha256_file, write_bytes
from commonart.core.data.public_address import public_address
from commonart.core.data.record import Record
from commonart.core.errors import CommonArtError, UsageError, reason

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+|(?:[\w-]+\.)+[a-zA-Z]{2,}/\S*")
_KIND = re.compile(r"(key|sha256|url|author):\s*(.+)")
_TAG = re.compile(r"<[^<>]*>")
_SHORT = 10_000  # entries up to which numpy is not worth its import


@dataclass(slots=True)
class Blocklist:
    """`sha256`: of the file, so that shards know which list they were made with. `hashes`: sorted, of this process alone."""

    sha256: str
    hashes: array[int]
    kinds: frozenset[str]  # those that occur, so that the other fields of a record need not be looked at

    def entry_of(self, record: Record) -> str:
        """Return what `record` is blocked by (`key k1`, `author Jane Doe`), or ""."""
        for kind, field in FIELDS:
            if kind not in self.kinds or not (value := record.get(field)) or type(value) is not str:
                continue
            hashed = _hash(kind, value)
            at = bisect_left(self.hashes, hashed)
            if at < len(self.hashes) and self.hashes[at] == hashed:
                return f"{kind} {value}"
        return ""

    def matched(self, record: Record) -> set[int]:
        """Return which of `hashes` a record matches, each by its place."""
        values = (_hash(kind, value) for kind, name in FIELDS if type(value := record.get(name)) is str and value)
        places = ((bisect_left(self.hashes, value), value) for value in values)
        return {at for at, value in places if at < len(self.hashes) and self.hashes[at] == value}


# The fields by which a record is blocked, and by which `commonart lookup` finds it.
FIELDS = (
    ("key", "key"), ("sha256", "sha256"), ("sha256", "shard_sha256"), ("url", "image_url"), ("url", "source_url"),
    ("author", "author"), ("url", "author_url"),
)  # fmt: skip


def read_blocklist(path: str, flag: str = "--blocklist") -> Blocklist:
    """Read a blocklist, which `flag` named; see above for what its lines mean.

    Raises:
        UsageError: it is a folder.
        CommonArtError: the file cannot be read, or an entry is not valid: silence would let through what somebody had removed.
    """
    hashes, kinds = array("q"), set[str]()
    fix = "Give a text file in UTF-8, one entry a line."
    if os.path.isdir(path):
        raise UsageError(f"{flag} {path} is a folder.", fix)
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if not (entry := text.strip()) or entry.startswith("#"):
                    continue
                for kind, value in _kinds_of(entry):
                    if kind == "sha256" and not _SHA256.fullmatch(value):
                        what = f"{path}:{line}: {value!r} is not a SHA-256."
                        raise CommonArtError(what, "Write 64 hexadecimal digits.")
                    hashes.append(_hash(kind, value))
                    kinds.add(kind)
        digest = sha256_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CommonArtError(f"{flag} {path} cannot be read: {reason(error)}.", fix) from error
    if len(hashes) <= _SHORT:
        return Blocklist(digest, array("q", sorted(hashes)), frozenset(kinds))
    import numpy  # sorts where the numbers lie; a list of ten million would take 400 MB for a moment

    numpy.frombuffer(hashes, numpy.int64).sort()
    return Blocklist(digest, hashes, frozenset(kinds))


def _kinds_of(entry: str) -> tuple[tuple[str, str], ...]:
    """The (kind, value) that a line stands for: one, or two when it may be a key or an author."""
    if match := _KIND.fullmatch(entry):
        return ((match[1], match[2].strip()),)
    if _SHA256.fullmatch(entry):
        return (("sha256", entry),)
    if _URL.fullmatch(entry):
        return (("url", entry),)
    return ("key", entry), ("author", entry)


def append_entries(path: str | os.PathLike[str], entries: Sequence[str], comment: str) -> int:
    """Add the entries that a blocklist does not hold yet, below a comment, and return how many; the file may be new.

    Raises CommonArtError where the file cannot be read or written.
    """
    file = Path(path)
    try:
        old = file.read_text("utf-8-sig") if file.exists() else ""
        new = list(dict.fromkeys(entry for entry in entries if entry not in set(old.splitlines())))
        if new:
            end = "" if not old or old.endswith("\n") else "\n"
            write_bytes(file, "\n".join([f"{old}{end}# {comment}", *new, ""]).encode())
    except (OSError, UnicodeDecodeError) as error:
        fix = "Give a text file in UTF-8 that may be written."
        raise CommonArtError(f"--blocklist {path} cannot be added to: {reason(error)}.", fix) from error
    return len(new)


def plain(kind: str, value: str) -> str:
    """Return the one spelling by which values of a kind (key, sha256, url, author) are compared."""
    if kind == "url":
        return _plain_url(value)
    if kind == "author":
        return _plain_author(value)
    return value.lower() if kind == "sha256" else value


def _hash(kind: str, value: str) -> int:
    return hash((kind, plain(kind, value)))


def _plain_url(url: str) -> str:
    url = public_address(url)  # as records have it
    _, _, rest = url.partition("://")
    host, _, path = (rest or url).partition("/")
    host = host.rpartition("@")[2].lower().removeprefix("www.")
    if ":" in host:
        host = host.removesuffix(":80").removesuffix(":443")
    if "#" in path:
        path = path.partition("#")[0]
    if "%" in path:
        path = unquote(path)
    return f"{host}/{path.rstrip('/')}"


def _plain_author(name: str) -> str:
    if "<" in name:
        name = _TAG.sub(" ", name)
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    return " ".join(name.casefold().split())
