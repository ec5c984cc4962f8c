"""A folder of shards as training data: cached features in memory or on disk, or encoding on the fly.

    opened = open_shards("shards/", text, image)   # shards/*.tar, shards/text/*.tar, shards/image/*.tar

Held-out records are never trained on. Joins go by key; features that do not belong to the shards are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonart.core import log
from commonart.core.data.decode import DecodeError, decode
from commonart.core.data.features import Features
from commonart.core.data.record import Record, captions, split_of
from commonart.core.data.shards import list_shards, read_bytes, read_shard
from commonart.core.data.stream import shard_identity
from commonart.core.errors import CommonArtError
from commonart.core.model import guards
from commonart.core.model.autoencoder import Autoencoder, to_pixels
from commonart.core.model.batches import NULL, Batch, Memory, Source, language_weights
from commonart.core.model.text_encoder import TextEncoder, stack


@dataclass(slots=True)
class Index:
    """The records to train on, in the shards' order, and what was left out."""

    folder: Path
    keys: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)  # names without .tar
    shard: list[int] = field(default_factory=list)  # of each row, into `shards`
    images: list[str] = field(default_factory=list)  # pointers
    languages: list[list[str]] = field(default_factory=list)  # of each row's captions
    texts: list[list[str]] = field(default_factory=list)
    heldout: int = 0
    heldout_texts: list[tuple[str, str]] = field(
        default_factory=list
    )  # (language, text) of the first few, for sample grids
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> records
    fingerprint: str = ""

    def prompts(self, count: int) -> list[str]:
        """Captions for a sample grid, of held-out images where there are any, languages in turn."""
        pool = self.heldout_texts or [
            pair
            for row in range(min(len(self.keys), 64))
            for pair in zip(self.languages[row], self.texts[row], strict=True)
        ]
        by_language = [
            [text for lang, text in pool if lang == each] for each in dict.fromkeys(lang for lang, _ in pool)
        ]
        turns = [text for turn in zip_longest(*by_language) for text in turn if text]
        return list(dict.fromkeys(turns))[:count]

    def about(self) -> dict[str, Any]:
        """What run.json keeps of the data."""
        return {
            "folder": str(self.folder), "shards": len(self.shards), "images": len(self.keys),
            "captions": sum(map(len, self.texts)), "heldout": self.heldout, "left_out": self.left_out,
            "fingerprint": self.fingerprint,
        }  # fmt: skip


def read_index(folder: str | Path) -> Index:
    """Reads every record of a folder of shards. Raises CommonArtError: no shards, two records with one key, none to train on."""
    index = Index(Path(folder))
    total, seen = hashlib.sha256(), set[str]()
    for number, path in enumerate(list_shards(folder)):
        index.shards.append(path.stem)
        total.update(f"{path.name}\0{shard_identity(path)}\n".encode())
        for record in read_shard(path):
            if record["key"] in seen:
                raise CommonArtError(
                    f"{path}#{record['key']}.json: another shard has a record with this key.", "Write the shards again."
                )
            seen.add(record["key"])
            _add(index, number, record)
    index.fingerprint = total.hexdigest()
    if index.keys:
        return index
    if index.left_out.get("no_captions"):
        raise CommonArtError(
            f"{folder} holds no captions: {index.left_out['no_captions']:,} records have none.",
            "Caption them first: commonart caption --model NAME, then shard again.",
        )
    raise CommonArtError(
        f"{folder} holds nothing to train on: all {index.heldout:,} records are held out.", "Add more images."
    )


def _add(index: Index, number: int, record: Record) -> None:
    split = record.get("split") or (split_of(record["sha256"]) if record.get("sha256") else "train")
    found = captions(record)
    if split == "heldout":
        index.heldout += 1
        if len(index.heldout_texts) < 256:
            index.heldout_texts += [(caption.get("lang", ""), caption["text"]) for caption in found]
    elif not found or not record.get("image"):
        reason = "no_image" if found else "no_captions"
        index.left_out[reason] = index.left_out.get(reason, 0) + 1
    else:
        index.keys.append(record["key"])
        index.shard.append(number)
        index.images.append(record["image"])
        index.languages.append([caption.get("lang", "") for caption in found])
        index.texts.append([caption["text"] for caption in found])


@dataclass(slots=True)
class Opened:
    """Training data, ready. `shape`: (C, H, W) of the latents; `width`: T of the text states; both `about` parts for run.json."""

    source: Source
    index: Index
    shape: tuple[int, int, int]
    width: int
    resident: bool  # everything lies in memory


def open_shards(
    folder: str | Path,
    text: Features | TextEncoder,
    image: Features | Autoencoder,
    *,
    languages: Mapping[str, float] | None = None,
    memory: int | None = None,
    quiet: bool = False,
    index: Index | None = None,
) -> Opened:
    """The images of `folder` with their texts: from cached features, or from an encoder that runs on the fly.

    `index` is that of `folder`, where it was read before: to refuse data before an encoder is loaded.
    Features that fit in `memory` bytes (None: 40 % of what is free, shared among local processes) are loaded at once.
    Raises CommonArtError where features are missing, stale or of several sizes, and where no record is left.
    """
    index = read_index(folder) if index is None else index
    for part in (text, image):
        if isinstance(part, Features):
            part.check(folder)
    _drop_without(index, text, image)
    weights = language_weights(index.languages, languages)
    shape = _shape(index, image)
    width = text.meta.width if isinstance(text, Features) else text.width
    if isinstance(text, Features) and isinstance(image, Features):
        need = _bytes(text) * (4 if text.meta.store == "int8" else 1) + _bytes(image)
        if need <= (_free() if memory is None else memory):
            return Opened(_load(index, text, image, shape, weights, quiet), index, shape, width, True)
    return Opened(Reading(index, text, image, weights), index, shape, width, False)


class Reading:
    """A source that reads each sample when it is needed, from features or from the image itself, by index."""

    def __init__(
        self, index: Index, text: Features | TextEncoder, image: Features | Autoencoder, weights: np.ndarray
    ) -> None:
        self.keys, self.weights = index.keys, weights
        self.offsets = np.concatenate([[0], np.cumsum([len(row) for row in index.texts])]).astype(np.int64)
        self._index, self._text, self._image = index, text, image
        self.null = torch.from_numpy(text.null().copy()) if isinstance(text, Features) else text.null().float()

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> tuple[list[Any], list[Any]]:
        """Per sample: states, a text to encode or None (dropped); (mean, std) or an image to encode."""
        pairs = [(int(row), int(caption)) for row, caption in zip(rows, captions, strict=True)]
        return [self._read_text(row, caption) for row, caption in pairs], [self._read_image(row) for row, _ in pairs]

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

    def _read_text(self, row: int, caption: int) -> Any:
        if caption == NULL:
            return None
        place, texts = caption - int(self.offsets[row]), self._index.texts[row]
        if isinstance(self._text, TextEncoder):
            return texts[place]
        record = {"key": self.keys[row], "captions": [{"text": text} for text in texts]}
        return self._text.text(self._index.shards[self._index.shard[row]], record)[place]

    def _read_image(self, row: int) -> Any:
        if isinstance(self._image, Features):
            return self._image.latent(self._index.shards[self._index.shard[row]], self.keys[row])
        return _decoded(self._index.images[row])


def _decoded(pointer: str) -> Any:
    try:
        return decode(read_bytes(pointer))
    except DecodeError as error:
        raise CommonArtError(
            f"{pointer} cannot be decoded ({error.reason}).",
            "Write the shards again: commonart shard leaves such images out.",
        ) from error


def _drop_without(index: Index, text: Features | TextEncoder, image: Features | Autoencoder) -> None:
    """Leaves out the records that encode-text or encode-image dropped, by name of the cause."""
    for part, reason in ((text, "no_text_features"), (image, "no_latents")):
        if not isinstance(part, Features):
            continue
        have = {(shard, key) for shard in index.shards for key in part.keys(shard)}
        keep = [row for row, key in enumerate(index.keys) if (index.shards[index.shard[row]], key) in have]
        if len(keep) < len(index.keys):
            index.left_out[reason] = len(index.keys) - len(keep)
            for name in ("keys", "shard", "images", "languages", "texts"):
                column = getattr(index, name)
                setattr(index, name, [column[row] for row in keep])
    if not index.keys:
        raise CommonArtError(
            f"{index.folder}: no record has both text features and latents.",
            "Run commonart encode-text and commonart encode-image on that folder.",
        )


def _shape(index: Index, image: Features | Autoencoder) -> tuple[int, int, int]:
    if isinstance(image, Features):
        mean, _ = image.latent(index.shards[index.shard[0]], index.keys[0])
        return mean.shape[0], mean.shape[1], mean.shape[2]
    width, height = _decoded(index.images[0]).size
    if height % image.factor or width % image.factor:
        raise CommonArtError(
            f"{index.images[0]} has {width}x{height} pixels, no multiple of the autoencoder's {image.factor}.",
            "Make shards of one size: commonart shard --size N.",
        )
    return image.channels, height // image.factor, width // image.factor


def _load(
    index: Index, text: Features, image: Features, shape: tuple[int, int, int], weights: np.ndarray, quiet: bool
) -> Memory:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}
    text_type, image_type = kind.get(text.meta.store, torch.float32), kind.get(image.meta.store, torch.float32)
    count = len(index.keys)
    means, stds = (torch.empty((count, *shape), dtype=image_type) for _ in range(2))
    texts: list[Tensor] = []
    with log.progress("load", total=count, unit=" images", quiet=quiet) as tick:
        for number, rows in _by_shard(index):
            shard = index.shards[number]
            states, latents = text.read_text(shard), image.read_latents(shard)
            for row in rows:
                key = index.keys[row]
                mean, std = latents[key]
                if mean.shape != shape:
                    raise CommonArtError(
                        f"{image.folder}/{shard}.tar#{key} has latents of {mean.shape}, others of {shape}.",
                        "Make shards of one size: commonart shard --size N.",
                    )
                if len(states[key]) != len(index.texts[row]):
                    raise CommonArtError(
                        f"{text.folder}/{shard}.tar#{key} holds {len(states[key])} texts for {len(index.texts[row])} captions.",
                        "Run commonart encode-text --overwrite.",
                    )
                means[row], stds[row] = torch.from_numpy(mean), torch.from_numpy(std)
                texts += [torch.from_numpy(state).to(text_type) for state in states[key]]
            tick(len(rows))
    counts = [len(row) for row in index.texts]
    null = torch.from_numpy(text.null().copy())
    return Memory(index.keys, means, stds, texts, counts, weights, null)


def _by_shard(index: Index) -> Iterator[tuple[int, Sequence[int]]]:
    edges = np.flatnonzero(np.diff(index.shard)) + 1
    for rows in np.split(np.arange(len(index.shard)), edges):
        yield index.shard[rows[0]], [int(row) for row in rows]


def _bytes(features: Features) -> int:
    return sum(path.stat().st_size for path in features.folder.glob("*.tar"))


def _free() -> int:
    """40 % of the memory that is free now, shared among this machine's training processes."""
    return int(guards.free_bytes(torch.device("cpu")) * 0.4)
