"""The note beside a shard, `00000.json`: what it was made from and with, what was dropped, and its hash.

A shard whose note stands and fits is finished; a shard without one is made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import sha256_file


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
