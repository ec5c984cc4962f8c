"""`commonart shard`: decoded safely, upright, sRGB, one size, reproducible."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def shard(
    source: options.Source = None,
    out: Annotated[str | None, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the shards.")] = None,
    size: Annotated[
        int, typer.Option(min=1, help="Width and height in pixels; images are cropped to the centre.")
    ] = 256,
    buckets: Annotated[
        bool,
        typer.Option("--buckets", help="Nearest of PixArt's 40 aspect ratios, from 1:4 to 4:1, at the area of --size."),
    ] = False,
    min_size: Annotated[
        int | None,
        typer.Option(min=1, help="Minimum of the shorter side (default: what would have to be enlarged is dropped)."),
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="auto|jpg|png|webp", help="File format; auto is png up to 128 pixels, jpg above.")
    ] = "auto",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of jpg and webp.")] = 95,
    resample: Annotated[
        str, typer.Option(metavar="lanczos|area", help="Resampling filter; area is softer, in two thirds of the time.")
    ] = "lanczos",
    dedup: Annotated[
        bool, typer.Option("--dedup", help="Drop near-duplicates across all shards; the first is kept.")
    ] = False,
    blocklist: options.Blocklist = "",
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

    Images are decoded safely, rotated upright, converted to sRGB, resized and cropped. The same input gives the same bytes.

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
