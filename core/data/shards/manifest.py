"""The note beside a shard, `00000.json`: what it was made from and with, what was dropped, and its hash.

A shard whose note stands and fits is finished; a shard without one is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import sha256_file, write_json


def shard_identity(path: Path) -> str:
    """The hash of a shard's bytes: from the note beside it when that fits, else from the bytes."""
    note = read_note(path)
    if note.get("size") == path.stat().st_size and "sha256" in note:
        return str(note["sha256"])
    return sha256_file(path)


def note_of(tar: Path) -> Path:
    """The file beside a shard that says what it was made from: `00000.tar` -> `00000.json`."""
    return tar.with_suffix(".json")


def read_note(tar: Path) -> dict[str, Any]:
    """What the note beside a shard says; empty when there is none (a shard made elsewhere)."""
    try:
        value = orjson.loads(note_of(tar).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def finished(tar: Path) -> dict[str, Any]:
    """The note of a shard that is whole; empty when the shard has to be made."""
    note = read_note(tar)
    return note if note and tar.exists() and note.get("size") == tar.stat().st_size else {}


def write_note(
    tar: Path,
    made_from: Mapping[str, Any],
    *,
    read: int,
    written: int,
    dropped: Mapping[str, int],
    failed: int,
    sha256: str,
) -> dict[str, Any]:
    """Write the note that says that a shard is finished, and return it; the last thing that is written of a shard."""
    note = {
        **made_from,
        "in": read,
        "out": written,
        "dropped": dict(sorted(dropped.items())),
        "failed": failed,
        "size": tar.stat().st_size,
        "sha256": sha256,
    }
    write_json(note_of(tar), note)
    return note


def rejects_of(tar: Path) -> Path:
    """The file beside a shard that keeps what was dropped on the way to it: `00000.tar` -> `00000.rejects.jsonl`."""
    return tar.with_suffix(".rejects.jsonl")
