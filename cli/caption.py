"""`commonart caption`: synthetic captions from vision-language models."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def caption(
    source: options.Source = None,
    out: options.Out = None,
    model: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="Captioners (see commonart models).")] = "florence2",
    batch: Annotated[int, typer.Option(min=1, help="Images per batch; halved when memory runs out.")] = 8,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    accept_terms: options.AcceptTerms = None,
    allow_pickle: options.AllowPickle = False,
    rejects: options.Rejects = None,
    max_failures: options.MaxFailures = 0.5,
    shard_size: options.ShardSize = 1000,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Write captions, one by each model that is named.

    Existing captions are kept.

    \b
    commonart caption --model florence2 shards/ | commonart translate --to ja
    commonart caption --model florence2,qwen2-vl raw/ -o captioned/
    """
    from functools import partial

    from commonart.core.data import stream, tasks
    from commonart.stages import caption as stage

    models = stage.open_models(
        model, accept_terms=accept_terms or (), allow_pickle=allow_pickle, device=device, precision=precision
    )
    summary = stream.run(
        "caption",
        partial(stage.caption, models=models, batch=batch),
        source=source,
        out=out,
        rejects=rejects,
        max_failures=max_failures,
        shard_size=shard_size,
        settings={"models": [[m.name, m.revision] for m in models]},
        task=tasks.this_task(task_index, num_tasks),
        overwrite=overwrite,
        quiet=quiet,
    )
    options.finish(summary, quiet)
