"""The record, schema version 1: one JSON object for one image.

A record is a plain `dict`, so that unknown fields survive every stage and `orjson` reads and writes it without a copy.
In memory `record["image"]` can be opened from the working folder; the readers and writers of `jsonl` and `shards`
rebase it against the file that holds the record (`rebase`).
"""

from __future__ import annotations

import hashlib
import os
import re
from binascii import unhexlify
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson

from commonart.core.data.text import count_words
from commonart.core.errors import SchemaError

Record = dict[str, Any]
Caption = dict[str, Any]

KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")
HEX = re.compile(r"[0-9a-fA-F]*")
BASES = ("licence", "dedication", "mark", "statement", "statute", "set")
SPLITS = ("train", "heldout")
HELDOUT_PERCENT = 5
ATTRIBUTED = (
    "license", "license_url", "license_raw", "license_basis", "license_observed_at", "author", "title", "source", "source_url",
    "image_url", "captions",
)  # fmt: skip


def _text(value: Any) -> str:
    return "" if type(value) is str else "must be a string"


def _size(value: Any) -> str:
    return "" if type(value) is int and value > 0 else "must be a positive whole number"


def _sha256(value: Any) -> str:
    fits = type(value) is str and (not value or (len(value) == 64 and HEX.fullmatch(value)))
    return "" if fits else "must be 64 hexadecimal digits"


def _one_of(*allowed: str) -> Callable[[Any], str]:
    return lambda value: "" if value in allowed else f"must be one of {', '.join(allowed)}, not {value!r}"


def _opt_out(value: Any) -> str:
    return "" if type(value) is list and all(type(v) is str for v in value) else "must be a list of strings"


def _captions(value: Any) -> str:
    if type(value) is not list:
        return "must be a list"
    for i, caption in enumerate(value):
        if type(caption) is not dict:
            return f"must hold objects, not {type(caption).__name__} at {i}"
        if type(caption.get("text")) is not str:
            return f"must hold a string in 'text' at {i}"
        if type(caption.get("lang", "")) is not str:
            return f"must hold a string in 'lang' at {i}"
    return ""


# Field -> what is wrong with a value ("" when nothing is). A field that is absent is fine, except `key`.
FIELDS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(
        ("image", "source", "source_id", "source_url", "image_url", "title", "author", "author_url"), _text
    ),
    **dict.fromkeys(("license", "license_url", "license_raw", "license_observed_at", "mime", "phash", "chroma"), _text),
    "license_basis": _one_of("", *BASES),
    "opt_out": _opt_out,
    "width": _size,
    "height": _size,
    "sha256": _sha256,
    "split": _one_of(*SPLITS),
    "captions": _captions,
}


def check(record: Any, file: str, line: int | str) -> Record:
    """Return `record` unchanged. Raises SchemaError, by file, line and field, where it does not fit the schema."""
    if type(record) is not dict:
        raise SchemaError(file, line, "", f"a record must be a JSON object, not {type(record).__name__}")
    key = record.get("key")
    if type(key) is not str:
        raise SchemaError(file, line, "key", "is missing" if key is None else "must be a string")
    if not KEY.fullmatch(key):
        raise SchemaError(file, line, "key", f"may hold only A-Z a-z 0-9 _ - (1 to 200 of them), not {key[:80]!r}")
    for field, value in record.items():
        problem = FIELDS[field](value) if field in FIELDS else ""
        if problem:
            raise SchemaError(file, line, field, problem)
    return record


_SCALARS = {str, int, float, bool, type(None)}
_KEYS = re.compile(r"[A-Za-z0-9_-]*")


def all_fit(records: list[Any]) -> bool:
    """Return whether records that stand together fit the schema for certain: field by field, at a third of the cost of `check`.

    False says only that `check` has to look at them one by one: they may differ in their fields, or nest deeper than usual.
    """
    try:
        if {*map(type, records)} != {dict} or {*map(len, records)} != {len(records[0])}:
            return False
        fields = list(records[0])
        for field, values in zip(fields, zip(*map(itemgetter(*fields, "key"), records), strict=True), strict=False):
            if field == "key":
                if min(map(len, values)) < 1 or max(map(len, values)) > 200 or not _KEYS.fullmatch("".join(values)):
                    return False
            elif FIELDS.get(field) is _text:
                "".join(values)  # which takes nothing but strings
            elif not _column_fits(field, values):
                return False
        return True
    except (KeyError, TypeError, ValueError):
        return False


def _column_fits(field: str, values: tuple[Any, ...]) -> bool:
    if field == "opt_out":
        return values.count([]) == len(values)
    if field == "captions":
        entries = list(chain.from_iterable(values))
        "".join(map(itemgetter("text"), entries))
        "".join([caption.get("lang", "") for caption in entries])
        plain = {*map(type, chain.from_iterable(map(dict.values, entries)))} <= _SCALARS
        return plain and {*map(type, values)} == {list}
    kinds = {*map(type, values)}
    if field in ("width", "height"):
        return kinds == {int} and min(values) > 0
    if field == "sha256":
        if not {*map(len, values)} <= {0, 64}:
            return False
        unhexlify("".join(values))  # ValueError for anything but digits, spaces too
        return True
    if field in FIELDS:
        return kinds == {str} and not any(map(FIELDS[field], {*values}))
    return kinds <= _SCALARS


def make_key(source: str, source_id: str) -> str:
    """Make a key for one work: readable where the id allows it, and stable from run to run."""
    plain = f"{source}_{source_id}"
    if KEY.fullmatch(plain):
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:80]
    return f"{name}-{digest}"


def key_hash(key: str) -> int:
    """Return 64 bits that stand for a key where millions of them have to be compared."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def attribution_hash(record: Record) -> int:
    """Return 64 bits of what an attribution says of a record: its licence, author, title and source, and its captions."""
    said = orjson.dumps([record.get(name) for name in ATTRIBUTED], option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")


def split_of(sha256: str) -> str:
    """`train` or `heldout`, decided once by the hash of the image's original bytes (about 5 % are held out)."""
    return "heldout" if int(sha256[:8], 16) % 100 < HELDOUT_PERCENT else "train"


def split_of_record(record: Record) -> str:
    """Return the split that a record says, else the one that its image's hash gives; "" where it has neither."""
    return str(record.get("split") or (split_of(record["sha256"]) if record.get("sha256") else ""))


def check_split(record: Record, sha256: str) -> tuple[str, str]:
    """Return (the split of the image with this hash, how the record contradicts it or "")."""
    split = split_of(sha256)
    recorded = record.get("split", split)
    return split, "" if recorded == split else f"{recorded}, the hash says {split}"


def captions(record: Record, lang: str | None = None) -> list[Caption]:
    """Return the record's captions, or only those in one language."""
    all_captions: list[Caption] = record.get("captions") or []
    return all_captions if lang is None else [c for c in all_captions if c.get("lang") == lang]


def make_caption(
    text: str,
    lang: str,
    model: str,
    license: str,
    synthetic: bool,
    revision: str = "",
    translated_from: str | None = None,
) -> Caption:
    """Return a caption; of its author or `model` the `revision` is "" where it is known by name only."""
    return {
        "text": text,
        "lang": lang,
        "model": model,
        "revision": revision,
        "license": license,
        "synthetic": synthetic,
        "translated_from": translated_from,
    }


def add_caption(
    record: Record,
    text: str,
    *,
    lang: str,
    model: str,
    revision: str,
    license: str,
    translated_from: str | None = None,
    terms_accepted: bool = False,
    **settings: str | int | float,
) -> None:
    """Append one caption, which `model` wrote, to the record's, with the number of its words.

    `terms_accepted`: the registry refuses the model, and the user answers for its terms; the caption says so. `settings`:
    what else the text depends on (prompt, length, precision, max_new_tokens, side, engine); scalars alone, as `all_fit` wants.
    """
    caption = make_caption(text, lang, model, license, True, revision, translated_from)
    caption |= {"words": count_words(text), **settings}
    record.setdefault("captions", []).append(caption | ({"terms_accepted": True} if terms_accepted else {}))


def split_pointer(pointer: str) -> tuple[str, str | None]:
    """`a/0.tar#k.jpg` -> (`a/0.tar`, `k.jpg`); a plain path, even one with a `#` in it, -> (path, None)."""
    path, tar, member = pointer.rpartition(".tar#")  # a folder may have it in its name; a member cannot
    return (path + ".tar", member) if tar else (pointer, None)


def rebase(pointer: str, old: str, new: str) -> str:
    """Move a relative `path` or `tar#member` pointer from the folder `old` to the folder `new`.

    An empty folder is the working folder. Absolute pointers stay as they are.
    """
    if not pointer or old == new:
        return pointer
    path, member = split_pointer(pointer)
    return _rebased(path, old, new) if member is None else f"{_rebased(path, old, new)}#{member}"


@lru_cache(maxsize=1024)  # one tar holds a thousand images
def _rebased(path: str, old: str, new: str) -> str:
    if os.path.isabs(path):
        return path
    path = os.path.normpath(os.path.join(old, path))
    return os.path.relpath(path, new) if new and not os.path.isabs(path) else path


def is_changed(record: Record, data: bytes) -> bool:
    """Return whether the bytes of a record's image in a shard are not those that `commonart shard` put there."""
    expected = record.get("shard_sha256")
    return expected is not None and expected != hashlib.sha256(data).hexdigest()
