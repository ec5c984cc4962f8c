"""`commonart license-filter`: keep what a licence policy allows, and say why the rest went."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def license_filter(
    source: options.Source = None,
    out: options.Out = None,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="strict, paper, or a TOML file.")] = "strict",
    rejects: options.Rejects = None,
    shard_size: options.ShardSize = 1000,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Normalise every licence and keep what the policy allows.

    strict: CC0, PDDL and CC BY (any version, ported ones too). paper: strict, the Public Domain Mark, Flickr's "no
    known restrictions" and US Government Work. A licence that is unknown is never allowed.

    \b
    commonart license-filter raw/ -o kept.jsonl
    commonart fetch captions.json --list | commonart license-filter --rejects refused.jsonl > kept.jsonl
    """
    from commonart.core.data.tasks import this_task
    from commonart.stages import license_filter as stage

    summary = stage.run(
        source,
        out,
        policy=policy,
        rejects=rejects,
        shard_size=shard_size,
        task=this_task(task_index, num_tasks),
        overwrite=overwrite,
        quiet=quiet,
    )
    options.finish(summary, quiet)
