"""What every data command is built on: read SOURCE, apply a stage, write `-o`, count, and say what was dropped.

A stage is a plain generator, `(records, drop) -> records`. `run` applies it once when the output is JSONL, and once per
shard when the output is a folder, so that finished shards are skipped when the same command is started again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from commonart.core.data import jsonl, notes
from commonart.core.data.drops import Drop, Summary, Transform
from commonart.core.data.files import lock
from commonart.core.data.notes import Note
from commonart.core.data.record import Record
from commonart.core.data.shards.chunks import SHARD_SIZE, chunks, grouped
from commonart.core.data.shards.runner import counted, read_rejects, run_shards
from commonart.core.data.tasks import Task, this_task
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError
from commonart.core.log import progress, warn


def takes_jsonl(out: str) -> bool:
    """Return whether `-o` gets JSONL (`-`, a `.jsonl`, or a device or pipe: `/dev/null`, `>(gzip)`), and is no folder."""
    return out == "-" or out.endswith(jsonl.SUFFIXES) or _is_device(out)


def _is_device(path: str) -> bool:
    return os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path)


def _is_stream(out: str) -> bool:
    """Whether nothing can stand beside an output."""
    return out == "-" or _is_device(out)


def source_or_stdin(source: str | None) -> str:
    """Return SOURCE as given, or `-`. Raises UsageError where stdin is a terminal."""
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
    for chunk in chunks(source_or_stdin(source), None):
        yield from chunk.records


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
    started: float | None = None,
    extra: Callable[[], dict[str, Any]] = dict,
    exclusive: bool = False,
    inputs: list[Note] | None = None,
    listed: str = "the source",
) -> Summary:
    """Run one stage from SOURCE (or from `records`, when the stage lists them itself) to `out`.

    Args:
        out: a folder (shards), a `.jsonl[.gz|.zst]`, or `-` / None for JSONL on stdout.
        settings: what the output depends on besides the input; shards made with others are never mixed with these.
        max_failures: the share of the input that may fail before the run counts as failed.
        finish: called once with this task's shards, all finished, before their rejects are gathered; it may better them.
        exclusive: refuse a folder that another process writes this task's shards into: the work is too dear to be done twice.
        extra: what the summary tells besides its counts, when it is printed.
        inputs: the notes of `records`, which may come while these are read.
        listed: the name of what `records` are of.
        started: by `time.monotonic`, when the work began that the summary's seconds count; None: now.

    Raises TooManyFailures where everything was written, and more than `max_failures` of it failed. Errors carry `summary`.
    """
    summary = Summary(stage, extra=extra)
    started = time.monotonic() if started is None else started
    task = task or this_task()
    rejects = None if rejects is None else task.own_file(rejects)
    as_jsonl = out is None or takes_jsonl(out)
    out = task.own_file(out or "-") if out is None or as_jsonl else out
    _check_distinct(source, out, rejects, as_jsonl)
    size = None if as_jsonl and task.count == 1 else shard_size
    inputs = [] if inputs is None else inputs
    work = grouped(records, size) if records is not None else chunks(source_or_stdin(source), size, inputs)

    def note() -> Note:
        known = [] if source in (None, "-") else notes.read_beside(source)
        reasons = {name: getattr(summary, name) for name in notes.REASONS}
        made_by = version("commonart")
        return notes.make(stage, settings or {}, summary.read, summary.written, reasons, [*known, *inputs], made_by)

    try:
        with progress(stage, quiet=quiet) as tick:
            if as_jsonl:
                owned = chain.from_iterable(chunk.records for number, chunk in enumerate(work) if task.owns(number))
                _to_jsonl(summary, transform, counted(owned, summary, tick), out, rejects, overwrite, note)
            else:
                locked = exclusive and not os.path.isfile(out)
                with redirect_stdout(sys.stderr), lock(Path(out), task.lock, remove=True) if locked else nullcontext():
                    tars = run_shards(summary, transform, work, out, settings or {}, overwrite, task, tick)
                    if finish is not None:
                        finish(tars, summary)
                if rejects is not None:
                    with jsonl.JsonlWriter(rejects) as writer:
                        for record in chain.from_iterable(map(read_rejects, tars)):
                            writer.write(record)
            if not _is_stream(out):
                notes.write_beside(out, note())
        if not summary.read and task.count == 1:
            name = listed if records is not None else "stdin" if source in (None, "-") else source
            warn(f"{stage}: there are no records in {name}.")
        if summary.read and summary.failures / summary.read > max_failures:
            raise TooManyFailures(
                f"{stage}: {summary.failures} of {summary.read} records failed; --max-failures allows {max_failures:.0%}.",
                "Look at --rejects FILE; what did not fail was written.",
            )
    except (CommonArtError, OSError, KeyboardInterrupt) as error:
        vars(error)["summary"] = summary  # cli/main.py prints it after the error
        raise
    finally:
        summary.seconds = time.monotonic() - started
    return summary


def _check_distinct(source: str | None, out: str, rejects: str | None, as_jsonl: bool) -> None:
    """Raise UsageError where two of SOURCE, -o and --rejects are one file or folder."""
    folder = os.path.dirname(source) or "." if source and source.endswith(".tar") and not as_jsonl else source
    named = (("SOURCE", folder), ("-o", out), ("--rejects", rejects))
    files = [(flag, path) for flag, path in named if path is not None and path != "-" and not _is_device(path)]
    for (flag, path), (other, same) in combinations(files, 2):
        if os.path.realpath(path) == os.path.realpath(same):
            raise UsageError(f"{flag} and {other} are both {path}.", "Give them two names.")


def _to_jsonl(
    summary: Summary, transform: Transform, records: Iterable[Record], out: str, rejects: str | None, overwrite: bool,
    note: Callable[[], Note],
) -> None:  # fmt: skip
    read_by_a_person = out == "-" and sys.stdout is not None and sys.stdout.isatty()
    in_band = _is_stream(out) and not read_by_a_person
    # Libraries print to stdout as they please; only records may stand there.
    with (
        jsonl.JsonlWriter(out, overwrite=overwrite, notes=in_band) as writer,
        jsonl.JsonlWriter(rejects) if rejects else nullcontext() as keep,
        redirect_stdout(sys.stderr),
    ):
        drop = Drop(keep.write if keep else None)
        try:
            for made in transform(records, drop):
                if not isinstance(made, dict):
                    raise UsageError(
                        f"{summary.stage} makes images, which do not go into JSONL.", "Give a folder: -o FOLDER/."
                    )
                writer.write(made)
        finally:
            summary.written = writer.count
            summary.dropped, summary.missing, summary.failures = drop.reasons, drop.missing_reasons, drop.failures
            summary.captions_removed = drop.captions_removed
        if in_band:
            writer.note = note()
