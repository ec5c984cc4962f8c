"""What every data command is built on: read SOURCE, apply a stage, write `-o`, count, and say what was dropped.

A stage is a plain generator, `(records, drop) -> records`. `run` applies it once when the output is JSONL, and once per
shard when the output is a folder, so that finished shards are skipped when the same command is started again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from commonart.core.data import jsonl
from commonart.core.data.drops import Drop, Sample, Summary, Transform
from commonart.core.data.record import Record, rebase
from commonart.core.data.shards import reader
from commonart.core.data.shards.manifest import note_of, read_note, rejects_of, shard_identity, write_note
from commonart.core.data.shards.tar_index import index_of
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task, this_task
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError
from commonart.core.log import progress

SHARD_SIZE = 1000  # records of a JSONL source that become one shard


class Chunk(NamedTuple):
    """The records that become one output shard. `identity` changes when they do."""

    name: str
    identity: str
    records: Iterable[Record]


def takes_jsonl(out: str) -> bool:
    """Whether `-o` gets JSONL: `-`, a `.jsonl`, or a device or pipe (`/dev/null`, `>(gzip)`); else it is a folder."""
    if out == "-" or out.endswith(jsonl.SUFFIXES):
        return True
    return _is_device(out)


def _is_device(path: str) -> bool:
    return os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path)


def source_or_stdin(source: str | None) -> str:
    """SOURCE as given, or stdin.

    Raises:
        UsageError: no SOURCE, and stdin is a terminal.
    """
    if source is not None:
        return source
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            f"no SOURCE was given, and stdin is {'closed' if sys.stdin is None else 'a terminal'}.",
            "Give a folder, a .tar, a .jsonl, or pipe records in.",
        )
    return "-"


def read(source: str | None) -> Iterator[Record]:
    """Yield the records of a SOURCE: a folder of shards, a `.tar`, a `.jsonl[.gz|.zst]`, or `-`."""
    for chunk in chunks(source, None):
        yield from chunk.records


def chunks(source: str | None, size: int | None = SHARD_SIZE) -> Iterator[Chunk]:
    """Split a SOURCE as its output shards will be: tar by tar, or `size` records of a JSONL (all, when None).

    Raises:
        CommonArtError: the source is missing, or is nothing that records can be read from.
    """
    source = source_or_stdin(source)
    if source != "-" and not os.path.exists(source):
        raise CommonArtError(f"{source} does not exist.", "Give a folder of shards, a .tar, a .jsonl, or - for stdin.")
    if source != "-" and (os.path.isdir(source) or source.endswith(".tar")):
        for path in reader.list_shards(source) if os.path.isdir(source) else [Path(source)]:
            yield Chunk(path.stem, shard_identity(path), reader.read_shard(path))
    elif source == "-" or source.endswith(jsonl.SUFFIXES):
        yield from _grouped(jsonl.read(source), size)
    else:
        raise CommonArtError(
            f"{source} is no folder, no .tar and no .jsonl.",
            "A .jsonl may also end in .jsonl.gz or .jsonl.zst.",
        )


def _grouped(records: Iterable[Record], size: int | None) -> Iterator[Chunk]:
    if size is None:
        yield Chunk("00000", "", records)
        return
    group: list[Record] = []
    number = 0
    for record in records:
        group.append(record)
        if len(group) == size:
            yield Chunk(f"{number:05d}", _hash(group), group)
            group, number = [], number + 1
    if group or number == 0:
        yield Chunk(f"{number:05d}", _hash(group), group)


def _hash(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    return digest.hexdigest()


def run(
    stage: str,
    transform: Transform,
    *,
    source: str | None = None,
    out: str | None = None,
    records: Iterable[Record] | None = None,
    rejects: str | None = None,
    max_failures: float = 0.5,
    quiet: bool = False,
    shard_size: int = SHARD_SIZE,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    task: Task | None = None,
    finish: Callable[[Sequence[Path], Summary], None] | None = None,
) -> Summary:
    """Run one stage from SOURCE (or from `records`, when the stage lists them itself) to `out`.

    Args:
        out: a folder (shards), a `.jsonl[.gz|.zst]`, or `-` / None for JSONL on stdout.
        settings: what the output depends on besides the input; shards made with others are never mixed with these.
        max_failures: the share of the input that may fail before the run counts as failed.
        finish: called once with this task's shards, all finished, before their rejects are gathered; it may better them.

    Raises:
        TooManyFailures: everything was written, but more than `max_failures` of it failed.
        CommonArtError: anything else that the user can mend. Both carry `summary`.
    """
    summary = Summary(stage)
    started = time.monotonic()
    task = task or this_task()
    rejects = None if rejects is None else task.own_file(rejects)
    out = task.own_file(out or "-") if out is None or takes_jsonl(out) else out
    where = os.path.dirname(source) or "." if source and source.endswith(".tar") and not takes_jsonl(out) else source
    named = (("SOURCE", where), ("-o", out), ("--rejects", rejects))
    files = [(flag, path) for flag, path in named if path not in (None, "-") and not _is_device(path)]
    for (flag, path), (other, same) in combinations(files, 2):
        if os.path.realpath(path) == os.path.realpath(same):
            raise UsageError(f"{flag} and {other} are both {path}.", "Give them two names.")
    try:
        with progress(stage, quiet=quiet) as tick:
            if takes_jsonl(out):
                size = None if task.count == 1 else shard_size
                parts = _grouped(records, size) if records is not None else chunks(source, size)
                own = (chunk for i, chunk in enumerate(parts) if task.owns(i))
                _to_jsonl(summary, transform, own, out, rejects, tick)
            else:
                parts = _grouped(records, shard_size) if records is not None else chunks(source, shard_size)
                _to_shards(summary, transform, parts, out, rejects, tick, settings or {}, overwrite, task, finish)
    except CommonArtError as error:
        summary.seconds = time.monotonic() - started
        error.summary = summary
        raise
    summary.seconds = time.monotonic() - started
    if summary.read and summary.failures / summary.read > max_failures:
        problem = TooManyFailures(
            f"{stage}: {summary.failures} of {summary.read} records failed; --max-failures allows {max_failures:.0%}.",
            "Look at --rejects FILE; what did not fail was written.",
        )
        problem.summary = summary
        raise problem
    return summary


def _counted(records: Iterable[Record], summary: Summary, tick: Callable[[], None]) -> Iterator[Record]:
    for record in records:
        summary.read += 1
        tick()
        yield record


@contextmanager
def _rejects(path: str | None) -> Iterator[Callable[[Record], None] | None]:
    if path is None:
        yield None
    else:
        with jsonl.Writer(path) as writer:
            yield writer.write


def _to_jsonl(
    summary: Summary,
    transform: Transform,
    parts: Iterable[Chunk],
    out: str,
    rejects: str | None,
    tick: Callable[[], None],
) -> None:
    # Libraries print to stdout as they please; only records may stand there.
    with jsonl.Writer(out) as writer, redirect_stdout(sys.stderr), _rejects(rejects) as keep:
        drop = Drop(keep)
        inputs = chain.from_iterable(chunk.records for chunk in parts)
        try:
            write = writer.write
            for made in transform(_counted(inputs, summary, tick), drop):
                if isinstance(made, Sample):
                    raise UsageError(
                        f"{summary.stage} makes images, which do not go into JSONL.",
                        "Give a folder: -o FOLDER/.",
                    )
                write(made)
        finally:
            summary.written = writer.count
            summary.dropped, summary.failures = drop.reasons, drop.failures


def _to_shards(
    summary: Summary,
    transform: Transform,
    parts: Iterable[Chunk],
    out: str,
    rejects: str | None,
    tick: Callable[[], None],
    settings: Mapping[str, Any],
    overwrite: bool,
    task: Task,
    finish: Callable[[Sequence[Path], Summary], None] | None,
) -> None:
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {out} is a file that is no .jsonl.", "Give a folder for shards, or a .jsonl.")
    folder.mkdir(parents=True, exist_ok=True)
    tars: list[Path] = []
    names: set[str] = set()
    with redirect_stdout(sys.stderr):
        for number, chunk in enumerate(parts):
            names.add(f"{chunk.name}.tar")
            if not task.owns(number):
                continue
            tar = folder / f"{chunk.name}.tar"
            made_from = {"stage": summary.stage, "input": chunk.identity, "settings": _plain(settings)}
            note = read_note(tar)
            finished = bool(note) and tar.exists() and note.get("size") == tar.stat().st_size
            if (
                finished and note.get("stage") != summary.stage
            ):  # what is read may lie there, and it may be all there is
                raise CommonArtError(
                    f"{tar} was made by '{note.get('stage')}', not by '{summary.stage}'.", "Give another -o."
                )
            if finished and not overwrite:
                if {k: note.get(k) for k in made_from} != made_from:
                    raise CommonArtError(
                        f"{tar} was made by '{note.get('stage')}' from other input or with other settings.",
                        "Give another -o, or --overwrite to make it again.",
                    )
                for _ in range(note["in"]):
                    tick()
            else:
                note = _one_shard(summary.stage, transform, chunk, tar, made_from, tick)
            summary.read += note["in"]
            summary.written += note["out"]
            summary.dropped.update(note["dropped"])
            summary.failures += note["failed"]
            tars.append(tar)
        _no_others(folder, names, summary.stage, overwrite)
        if finish is not None:
            finish(tars, summary)
    if rejects is not None:
        with jsonl.Writer(rejects) as writer:
            for path in filter(Path.exists, map(rejects_of, tars)):
                for _, record in jsonl.read_values(str(path)):
                    writer.write({**record, "image": rebase(record.get("image", ""), str(path.parent), "")})


def _no_others(folder: Path, names: set[str], stage: str, overwrite: bool) -> None:
    """Shards that an earlier run of the stage made from more input would be read as part of this one's."""
    others = [tar for tar in sorted(folder.glob("*.tar")) if tar.name not in names]
    if others and not overwrite:
        raise CommonArtError(
            f"{folder} also holds {others[0].name}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}, which this input does not make.",
            "Give another -o, remove them, or --overwrite to have them removed.",
        )
    for tar in others:
        if read_note(tar).get("stage") != stage:
            continue  # not this stage's to remove
        for path in (tar, index_of(tar), note_of(tar), rejects_of(tar)):
            path.unlink(missing_ok=True)


def _plain(value: Mapping[str, Any]) -> Any:
    return orjson.loads(orjson.dumps(dict(value), default=str, option=orjson.OPT_SORT_KEYS))


def _one_shard(
    stage: str,
    transform: Transform,
    chunk: Chunk,
    tar: Path,
    made_from: dict[str, Any],
    tick: Callable[[], None],
) -> dict[str, Any]:
    """Write one shard, what it rejected, and last the note that says that it is finished."""
    counts = Summary(stage)
    refused: list[Record] = []
    drop = Drop(refused.append)
    note_of(tar).unlink(missing_ok=True)
    with ShardWriter(tar) as writer:
        for made in transform(_counted(chunk.records, counts, tick), drop):
            writer.add_record(*(made if isinstance(made, Sample) else (made, *reader.read_picture(made))))
    rejects = rejects_of(tar)
    if refused:
        with jsonl.Writer(str(rejects)) as file:
            for record in refused:
                file.write(record)
    else:
        rejects.unlink(missing_ok=True)
    return write_note(
        tar, made_from, read=counts.read, written=writer.count, dropped=drop.reasons, failed=drop.failures,
        sha256=writer.sha256,
    )  # fmt: skip
