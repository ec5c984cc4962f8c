"""Folders of shards as training data: cached features in memory or on disk, or encoding on the fly.

    opened = open_shards("shards/", [text], [image])   # shards/*.tar, shards/text/*.tar, shards/image/*.tar

Held-out records are never trained on. Joins go by key; features that do not belong to the shards are refused. A sample that
turns out damaged while training runs is counted, named, and its place taken by its neighbour.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonart.core import log
from commonart.core.data.features.format import Features, unpack_latent, unpack_text
from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.order import Buckets
from commonart.core.data.record import is_changed
from commonart.core.data.training_index import Index, read_index
from commonart.core.errors import CommonArtError
from commonart.core.model import memory as memory_of
from commonart.core.model.autoencoder import Autoencoder, to_pixels
from commonart.core.model.text_encoder import TextEncoder, stack
from commonart.core.training.batches import NULL, Batch, ResidentDataset, Source

NEIGHBOURS = 100  # damaged samples in a row after which the data count as damaged, not the samples

Text = Sequence[Features] | TextEncoder  # the features of each data set, or what encodes on the fly
Image = Sequence[Features] | Autoencoder


@dataclass(slots=True)
class TrainingData:
    """Training data, ready. `shapes`: (C, H, W) of the latents of each bucket; `width`: T of the text states."""

    source: Source
    index: Index
    shapes: list[tuple[int, int, int]]
    width: int
    resident: bool  # everything lies in memory
    damaged: dict[str, int]  # reason -> samples that could not be used; grows while training runs

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, side, side): the square of all buckets' area, that the model's positions are made for."""
        areas = [height * width for _, height, width in self.shapes]
        side = round((sum(areas) / len(areas)) ** 0.5)
        return self.shapes[0][0], side, side


def open_shards(
    data: str | os.PathLike[str],
    text: Text,
    image: Image,
    *,
    languages: Mapping[str, float] | None = None,
    memory: int | None = None,
    quiet: bool = False,
    index: Index | None = None,
) -> TrainingData:
    """The images of `data` with their texts: from cached features, or from an encoder that runs on the fly.

    `index` is that of `data`, where it was read before: to refuse data before an encoder is loaded.
    Features that fit in `memory` bytes (None: 40 % of what is free, shared among local processes) are loaded at once.
    Raises CommonArtError where features are missing, stale or not of their images' sizes, and where no record is left.
    """
    index = read_index(os.fspath(data)) if index is None else index
    cached = {"no_text_features": text, "no_latents": image}
    for reason, parts in cached.items():  # where the encoders dropped a record, it cannot be trained on
        if not isinstance(parts, TextEncoder | Autoencoder):
            for (folder, _), features in zip(index.sets, parts, strict=True):
                features.check(folder)
            index.keep(_places(index, parts)[1] > 0, reason)
    if not index.keys:
        raise CommonArtError(
            f"{index.folder}: no record has both text features and latents.",
            "Run commonart encode-text and commonart encode-image on that folder.",
        )
    width = text.width if isinstance(text, TextEncoder) else text[0].meta.width
    reading = ShardDataset(index, text, image, index.odds(languages))
    shapes = [reading.shape(0 if parts[0].rows is None else int(parts[0].rows[0])) for parts in reading.buckets]
    if not isinstance(text, TextEncoder) and not isinstance(image, Autoencoder):
        need = sum(
            _bytes(t) * (4 if t.meta.store == "int8" else 1) + _bytes(i) for t, i in zip(text, image, strict=True)
        )
        if need <= (_free() if memory is None else memory):
            return TrainingData(_load(reading, text, image, shapes, quiet), index, shapes, width, True, reading.damaged)
    return TrainingData(reading, index, shapes, width, False, reading.damaged)


Places = tuple[np.ndarray, np.ndarray]  # of each row: where its features lie in their shard, and how many bytes


def _places(index: Index, features: Sequence[Features]) -> Places:
    shard = index.columns["shard"]
    at, size = np.zeros(len(shard), np.uint64), np.zeros(len(shard), np.uint32)
    edges = np.searchsorted(shard, np.arange(len(index.shards) + 1))
    for number, path in enumerate(index.shards):
        found = features[index.set_of[number]].places(path.stem)
        for row in range(edges[number], edges[number + 1]):
            at[row], size[row] = found.get(index.keys[row], (0, 0))
    return at, size


class Damaged(Exception):
    """One sample that cannot be used, by reason."""


class ShardDataset:
    """A source that reads each sample when it is needed, from features or from the image itself, by index.

    `damaged` counts what could not be used, by reason; each sample is named on stderr once.
    """

    def __init__(self, index: Index, text: Text, image: Image, weights: np.ndarray) -> None:
        self.keys, self.weights, self.offsets = index.keys, weights, index.offsets
        self.buckets: Buckets = index.buckets()
        self.damaged: dict[str, int] = {}
        self._index, self._text, self._image = index, text, image
        self._text_at = None if isinstance(text, TextEncoder) else _places(index, text)
        self._image_at = None if isinstance(image, Autoencoder) else _places(index, image)
        self._bad: set[int] = set()
        self._lock = threading.Lock()
        self._shapes: dict[tuple[int, int], tuple[int, int, int]] = {}  # of latents, by a record's width and height
        if isinstance(text, TextEncoder):
            self.null = text.null().float()
        else:  # rounded as the texts are, so that batches do not depend on whether they lie in memory
            self.null = torch.from_numpy(text[0].null().copy()).to(_kept(text)).float()

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> tuple[list[Any], list[Any]]:
        """Per sample: states, a text to encode or None (dropped); (mean, std) or an image to encode."""
        pairs = [self._sample(int(row), int(caption)) for row, caption in zip(rows, captions, strict=True)]
        return [text for text, _ in pairs], [image for _, image in pairs]

    def _sample(self, row: int, caption: int) -> tuple[Any, Any]:
        def read(good: int) -> tuple[Any, Any]:
            own = caption if good == row or caption == NULL else int(self.offsets[good])
            return self.text(good, own), self.image(good)

        return self.good(row, read)[1]

    def good(self, row: int, read: Callable[[int], Any]) -> tuple[int, Any]:
        """(row, what `read` makes of it), or of the next row of its size where it is damaged, and so on.

        Which row takes the place depends on the row alone, not on the batch, the device or the thread.
        """
        for _ in range(NEIGHBOURS):
            if row not in self._bad:
                try:
                    return row, read(row)
                except Damaged as error:
                    self._report(row, str(error))
            row = self._next(row)
        raise CommonArtError(
            f"{NEIGHBOURS} samples in a row are damaged, the last one {self._index.name(row)}.",
            "Check the disk, and write those shards again.",
        )

    def _report(self, row: int, reason: str) -> None:
        with self._lock:
            if row in self._bad:
                return
            self._bad.add(row)
            self.damaged[reason] = self.damaged.get(reason, 0) + 1
        log.warn(f"{self._index.name(row)} is damaged ({reason}); the next image of its size takes its place.")

    def _size(self, row: int) -> tuple[int, int]:
        return int(self._index.columns["width"][row]), int(self._index.columns["height"][row])

    def _next(self, row: int) -> int:
        width, height = self._size(row)
        alike = np.flatnonzero((self._index.columns["width"] == width) & (self._index.columns["height"] == height))
        return int(alike[np.searchsorted(alike, row, side="right") % len(alike)])

    def batch(self, fetched: tuple[list[Any], list[Any]], device: torch.device) -> Batch:
        texts, images = fetched
        if isinstance(self._text, TextEncoder):
            encoded = iter(self._text.encode([text for text in texts if text is not None]))
            texts = [text if text is None else next(encoded) for text in texts]
        else:
            texts = [text if text is None else torch.from_numpy(text) for text in texts]
        null = self.null.to(device)
        text_BLT, mask_BL = stack([null if text is None else text.to(device, torch.float32) for text in texts])
        if isinstance(self._image, Autoencoder):
            mean, std = self._image.encode(to_pixels(images), batch=len(images))
        else:
            mean, std = (torch.from_numpy(np.stack(part)) for part in zip(*images, strict=True))
        return Batch(mean.to(device), std.to(device), text_BLT, None if bool(mask_BL.all()) else mask_BL)

    def text(self, row: int, caption: int) -> Any:
        """The states float32 [L, T] of one caption, the text itself where it is encoded on the fly, or None."""
        if caption == NULL:
            return None
        place = caption - int(self.offsets[row])
        return self._index.texts(row)[place] if isinstance(self._text, TextEncoder) else self.states(row)[place]

    def states(self, row: int) -> list[np.ndarray]:
        """The cached states of all of a row's captions, float32 [L, T] each."""
        assert self._text_at is not None and not isinstance(self._text, TextEncoder)
        found = self._unpacked(unpack_text, row, self._text, self._text_at, "text features")[0]
        count = int(self.offsets[row + 1] - self.offsets[row])
        if len(found) != count:
            raise CommonArtError(
                f"{self._index.name(row)} has {count} captions, and its text features are of {len(found)}.",
                "Remove the features of that shard and run the same commonart encode-text again.",
            )
        return found

    def image(self, row: int) -> Any:
        """(mean, std) float32 [C, h, w] of one image, or its pixels where they are encoded on the fly."""
        if isinstance(self._image, Autoencoder):
            data = self._index.image(row)
            if is_changed(self._index.record(row), data):
                raise Damaged("changed image")
            try:
                pixels = decode(data)
            except DecodeError as error:
                raise Damaged(error.reason) from error
            shape = self._image.channels, pixels.height // self._image.factor, pixels.width // self._image.factor
            self._fits(row, shape)
            return pixels
        assert self._image_at is not None
        mean, std = self._unpacked(unpack_latent, row, self._image, self._image_at, "latents")
        self._fits(row, mean.shape)
        return mean, std

    def _fits(self, row: int, shape: tuple[int, ...]) -> None:
        expected = self._shapes[self._size(row)]
        if shape != expected:
            raise CommonArtError(
                f"{self._index.name(row)} has latents of {shape}, others of {expected}.",
                "Its record does not say its size: write the shards again with commonart shard.",
            )

    def shape(self, row: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a row and of all others of its size."""
        size = self._size(row)
        if size not in self._shapes:
            self._shapes[size] = self.good(row, self._shape)[1]
        return self._shapes[size]

    def _shape(self, row: int) -> tuple[int, int, int]:
        if not isinstance(self._image, Autoencoder):
            assert self._image_at is not None
            mean, _ = self._unpacked(unpack_latent, row, self._image, self._image_at, "latents")
            return mean.shape[0], mean.shape[1], mean.shape[2]
        try:
            width, height = decode(self._index.image(row)).size
        except DecodeError as error:
            raise Damaged(error.reason) from error
        factor = self._image.factor
        if height % factor or width % factor:
            raise CommonArtError(
                f"{self._index.name(row)} has {width}x{height} pixels, no multiple of the autoencoder's {factor}.",
                "Make shards of sizes that fit: commonart shard.",
            )
        return self._image.channels, height // factor, width // factor

    def _unpacked(self, unpack: Any, row: int, parts: Sequence[Features], places: Places, what: str) -> Any:
        features = parts[self._index.set_of[self._index.columns["shard"][row]]]
        shard = self._index.path(row).stem
        try:
            return unpack(features.read(shard, (int(places[0][row]), int(places[1][row]))))
        except (ValueError, KeyError) as error:
            raise Damaged(f"broken {what}") from error
        except OSError as error:
            if error.errno == errno.EIO:  # a bad sector
                raise Damaged(f"broken {what}") from error
            raise CommonArtError(
                f"{features.folder / f'{shard}.tar'} cannot be read: {error.strerror}.", "Put the features back."
            ) from error


def _kept(parts: Sequence[Features]) -> torch.dtype:
    """In memory, values are kept as they are stored; several stores, and 8 bits with their scales, as float32."""
    stores = {part.meta.store for part in parts}
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(stores.pop() if len(stores) == 1 else "", torch.float32)


def _load(
    reading: ShardDataset,
    text: Sequence[Features],
    image: Sequence[Features],
    shapes: list[tuple[int, int, int]],
    quiet: bool,
) -> ResidentDataset:
    """Everything that `reading` would read, in memory, in the precision that it is stored in."""
    text_type, image_type = _kept(text), _kept(image)
    total = len(reading.keys)
    bucket, place, instead = np.zeros(total, np.int64), np.zeros(total, np.int64), np.arange(total)
    texts: list[list[Tensor]] = [[]] * total
    means, stds = [], []
    with log.progress("load", total=total, unit=" images", quiet=quiet) as tick:
        for number, (parts, shape) in enumerate(zip(reading.buckets, shapes, strict=True)):
            rows = np.sort(np.concatenate([np.arange(p.count) if p.rows is None else p.rows for p in parts]))
            bucket[rows], place[rows] = number, np.arange(len(rows))
            mean, std = (torch.zeros((len(rows), *shape), dtype=image_type) for _ in range(2))
            for n, row in enumerate(map(int, rows)):
                good, (states, latents) = reading.good(row, lambda r: (reading.states(r), reading.image(r)))
                instead[row] = good
                if good == row:
                    texts[row] = [torch.from_numpy(state).to(text_type) for state in states]
                    mean[n], std[n] = (torch.from_numpy(part) for part in latents)
                else:
                    texts[row] = [reading.null.to(text_type)] * int(reading.offsets[row + 1] - reading.offsets[row])
                tick(1)
            means.append(mean)
            stds.append(std)
    return ResidentDataset(
        reading.keys, means, stds, [state for states in texts for state in states], [len(states) for states in texts],
        reading.weights, reading.null, buckets=reading.buckets, bucket=bucket, place=place,
        instead=None if (instead == np.arange(total)).all() else instead,
    )  # fmt: skip


def _bytes(features: Features) -> int:
    return sum(path.stat().st_size for path in features.folder.glob("*.tar"))


def _free() -> float:
    """40 % of the memory that is free now, shared among this machine's training processes."""
    return 0.4 * memory_of.free(torch.device("cpu"))
