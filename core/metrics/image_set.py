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
        source: a folder of images, a folder of shards, a .tar, or records (.jsonl, -).
        split: only the records of "train" or "heldout"; where a record names none, its sha256 decides.

    Raises:
        CommonArtError: SOURCE is missing or holds no such image.
    """
    path = Path(source)
    if path.is_dir() and not any(path.glob("*.tar")):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        items = [ImageRef(str(p), {}) for p in files]
        if split is not None and items:
            raise CommonArtError(f"{source} is a folder of image files, which have no split.", "Leave --split out.")
    else:
        items = [
            ImageRef(record["image"], record)
            for record in read(source)
            if record.get("image") and (split is None or split_of_record(record) == split)
        ]
    if not items:
        raise CommonArtError(
            f"{source} holds no images{f' of the split {split}' if split else ''}.",
            "Name a folder of images, a folder of shards, or records that point at images.",
        )
    items.sort(key=lambda item: _hash(seed, item.name))
    return items[:limit]


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


def files(items: Sequence[ImageRef], folder: str | os.PathLike[str]) -> list[str]:
    """Return a file for each image; those inside a tar are written to `folder` as PNG, which changes no pixel."""
    paths = []
    for number, item in enumerate(items):
        path = item.pointer
        if "#" in path:
            path = os.path.join(folder, f"{number:06d}.png")
            open_image(item.pointer).save(path)
        paths.append(path)
    return paths


def resolution(items: Sequence[ImageRef], sample: int = 100) -> str:
    """Return the size of the images as "64x64", or the smallest and the largest of the first `sample`."""
    sizes = sorted({image.size for image in images(items[:sample])}, key=lambda size: (size[0] * size[1], size))
    smallest, largest = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
    return smallest if smallest == largest else f"{smallest}..{largest}"


def seed_for(seed: int, name: str) -> int:
    """Return the seed of one image of a set, the same whatever the others are."""
    return _hash(seed, name) >> 33


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
