"""The manifest beside a shard, `00000.json`: what it was made from and with, what was dropped, and its hash.

It is the last file that is written of a shard: a shard whose manifest fits is finished, and one without is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import sha256_file, write_json
from commonart.core.errors import CommonArtError

_JSON_NAMES = {"read": "in", "written": "out"}
_OPTIONAL = ("missing", "captions_removed")


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What a shard depends on: the stage, the hash of its input, and the stage's settings."""

    stage: str
    input: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, stage: str, input: str, settings: Mapping[str, Any]) -> MadeFrom:
        """Make one with settings as JSON gives them back."""
        return cls(stage, input, orjson.loads(orjson.dumps(dict(settings), default=str, option=orjson.OPT_SORT_KEYS)))


@dataclass(frozen=True, slots=True)
class Manifest(MadeFrom):
    """What a finished shard was made from, its counts of records, and the size and SHA-256 of its tar."""

    read: int
    written: int
    dropped: dict[str, int]
    failed: int
    size: int
    sha256: str
    # Captions by reason, in the file where there are any: those that were asked for and are not there; those taken away.
    missing: dict[str, int] = field(default_factory=dict)
    captions_removed: dict[str, int] = field(default_factory=dict)


def manifest_path(tar: Path) -> Path:
    """`00000.tar` -> `00000.json`."""
    return tar.with_suffix(".json")


def rejects_path(tar: Path) -> Path:
    """Return the file that keeps what was dropped on the way to a shard: `00000.tar` -> `00000.rejects.jsonl`."""
    return tar.with_suffix(".rejects.jsonl")


def read_manifest(tar: Path) -> Manifest | None:
    """Return what stands in the manifest beside a shard, whether it still fits or not; None where there is none."""
    try:
        value = orjson.loads(manifest_path(tar).read_bytes())
        value = {**{name: {} for name in _OPTIONAL}, **value}
        return Manifest(**{name: value[_JSON_NAMES.get(name, name)] for name in Manifest.__dataclass_fields__})
    except (
        OSError,
        orjson.JSONDecodeError,
        KeyError,
        TypeError,
    ):  # TypeError: JSON of another kind
        return None


def write_manifest(
    tar: Path,
    made_from: MadeFrom,
    *,
    read: int,
    written: int,
    dropped: Mapping[str, int],
    failed: int,
    sha256: str,
    missing: Mapping[str, int] | None = None,
    captions_removed: Mapping[str, int] | None = None,
) -> Manifest:
    """Write the manifest of a shard that is whole, which makes it a finished one, and return it."""
    manifest = Manifest(
        made_from.stage, made_from.input, made_from.settings, read, written, dict(sorted(dropped.items())), failed,
        tar.stat().st_size, sha256, dict(sorted((missing or {}).items())), dict(sorted((captions_removed or {}).items())),
    )  # fmt: skip
    fields = {
        _JSON_NAMES.get(name, name): value for name, value in asdict(manifest).items() if name not in _OPTIONAL or value
    }
    write_json(manifest_path(tar), fields)
    return manifest


def finished(tar: Path) -> Manifest | None:
    """Return the manifest of a shard that is finished; None where it is to be made, or was made elsewhere."""
    manifest = read_manifest(tar)
    return manifest if manifest and tar.exists() and manifest.size == tar.stat().st_size else None


def finished_as(tar: Path, made_from: MadeFrom, *, overwrite: bool = False) -> Manifest | None:
    """Return the manifest of a shard that is finished as `made_from`; None where it is to be made.

    Raises:
        CommonArtError: another stage made it, and it may be all that there is of its work; or it was made from other input
            or with other settings, and not `overwrite`.
    """
    manifest = finished(tar)
    if manifest is None:
        return None
    if manifest.stage != made_from.stage:
        raise CommonArtError(f"{tar} was made by '{manifest.stage}', not by '{made_from.stage}'.", "Give another -o.")
    if overwrite:
        return None
    old, new = manifest.settings, made_from.settings
    changed = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    if not changed and manifest.input == made_from.input:
        return manifest
    how = f"with other settings ({', '.join(changed)})" if changed else "from other input"
    raise CommonArtError(
        f"{tar} was made {how}.",
        f"Give another -o, add --overwrite to make all again, or remove {tar.with_suffix('.*')} to make that one again.",
    )


def shard_identity(tar: Path) -> str:
    """Return the hash of a shard's bytes: from its manifest where that fits, else from the bytes."""
    manifest = finished(tar)
    return manifest.sha256 if manifest is not None else sha256_file(tar)
