"""The options that several subcommands share, and the parsers of their values.

A command imports its stage in its body, so that `--help` loads neither torch nor data. Numbers are checked before any work
begins: every numeric option has a range here or in its command, and `finite` where it is a float.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonart.core.errors import UsageError

if TYPE_CHECKING:
    from commonart.core.data.tasks import Task
    from commonart.core.log import Reportable
    from commonart.core.model.captioning.endpoint import EndpointOptions
    from commonart.core.output.metadata import MarkOptions

MAX_SEED = 2**32 - 1


def finite(value: float | None) -> float | None:
    """Return a float option's value. Raises typer.BadParameter for NaN and infinity, which pass typer's own range check."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


Source = Annotated[
    str | None,
    typer.Argument(metavar="[SOURCE]", help="Folder of shards, .tar, .jsonl[.gz|.zst], or - for stdin (the default)."),
]
Shards = Annotated[str, typer.Argument(metavar="SHARDS", help="Folder of shards.")]
Out = Annotated[
    str | None,
    typer.Option(
        "-o", "--out", metavar="OUT", help="Folder for shards, .jsonl, or - for JSONL on stdout (the default)."
    ),
]
Rejects = Annotated[str | None, typer.Option(metavar="FILE", help="A .jsonl for dropped records and their reasons.")]
MaxFailures = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, callback=finite, help="Share of failed records above which the exit code is 3."),
]
ShardSize = Annotated[int, typer.Option(min=1, help="Records per shard, when SOURCE is JSONL.")]
TaskIndex = Annotated[
    int | None, typer.Option(min=0, help="Index of this task; it takes every --num-tasks-th shard (default: Slurm's).")
]
NumTasks = Annotated[int | None, typer.Option(min=1, help="Number of tasks that share the shards (default: Slurm's).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Blocklist = Annotated[
    str, typer.Option(metavar="FILE", help="Keys, sha256 hashes, URLs and authors to leave out, one per line.")
]
SkipUnlicensed = Annotated[
    bool,
    typer.Option("--skip-unlicensed", help="Leave out what may not be trained on, instead of refusing the data."),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar and no table.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")]
Steps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
Guidance = Annotated[
    float, typer.Option(min=0.0, callback=finite, help="Scale of classifier-free guidance; 1 turns it off.")
]
Interval = Annotated[
    str, typer.Option(metavar="LOW,HIGH", help="Noise levels at which to guide; other steps cost half.")
]
TextEncoder = Annotated[
    str | None, typer.Option(metavar="NAME", help="Text encoder of the same width, in place of the model's own.")
]
Autoencoder = Annotated[str | None, typer.Option(metavar="NAME", help="Autoencoder in place of the model's own.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Device: auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(metavar="auto|bf16|fp16|fp32", help="Precision of the weights.")]
TrainingPrecision = Annotated[
    str,
    typer.Option(metavar="auto|bf16|fp8|fp32", help="Precision of the matrix products; fp8: of those in the blocks."),
]
Quantize = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="8-bit text encoder: quanto-int8 (the paper's), bnb-int8 or torchao-int8."),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Convert weights published only as .bin, without running their code.")
]
AcceptTerms = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A refused model whose terms you take responsibility for (repeatable)."),
]
Model = Annotated[str, typer.Option(metavar="NAME", help="Name of the registry, run, exported folder or hub id.")]
QuantizeToFit = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="Text encoder: quanto-int8, bnb-nf4 or none (default: what fits in memory)."),
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Maximum tokens per prompt; longer ones are truncated.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the transformer: minutes once, then faster images.")]
Gpus = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Processes of this machine that share the shards, one for each GPU (on CPU: core)."
    ),
]
Endpoint = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL", help="An OpenAI-compatible server that runs the model (repeatable), with or without /v1."
    ),
]
EndpointModel = Annotated[
    str | None, typer.Option(metavar="NAME", help="What the servers call the model (default: its hub id or name).")
]
EndpointKeyFile = Annotated[str | None, typer.Option(metavar="FILE", help="File with the bearer token of --endpoint.")]
AllowPrivate = Annotated[bool, typer.Option("--allow-private", help="Allow downloads from private addresses.")]
Batch = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Format = Annotated[str, typer.Option("--format", metavar="png|jpg|webp", help="File format of images in a folder.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="No prompt and settings in the file.")]
Unmarked = Annotated[
    bool,
    typer.Option(
        "--unmarked", help="No mark of synthetic media: none in the file, no watermark, no C2PA but by --sign."
    ),
]
NoC2pa = Annotated[bool, typer.Option("--no-c2pa", help="No C2PA signature by this installation's own key.")]
NoWatermark = Annotated[bool, typer.Option("--no-watermark", help="No watermark in images of 256 pixels and more.")]
Log = Annotated[
    str | None, typer.Option(metavar="FILE", help="Log of hashes to add every image to, for inspect --log.")
]
Sign = Annotated[
    str | None, typer.Option(metavar="CHAIN,KEY", help="Certificate chain and key (PEM files) for a C2PA signature.")
]


def marks(
    no_metadata: bool, unmarked: bool, sign: str | None, no_c2pa: bool, no_watermark: bool, log: str | None
) -> MarkOptions:
    """Put the options of an image's marks together. Raises UsageError where `--no-c2pa` and `--sign` contradict."""
    from commonart.core.output.metadata import MarkOptions

    if no_c2pa and sign:
        raise UsageError("--no-c2pa and --sign contradict each other.", "Leave one of them out.")
    return MarkOptions(
        settings=not no_metadata, synthetic=not unmarked, sign=parse_two("--sign", sign, "CHAIN.pem,KEY.pem") if sign else None,
        c2pa=not no_c2pa, watermark=not no_watermark, log=log,
    )  # fmt: skip


def split_list(values: Sequence[str]) -> list[str]:
    """`["a, b", "c"]` -> [`a`, `b`, `c`]; an empty name stays, to be complained about."""
    return [name.strip() for value in values for name in value.split(",")]


def split_names(text: str) -> list[str]:
    """`a,b` -> [`a`, `b`]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_pairs(flag: str, values: Sequence[str] | None) -> dict[str, str]:
    """`["a=1", "b=2"]` -> `{"a": "1", "b": "2"}`."""
    pairs = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"{flag} {text} is not of the form NAME=VALUE.", "Write it without spaces: NAME=VALUE.")
        pairs[name.strip()] = value.strip()
    return pairs


def parse_number(flag: str, text: str) -> float:
    """`"0.5"` -> 0.5."""
    try:
        finite(number := float(text))
        return number
    except (ValueError, typer.BadParameter):
        raise UsageError(f"{flag}: '{text}' is not a finite number.", "Write it as 0.5 or 2.") from None


def parse_two(flag: str, text: str, example: str) -> tuple[str, str]:
    """`a,b` -> (`a`, `b`)."""
    names = split_names(text)
    if len(names) != 2:
        raise UsageError(f"{flag} {text} is not two values separated by a comma.", f"For example {flag} {example}.")
    return names[0], names[1]


def parse_interval(flag: str, text: str) -> tuple[float, float]:
    """`0.2,0.8` -> (0.2, 0.8)."""
    low, high = parse_two(flag, text, "0.2,0.8")
    return parse_number(flag, low), parse_number(flag, high)


def endpoint(
    urls: Sequence[str] | None, model: str | None, key_file: str | None, in_flight: int | None
) -> EndpointOptions | None:
    """Put the options of an endpoint together; None where there is none. Raises UsageError where it alone is missing."""
    if urls:
        from commonart.core.model.captioning.endpoint import EndpointOptions

        return EndpointOptions(urls, model, key_file, in_flight or 32)
    if model or key_file:
        flag = "--endpoint-model" if model else "--endpoint-key-file"
        raise UsageError(f"{flag} needs --endpoint.", "Add --endpoint URL.")
    return None


def check_gpus(gpus: int | None, endpoint: Sequence[str] | None) -> None:
    """Raise UsageError where `--gpus` cannot be meant."""
    from commonart.core.data import local_tasks

    if gpus is not None and endpoint:
        raise UsageError("--gpus does not go with --endpoint, whose server has the GPUs.", "Leave one of them out.")
    if gpus is not None and "WORLD_SIZE" in os.environ and not local_tasks.is_started():
        raise UsageError(
            f"--gpus {gpus} starts its processes itself, without torchrun.", "Leave torchrun out, or use srun."
        )


def share(gpus: int | None, task: Task, device: str, source: str | None, out: str | None) -> list[Any] | None:
    """Have the work done by `--gpus` processes; what each reported. None where it is to be done by this one.

    Raises:
        UsageError: the machine has fewer devices, or source or output are such that they cannot be shared.
        CommonArtError: as `local_tasks.run`.
    """
    from commonart.core import launch
    from commonart.core.data import local_tasks

    if not launch.must_spawn(gpus):
        return None
    from commonart.core.model.device import check_count

    count = gpus or 1
    local_tasks.check(count, source, out)
    check_count(count, device)
    return local_tasks.run(local_tasks.command_line(), count, out or "", task)


def stdin_is_piped() -> bool:
    """Return whether stdin is something other than a terminal."""
    return sys.stdin is not None and not sys.stdin.isatty()


def finish(summary: Reportable, quiet: bool = False) -> None:
    """Report what a stage did on stderr: a table on a terminal, one JSON line elsewhere."""
    from commonart.core import log

    log.summary(summary, quiet=quiet)
