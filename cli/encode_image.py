"""`commonart encode-image`: images to latents, once instead of at every step."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def encode_image(
    source: options.Shards,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Where to write (default: SHARDS/image).")] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="An autoencoder; see commonart models.")] = "sdxl-vae",
    store: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    accept_terms: options.AcceptTerms = None,
    allow_pickle: options.AllowPickle = False,
    rejects: options.Rejects = None,
    max_failures: options.MaxFailures = 0.5,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode images: mean and deviation of their latents.

    \b
    commonart encode-image shards/ --model sdxl-vae
    """
    given = options.stage_settings(locals())
    from commonart.stages.encode_image import encode_image as stage

    options.finish(stage(**given), quiet)
