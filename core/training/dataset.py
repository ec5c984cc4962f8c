"""Folders of shards as training data: cached features in memory or on disk, or encoding on the fly.

Held-out records are never trained on. Joins go by key; features that do not belong to the shards are refused. A sample that
turns out damaged while training runs is counted, the first ones are named, and it is replaced by the next one of its size.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from commonart.core import log
from commonart.core.data.features.format import Features
from commonart.core.data.order import Buckets
from commonart.core.data.training_index import read_index
from commonart.core.data.training_rows import Index
from commonart.core.errors import CommonArtError
from commonart.core.model import memory
from commonart.core.model.autoencoder import Autoencoder
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import stack_text
from commonart.core.model.vision_encoder import VisionEncoder
from commonart.core.training.batches import NULL, Batch, ResidentDataset, Source
from commonart.core.training.sources import (
    CachedLatents,
    CachedText,
    Damaged,
    ImageReader,
    LatentsAndVision,
    LatentSource,
    LiveLatents,
    LiveText,
    Shape,
    TextReader,
    TextSource,
    has_features,
)

MOST_REPLACED = 100  # damaged samples in a row after which the data count as damaged, not the samples
MOST_NAMED = 10  # damaged samples that are warned of one by one
RESIDENT_SHARE = 0.4  # of free memory, what features may take

Value = TypeVar("Value")


@dataclass(slots=True)
class TrainingData:
    """The images of one or several data sets, with what training knows of their shapes."""

    source: Source
    index: Index
    shapes: list[Shape]  # of the latents of each bucket
    width: int  # T of the text states
    resident: bool  # everything lies in memory
    damaged: dict[str, int]  # reason -> samples that could not be used; grows while training runs

    @property
    def shape(self) -> Shape:
        """(C, side, side): the square of all buckets' area, that the model's positions are made for."""
        areas = [height * width for _, height, width in self.shapes]
        side = round((sum(areas) / len(areas)) ** 0.5)
        return self.shapes[0][0], side, side


def open_shards(
    data: str | os.PathLike[str],
    text: Sequence[Features] | TextEncoder,
    image: Sequence[Features] | Autoencoder,
    *,
    languages: Mapping[str, float] | None = None,
    lengths: Mapping[str, float] | None = None,
    budget: float | None = None,
    quiet: bool = False,
    index: Index | None = None,
    vision: tuple[VisionEncoder, int] | None = None,
) -> TrainingData:
    """Open the images of `data`, one or several folders of shards, with their texts.

    Args:
        text, image: the features of each data set, or the encoder that runs on the fly.
        languages, lengths: how often captions of each language and length are taken; lengths need an index with them.
        budget: bytes that features may take in memory; those that fit are loaded at once. None: 40 % of what is free.
        index: that of `data`, where it was read before.
        vision: the encoder of REPA, and the transformer's patch; images are then read and seen while training runs.

    Raises:
        CommonArtError: features are missing, stale or not of their images' sizes, or no record is left.
    """
    index = read_index(os.fspath(data)) if index is None else index
    for features in (text, image):
        for (folder, _), of_set in zip(index.sets, features if isinstance(features, Sequence) else (), strict=False):
            of_set.check(folder)
    dataset = open_dataset(index, text, image, languages=languages, lengths=lengths, vision=vision)
    texts, latents = dataset.texts, dataset.latents
    source: Source = dataset
    if isinstance(texts, CachedText) and isinstance(latents, CachedLatents):
        needed = texts.features.nbytes() + latents.features.nbytes()
        if needed <= (_budget() if budget is None else budget):
            source = _load(dataset, texts, latents, quiet)
    return TrainingData(source, index, dataset.shapes, texts.width, source is not dataset, dataset.damaged)


def open_dataset(
    index: Index,
    text: Sequence[Features] | TextEncoder,
    image: Sequence[Features] | Autoencoder,
    *,
    languages: Mapping[str, float] | None = None,
    lengths: Mapping[str, float] | None = None,
    vision: tuple[VisionEncoder, int] | None = None,
) -> ShardDataset:
    """Return the samples of an index, read when they are needed; rows without features are left out and counted.

    Arguments as of `open_shards`. Raises CommonArtError where no record is left.
    """
    for reason, features in (("no_text_features", text), ("no_latents", image)):
        if isinstance(features, Sequence):  # where the encoders dropped a record, it cannot be trained on
            index.keep(has_features(index, features), reason)
    if not index.keys:
        raise CommonArtError(
            f"{index.folder}: no record has both text features and latents.",
            "Run commonart encode-text and commonart encode-image on that folder.",
        )
    texts: TextSource = CachedText(index, text) if isinstance(text, Sequence) else LiveText(index, text)
    plain = CachedLatents(index, image) if isinstance(image, Sequence) else LiveLatents(index, image)
    latents: LatentSource = plain if vision is None else LatentsAndVision(index, plain, *vision)
    return ShardDataset(index, texts, latents, index.caption_odds(languages, lengths))


def _budget() -> float:
    return RESIDENT_SHARE * memory.free(torch.device("cpu"))


class ShardReader:
    """Samples that are read when they are needed. `damaged` counts what could not be used, by reason."""

    def __init__(self, index: Index, texts: TextReader, latents: ImageReader, weights: np.ndarray) -> None:
        self.index, self._texts, self._images = index, texts, latents
        self.keys, self.weights, self.offsets = index.keys, weights, index.offsets
        self.buckets: Buckets = index.buckets()
        self.damaged: Counter[str] = Counter()
        self._unusable: set[int] = set()
        self._lock = threading.Lock()
        self._shape_of: dict[tuple[int, int], Shape] = {}  # of latents, by a record's width and height
        first_rows = [0 if bucket[0].rows is None else int(bucket[0].rows[0]) for bucket in self.buckets]
        self.shapes = [self._first_shape(row) for row in first_rows]

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> Any:
        """Return, per sample, what the reader of texts read, or None (dropped), and what that of images read."""
        samples = [self._sample(int(row), int(caption)) for row, caption in zip(rows, captions, strict=True)]
        return [text for text, _ in samples], [image for _, image in samples]

    def read_or_replace(self, row: int, read: Callable[[int], Value]) -> tuple[int, Value]:
        """Return (row, what `read` makes of it), or of the next row of its size where it is damaged, and so on."""
        for _ in range(MOST_REPLACED):
            if row not in self._unusable:
                try:
                    return row, read(row)
                except Damaged as error:
                    self._report(row, str(error))
            row = self._next_of_size(row)
        raise CommonArtError(
            f"{MOST_REPLACED} samples in a row are damaged, the last one {self.index.name(row)}.",
            "Check the disk, and write those shards again.",
        )

    def image(self, row: int) -> Any:
        """Return what the reader of images read of a row."""
        image, shape = self._images.read(row)
        expected = self._shape_of[self._size(row)]
        if shape != expected:
            raise CommonArtError(
                f"{self.index.name(row)} has latents of {shape}, others of {expected}.",
                "Its record does not say its size: write the shards again with commonart shard.",
            )
        return image

    def _sample(self, row: int, caption: int) -> tuple[Any, Any]:
        def read(usable: int) -> tuple[Any, Any]:
            number = caption - int(self.offsets[row]) if usable == row else self._first_caption(usable)
            return None if caption == NULL else self._texts.read(usable, number), self.image(usable)

        return self.read_or_replace(row, read)[1]

    def _first_caption(self, row: int) -> int:
        """The first caption of a row that may be taken."""
        return int(np.argmax(self.weights[self.offsets[row] : self.offsets[row + 1]] > 0))

    def _first_shape(self, row: int) -> Shape:
        size = self._size(row)
        if size not in self._shape_of:
            self._shape_of[size] = self.read_or_replace(row, lambda usable: self._images.read(usable)[1])[1]
        return self._shape_of[size]

    def _report(self, row: int, reason: str) -> None:
        with self._lock:
            if row in self._unusable:
                return
            self._unusable.add(row)
            self.damaged[reason] += 1
            named = len(self._unusable)
        if named <= MOST_NAMED:
            log.warn(f"{self.index.name(row)} is damaged ({reason}); the next image of its size takes its place.")
        if named == MOST_NAMED:
            log.warn("Further damaged images are counted, and not named.")

    def _size(self, row: int) -> tuple[int, int]:
        return int(self.index.columns["width"][row]), int(self.index.columns["height"][row])

    def _next_of_size(self, row: int) -> int:
        width, height = self._size(row)
        of_size = np.flatnonzero((self.index.columns["width"] == width) & (self.index.columns["height"] == height))
        return int(of_size[np.searchsorted(of_size, row, side="right") % len(of_size)])


class ShardDataset(ShardReader):
    """Text states and latents, read when they are needed."""

    def __init__(self, index: Index, texts: TextSource, latents: LatentSource, weights: np.ndarray) -> None:
        super().__init__(index, texts, latents, weights)
        self.texts, self.latents, self.null = texts, latents, texts.null
        self.vision_width = latents.encoder.width if isinstance(latents, LatentsAndVision) else 0

    def batch(self, fetched: tuple[list[Any], list[Any]], device: torch.device) -> Batch:
        texts, images = fetched
        read = iter(self.texts.states([text for text in texts if text is not None]))
        null = self.null.to(device)
        states = [null if text is None else next(read).to(device, torch.float32) for text in texts]
        text_BLT, mask_BL = stack_text(states)
        mean, std = self.latents.posterior(images)
        vision = self.latents.vision(images).to(device) if isinstance(self.latents, LatentsAndVision) else None
        return Batch(mean.to(device), std.to(device), text_BLT, mask_BL, vision)


def _load(dataset: ShardDataset, texts: CachedText, latents: CachedLatents, quiet: bool) -> ResidentDataset:
    """Everything that `dataset` would read, in memory, in the precision that it is stored in."""
    text_dtype, latent_dtype = texts.features.dtype(), latents.features.dtype()
    total = len(dataset.keys)
    bucket, position, replacement = np.zeros(total, np.int64), np.zeros(total, np.int64), np.arange(total)
    states_of: list[list[Tensor]] = [[]] * total
    means, stds = [], []
    with log.progress("load", total=total, unit=" images", quiet=quiet) as tick:
        for number, (parts, shape) in enumerate(zip(dataset.buckets, dataset.shapes, strict=True)):
            rows = np.sort(np.concatenate([np.arange(p.count) if p.rows is None else p.rows for p in parts]))
            bucket[rows], position[rows] = number, np.arange(len(rows))
            mean, std = (torch.zeros((len(rows), *shape), dtype=latent_dtype) for _ in range(2))
            for n, row in enumerate(map(int, rows)):
                usable, (states, posterior) = dataset.read_or_replace(
                    row, lambda r: (texts.captions(r), dataset.image(r))
                )
                replacement[row] = usable
                if usable == row:
                    states_of[row] = [torch.from_numpy(state).to(text_dtype) for state in states]
                    mean[n], std[n] = (torch.from_numpy(array) for array in posterior)
                else:
                    captions = int(dataset.offsets[row + 1] - dataset.offsets[row])
                    states_of[row] = [dataset.null.to(text_dtype)] * captions
                tick(1)
            means.append(mean)
            stds.append(std)
    return ResidentDataset(
        dataset.keys, means, stds, [state for states in states_of for state in states], [len(states) for states in states_of],
        dataset.weights, dataset.null, buckets=dataset.buckets, bucket=bucket, position=position,
        replacement=None if (replacement == np.arange(total)).all() else replacement,
    )  # fmt: skip
