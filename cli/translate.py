"""`commonart translate`: captions in another language."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def translate(
    source: options.Source = None,
    out: options.Out = None,
    to: Annotated[
        str, typer.Option(metavar="LANG", help="Target language: ja, en, or another that the model knows.")
    ] = "ja",
    model: Annotated[str, typer.Option(metavar="NAME", help="Translator (see commonart models).")] = "phi3-medium",
    batch: Annotated[
        int,
        typer.Option(min=1, help="Texts per batch, halved when memory runs out; requests in flight to an endpoint."),
    ] = 32,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens after which a translation counts as cut off (default: 512).")
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    quantize: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Weights in quanto-int8, bnb-int8, torchao-int8 or bnb-nf4.")
    ] = None,
    endpoint: options.Endpoint = None,
    endpoint_model: options.EndpointModel = None,
    endpoint_key_file: options.EndpointKeyFile = None,
    accept_terms: options.AcceptTerms = None,
    allow_pickle: options.AllowPickle = False,
    rejects: options.Rejects = None,
    max_failures: options.MaxFailures = 0.5,
    shard_size: options.ShardSize = 1000,
    gpus: options.Gpus = None,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Translate captions; the originals stay.

    A translation that is no good is missing from its record, and counted. Only a folder (-o translated/) keeps the work
    of a run that was killed.

    \b
    commonart caption --model florence2 shards/ | commonart translate --to ja
    commonart translate --to ja --model cat-translate captioned/ -o translated/
    """
    import time
    from collections import Counter
    from functools import partial

    from commonart.core import launch, log
    from commonart.core.data import local_tasks, stream, tasks
    from commonart.core.data.shards.chunks import check_exists
    from commonart.stages import translate as stage

    started = time.monotonic()
    launch.stop_with_starter()
    options.check_gpus(gpus, endpoint)
    check_exists(source or "-")  # before a model is loaded
    translator = stage.open_model(
        model,
        to,
        accept_terms=accept_terms or (),
        endpoint=options.endpoint(endpoint, endpoint_model, endpoint_key_file, batch),
        allow_pickle=allow_pickle,
        device=device,
        precision=precision,
        quantize=quantize,
        max_new_tokens=max_new_tokens,
    )
    if endpoint:
        batch *= 4 * len(endpoint)  # enough at once to keep the servers busy
    task = tasks.this_task(task_index, num_tasks)
    done = options.share(gpus, task, device, source, out)
    seen = Counter[str]()
    child = local_tasks.is_started()
    summary = stream.run(
        "translate",
        partial(stage.translate, model=translator, to=to, batch=batch, seen=seen),
        source=source,
        out=out,
        rejects=None if child else rejects,
        max_failures=1.0 if child else max_failures,  # of all of them together
        shard_size=shard_size,
        settings=stage.settings(translator, to),
        task=local_tasks.own_task(task),
        overwrite=overwrite and done is None,
        quiet=quiet or child,
        started=started if done else None,
    )
    if launch.report({**seen, "finished_before": summary.finished_before}):
        return
    if done is not None:
        for told in done:
            seen.update(told)
        summary.finished_before = seen["finished_before"]
    if seen["records"] and not seen["captions"]:
        log.warn(f"translate: none of the {seen['records']:,} records has a caption; they are passed on as they came.")
    options.finish(summary, quiet)
