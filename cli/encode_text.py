"""`commonart encode-text`: captions to hidden states, once instead of at every step."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def encode_text(
    source: options.Shards,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the features (default: SHARDS/text)."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Causal language model or T5 (see commonart models).")
    ] = "calm2-7b",
    quantize: options.Quantize = None,
    store: Annotated[
        str, typer.Option(metavar="bf16|fp16|int8", help="Stored precision; int8 has one scale per token.")
    ] = "bf16",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens per caption; longer ones are truncated and counted.")
    ] = 300,
    layer: Annotated[int, typer.Option(max=-1, help="Hidden state to store, counted from the last, which is -1.")] = -1,
    batch: Annotated[int, typer.Option(min=1, help="Captions per batch.")] = 32,
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
    """Encode captions: last hidden states of their true length.

    \b
    commonart encode-text shards/ --model calm2-7b --store int8
    srun -n 8 commonart encode-text shards/ --model calm2-7b
    """
    from commonart.core.data.tasks import this_task
    from commonart.stages import encode_text as stage

    summary = stage.encode_text(
        source,
        out,
        model=model,
        quantize=quantize,
        store=store,
        max_tokens=max_tokens,
        layer=layer,
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
