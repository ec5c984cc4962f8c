"""Features of a set of images by several encoders at once: each image is read and decoded once, and one that cannot be is
left out and counted.

Images go through an encoder in the order of their content, so that neither their names nor their order change a digit of
a score. Features of a reference are kept in the user's cache, by the content of its images.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from commonart.core.data.files import write_bytes
from commonart.core.data.images.decode import DecodeError, decode, resize_crop
from commonart.core.data.shards.reader import read_bytes
from commonart.core.data.threads import cpu_count, map_ordered
from commonart.core.errors import CommonArtError
from commonart.core.log import progress
from commonart.core.metrics.image_set import ImageRef

if TYPE_CHECKING:
    from torch import Tensor

    from commonart.core.metrics.clip_score import DualEncoder

Floats = NDArray[np.float32]
BATCH = 32  # the same for every set, so that a score does not depend on it


class Encoder(NamedTuple):
    """What turns images into features."""

    name: str  # with everything that its features depend on: the key of the cache
    prepare: Callable[[Image.Image], Tensor]  # an image -> pixels, on any thread
    embed: Callable[[Tensor], Tensor]  # pixels [B, ...] -> features [B, D]


@dataclass(slots=True)
class ImageFeatures:
    """Features of the images that could be read."""

    kept: list[int]  # their places among the items
    failed: dict[str, str]  # pointer -> why, of the others
    rows: dict[str, Floats]  # by encoder: [len(kept), D], in the order of `kept`
    order: NDArray[np.intp]  # rows[order] is in the order of content, whatever that of the items is
    sizes: Counter[tuple[int, int]]  # widths and heights in pixels, as decoded
    digest: str  # of the content of all images

    @property
    def resolution(self) -> str:
        """The size of the images as "64x64", or the smallest and the largest."""
        sizes = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        smallest, largest = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
        return smallest if smallest == largest else f"{smallest}..{largest}"


def extract(
    items: Sequence[ImageRef],
    encoders: Sequence[Encoder],
    *,
    side: int | None = None,
    batch: int = BATCH,
    workers: int | None = None,
    cache: Path | None = None,
    quiet: bool = True,
) -> ImageFeatures:
    """Read images and return their features by every encoder.

    Args:
        side: pixels that every image is scaled and cut to first (Lanczos, centre); None leaves it as it is.
        batch: images that go through an encoder together.
        workers: threads that read and decode; default: as many as there are processors.
        cache: folder that features are taken from and kept in.

    Raises:
        CommonArtError: none of the images can be read; it names one.
    """
    workers = workers or cpu_count()
    failed: dict[str, str] = {}
    digests: dict[int, str] = {}
    for place, found in enumerate(map_ordered(_digest, [item.pointer for item in items], workers)):
        if isinstance(found, CommonArtError):
            failed[items[place].pointer] = found.what
        else:
            digests[place] = found
    ordered = sorted(digests, key=lambda place: (digests[place], place))
    digest = hashlib.sha256("".join(digests[place] for place in ordered).encode()).hexdigest()
    known = {encoder.name: _load(_path(cache, encoder, side, digest)) for encoder in encoders}
    missing = [encoder for encoder in encoders if known[encoder.name] is None]
    fresh: dict[str, NDArray[Any]] = {}
    sizes = next((found[1] for found in known.values() if found is not None), None)
    if missing or sizes is None:
        read = partial(_prepare, encoders=missing, side=side)
        pointers = [items[place].pointer for place in ordered]
        with progress("features", total=len(pointers), unit=" images", quiet=quiet) as tick:
            fresh, sizes = _run(map_ordered(read, pointers, workers), pointers, missing, batch, failed, tick)
        for encoder in missing:
            _save(_path(cache, encoder, side, digest), fresh[encoder.name], sizes)
    readable = [place for place, size in zip(ordered, sizes, strict=True) if size[0]]
    for place, size in zip(ordered, sizes, strict=True):
        if not size[0]:
            failed.setdefault(items[place].pointer, f"{items[place].pointer} is not a readable image.")
    if not readable:
        raise CommonArtError(
            f"None of the {len(items):,} images can be read: {next(iter(failed.values()))}",
            "Remove it, or make it again.",
        )
    kept = sorted(readable)
    place_of = {place: row for row, place in enumerate(readable)}
    back = np.array([place_of[place] for place in kept])  # from the order of content to that of the items
    rows = {name: (fresh[name] if found is None else found[0])[back] for name, found in known.items()}
    counts = Counter((int(width), int(height)) for width, height in sizes if width)
    return ImageFeatures(kept, failed, rows, np.argsort(back), counts, digest)


def encoder_of(dual: DualEncoder, side: int | None = None) -> Encoder:
    """Return unit features of a dual encoder; with `side`, of images that were squeezed into a square, as CMMD's are."""
    import torch

    def prepare(image: Image.Image) -> Any:
        squeezed = side is not None and not dual.embedded
        return dual.prepare(image.resize((side, side), Image.Resampling.BICUBIC) if squeezed and side else image)

    def embed(pixels: Any) -> Any:
        return torch.nn.functional.normalize(dual.embed_pixels(pixels).float(), dim=-1)

    shape = f" {side}" if side is not None and not dual.embedded else ""
    return Encoder(f"{dual.name}@{dual.revision}{shape}", prepare, embed)


def cache_folder() -> Path:
    """Return where features of references are kept: `commonart/features` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "commonart" / "features"


class _Prepared(NamedTuple):
    size: tuple[int, int]
    pixels: list[Any]


def _digest(pointer: str) -> str | CommonArtError:
    try:
        return hashlib.sha256(read_bytes(pointer)).hexdigest()
    except CommonArtError as problem:
        return problem


def _prepare(pointer: str, encoders: Sequence[Encoder], side: int | None) -> _Prepared | str:
    try:
        image = decode(read_bytes(pointer))
    except (DecodeError, CommonArtError) as problem:
        return f"{pointer} is not an image that can be read ({problem})."
    size = image.size
    if side is not None:
        image = resize_crop(image, side)
    return _Prepared(size, [encoder.prepare(image) for encoder in encoders])


def _run(
    prepared: Iterator[_Prepared | str], pointers: Sequence[str], encoders: Sequence[Encoder], batch: int,
    failed: dict[str, str], tick: Callable[[int], Any],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int32]]:  # fmt: skip
    """Return the features of the images that could be read, and the size of every one, 0 by 0 for the others."""
    import torch

    rows: dict[str, list[NDArray[Any]]] = {encoder.name: [] for encoder in encoders}
    sizes = np.zeros((len(pointers), 2), dtype=np.int32)
    waiting: list[list[Any]] = []

    def embed() -> None:
        with torch.inference_mode():
            for encoder, pixels in zip(encoders, zip(*waiting, strict=True), strict=True):
                rows[encoder.name].append(encoder.embed(torch.stack(pixels)).float().cpu().numpy())
        waiting.clear()

    for place, found in enumerate(prepared):
        tick(1)
        if isinstance(found, str):
            failed[pointers[place]] = found
            continue
        sizes[place] = found.size
        waiting.append(found.pixels)
        if len(waiting) == batch:
            embed()
    if waiting and encoders:
        embed()
    empty = np.zeros((0, 1), dtype=np.float32)
    return {name: np.concatenate(parts) if parts else empty for name, parts in rows.items()}, sizes


def _path(cache: Path | None, encoder: Encoder, side: int | None, digest: str) -> Path | None:
    if cache is None:
        return None
    # Another Pillow may decode and resize to other pixels.
    key = f"{encoder.name}\0{side}\0{PIL.__version__}\0{digest}"
    return cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _load(path: Path | None) -> tuple[NDArray[Any], NDArray[Any]] | None:
    if path is None or not path.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found: Mapping[str, NDArray[Any]] = load_file(path)
        return found["rows"], found["sizes"]
    except (SafetensorError, OSError, KeyError):  # damaged: measured again
        return None


def _save(path: Path | None, rows: NDArray[Any], sizes: NDArray[Any]) -> None:
    if path is None:
        return
    from safetensors.numpy import save

    with suppress(OSError):  # a full or read-only cache costs time, not the result
        write_bytes(path, save({"rows": np.ascontiguousarray(rows), "sizes": sizes}))
