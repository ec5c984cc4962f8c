"""`commonart shard`: decoded safely, upright, sRGB, one size, reproducible."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def shard(
    source: options.Source = None,
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="The folder of shards.")] = "shards/",
    size: Annotated[int, typer.Option(help="Pixels on a side; the centre is kept.")] = 256,
    buckets: Annotated[
        bool,
        typer.Option("--buckets", help="PixArt's 40 sizes from 1:4 to 4:1 of the square's area, whichever cuts least."),
    ] = False,
    min_size: Annotated[
        int | None,
        typer.Option(help="Drop what is smaller on its shorter side (default: what would have to be enlarged)."),
    ] = None,
    format: Annotated[str, typer.Option(help="jpg, png, webp, or auto: png up to 128 pixels, jpg above.")] = "auto",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of jpg and webp.")] = 95,
    resample: Annotated[str, typer.Option(help="lanczos, or area: softer, at two thirds of the time.")] = "lanczos",
    dedup: Annotated[
        bool, typer.Option("--dedup", help="Keep the first of images that look the same, over all shards.")
    ] = False,
    blocklist: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keys, sha256 and URLs to leave out, one a line.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads (default: one per core).")] = None,
    shard_size: options.ShardSize = 1000,
    rejects: options.Rejects = None,
    max_failures: options.MaxFailures = 0.5,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Make training images of one size, in shards.

    Decoded safely, put upright, to sRGB, resized, cropped; the same input gives the same bytes.

    \b
    commonart shard raw/ -o shards/ --size 512 --buckets --dedup
    commonart license-filter raw/ | commonart caption | commonart translate --to ja | commonart shard -o shards/
    """
    from commonart.core.data.tasks import this_task
    from commonart.stages import shard as stage

    summary = stage.run(
        source,
        out,
        size=size,
        buckets=buckets,
        min_size=min_size,
        format=format,
        quality=quality,
        resample=resample,
        dedup=dedup,
        blocklist=blocklist,
        workers=workers,
        shard_size=shard_size,
        rejects=rejects,
        max_failures=max_failures,
        task=this_task(task_index, num_tasks),
        overwrite=overwrite,
        quiet=quiet,
    )
    options.finish(summary, quiet)
