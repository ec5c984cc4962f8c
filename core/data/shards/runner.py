"""The one loop that makes shards: each is whole or absent, finished ones are skipped, and the others are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from commonart.core.data import jsonl
from commonart.core.data.drops import Drop, Sample, Summary, Transform
from commonart.core.data.record import Record, rebase
from commonart.core.data.shards import manifest as manifests
from commonart.core.data.shards.chunks import Chunk
from commonart.core.data.shards.manifest import MadeFrom, Manifest, manifest_path, rejects_path
from commonart.core.data.shards.reader import read_image
from commonart.core.data.shards.tar_index import index_path
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.log import Tick


def run_shards(
    summary: Summary,
    transform: Transform,
    chunks: Iterable[Chunk],
    out: str,
    settings: Mapping[str, Any],
    overwrite: bool,
    task: Task,
    tick: Tick,
) -> list[Path]:
    """Make this task's shards in the folder `out`, one of each chunk, and return them; `summary` counts all of them.

    Raises:
        UsageError: `out` is a file.
        CommonArtError: as `finished_as`, or the folder holds shards that these chunks do not make, and not `overwrite`.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {out} is a file, and not a .jsonl.", "Give a folder for shards, or a .jsonl.")
    folder.mkdir(parents=True, exist_ok=True)
    tars: list[Path] = []
    names: set[str] = set()
    for number, chunk in enumerate(chunks):
        names.add(f"{chunk.name}.tar")
        if not task.owns(number):
            continue
        tar = folder / f"{chunk.name}.tar"
        made_from = MadeFrom.of(summary.stage, chunk.identity(), settings)
        if manifest := manifests.finished_as(tar, made_from, overwrite=overwrite):
            tick(manifest.read)
            summary.finished_before += manifest.read
        else:
            manifest = _make_shard(transform, chunk, tar, made_from, tick)
        summary.read += manifest.read
        summary.written += manifest.written
        summary.dropped.update(manifest.dropped)
        summary.missing.update(manifest.missing)
        summary.captions_removed.update(manifest.captions_removed)
        summary.failures += manifest.failed
        tars.append(tar)
    _remove_others(folder, names, summary.stage, overwrite)
    return tars


def write_rejects(tar: Path, records: Iterable[Record]) -> None:
    """Keep what was dropped on the way to a shard beside it; no file where nothing was."""
    path = rejects_path(tar)
    path.unlink(missing_ok=True)
    if rejected := list(records):
        with jsonl.JsonlWriter(str(path)) as writer:
            for record in rejected:
                writer.write(record)


def read_rejects(tar: Path) -> Iterator[Record]:
    """Yield what was dropped on the way to a shard; such a record may break the schema."""
    if (path := rejects_path(tar)).exists():
        for _, record in jsonl.read_values(str(path)):
            yield {**record, "image": rebase(record["image"], str(tar.parent), "")} if "image" in record else record


def counted(records: Iterable[Record], summary: Summary, tick: Tick) -> Iterator[Record]:
    """Yield the same records, counted as they are read."""
    for summary.read, record in enumerate(records, summary.read + 1):  # noqa: B020
        tick()
        yield record


def _make_shard(transform: Transform, chunk: Chunk, tar: Path, made_from: MadeFrom, tick: Tick) -> Manifest:
    """Write one shard, what it rejected, and last the manifest that says that it is finished."""
    counts = Summary(made_from.stage)
    refused: list[Record] = []
    drop = Drop(refused.append)
    manifest_path(tar).unlink(missing_ok=True)
    with ShardWriter(tar) as writer:
        for made in transform(counted(chunk.records, counts, tick), drop):
            if isinstance(made, Sample):
                writer.add_record(made.record, made.data, made.ext)
            elif isinstance(made, dict):
                writer.add_record(made, *read_image(made))
            else:
                writer.add(made.key, {made.ext: made.data})
    write_rejects(tar, refused)
    return manifests.write_manifest(
        tar, made_from, read=counts.read, written=writer.count, dropped=drop.reasons, failed=drop.failures,
        sha256=writer.sha256, missing=drop.missing_reasons, captions_removed=drop.captions_removed,
    )  # fmt: skip


def _remove_others(folder: Path, names: set[str], stage: str, overwrite: bool) -> None:
    """Shards that an earlier run of the stage made from more input would be read as part of this one's."""
    others = [tar for tar in sorted(folder.glob("*.tar")) if tar.name not in names]
    if others and not overwrite:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise CommonArtError(
            f"{folder} also holds {others[0].name}{more}, which this input does not make.",
            "Give another -o, remove them, or --overwrite to have them removed.",
        )
    for tar in others:
        manifest = manifests.read_manifest(tar)
        if manifest is not None and manifest.stage == stage:  # others' work is not this stage's to remove
            for path in (tar, index_path(tar), manifest_path(tar), rejects_path(tar)):
                path.unlink(missing_ok=True)
