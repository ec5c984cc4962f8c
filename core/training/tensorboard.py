"""Scalars as TensorBoard reads them: an event file in runs/NAME/tensorboard/, written without TensorBoard being there.

    uvx tensorboard --logdir runs/

An event file is a TFRecord file of `Event` messages (tensorflow/core/util/event.proto, summary.proto): protocol buffers of a
few fields, so that sixty lines replace seven packages.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

# Field numbers of Event: wall_time, step, file_version, summary, session_log.
_TIME, _STEP, _VERSION, _SUMMARY, _SESSION = 1, 2, 3, 5, 7
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types


class Scalars:
    """One event file. Begins after `step`: what an interrupted run wrote beyond it is dropped by the reader."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{step}"
        self._path = folder / name
        self._write(_field(_TIME, _DOUBLE, now) + _field(_VERSION, _BYTES, b"brain.Event:2"))
        start = _field(1, _VARINT, 1)  # SessionLog.status = START
        self._write(_field(_TIME, _DOUBLE, now) + _field(_STEP, _VARINT, step + 1) + _field(_SESSION, _BYTES, start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Appends `values` of `step`, each under its name."""
        summary = b"".join(
            _field(1, _BYTES, _field(1, _BYTES, name.encode()) + _field(2, _FLOAT, value))
            for name, value in values.items()
        )
        head = _field(_TIME, _DOUBLE, time.time()) + _field(_STEP, _VARINT, step)
        self._write(head + _field(_SUMMARY, _BYTES, summary))

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with open(self._path, "ab") as file:
            file.write(length + _masked(length) + event + _masked(event))


def _field(number: int, kind: int, value: float | bytes) -> bytes:
    head = bytes([number << 3 | kind])
    if isinstance(value, bytes):
        return head + _varint(len(value)) + value
    if kind == _VARINT:
        return head + _varint(int(value))
    return head + struct.pack("<d" if kind == _DOUBLE else "<f", value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), RFC 3720 appendix B.4."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        entries.append(entry)
    return tuple(entries)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
