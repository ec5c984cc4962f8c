"""Take records out of shards that are finished, and their features with them, and keep what was taken out on record.

    shards/removed.jsonl      # one line each time: when, by which entries, which records, the hashes of the shards before

Each shard is whole at every moment. Its features are rewritten first, then its manifest, and last its tar: a removal that
was killed still finds the record, and the same command finishes it. The log tells later which runs had the shards as they
were before, for what a model has learned stays in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data import jsonl
from commonart.core.data.features.format import EXTENSIONS
from commonart.core.data.files import LOCK, lock, sync_folder, write_bytes
from commonart.core.data.images import dedup
from commonart.core.data.shards.manifest import Manifest, manifest_path, read_manifest, shard_identity, write_manifest
from commonart.core.data.shards.reader import read_members, read_span
from commonart.core.data.shards.runner import read_rejects, write_rejects
from commonart.core.data.shards.tar_index import index_path
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError

LOG = "removed.jsonl"
WORK = ".removing"  # folder of the shard that is being written
REASON = "blocklisted"  # under which manifests count what was taken out


@dataclass(frozen=True, slots=True)
class Removal:
    """One line of the log. `shards`: the hash of each shard that held one of the `records` (key, sha256), before."""

    at: str
    entries: list[str]
    records: list[dict[str, str]]
    shards: dict[str, str]


def read_log(folder: Path) -> list[Removal]:
    """Return what was removed from a folder of shards, the first first. Raises CommonArtError for a damaged log."""
    path = folder / LOG
    if not path.exists():
        return []
    try:
        return [Removal(**value) for _, value in jsonl.read_values(str(path))]
    except TypeError:
        raise CommonArtError(f"{path} is damaged.", "Put it back, or move it away.") from None


def remove(folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]], entries: Sequence[str]) -> list[Path]:
    """Remove records from a folder of shards and from its features; return the tars that were rewritten.

    Args:
        records: those to remove, by the name of their shard, at least with `key`.
        entries: the entries of a blocklist by which they were found, for the log.

    Raises CommonArtError where a shard cannot be read, or another process works in the folder.
    """
    with lock(folder, LOCK, remove=True):
        gone = [
            {name: str(one.get(name, "")) for name in ("key", "sha256")} for each in records.values() for one in each
        ]
        before = {name: shard_identity(folder / name) for name in records}
        removal = Removal(datetime.now(UTC).isoformat(timespec="seconds"), list(entries), gone, before)
        log = folder / LOG
        old = log.read_bytes() if log.exists() else b""
        write_bytes(log, old + orjson.dumps(asdict(removal), option=orjson.OPT_APPEND_NEWLINE))
        return [tar for name, each in records.items() for tar in _remove(folder / name, {one["key"] for one in each})]


def _remove(tar: Path, keys: Collection[str]) -> Iterator[Path]:
    """Write a shard and its features without some records; yield what was written."""
    _forget_fingerprints(tar.parent / dedup.FOLDER / f"{tar.stem}.safetensors", keys)
    old = shard_identity(tar)
    with _without(tar, keys) as (new, sha256, count):
        for features in (tar.parent / kind / tar.name for kind in EXTENSIONS):
            if not features.exists():
                continue
            made = read_manifest(features)
            with _without(features, keys) as (other, other_sha256, taken):
                if made is not None and made.sha256 != other_sha256:
                    input = sha256 if made.input == old else made.input  # what was stale stays so
                    made = replace(made, input=input, read=made.read - taken, written=made.written - taken)
                if made is not None or taken:
                    _move(other, features, made, other_sha256)
                    yield features
        made = read_manifest(tar)
        if made is not None and made.sha256 != sha256:
            _keep_rows(tar, made, keys)
            dropped = {**made.dropped, REASON: made.dropped.get(REASON, 0) + count}
            made = replace(made, written=made.written - count, dropped=dropped)
        _move(new, tar, made, sha256)
        yield tar


@contextmanager
def _without(tar: Path, keys: Collection[str]) -> Iterator[tuple[Path, str, int]]:
    """Write a tar without some keys into a folder beside it, for the block: (its path, its hash, how many it leaves out)."""
    work = tar.parent / WORK
    shutil.rmtree(work, ignore_errors=True)  # of a removal that was killed
    try:
        left_out = 0
        with ShardWriter(work / tar.name) as writer:
            for stem, group in read_members(tar):
                if stem.rpartition("/")[2] in keys:
                    left_out += 1
                else:
                    writer.add(stem, {extension: read_span(tar, span) for extension, span in group.items()})
        yield writer.path, writer.sha256, left_out
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(new: Path, tar: Path, made: Manifest | None, sha256: str) -> None:
    """Put a shard into its place: its manifest before it, so that it never stands beside one that fits by chance."""
    if made is not None:
        write_manifest(
            new, made, read=made.read, written=made.written, dropped=made.dropped, failed=made.failed, sha256=sha256,
            missing=made.missing, captions_removed=made.captions_removed,
        )  # fmt: skip
        os.replace(manifest_path(new), manifest_path(tar))
    os.replace(new, tar)
    os.replace(index_path(new), index_path(tar))
    sync_folder(tar.parent)


def _keep_rows(tar: Path, made: Manifest, keys: Collection[str]) -> None:
    """Keep the places of removed records among what fetch rejected: its last pass counts the rows of a shard by them."""
    rejects, stems = list(read_rejects(tar)), [stem for stem, _ in read_members(tar)]
    taken = {record.get("row") for record in rejects}
    rows = [row for row in range(made.read) if row not in taken]
    if made.stage == "fetch" and len(rows) == len(stems):
        gone = [row for row, stem in zip(rows, stems, strict=True) if stem in keys]
        rejects += [{"key": f"removed_{tar.stem}_{row}", "row": row, "reason": REASON} for row in gone]
        write_rejects(tar, sorted(rejects, key=itemgetter("row")))


def _forget_fingerprints(path: Path, keys: Collection[str]) -> None:
    """Take the keys out of the list by which `shard --dedup` compares; the list stays that of the same input."""
    from safetensors import safe_open
    from safetensors.numpy import save

    if not path.exists():
        return
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    known = tensors.pop("keys").tobytes().decode().split("\n")
    stays = [key not in keys for key in known]
    if all(stays):
        return
    kept = {name: values[stays] for name, values in tensors.items()}
    names = "\n".join(key for key, stay in zip(known, stays, strict=True) if stay)
    kept["keys"] = np.frombuffer(names.encode(), np.uint8)
    write_bytes(path, save(kept, metadata=about))
