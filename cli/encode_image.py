"""`commonart encode-image`: images to latents, once instead of at every step."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def encode_image(
    source: options.Shards,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the features (default: SHARDS/image)."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Autoencoder (see commonart models).")] = "sdxl-vae",
    store: Annotated[str, typer.Option(metavar="fp16|bf16|fp32", help="Stored precision.")] = "fp16",
    batch: options.Batch = 16,
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
    from commonart.core.data.tasks import this_task
    from commonart.stages import encode_image as stage

    summary = stage.encode_image(
        source,
        out,
        model=model,
        store=store,
        batch=batch,
        device=device,
        precision=precision,
        accept_terms=accept_terms or (),
        allow_pickle=allow_pickle,
        rejects=rejects,
        max_failures=max_failures,
        task=this_task(task_index, num_tasks),
        overwrite=overwrite,
        quiet=quiet,
    )
    options.finish(summary, quiet)
