"""Where a training sample's text states and latents come from: cached features, or an encoder that runs on the fly.

A reading thread calls `read`, which touches no device and raises Damaged; the training thread hands what it got to `states`,
for hidden states (L, T), or to `posterior`, for (mean, standard deviation) of latents, each (B, C, h, w). `null`: the state
of "no text", float32 (L, T), of `width` T.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from commonart.core.data.features.format import Features, unpack_latent, unpack_text
from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.record import is_changed
from commonart.core.data.training_rows import Index, texts_crc
from commonart.core.errors import CommonArtError
from commonart.core.model.autoencoder import Autoencoder, to_pixels
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.vision_encoder import VisionEncoder

Shape = tuple[int, int, int]  # (C, h, w) of latents
Value = TypeVar("Value")


class TextReader(Protocol):
    """Captions by row and number."""

    def read(self, row: int, caption: int) -> Any: ...


class ImageReader(Protocol):
    """Images by row, each with its shape."""

    def read(self, row: int) -> tuple[Any, Shape]: ...


class Damaged(Exception):
    """One sample cannot be used; the message is the reason."""


class FeatureReader:
    """Features of an index's rows, found by row."""

    def __init__(self, index: Index, features: Sequence[Features]) -> None:
        self.index, self.features = index, features  # one of each data set
        self._offset, self._size = _locations(index, features)

    def unpacked(self, row: int, unpack: Callable[[bytes], Value], what: str) -> Value:
        """Return what `unpack` makes of a row's features. Raises Damaged ("broken `what`"), or CommonArtError."""
        features = self.features[self.index.set_of[self.index.columns["shard"][row]]]
        shard = self.index.path(row).stem
        try:
            return unpack(features.read(shard, (int(self._offset[row]), int(self._size[row]))))
        except (ValueError, KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:  # that is a bad sector
                path = features.folder / f"{shard}.tar"
                raise CommonArtError(f"{path} cannot be read: {error.strerror}.", "Put the features back.") from error
            raise Damaged(f"broken {what}") from error

    def dtype(self) -> torch.dtype:
        """Return what values are kept in in memory: as they are stored; of several stores, and of 8 bits, float32."""
        stores = {features.meta.store for features in self.features}
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return dtypes.get(stores.pop() if len(stores) == 1 else "", torch.float32)

    def nbytes(self) -> int:
        """Return the bytes that all features take in memory: about those of their shards, where 8 bits become 32."""
        shards = ((path, each.meta.store) for each in self.features for path in each.folder.glob("*.tar"))
        return sum(path.stat().st_size * (4 if store == "int8" else 1) for path, store in shards)


def has_features(index: Index, features: Sequence[Features]) -> np.ndarray:
    """Return which rows have features; bool, one a row."""
    return _locations(index, features)[1] > 0


def _locations(index: Index, features: Sequence[Features]) -> tuple[np.ndarray, np.ndarray]:
    """(offset, size) of each row's features in their shard; size 0 where there are none."""
    shard = index.columns["shard"]
    offset, size = np.zeros(len(shard), np.uint64), np.zeros(len(shard), np.uint32)
    edges = np.searchsorted(shard, np.arange(len(index.shards) + 1))
    for number, path in enumerate(index.shards):
        members = features[index.set_of[number]].spans(path.stem)
        for row in range(edges[number], edges[number + 1]):
            offset[row], size[row] = members.get(index.keys[row], (0, 0))
    return offset, size


class CachedText:
    """What encode-text wrote."""

    def __init__(self, index: Index, features: Sequence[Features]) -> None:
        self.features = FeatureReader(index, features)
        self.width = features[0].meta.width
        # Rounded as the texts are, so that batches do not depend on whether they lie in memory.
        self.null = torch.from_numpy(features[0].null().copy()).to(self.features.dtype()).float()

    def read(self, row: int, caption: int) -> np.ndarray:
        return self.captions(row)[caption]

    def captions(self, row: int) -> list[np.ndarray]:
        """Return the states of all of a row's captions, float32 (L, T) each."""
        states, hashes = self.features.unpacked(row, unpack_text, "text features")
        index = self.features.index
        count, fix = int(index.columns["captions"][row]), "Run the same commonart encode-text again, with --overwrite."
        if len(states) != count:
            raise CommonArtError(f"{index.name(row)} has {count} captions, but text features of {len(states)}.", fix)
        if texts_crc(",".join(hashes)) != index.columns["texts"][row]:
            raise CommonArtError(f"{index.name(row)} has other captions than its text features were made of.", fix)
        return states

    def states(self, texts: Sequence[np.ndarray]) -> list[Tensor]:
        return [torch.from_numpy(text) for text in texts]


class LiveText:
    """Captions that a text encoder reads while training runs."""

    def __init__(self, index: Index, encoder: TextEncoder) -> None:
        self.index, self.encoder = index, encoder
        self.width, self.null = encoder.width, encoder.null().float()

    def read(self, row: int, caption: int) -> str:
        return self.index.texts(row)[caption]

    def states(self, texts: Sequence[str]) -> list[Tensor]:
        return self.encoder.encode(texts)


class CachedLatents:
    """What encode-image wrote."""

    def __init__(self, index: Index, features: Sequence[Features]) -> None:
        self.features = FeatureReader(index, features)

    def read(self, row: int) -> tuple[tuple[np.ndarray, np.ndarray], Shape]:
        mean, std = self.features.unpacked(row, unpack_latent, "latents")
        channels, height, width = mean.shape
        return (mean, std), (channels, height, width)

    def posterior(self, images: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
        mean, std = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*images, strict=True))
        return mean, std


def read_image(index: Index, row: int) -> Image.Image:
    """Return a row's image, decoded."""
    data = index.image(row)
    if is_changed(index.record(row), data):
        raise Damaged("changed image")
    try:
        return decode(data)
    except DecodeError as error:
        raise Damaged(error.reason) from error


class LiveLatents:
    """Images that are decoded in the reading threads, and encoded while training runs."""

    def __init__(self, index: Index, autoencoder: Autoencoder) -> None:
        self.index, self.autoencoder = index, autoencoder

    def read(self, row: int) -> tuple[Image.Image, Shape]:
        image = read_image(self.index, row)
        factor = self.autoencoder.factor
        if image.height % factor or image.width % factor:
            raise CommonArtError(
                f"{self.index.name(row)} has {image.width}x{image.height} pixels, which is not a multiple of the "
                f"autoencoder's {factor}.",
                "Make shards of sizes that fit: commonart shard.",
            )
        return image, (self.autoencoder.channels, image.height // factor, image.width // factor)

    def posterior(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        return self.autoencoder.encode(to_pixels(images), batch=len(images))


class LatentsAndVision:
    """Latents, and what a vision encoder sees in their images: as many patches as there are tokens of `patch` latents."""

    def __init__(self, index: Index, latents: CachedLatents | LiveLatents, encoder: VisionEncoder, patch: int) -> None:
        self.index, self.latents, self.encoder, self.patch = index, latents, encoder, patch

    def read(self, row: int) -> tuple[tuple[Any, Tensor], Shape]:
        latent, shape = self.latents.read(row)
        image = latent if isinstance(latent, Image.Image) else read_image(self.index, row)
        return (latent, self.encoder.prepare(image, shape[1] // self.patch, shape[2] // self.patch)), shape

    def posterior(self, images: Sequence[tuple[Any, Tensor]]) -> tuple[Tensor, Tensor]:
        return self.latents.posterior([latent for latent, _ in images])

    def vision(self, images: Sequence[tuple[Any, Tensor]]) -> Tensor:
        return self.encoder.encode([prepared for _, prepared in images])


TextSource = CachedText | LiveText
LatentSource = CachedLatents | LiveLatents | LatentsAndVision
