"""The loop of encode-text and encode-image: shard by shard, whole or absent, finished ones skipped.

    commonart encode-text shards/      # the same command again finishes what was interrupted

A stage is a generator `(records, drop) -> (key, bytes)`, run once per image shard. The note beside a feature shard is
written last: a shard without a note that fits is made again.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data import jsonl
from commonart.core.data.drops import Drop, Summary
from commonart.core.data.features.format import EXTENSIONS, META, NULL, VERSION, Meta, NoMeta, read_meta, read_null
from commonart.core.data.features.tensors import pack
from commonart.core.data.files import write_bytes
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import note_of, read_note, rejects_of, shard_identity, write_note
from commonart.core.data.shards.reader import list_shards, read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError
from commonart.core.log import progress

SAMPLED_SHARDS, SAMPLED_RECORDS = 16, 1024  # that a size is estimated from: their mean is known to a few percent
BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE  # a tar is padded to

Encode = Callable[[Iterable[Record], Drop], Iterator[tuple[str, bytes]]]


@dataclass(slots=True)
class Plan:
    """What is to be done: `done` and `todo` are this task's shards, `unfinished` those of all tasks.

    `described`: features.json stands there and so does the null embedding, both whole.
    """

    stage: str
    kind: str
    source: Path
    out: Path
    settings: dict[str, Any]
    overwrite: bool
    done: list[Path]
    todo: list[Path]
    unfinished: list[Path]
    described: bool

    def estimate(self, sizes: Callable[[list[Record]], Sequence[int]]) -> int:
        """Bytes that all unfinished shards will take: their true number of records, times the mean of a sample of them.

        What they replace is taken off; but one shard is whole before it replaces another.

        Args:
            sizes: the bytes of each record's member.
        """
        chosen = _spread(self.unfinished, SAMPLED_SHARDS)
        sampled = {path: list(read_shard(path)) for path in chosen}
        records = [r for path in chosen for r in _spread(sampled[path], SAMPLED_RECORDS // len(chosen))]
        mean = sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes(records) if size) / max(1, len(records))
        # A shard without a note was made elsewhere; reading each one's headers would take hours for millions of images.
        per_byte = sum(map(len, sampled.values())) / max(1, sum(path.stat().st_size for path in chosen))
        total = largest = 0
        for path in self.unfinished:
            known = len(sampled[path]) if path in sampled else read_note(path).get("out")
            count = path.stat().st_size * per_byte if known is None else known
            size = -(-int(count * mean + 2 * BLOCK) // RECORD) * RECORD
            there = self.out / path.name
            total += size - (there.stat().st_size if there.exists() else 0)
            largest = max(largest, size)
        return max(total, largest)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, evenly over all of them; all, where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def shards_of(stage: str, source: str) -> list[Path]:
    """The image shards of SOURCE; asked before a model is downloaded or loaded.

    Raises:
        UsageError: SOURCE is no folder.
        CommonArtError: it is missing, or holds no shard.
    """
    if source == "-" or Path(source).is_file():
        raise UsageError(
            f"{stage} needs a folder of shards, and {source} is none.",
            "Make one first: commonart shard -o shards/.",
        )
    return list_shards(source)


def plan(
    stage: str, kind: str, source: str, out: str | None, settings: dict[str, Any], task: Task, overwrite: bool
) -> Plan:
    """Find out which shards of `source` still lack features in `out` (by default SOURCE/text or SOURCE/image).

    Args:
        settings: what the features depend on: model, revision, precision, store and so on. Kept in every note.
        overwrite: all are to be made again.

    Raises:
        UsageError: the source is no folder of shards.
        CommonArtError: features are there that are stale or were made otherwise, and not `overwrite`.
    """
    shards = shards_of(stage, source)
    folder = Path(source)
    place = Path(out) if out else folder / kind
    work = Plan(stage, kind, folder, place, settings, overwrite, [], [], [], _described(place, kind))
    if work.out.resolve() == folder.resolve():
        raise UsageError(f"-o {out} is the SOURCE itself.", "Give another folder, or leave -o out.")
    for number, path in enumerate(shards):
        own = number % task.count == task.index
        if _finished(work, path):
            work.done += [path] * own
        else:
            work.unfinished.append(path)
            work.todo += [path] * own
    return work


def _described(folder: Path, kind: str) -> bool:
    try:
        read_meta(folder)
        return kind != "text" or read_null(folder) is not None
    except (CommonArtError, OSError, ValueError, KeyError):
        return False


def _finished(work: Plan, path: Path) -> bool:
    if work.overwrite:
        return False
    tar = work.out / path.name
    note = read_note(tar)
    if not note or not tar.exists() or note.get("size") != tar.stat().st_size:
        return False
    made_with = note.get("settings") or {}
    differ = [k for k, v in work.settings.items() if k != "model" and made_with.get(k) != v]
    stale = note.get("input") != shard_identity(path)
    if not differ and not stale:
        return True
    why = f"another {path}" if stale else f"another {' and '.join(differ)}"
    raise CommonArtError(
        f"{tar} was made with {why}.",
        f"Give another -o, add --overwrite to make all again, or remove {tar.with_suffix('.*')} to make that one again.",
    )


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse, before the first byte, what the disk cannot hold.

    Raises:
        CommonArtError: fewer than `needed` bytes are free where `folder` is or will be.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CommonArtError(
            f"{what} would take about {_size(needed)}, and {folder} has {_size(free)} free.",
            "Give -o on a larger disk, or store less (encode-text: --store int8).",
        )


def _size(count: int) -> str:
    """Bytes for people: 512 B, 3.1 kB, 2.0 GB, 123.0 TB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def write_meta(folder: Path, meta: Meta, null: np.ndarray | None, overwrite: bool) -> None:
    """Write `features.json` (and the null embedding [1, D]) unless the same are there, whole, and not `overwrite`.

    Raises:
        CommonArtError: the folder holds features of another model or with other settings, and not `overwrite`.
    """
    if not overwrite:
        try:
            there = read_meta(folder)
        except NoMeta:
            there = meta
        if differ := [k for k, v in asdict(there).items() if k != "model" and v != asdict(meta)[k]]:
            raise CommonArtError(
                f"{folder} holds features made with another {' and '.join(differ)} "
                f"({there.model}, {there.precision}, {there.store}).",
                "Give another -o, or --overwrite to make them again.",
            )
        if _described(folder, meta.kind):
            return
    value = {"version": VERSION, **asdict(meta)}
    if null is not None:
        data = pack({"null": np.asarray(null, np.float32)})
        write_bytes(folder / NULL, data)
        value |= {"null": NULL, "null_sha256": hashlib.sha256(data).hexdigest()}
    write_bytes(folder / META, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write(
    work: Plan,
    encode: Encode | None,
    *,
    rejects: str | None = None,
    max_failures: float = 0.5,
    quiet: bool = False,
    started: float | None = None,
) -> Summary:
    """Make the feature shards that are left to this task, and sum up all of its shards.

    Args:
        encode: may be None when `work.todo` is empty, so that a finished folder needs no model.
        started: by `time.monotonic`, when the work began that the summary's seconds count: the model's loading, too.

    Raises:
        TooManyFailures: everything was written, but more than `max_failures` of the records failed.
    """
    summary = Summary(work.stage)
    started = time.monotonic() if started is None else started
    try:
        with progress(work.stage, quiet=quiet) as tick, redirect_stdout(sys.stderr):
            todo = set(work.todo)
            for path in work.todo:  # so that an interrupted --overwrite is finished without it
                note_of(work.out / path.name).unlink(missing_ok=True)
            for path in sorted(work.done + work.todo):
                note = read_note(work.out / path.name)
                if path in todo:
                    assert encode is not None
                    note = _one_shard(work, path, encode, tick)
                else:
                    tick(note["in"])
                summary.read += note["in"]
                summary.written += note["out"]
                summary.dropped.update(note["dropped"])
                summary.failures += note["failed"]
        if rejects is not None:
            with jsonl.Writer(rejects) as writer:
                for path in sorted(work.done + work.todo):
                    if (kept := rejects_of(work.out / path.name)).exists():
                        for record in jsonl.read(str(kept)):
                            writer.write(record)
    except CommonArtError as error:
        summary.seconds = time.monotonic() - started
        error.summary = summary
        raise
    summary.seconds = time.monotonic() - started
    if summary.read and summary.failures / summary.read > max_failures:
        problem = TooManyFailures(
            f"{work.stage}: {summary.failures} of {summary.read} records failed, "
            f"more than --max-failures {max_failures:g} allows.",
            "Look at --rejects FILE; what did not fail was written.",
        )
        problem.summary = summary
        raise problem
    return summary


def _one_shard(work: Plan, path: Path, encode: Encode, tick: Callable[..., Any]) -> dict[str, Any]:
    tar = work.out / path.name
    refused: list[Record] = []
    drop = Drop(refused.append)
    read = 0

    def counted() -> Iterator[Record]:
        nonlocal read
        for record in read_shard(path):
            read += 1
            tick()
            yield record

    identity = shard_identity(path)
    with ShardWriter(tar) as writer:
        for key, data in encode(counted(), drop):
            writer.add(key, {EXTENSIONS[work.kind]: data})
    kept = rejects_of(tar)
    kept.unlink(missing_ok=True)
    if refused:
        with jsonl.Writer(str(kept)) as file:
            for record in refused:
                file.write(record)
    made_from = {"stage": work.stage, "input": identity, "settings": work.settings}
    return write_note(
        tar,
        made_from,
        read=read,
        written=writer.count,
        dropped=drop.reasons,
        failed=drop.failures,
        sha256=writer.sha256,
    )
