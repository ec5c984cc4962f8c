"""Arrays as safetensors, without torch: what feature shards hold.

Plain files that any reader of safetensors opens. numpy has no bfloat16, so that one is kept as its 16 bits in uint16.
Their metadata begin with a CRC-32 of everything else, so that a bit that a disk lost is noticed when it is read.
Source: the format's description, github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

_NAMES = {"float32": "F32", "int32": "I32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
_DTYPES = {"F32": "<f4", "I32": "<i4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}
STORED = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32, "int8": np.int8}

_CRC = b'{"__metadata__":{"crc32":"'  # begins the header; 8 hexadecimal digits follow
_CRC_AT = 8 + len(_CRC)

Layout = Mapping[str, tuple[Any, tuple[int, ...]]]  # name -> (dtype, shape)


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Pack arrays into one safetensors file: the same bytes for the same values; uint16 holds bfloat16 bits."""
    header, names = _header({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)
    data = b"".join((header, *(np.ascontiguousarray(arrays[name]).tobytes() for name in names)))
    return b"".join((data[:_CRC_AT], b"%08x" % _crc(data), data[_CRC_AT + 8 :]))


def _crc(data: bytes) -> int:
    """Of the header's length and of all that follows the checksum itself; it costs a quarter of a millisecond a MB."""
    return zlib.crc32(memoryview(data)[_CRC_AT + 8 :], zlib.crc32(data[:8]))


def packed_size(layout: Layout, metadata: Mapping[str, str] | None = None) -> int:
    """Return the size in bytes of what `pack` makes of arrays of this layout."""
    header, _ = _header(layout, metadata)
    return len(header) + sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in layout.values())


def _header(layout: Layout, metadata: Mapping[str, str] | None) -> tuple[bytes, list[str]]:
    header: dict[str, Any] = {"__metadata__": {"crc32": "0" * 8, **(metadata or {})}}
    # Wide elements first, so that every tensor is aligned to its own size.
    names = sorted(layout, key=lambda name: (-np.dtype(layout[name][0]).itemsize, name))
    start = 0
    for name in names:
        kind, shape = layout[name]
        stop = start + np.dtype(kind).itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[np.dtype(kind).name], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, names


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays (views into `data`) and the metadata of a file that `pack` wrote, or wrote before checksums.

    Raises ValueError where the bytes are not such a file, or not those that were written.
    """
    if data[8:_CRC_AT] == _CRC and data[_CRC_AT : _CRC_AT + 8] != b"%08x" % _crc(data):
        raise ValueError("its checksum does not fit")
    if len(data) < 8 or (size := struct.unpack("<Q", data[:8])[0]) > len(data) - 8:
        raise ValueError("it ends inside its header")
    header = orjson.loads(data[8 : 8 + size])
    try:
        metadata = header.pop("__metadata__", {})
        metadata.pop("crc32", None)
        arrays = {}
        for name, about in header.items():
            start, stop = (8 + size + offset for offset in about["data_offsets"])
            arrays[name] = np.frombuffer(data[start:stop], _DTYPES[about["dtype"]]).reshape(about["shape"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its header is damaged ({error})") from error
    return arrays, metadata


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 (finite) to bfloat16 bits in uint16, rounded to nearest even as torch does."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits in uint16 to float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def stored(name: str, values: np.ndarray, store: str) -> dict[str, np.ndarray]:
    """float32 `values` as `store` keeps them: bf16, fp16, fp32, or int8 with one float32 scale for each row of [L, D].

    Raises OverflowError where a value does not fit in fp16.
    """
    if store == "int8":
        scale = np.abs(values).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        return {name: np.rint(values / scale).astype(np.int8), f"{name}.scale": scale.astype(np.float32)}
    if store == "bf16":
        return {name: to_bf16(values)}
    if store == "fp16" and values.size and np.abs(values).max() > np.finfo(np.float16).max:
        raise OverflowError("a value is above 65,504, the largest of fp16")
    return {name: values.astype(STORED[store])}


def stored_layout(name: str, shape: tuple[int, ...], store: str) -> Layout:
    """Return the layout of what `stored` makes of values of this shape."""
    scale = {f"{name}.scale": (np.float32, (shape[0], 1))} if store == "int8" else {}
    return {name: (STORED[store], shape), **scale}


def loaded(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the float32 values that `stored` was given, as exactly as it kept them."""
    values = arrays[name]
    if values.dtype == np.uint16:
        return from_bf16(values)
    if values.dtype == np.int8:
        return values.astype(np.float32) * arrays[f"{name}.scale"]
    return values.astype(np.float32)
