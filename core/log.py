"""What a stage says on stderr: progress bars on a terminal, one JSON line elsewhere. Never on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import orjson


class Tick(Protocol):
    """Moves a progress bar by `n`."""

    def __call__(self, n: int = 1, /) -> object: ...


class Reportable(Protocol):
    """What a stage returns: the counts that its last line prints."""

    def as_json(self) -> dict[str, Any]:
        """Return the last line of stderr: at least `stage`, `in`, `out`, `dropped` and `seconds`."""


def on_terminal() -> bool:
    """Return whether stderr is watched by a person."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(message: str) -> None:
    """Print one line to stderr."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one warning to stderr; yellow on a terminal unless NO_COLOR is set."""
    color = on_terminal() and not os.environ.get("NO_COLOR")
    say(f"\x1b[33mwarning:\x1b[0m {message}" if color else f"warning: {message}")


@contextmanager
def progress(label: str, *, total: int | None = None, unit: str = " records", quiet: bool = False) -> Iterator[Tick]:
    """Show a progress bar on a terminal; `tick(n=1)` moves it. Elsewhere, or when quiet, it costs nothing."""
    if quiet or not on_terminal():
        yield bool  # which takes a number or none, and does nothing, at half the cost of a function
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit=unit, file=sys.stderr, dynamic_ncols=True, smoothing=0.1) as bar:
        yield bar.update


def summary(values: Reportable, *, quiet: bool = False) -> None:
    """Print what a stage did (a `core.data.drops.Summary`): a table on a terminal, else one JSON object."""
    if not on_terminal():
        say(orjson.dumps(values.as_json()).decode())
    elif not quiet:
        report = values.as_json()
        say(f"{report['stage']}: {report['out']:,} of {report['in']:,} in {report['seconds']:.1f} s")
        for reason, count in report["dropped"].items():
            say(f"  {count:>9,}  {reason}")
        if before := report.get("finished_before"):
            say(f"  {before:>9,}  in shards that were finished before")
        for reason, count in report.get("missing", {}).items():
            say(f"  {count:>9,}  captions missing: {reason}")
