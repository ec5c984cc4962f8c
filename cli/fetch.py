"""`commonart fetch`: images and their licences, from a source to shards."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def fetch(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A name of --list-sources, hf:OWNER/NAME, scenes, a folder of images, tables or tars, a COCO .json, "
            "a .csv/.tsv/.jsonl/.parquet of images, or - for records on stdin (the default).",
        ),
    ] = None,
    out: options.Out = None,
    list_only: Annotated[bool, typer.Option("--list", help="Records only, without pixels.")] = False,
    list_sources: Annotated[
        bool, typer.Option("--list-sources", help="Table of the sources by name, and of what each policy allows.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of records.")] = None,
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Folder of the image files that a list names.")
    ] = None,
    license: Annotated[
        str,
        typer.Option(
            metavar="LICENCE",
            help="Licence of images that come without one, or card for that of the data set's card; your own responsibility.",
        ),
    ] = "",
    lang: Annotated[str, typer.Option(metavar="LANG", help="Language of the source's captions.")] = "en",
    column_map: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Column of a table that holds a field (repeatable)."),
    ] = None,
    flickr_key_file: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="File with a key to Flickr's API, which is asked for each photo's own licence."
        ),
    ] = "",
    size: Annotated[int, typer.Option(min=8, help="Width and height of scenes, in pixels.")] = 64,
    seed: options.Seed = 0,
    bare: Annotated[bool, typer.Option("--bare", help="Scenes without captions.")] = False,
    allow_private: options.AllowPrivate = False,
    ignore_opt_outs: Annotated[
        bool, typer.Option("--ignore-opt-outs", help="Keep images that opt out of use; the opt-out is recorded.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Concurrent downloads.")] = 64,
    per_host: Annotated[int, typer.Option(min=1, help="Concurrent downloads per host.")] = 16,
    delay: Annotated[
        float, typer.Option(min=0.0, callback=options.finite, help="Seconds between requests to one host.")
    ] = 0.0,
    shard_size: options.ShardSize = 1000,
    rejects: options.Rejects = None,
    max_failures: options.MaxFailures = 0.5,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring images in: original bytes, one record each.

    \b
    commonart fetch scenes --limit 1000 -o raw/
    commonart fetch photos/ --license CC-BY-4.0 -o raw/
    commonart fetch commoncatalog-cc-by --list | commonart license-filter | commonart fetch - -o raw/
    """
    if list_sources:
        from commonart.core.data.sources.named import source_table

        print(*source_table(), sep="\n")
        return
    from commonart.core.data.download.limits import Limits
    from commonart.core.data.tasks import this_task
    from commonart.stages import fetch as stage

    summary = stage.run(
        source,
        out,
        list_only=list_only,
        limit=limit,
        seed=seed,
        size=size,
        captions=not bare,
        images=images,
        license=license,
        lang=lang,
        column_map=options.parse_pairs("--column-map", column_map) or None,
        flickr_key_file=flickr_key_file,
        limits=Limits(
            workers=workers, per_host=per_host, delay=delay, allow_private=allow_private, opt_outs=not ignore_opt_outs
        ),
        shard_size=shard_size,
        rejects=rejects,
        max_failures=max_failures,
        task=this_task(task_index, num_tasks),
        overwrite=overwrite,
        quiet=quiet,
    )
    options.finish(summary, quiet)
