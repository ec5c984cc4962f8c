"""Pictures to be judged: a folder of image files, a folder of shards, or records.

    commonart eval pictures/ shards/ --split heldout

Each has a pointer to its pixels and, where it is known, the record that it came with. Pixels are read one picture at
a time, never all at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.record import Record, split_of_record
from commonart.core.data.shards.reader import read_bytes
from commonart.core.data.stream import read
from commonart.core.errors import CommonArtError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Item(NamedTuple):
    """One picture: `pointer` is a path or TAR#MEMBER, `record` is {} for a plain file."""

    pointer: str
    record: Record

    @property
    def name(self) -> str:
        return str(self.record.get("key") or Path(self.pointer).stem)


def collect(source: str, *, split: str | None = None, limit: int | None = None, seed: int = 0) -> list[Item]:
    """The pictures of SOURCE, or `limit` of them drawn by `seed`, in an order that does not depend on the source's.

    Args:
        source: a folder of pictures, a folder of shards, a .tar, or records (.jsonl, -).
        split: only the records of "train" or "heldout"; a record without one is of the split that its sha256 gives.

    Raises:
        CommonArtError: SOURCE is missing or holds no such picture.
    """
    path = Path(source)
    if path.is_dir() and not any(path.glob("*.tar")):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
        items = [Item(str(p), {}) for p in files]
        if split is not None and items:
            raise CommonArtError(f"{source} is a folder of pictures, which have no split.", "Leave --split out.")
    else:
        items = [
            Item(record["image"], record)
            for record in read(source)
            if record.get("image") and (split is None or split_of_record(record) == split)
        ]
    if not items:
        raise CommonArtError(
            f"{source} holds no pictures{f' of the split {split}' if split else ''}.",
            "Name a folder of pictures, a folder of shards, or records that point at pictures.",
        )
    items.sort(key=lambda item: _lot(seed, item.name))
    return items[:limit]


def open_image(pointer: str) -> Image.Image:
    """The pixels behind a pointer, upright, in sRGB.

    Raises:
        CommonArtError: it is missing or no picture.
    """
    try:
        return decode(read_bytes(pointer))
    except DecodeError as problem:
        raise CommonArtError(f"{pointer}: this is no picture ({problem}).", "Delete it, or make it again.") from problem


def images(items: Sequence[Item]) -> Iterator[Image.Image]:
    """The pictures of `items`, one at a time."""
    return (open_image(item.pointer) for item in items)


def files(items: Sequence[Item], folder: str | os.PathLike[str]) -> list[str]:
    """A file for each picture; those inside a tar are written to `folder` as PNG, which changes no pixel."""
    paths = []
    for number, item in enumerate(items):
        if "#" not in item.pointer:
            paths.append(item.pointer)
            continue
        path = Path(folder) / f"{number:06d}.png"
        open_image(item.pointer).save(path)
        paths.append(str(path))
    return paths


def resolution(items: Sequence[Item], sample: int = 100) -> str:
    """The size of the pictures as "64x64", the smallest and largest of the first `sample` where they differ."""
    sizes = sorted({image.size for image in images(items[:sample])}, key=lambda size: (size[0] * size[1], size))
    named = [f"{width}x{height}" for width, height in sizes]
    return named[0] if len(named) == 1 else f"{named[0]}..{named[-1]}"


def seed_for(seed: int, name: str) -> int:
    """A seed of its own for each picture of a set, the same whatever the others are."""
    return _lot(seed, name) >> 33


def _lot(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def as_array(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [H, W, 3]."""
    return np.asarray(image.convert("RGB"))
