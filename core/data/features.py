"""Feature shards: what a frozen encoder made of each image shard, so that training need not run it again.

    commonart encode-text shards/      # shards/00000.tar -> shards/text/00000.tar, KEY.text.safetensors
    commonart encode-image shards/     # shards/00000.tar -> shards/image/00000.tar, KEY.latent.safetensors

A feature shard has the name and the keys of its image shard. Beside it stands a note (`00000.json`) with the hash
of the image shard that it was made from, and `features.json` says by which model; so a cache that no longer fits is
noticed instead of trained on. Values are plain safetensors that any reader opens; no torch here, and since numpy
has no bfloat16, that one is kept as its 16 bits in uint16.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data.files import sha256_file
from commonart.core.data.record import Record, captions
from commonart.core.data.shards import Members, list_shards, members
from commonart.core.data.stream import read_note, shard_identity
from commonart.core.errors import CommonArtError, UsageError

VERSION = 1
META = "features.json"
NULL = "null.safetensors"
EXTENSIONS = {"text": "text.safetensors", "image": "latent.safetensors"}
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "int8": 1}  # per value
STORES = {"text": ("bf16", "fp16", "int8"), "image": ("fp16", "bf16", "fp32")}  # the first is the default
# What tells one model's features from another's. Not its name: a folder can be written in several ways, and the
# revision is the commit or the hash of its files.
IDENTITY = ("revision", "precision", "store")
MEMBER_OVERHEAD = 1536  # bytes of tar and safetensors headers around one record's values, padding included
_NAMES = {"float32": "F32", "int32": "I32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
_DTYPES = {"F32": "<f4", "I32": "<i4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}


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
    """Raises UsageError when features of `kind` cannot be kept as `store`."""
    if store not in STORES[kind]:
        raise UsageError(f"--store {store} is not known.", f"Give {', '.join(STORES[kind])}.")


def pack(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Arrays as one safetensors file, the same bytes for the same values; uint16 holds bfloat16 bits.

    Source: the format's description, github.com/huggingface/safetensors#format.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, start = [], 0
    # Wide elements first, so that every tensor is aligned to its own size.
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        data = np.ascontiguousarray(array).tobytes()
        stop = start + len(data)
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [start, stop],
        }
        parts.append(data)
        start = stop
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, *parts))


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays (views into `data`) and the metadata of a safetensors file that `pack` wrote.

    Raises:
        ValueError: the bytes are no such file.
    """
    if len(data) < 8 or (size := struct.unpack("<Q", data[:8])[0]) > len(data) - 8:
        raise ValueError("it ends inside its header")
    header = orjson.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, about in header.items():
        start, stop = (8 + size + offset for offset in about["data_offsets"])
        tensors[name] = np.frombuffer(data[start:stop], _DTYPES[about["dtype"]]).reshape(about["shape"])
    return tensors, metadata


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 (finite) to bfloat16 bits in uint16, rounded to nearest even as torch does."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits in uint16 to float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def caption_hash(text: str) -> str:
    """16 hexadecimal digits that change with a caption's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def pack_text(states: Sequence[np.ndarray], record: Record, store: str) -> bytes:
    """The member of one record: the states [L, D] (finite float32) of its captions, in the captions' order.

    Raises:
        OverflowError: a value does not fit in fp16.
    """
    found = captions(record)
    joined = np.concatenate([np.asarray(s, np.float32) for s in states])
    tensors = {"lengths": np.array([len(s) for s in states], np.int32), **_stored("states", joined, store)}
    return pack(
        tensors,
        {
            "captions": ",".join(caption_hash(c["text"]) for c in found),
            "langs": ",".join(c.get("lang", "") for c in found),
        },
    )


def unpack_text(data: bytes) -> tuple[list[np.ndarray], list[str]]:
    """(states, caption hashes) of one member: per caption float32 [L, D], and the hash of the text it was made from."""
    tensors, metadata = unpack(data)
    ends = np.cumsum(tensors["lengths"])
    return np.split(_loaded("states", tensors), ends[:-1]), metadata["captions"].split(",")


def pack_latent(mean: np.ndarray, std: np.ndarray, record: Record, store: str) -> bytes:
    """The member of one image: mean and std [C, h, w] of its scaled latents (finite float32).

    Raises:
        OverflowError: a value does not fit in fp16.
    """
    tensors = {**_stored("mean", mean, store), **_stored("std", std, store)}
    return pack(tensors, {"sha256": record.get("sha256", "")})


def unpack_latent(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std) of one member, float32 [C, h, w]."""
    tensors, _ = unpack(data)
    return _loaded("mean", tensors), _loaded("std", tensors)


def _stored(name: str, values: np.ndarray, store: str) -> dict[str, np.ndarray]:
    if store == "int8":
        scale = np.abs(values).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        return {name: np.rint(values / scale).astype(np.int8), f"{name}.scale": scale.astype(np.float32)}
    if store == "bf16":
        return {name: to_bf16(values)}
    if store == "fp16":
        if values.size and np.abs(values).max() > np.finfo(np.float16).max:
            raise OverflowError("a value is above 65,504, the largest of fp16")
        return {name: values.astype(np.float16)}
    return {name: values.astype(np.float32)}


def _loaded(name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    values = tensors[name]
    if values.dtype == np.uint16:
        return from_bf16(values)
    if values.dtype == np.int8:
        return values.astype(np.float32) * tensors[f"{name}.scale"]
    return values.astype(np.float32)


def read_meta(folder: Path) -> Meta:
    """What `features.json` says.

    Raises:
        CommonArtError: it is missing, damaged, or of another version.
    """
    path = folder / META
    try:
        value = orjson.loads(path.read_bytes())
        if value["version"] != VERSION:
            raise CommonArtError(
                f"{path} is of version {value['version']}; this commonart reads {VERSION}.",
                "Encode it again.",
            )
        return Meta(**{name: value[name] for name in Meta.__dataclass_fields__})
    except OSError as error:
        raise CommonArtError(
            f"{path} cannot be read: {error.strerror}.", "Make features: commonart encode-text, encode-image."
        ) from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CommonArtError(f"{path} is damaged: {error}.", f"Remove {folder} and encode again.") from error


class Features:
    """Reads a folder of features, by shard or by key. One per process; files are opened for each read.

    Example:
        features = Features("shards/text"); features.check("shards")
        features.text("00000", record)        # one record's captions, float32 [L, D] each
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        self._members: dict[str, Members] = {}

    @classmethod
    def beside(cls, source: str | Path, kind: str) -> Features | None:
        """The features of a folder of shards, where encode-text ("text") or encode-image ("image") puts them."""
        folder = Path(source) / kind
        return cls(folder) if (folder / META).exists() else None

    def null(self) -> np.ndarray:
        """The embedding of "no text", float32 [1, D]."""
        try:
            return unpack((self.folder / NULL).read_bytes())[0]["null"]
        except (OSError, ValueError, KeyError) as error:
            raise CommonArtError(
                f"{self.folder / NULL} is missing or damaged.", f"Remove {self.folder} and encode again."
            ) from error

    def check(self, source: str | Path, *, full: bool = False) -> None:
        """Make sure that every shard of `source` has its features, made from the shard as it is now.

        Hashes come from the notes beside the shards where those fit; `full` reads every byte instead.

        Raises:
            CommonArtError: features are missing, stale, of several models, or of shards that are gone.
        """
        again = f"Run commonart encode-{self.meta.kind} {source}"
        images = {path.name: path for path in list_shards(source)}
        for path in images.values():
            tar = self.folder / path.name
            note = read_note(tar)
            if not note or not tar.exists() or note.get("size") != tar.stat().st_size:
                raise CommonArtError(f"{path} has no features in {self.folder}.", f"{again} again to finish them.")
            if note.get("input") != (sha256_file(path) if full else shard_identity(path)):
                raise CommonArtError(f"{tar} was made from another {path}.", f"{again} --overwrite.")
            settings = note.get("settings", {})
            if differ := [
                k for k in ("model", "revision", "precision", "store") if settings.get(k) != getattr(self.meta, k)
            ]:
                raise CommonArtError(
                    f"{tar} was made with another {' and '.join(differ)} than {self.folder / META} says.",
                    f"{again} --overwrite.",
                )
        for tar in sorted(self.folder.glob("*.tar")):
            if tar.name not in images and not tar.name.startswith("."):
                raise CommonArtError(
                    f"{tar} belongs to no shard of {source}.", f"Remove {self.folder} and encode again."
                )

    def keys(self, shard: str) -> list[str]:
        """The keys of a shard ("00000"), in its order; records that were dropped are absent."""
        suffix = f".{EXTENSIONS[self.meta.kind]}"
        return [name.removesuffix(suffix) for name in self._index(shard)]

    def text(self, shard: str, record: Record) -> list[np.ndarray]:
        """The states of one record's captions, float32 [L, D] each, in the captions' order.

        Raises:
            KeyError: that record has no features (it had no captions).
            CommonArtError: its captions are not those that were encoded.
        """
        states, hashes = unpack_text(self._read(shard, record["key"]))
        if hashes != [caption_hash(c["text"]) for c in captions(record)]:
            raise CommonArtError(
                f"The captions of record '{record['key']}' changed after {self.folder}/{shard}.tar was made.",
                "Run commonart encode-text --overwrite.",
            )
        return states

    def latent(self, shard: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std) of one image's scaled latents, float32 [C, h, w]. Raises KeyError where it has none."""
        return unpack_latent(self._read(shard, key))

    def read_text(self, shard: str) -> dict[str, list[np.ndarray]]:
        """All of a shard: key -> per caption float32 [L, D]."""
        return {key: unpack_text(data)[0] for key, data in self._read_all(shard)}

    def read_latents(self, shard: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """All of a shard: key -> (mean, std), float32 [C, h, w]."""
        return {key: unpack_latent(data) for key, data in self._read_all(shard)}

    def _index(self, shard: str) -> Members:
        if shard not in self._members:
            self._members[shard] = members(self.folder / f"{shard}.tar")
        return self._members[shard]

    def _read(self, shard: str, key: str) -> bytes:
        offset, size = self._index(shard)[f"{key}.{EXTENSIONS[self.meta.kind]}"]
        with open(self.folder / f"{shard}.tar", "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _read_all(self, shard: str) -> list[tuple[str, bytes]]:
        data = memoryview((self.folder / f"{shard}.tar").read_bytes())
        suffix = f".{EXTENSIONS[self.meta.kind]}"
        return [(n.removesuffix(suffix), data[o : o + s].tobytes()) for n, (o, s) in self._index(shard).items()]
