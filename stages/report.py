"""The report of a run, or of shards alone: `run` writes the card, `verify` holds one against the shards.

Everything in it comes from manifests: run.json, metrics.jsonl, eval.json, mia.json, the notes and the records of the shards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from commonart.core import log
from commonart.core.data.drops import Summary
from commonart.core.data.files import check_writable
from commonart.core.data.text import printable
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.report import card, trace
from commonart.core.report import verify as checks
from commonart.core.report.facts import gather

MARKS = {True: "holds", False: "DOES NOT HOLD", None: "not checked"}


def run(
    paths: Sequence[str], out: str, *, evaluation: str | None = None, audit: str | None = None, certify: bool = False,
    overwrite: bool = False, quiet: bool = False,
) -> Summary:  # fmt: skip
    """Write the card of a run, or of shards, into the folder `out`, and print where it is.

    Args:
        paths: a run, folders of shards, or both (as `run_and_shards`).
        evaluation, audit: eval.json and mia.json; None: those in the run's folder, if there are any.
        certify: with the folder `evidence`.

    Raises:
        UsageError: paths that are neither, or `out` holds a card and not `overwrite`.
        CommonArtError: a run that cannot be traced, or shards that changed.
    """
    started, folder = time.monotonic(), Path(out)
    run_folder, shards = run_and_shards(paths)
    if run_folder is None and (given := [name for name, each in (("--eval", evaluation), ("--mia", audit)) if each]):
        raise UsageError(
            f"{given[0]} belongs to a run, and none was named.", "Name the run, too: commonart report RUN SHARDS."
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file.", "Name a folder for the card: -o card/.")
    if (folder / trace.RUN).exists():
        raise UsageError(f"{folder} is a run.", "Name a folder of its own: -o card/.")
    if (there := card.existing(folder)) and not overwrite:
        raise UsageError(f"{there[0]} already exists.", "Add --overwrite to replace it, or name another -o.")
    check_writable(folder)
    facts = gather(
        run_folder, Path(shards) if shards else None, Path(evaluation) if evaluation else None, Path(audit) if audit else None,
        quiet,
    )  # fmt: skip
    for conflict in facts.conflicts:
        log.warn(printable(f"{', '.join(conflict.keys)} are one image under {' and '.join(conflict.licenses)}"))
    files = card.write(facts, folder, certify)
    for name, count in facts.untraced.items():
        log.warn(f"{count:,} of {facts.works:,} works: {name} is not stated")
    print(f"{facts.works:,} works, {len(files):,} files: {folder / card.ENTRY}", flush=True)
    return Summary("report", facts.works, facts.works, seconds=time.monotonic() - started)


def verify(folder: str, paths: Sequence[str], *, quiet: bool = False) -> bool:
    """Print which claims of a card hold; return whether all do. Raises as `run_and_shards` and `verify.check`."""
    run_folder, shards = run_and_shards(paths)
    if not shards:
        raise UsageError("--verify needs the shards.", "Name them: commonart report --verify card/ SHARDS.")
    counts = dict.fromkeys(MARKS, 0)
    for claim in checks.check(Path(folder), [path for path, _ in data_sets(shards)], run_folder, quiet):
        counts[claim.holds] += 1
        said = f"{claim.what}: {claim.detail}" if claim.detail else claim.what
        print(printable(f"{MARKS[claim.holds]:<14} {said}"), flush=True)
    rest = f", {counts[None]:,} could not be checked" if counts[None] else ""
    print(f"{folder}: {counts[True]:,} claims hold, {counts[False]:,} do not{rest}.", flush=True)
    return not counts[False]


def run_and_shards(paths: Sequence[str]) -> tuple[Path | None, str]:
    """Return (the run among `paths` or None, the folders of shards as `data_sets` takes them or "").

    Raises:
        UsageError: two runs or two sets of shards, or a folder that is neither.
        CommonArtError: a path that does not exist.
    """
    runs, shards = list[Path](), list[str]()
    for text in paths:
        path = Path(text)
        if (path / trace.RUN).is_file():
            runs.append(path)
        elif any(path.glob("*.tar")) or "," in text:
            shards.append(text)
        elif not path.exists():
            raise CommonArtError(f"{text} does not exist.", "Name a run or a folder of shards.")
        else:
            raise UsageError(
                f"{text} is neither a run (run.json) nor a folder of shards (*.tar).", "Name one of those."
            )
    if len(runs) > 1 or len(shards) > 1 or not paths:
        raise UsageError(
            "report takes a run, shards, or one of each.", "For example: commonart report runs/256 shards/ -o card/"
        )
    return (runs[0] if runs else None), (shards[0] if shards else "")
