"""A source of records, cut as its output shards will be: tar by tar, or a fixed number of records of a list."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import orjson

from commonart.core.data import jsonl
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import shard_identity
from commonart.core.data.shards.reader import list_shards, read_bytes, read_shard
from commonart.core.errors import CommonArtError, UsageError

FETCH_FIRST = "Fetch images first: commonart fetch SOURCE -o raw/."
SHARD_SIZE = 1000  # records of a JSONL source that become one shard


class Chunk(NamedTuple):
    """The records that become one output shard. `identity()` changes when they do; to hash a tar takes a while."""

    name: str
    records: Iterable[Record]
    identity: Callable[[], str]


def check_exists(source: str) -> None:
    """Raise CommonArtError where a SOURCE is missing."""
    if source != "-" and not os.path.exists(source):
        raise CommonArtError(f"{source} does not exist.", "Give a folder of shards, a .tar, a .jsonl, or - for stdin.")


def chunks(source: str, size: int | None = SHARD_SIZE) -> Iterator[Chunk]:
    """Split a SOURCE as its output shards will be: tar by tar, or `size` records of a JSONL (all of them for None).

    Raises:
        UsageError: the source is a file that records cannot be read from.
        CommonArtError: it is missing, or a folder without shards.
    """
    check_exists(source)
    if source != "-" and (os.path.isdir(source) or source.endswith(".tar")):
        for path in list_shards(source, FETCH_FIRST) if os.path.isdir(source) else [Path(source)]:
            yield Chunk(path.stem, read_shard(path), partial(shard_identity, path))
    elif source == "-" or source.endswith(jsonl.SUFFIXES):
        yield from grouped(jsonl.read(source), size, images=True)
    else:
        raise UsageError(
            f"{source} is not a folder, a .tar or a .jsonl.", "A .jsonl may also end in .jsonl.gz or .jsonl.zst."
        )


def _hash(records: Iterable[Record], images: bool) -> str:
    """The hash of records and, with `images`, of the bytes of those images whose records do not say which they are."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        if images and record.get("image") and not record.get("sha256"):
            with suppress(CommonArtError):  # the stage tells what is missing
                digest.update(hashlib.sha256(read_bytes(record["image"])).digest())
    return digest.hexdigest()


def grouped(records: Iterable[Record], size: int | None, *, images: bool = False) -> Iterator[Chunk]:
    """`size` records at a time, in memory; all of them as they come for None. At least one chunk, which may be empty.

    `images`: files that records name without a `sha256` are part of what a chunk is.
    """
    if size is None:
        yield Chunk("00000", records, str)
        return
    remaining = iter(records)
    for number in count():
        if not (group := list(islice(remaining, size))) and number > 0:
            return
        yield Chunk(f"{number:05d}", group, partial(_hash, group, images))
