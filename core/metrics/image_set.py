"""Images to score: a folder of image files, a folder of shards, or records. Pixels are read one image at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from commonart.core.data.images.decode import DecodeError, decode, resize_crop
from commonart.core.data.record import Record, split_of_record
from commonart.core.data.shards.reader import read_bytes
from commonart.core.data.stream import read
from commonart.core.errors import CommonArtError
from commonart.core.log import warn

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class ImageRef(NamedTuple):
    """A pointer to one image, a path or TAR#MEMBER, and its record, {} for a plain file."""

    pointer: str
    record: Record

    @property
    def name(self) -> str:
        """The record's key, or the file's name without its suffix."""
        return str(self.record.get("key") or Path(self.pointer).stem)


def collect(source: str, *, split: str | None = None, limit: int | None = None, seed: int = 0) -> list[ImageRef]:
    """Return the images of SOURCE, or `limit` of them chosen by `seed`, in an order that depends on the seed alone.

    Args:
        source: a folder of images, a folder of shards, a .tar, or records (.jsonl, -); several with commas between.
        split: only the records of "train" or "heldout"; where a record names none, its sha256 decides.

    Raises:
        CommonArtError: SOURCE is missing or holds no such image.
    """
    items, without = [], 0
    for part in [source] if os.path.exists(source) else source.split(","):
        found, lacking = _listed(part, split)
        items += found
        without += lacking
    if not items and without:
        raise CommonArtError(
            f"{source} holds {without:,} records, and none of them points at an image.", "Run commonart fetch first."
        )
    if not items:
        raise CommonArtError(
            f"{source} holds no images{f' of the split {split}' if split else ''}.",
            "Name a folder of images, a folder of shards, or records that point at images.",
        )
    if without:
        warn(f"{without:,} records of {source} point at no image; they are left out.")
    items.sort(key=lambda item: _hash(seed, item.name))
    return items[:limit]


def _listed(source: str, split: str | None) -> tuple[list[ImageRef], int]:
    """Return the images of one source, and how many records point at none."""
    path = Path(source)
    if path.is_dir() and not any(path.glob("*.tar")):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if split is not None and files:
            raise CommonArtError(f"{source} is a folder of image files, which have no split.", "Leave --split out.")
        return [ImageRef(str(p), {}) for p in files], 0
    records = [record for record in read(source) if split is None or split_of_record(record) == split]
    items = [ImageRef(record["image"], record) for record in records if record.get("image")]
    return items, len(records) - len(items)


def open_image(pointer: str) -> Image.Image:
    """Decode an image, upright, in sRGB. Raises CommonArtError where it is missing or damaged."""
    try:
        return decode(read_bytes(pointer))
    except DecodeError as problem:
        what = f"{pointer} is not a readable image ({problem})."
        raise CommonArtError(what, "Remove it, or make it again.") from problem


def open_square(item: ImageRef, size: int) -> Image.Image:
    """Decode an image, scaled and cut to a square of `size` pixels. Raises as `open_image`."""
    image = open_image(item.pointer)
    return image if image.size == (size, size) else resize_crop(image, size)


def images(items: Sequence[ImageRef]) -> Iterator[Image.Image]:
    """Decode the images of `items`, one at a time."""
    return (open_image(item.pointer) for item in items)


def seed_for(seed: int, name: str) -> int:
    """Return the seed of one image of a set, the same whatever the others are."""
    return _hash(seed, name) >> 33


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
