"""The options that several subcommands share, spelled once."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

Source = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]", help="A folder of shards, a .tar, a .jsonl[.gz|.zst], or - for stdin (the default)."
    ),
]
Shards = Annotated[str, typer.Argument(metavar="SHARDS", help="A folder of shards.")]
Out = Annotated[
    str | None,
    typer.Option(
        "-o", "--out", metavar="OUT", help="A folder (shards), a .jsonl, or - for JSONL on stdout (the default)."
    ),
]
Rejects = Annotated[
    str | None, typer.Option(metavar="FILE", help="Keep what was dropped in this .jsonl, each with its reason.")
]
MaxFailures = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Exit 3 when more than this share of the records failed.")
]
ShardSize = Annotated[int, typer.Option(min=1, help="Records of a JSONL source that become one shard.")]
TaskIndex = Annotated[
    int | None, typer.Option(help="Do the shards whose number is this modulo --num-tasks (default: from Slurm).")
]
NumTasks = Annotated[int | None, typer.Option(min=1, help="How many tasks share the shards (default: from Slurm).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make again what is there already.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar and no table.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.")]
Quantize = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="Text encoder in 8 bits: quanto-int8 (the paper's), bnb-int8, torchao-int8."),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Convert weights that are published only as .bin, without running them.")
]
AcceptTerms = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="You answer for the terms of this model, which is refused otherwise."),
]


def stage_settings(given: dict[str, Any]) -> dict[str, Any]:
    """A command's own `locals()` as its stage takes them: the two task options as one `task`, no list as an empty one."""
    from commonart.core.data.tasks import this_task

    task = this_task(given.pop("task_index"), given.pop("num_tasks"))
    return {**given, "accept_terms": given["accept_terms"] or (), "task": task}


def split_names(text: str) -> list[str]:
    """`a,b` -> [`a`, `b`]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def pairs(flag: str, given: list[str] | None) -> dict[str, str]:
    """`["a=1", "b=2"]` -> `{"a": "1", "b": "2"}`."""
    from commonart.core.errors import UsageError

    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"{flag} {text} is no NAME=VALUE.", "Write it with an equals sign and no spaces.")
        found[name.strip()] = value.strip()
    return found


def number(flag: str, text: str) -> float:
    """The number that `text` says."""
    from commonart.core.errors import UsageError

    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is no number.", "Write it as 0.5 or 2.") from None


def two(flag: str, text: str) -> tuple[str, str]:
    """`a,b` -> (`a`, `b`)."""
    from commonart.core.errors import UsageError

    found = split_names(text)
    if len(found) != 2:
        raise UsageError(f"{flag} {text} is not two things with a comma between them.", "For example a,b.")
    return found[0], found[1]


def share(flag: str, text: str) -> tuple[float, float]:
    """`0.2,0.8` -> (0.2, 0.8)."""
    low, high = two(flag, text)
    return number(flag, low), number(flag, high)


def piped() -> bool:
    """Whether something other than a terminal feeds stdin."""
    return sys.stdin is not None and not sys.stdin.isatty()


def finish(summary: Any, quiet: bool = False) -> None:
    """Say what a stage did, on stderr: a table on a terminal, one JSON line elsewhere."""
    from commonart.core import log

    log.summary(summary, quiet=quiet)


# --- what `sample` and `serve` share -------------------------------------------------------------------------------

Model = Annotated[
    str, typer.Option(metavar="NAME", help="A model's name, a run's folder, an exported folder, or a hub id.")
]
TextEncoder = Annotated[str | None, typer.Option(metavar="NAME", help="Another text encoder of the same width.")]
Autoencoder = Annotated[str | None, typer.Option(metavar="NAME", help="Another autoencoder.")]
QuantizeToFit = Annotated[
    str | None,
    typer.Option(help="Text encoder in quanto-int8, bnb-nf4 or none (default: what fits into memory)."),
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest prompt; a longer one is cut, with a warning.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the transformer: minutes once, then faster images.")]
Batch = Annotated[int, typer.Option(min=1, help="Images generated together; it changes no image.")]
Ending = Annotated[str, typer.Option("--format", help="png, jpg or webp, for images in a folder.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="No prompt and settings in the file.")]
Unmarked = Annotated[bool, typer.Option("--unmarked", help="No synthetic-media mark in the file.")]
Sign = Annotated[
    str | None, typer.Option(metavar="CHAIN,KEY", help="PEM files of a certificate chain and its key, to sign by C2PA.")
]
