"""Feature shards: what a frozen encoder made of each image shard, so that training need not run it again.

    commonart encode-text shards/      # shards/00000.tar -> shards/text/00000.tar, KEY.text.safetensors
    commonart encode-image shards/     # shards/00000.tar -> shards/image/00000.tar, KEY.latent.safetensors

A feature shard has the name and the keys of its image shard. Beside it stands a manifest (`00000.json`) with the hash of
the image shard, and `features.json` says by which model it was made; so a cache that no longer fits is noticed instead of
trained on. Values are plain safetensors with a checksum (`core.data.features.tensors`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data.features.tensors import loaded, pack, packed_size, stored, stored_layout, unpack
from commonart.core.data.files import sha256_file
from commonart.core.data.record import Record, captions
from commonart.core.data.shards.manifest import finished, shard_identity
from commonart.core.data.shards.reader import list_shards, members, read_span
from commonart.core.data.shards.tar_index import Span
from commonart.core.errors import CommonArtError, UsageError

VERSION = 1
META = "features.json"
NULL = "null.safetensors"
EXTENSIONS = {"text": "text.safetensors", "image": "latent.safetensors"}
STORES = {"text": ("bf16", "fp16", "int8"), "image": ("fp16", "bf16", "fp32")}  # the first is the default
# What tells one model's features from another's. Not its name: a folder can be written in several ways, and the
# revision is the commit or the hash of its files.
IDENTITY = ("revision", "precision", "store")
SAMPLED = 64  # records whose captions tell how long captions are
NAMED = 10  # shards that are named in one sentence


@dataclass(frozen=True, slots=True)
class Meta:
    """What made a folder of features. `settings` are what else the values depend on (`max_tokens`, `scaling`, ...)."""

    kind: str  # "text" or "image"
    model: str  # registry name, hub id or folder
    revision: str  # the commit, or the hash of a local model
    precision: str  # that the encoder ran in, e.g. "bfloat16" or "quanto-int8/bfloat16"
    store: str  # that the values are kept in: bf16, fp16, fp32, or int8 with one scale a token
    width: int  # channels: D of a hidden state, C of a latent
    settings: dict[str, Any] = field(default_factory=dict)


def check_store(kind: str, store: str) -> None:
    """Raise UsageError where features of `kind` cannot be kept as `store`."""
    if store not in STORES[kind]:
        raise UsageError(f"--store {store} is not known.", f"Give {', '.join(STORES[kind])}.")


def caption_hash(text: str) -> str:
    """16 hexadecimal digits that change with a caption's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def pack_text(states: Sequence[np.ndarray], record: Record, store: str) -> bytes:
    """Return the member of one record: the states [L, D] (finite float32) of its captions. Raises as `tensors.stored`."""
    lengths = np.array([len(s) for s in states], np.int32)
    joined = np.concatenate([np.asarray(s, np.float32) for s in states])
    return pack({"lengths": lengths, **stored("states", joined, store)}, _about_text(record))


def text_size(lengths: Sequence[int], width: int, record: Record, store: str) -> int:
    """Return the size in bytes of `pack_text` for states of these lengths and D = `width`."""
    layout = {"lengths": (np.int32, (len(lengths),)), **stored_layout("states", (sum(lengths), width), store)}
    return packed_size(layout, _about_text(record))


def _about_text(record: Record) -> dict[str, str]:
    entries = captions(record)
    return {
        "captions": ",".join(caption_hash(c["text"]) for c in entries),
        "langs": ",".join(c.get("lang", "") for c in entries),
    }


def unpack_text(data: bytes) -> tuple[list[np.ndarray], list[str]]:
    """Return (states, caption hashes) of one member: per caption float32 [L, D], and the hash of its text."""
    arrays, metadata = unpack(data)
    ends = np.cumsum(arrays["lengths"])
    return np.split(loaded("states", arrays), ends[:-1]), metadata["captions"].split(",")


def pack_latent(mean: np.ndarray, std: np.ndarray | None, record: Record, store: str) -> bytes:
    """Return the member of one image: mean and std [C, h, w] of its scaled latents (finite float32). Raises likewise.

    `std`: None where the autoencoder gives no distribution.
    """
    arrays = {**stored("mean", mean, store), **({} if std is None else stored("std", std, store))}
    return pack(arrays, {"sha256": record.get("sha256", "")})


def latent_size(shape: tuple[int, int, int], record: Record, store: str, deviation: bool = True) -> int:
    """Return the size in bytes of `pack_latent` for latents of this shape (C, h, w), with or without their `deviation`."""
    layout = {**stored_layout("mean", shape, store), **(stored_layout("std", shape, store) if deviation else {})}
    return packed_size(layout, {"sha256": record.get("sha256", "")})


def unpack_latent(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean, std) of one member, float32 [C, h, w]; a std that is not stored is 0."""
    arrays, _ = unpack(data)
    mean = loaded("mean", arrays)
    return mean, loaded("std", arrays) if "std" in arrays else np.zeros_like(mean)


class NoMeta(CommonArtError):
    """`features.json` is missing or damaged; the command that wrote it writes it again."""


def read_meta(folder: Path) -> Meta:
    """Return what `features.json` says. Raises NoMeta, or CommonArtError where it is of another version."""
    path = folder / META
    try:
        value = orjson.loads(path.read_bytes())
        if value["version"] != VERSION:
            raise CommonArtError(
                f"{path} is of version {value['version']}; this commonart reads {VERSION}.", "Encode it again."
            )
        return Meta(**{name: value[name] for name in Meta.__dataclass_fields__})
    except OSError as error:
        raise NoMeta(
            f"{path} cannot be read: {error.strerror}.", "Make features: commonart encode-text, encode-image."
        ) from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise NoMeta(
            f"{path} is damaged: {error}.",
            "Run the commonart encode-text or encode-image that made it again: it writes that file, and no shard.",
        ) from error


def read_null(folder: Path) -> np.ndarray:
    """Return the embedding of "no text", float32 [1, D], as `features.json` knows it.

    Raises OSError where it is missing, ValueError where it is damaged, or of other features.
    """
    about, data = orjson.loads((folder / META).read_bytes()), (folder / NULL).read_bytes()
    if "null_sha256" in about and about["null_sha256"] != hashlib.sha256(data).hexdigest():
        raise ValueError(f"its hash is not what {META} says")
    null = unpack(data)[0].get("null")
    if null is None or null.shape != (1, about["width"]):
        raise ValueError("it holds no null embedding of that width")
    return null


def feature_tars(folder: Path) -> list[Path]:
    """Return the feature shards of a folder, by name; none where there is no folder."""
    return sorted(tar for tar in folder.glob("*.tar") if not tar.name.startswith("."))


class Features:
    """A folder of features; files are opened for each read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)

    @classmethod
    def beside(cls, source: str | Path, kind: str) -> Features | None:
        """Return the features of a folder of shards, where encode-text ("text") or encode-image ("image") puts them."""
        folder = Path(source) / kind
        if (folder / META).exists():
            return cls(folder)
        if feature_tars(folder):
            raise CommonArtError(
                f"{folder} holds features, and {folder / META} is missing.",
                f"Run the same commonart encode-{kind} {source} again: it writes that file, and no shard; "
                "or move that folder away.",
            )
        return None

    def null(self) -> np.ndarray:
        """Return the embedding of "no text", float32 [1, D]."""
        try:
            return read_null(self.folder)
        except (OSError, ValueError, KeyError) as error:
            raise CommonArtError(
                f"{self.folder / NULL} is missing or damaged.",
                "Run the same commonart encode-text again: it makes that file, and no shard.",
            ) from error

    def check(self, source: str | Path, *, full: bool = False) -> None:
        """Make sure that every shard of `source` has its features, made from the shard as it is now.

        Hashes come from the manifests beside the shards where those fit; `full` reads every byte instead.

        Raises CommonArtError: features are missing, stale, of several models, or of shards that are gone.
        """
        again = f"run the same commonart encode-{self.meta.kind} again"
        if self.meta.kind == "text":
            self.null()
        images = {path.name: path for path in list_shards(source)}
        for path in images.values():
            tar = self.folder / path.name
            manifest = finished(tar)
            if manifest is None:
                raise CommonArtError(
                    f"{path} has no features in {self.folder}.",
                    f"Run commonart encode-{self.meta.kind} {source} again to finish them.",
                )
            fix = f"Remove {_files(tar)} and {again}, or add --overwrite to make all again."
            if manifest.input != (sha256_file(path) if full else shard_identity(path)):
                raise CommonArtError(f"{tar} was made from another {path}.", fix)
            if changed := [k for k in IDENTITY if manifest.settings.get(k) != getattr(self.meta, k)]:
                raise CommonArtError(
                    f"{tar} was made with another {' and '.join(changed)} than {self.folder / META} says.", fix
                )
        if others := [tar for tar in feature_tars(self.folder) if tar.name not in images]:
            more = len(others) - NAMED
            raise CommonArtError(
                f"{others[0]}{f' and {len(others) - 1} more' if others[1:] else ''} belongs to no shard of {source}.",
                f"Remove {' '.join(map(_files, others[:NAMED]))}{f' and {more} more like them' if more > 0 else ''}, "
                "or put the images back.",
            )

    def mean_caption_tokens(self) -> int:
        """Return the mean tokens of a caption in the first records; 0 where nothing is encoded yet."""
        lengths: list[int] = []
        for tar in feature_tars(self.folder)[:1]:
            for span in list(self.spans(tar.stem).values())[:SAMPLED]:
                with suppress(OSError, ValueError, KeyError):  # a damaged one is named when it is trained on
                    lengths += map(len, unpack_text(self.read(tar.stem, span))[0])
        return round(sum(lengths) / len(lengths)) if lengths else 0

    def spans(self, shard: str) -> dict[str, Span]:
        """Return where each record's features lie in a shard: key -> (offset, size)."""
        suffix = f".{EXTENSIONS[self.meta.kind]}"
        return {name.removesuffix(suffix): span for name, span in members(self.folder / f"{shard}.tar").items()}

    def read(self, shard: str, span: Span) -> bytes:
        """Return the member at a span, as `unpack_text` and `unpack_latent` take it."""
        return read_span(self.folder / f"{shard}.tar", span)


def _files(tar: Path) -> str:
    """A shard with its manifest and its index, for people: f/text/00003.*."""
    return str(tar.with_suffix(".*"))
