"""`commonart caption`: synthetic captions from vision-language models."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def caption(
    source: options.Source = None,
    out: options.Out = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Captioners, see commonart models (default: florence2)."),
    ] = None,
    lang: Annotated[
        str, typer.Option(metavar="LANG[,LANG]", help="Languages, as en,ja (default: each model's first).")
    ] = "",
    length: Annotated[
        str, typer.Option(metavar="LENGTH[,LENGTH]", help="short, long or both (default: each model's usual one).")
    ] = "",
    side: Annotated[
        int, typer.Option(min=16, help="Pixels of an image's longer side; larger ones are shown at this size.")
    ] = 768,
    min_captions: Annotated[
        int, typer.Option(min=0, help="Synthetic captions that a record needs; others are dropped.")
    ] = 1,
    min_words: Annotated[int, typer.Option(min=0, help="Words that a caption needs; shorter ones are not kept.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens after which a caption counts as cut off (default: 256).")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=2.0,
            callback=options.finite,
            help="Randomness of the wording, as 0.7; 0 is the model's likeliest caption.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the wording, with --temperature.")] = 0,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images per batch (default: what fits in memory); requests in flight to an endpoint."),
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the hours that the whole SOURCE takes, from a sample.")
    ] = False,
    calibrate: Annotated[int, typer.Option(min=1, metavar="N", help="Images to time with --dry-run.")] = 64,
    quiet: options.Quiet = False,
) -> None:
    """Write captions, one by each model that is named.

    Existing captions are kept. Only a folder (-o captioned/) keeps the work of a run that was killed.

    \b
    commonart caption --model florence2 shards/ | commonart translate --to ja
    commonart caption --model florence2,qwen2-vl raw/ -o captioned/
    commonart caption --model qwen3-vl --lang en,ja --length short,long raw/ -o captioned/
    commonart caption --model qwen2-vl --gpus 8 raw/ -o captioned/
    commonart caption --model qwen3-vl --endpoint http://localhost:8000 raw/ -o captioned/
    commonart caption --model qwen3-vl raw/ --dry-run --calibrate 200
    """
    import time
    from functools import partial

    import orjson

    from commonart.core import launch, log
    from commonart.core.data import local_tasks, stream, tasks
    from commonart.core.data.shards.chunks import check_exists
    from commonart.core.errors import UsageError
    from commonart.core.model.captioning.requests import Tally, open_requests, settings
    from commonart.stages import caption as stage

    started = time.monotonic()
    launch.stop_with_starter()
    options.check_gpus(gpus, endpoint)
    check_exists(source or "-")  # before a model is loaded
    requests = open_requests(
        options.split_list(model or ["florence2"]),
        langs=options.split_list([lang]) if lang else (),
        lengths=options.split_list([length]) if length else (),
        accept_terms=accept_terms or (),
        endpoint=options.endpoint(endpoint, endpoint_model, endpoint_key_file, batch),
        allow_pickle=allow_pickle,
        device=device,
        precision=precision,
        quantize=quantize,
        max_new_tokens=max_new_tokens,
        side=side,
        temperature=temperature,
        seed=seed,
    )
    if endpoint:
        batch = int(requests[0].engine.largest_batch)
    if dry_run:
        if source is None:
            raise UsageError("--dry-run needs a SOURCE.", "Give a folder of shards, a .tar or a .jsonl.")
        planned = stage.estimate(
            source,
            requests,
            calibrate,
            tasks=(num_tasks or 1) * (gpus or 1),
            batch=batch,
            min_captions=min_captions,
            min_words=min_words,
        )
        print(orjson.dumps(planned, option=orjson.OPT_INDENT_2).decode())
        return
    tally, task = Tally(), tasks.this_task(task_index, num_tasks)
    done = options.share(gpus, task, device, source, out)
    for told in done or ():
        tally.merge(told)
    child = local_tasks.is_started()
    summary = stream.run(
        "caption",
        partial(
            stage.caption, requests=requests, batch=batch, tally=tally, min_captions=min_captions, min_words=min_words
        ),
        source=source,
        out=out,
        rejects=None if child else rejects,
        max_failures=1.0 if child else max_failures,  # of all of them together
        shard_size=shard_size,
        settings=settings(requests, min_captions=min_captions, min_words=min_words),
        task=local_tasks.own_task(task),
        overwrite=overwrite and done is None,
        quiet=quiet or child,
        extra=tally.as_json,
        exclusive=True,
        started=started if done else None,
    )
    if launch.report({**tally.counts(), "finished_before": summary.finished_before}):
        return
    if done is not None:
        summary.finished_before = sum(told["finished_before"] for told in done)
    options.finish(summary, quiet)
    if log.on_terminal() and not quiet:
        for line in tally.lines():
            log.say(line)
