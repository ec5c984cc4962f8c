"""Copies across all shards of a source, found before the first is written, in any number of tasks.

    shards/hashes/00000.safetensors      # of one input shard: `fingerprint` uint64 [n], `chroma` uint8 [n, 18], the keys

A task makes the lists of its own shards, then those that are still missing, whoever they belong to; so it never waits. Each
then searches all lists: 26 bytes of memory per record to hold them, about 32 while it searches, and 16 per copy afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data.files import write_bytes
from commonart.core.data.images.phash import CHROMA, copies
from commonart.core.data.record import Record, key_hash
from commonart.core.data.shards.chunks import Chunk
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, reason
from commonart.core.log import Tick

FOLDER = "hashes"
WINDOW = 32  # shards among which a task picks at random what others left, so that not all pick the same one

VERSION = 2  # of the lists; the first had no colours

Prints = tuple[Record, int, np.ndarray]  # a record, what it is compared by, its colours (uint8 [CHROMA])
Fingerprints = Callable[[Iterable[Record]], Iterator[Prints]]


class Copies:
    """Which keys are copies, and of what. 16 bytes each."""

    __slots__ = ("_hashes", "_kept", "_keys_of", "_paths", "_starts")

    def __init__(self, paths: list[Path], starts: np.ndarray, kept_by: np.ndarray) -> None:
        self._paths, self._starts = paths, starts
        self._keys_of = lru_cache(maxsize=64)(_keys)
        rows = np.flatnonzero(kept_by >= 0)
        hashes = np.zeros(len(rows), dtype=np.uint64)
        edges = np.searchsorted(rows, starts)
        for number, (first, last) in enumerate(pairwise(edges)):
            if first < last:
                keys = _keys(paths[number])
                hashes[first:last] = [key_hash(keys[row]) for row in (rows[first:last] - starts[number]).tolist()]
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._kept = hashes[order], kept_by[rows][order]

    def __len__(self) -> int:
        return len(self._hashes)

    def of(self, key: str) -> str | None:
        """Return the key of the record that stays in place of this one; None when this one stays itself."""
        hashed = np.uint64(key_hash(key))
        index = int(np.searchsorted(self._hashes, hashed))
        if index == len(self._hashes) or self._hashes[index] != hashed:
            return None
        row = int(self._kept[index])
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._keys_of(self._paths[number])[row - int(self._starts[number])]


def find_copies(
    parts: Callable[[], Iterable[Chunk]],
    folder: Path,
    fingerprints: Fingerprints,
    *,
    settings: Mapping[str, Any],
    task: Task,
    tick: Tick,
) -> Copies:
    """Find which records of a source are copies of an earlier one, across all its shards and tasks.

    Args:
        parts: the source's shards, afresh at each call.
        folder: where the lists are kept (OUT/hashes); those that are there and fit are not made again.
        fingerprints: (record, fingerprint, colours) for each record, in order; 0 for one that will not be used.
        settings: what the fingerprints depend on besides the records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ensure = partial(_ensure, folder, fingerprints, settings, tick)
    paths = []
    for number, chunk in enumerate(parts()):
        paths.append(folder / f"{chunk.name}.safetensors")
        if task.owns(number):
            ensure(chunk)
    if task.count > 1:
        others, choice = iter(parts()), random.Random(task.index)
        while window := list(islice(others, WINDOW)):
            choice.shuffle(window)
            for chunk in window:
                ensure(chunk)
    prints = [_read(path, "fingerprint") for path in paths]
    starts = np.cumsum([0, *map(len, prints)])
    colors = [np.zeros((0, CHROMA), np.uint8), *(_read(path, "chroma") for path in paths)]
    kept_by = copies(np.concatenate([np.zeros(0, np.uint64), *prints]), np.concatenate(colors))
    return Copies(paths, starts, kept_by)


def _ensure(folder: Path, fingerprints: Fingerprints, settings: Mapping[str, Any], tick: Tick, chunk: Chunk) -> None:
    """Make the list of one shard unless it is there."""
    from safetensors.numpy import save

    path = folder / f"{chunk.name}.safetensors"
    about = {"input": chunk.identity(), "settings": dict(settings), "version": VERSION}
    made_from = orjson.dumps(about, option=orjson.OPT_SORT_KEYS).decode()
    if path.exists() and _made_from(path) == made_from:
        return
    keys, prints, colors = [], [], []
    for record, value, chroma in fingerprints(chunk.records):
        keys.append(record["key"])
        prints.append(value)
        colors.append(chroma)
        tick()
    tensors: dict[str, np.ndarray] = {
        "fingerprint": np.array(prints, dtype=np.uint64),
        "chroma": np.array(colors, dtype=np.uint8).reshape(-1, CHROMA),
        "keys": np.frombuffer("\n".join(keys).encode(), dtype=np.uint8),
    }
    write_bytes(path, save(tensors, metadata={"made_from": made_from}))


def _made_from(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("made_from", ""))
    except (SafetensorError, OSError):
        return ""


def _read(path: Path, name: str) -> np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            values: np.ndarray = file.get_tensor(name)
            return values
    except (SafetensorError, OSError) as error:
        raise CommonArtError(
            f"{path} cannot be read: {reason(error)}.", "Remove it, and run the same command again."
        ) from error


def _keys(path: Path) -> list[str]:
    return _read(path, "keys").tobytes().decode().split("\n")
