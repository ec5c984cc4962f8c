"""`commonart eval`: FID, CLIP score and prompt following, in English and Japanese."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from commonart.cli import options


def evaluate(
    generated: Annotated[
        str | None, typer.Argument(metavar="[GENERATED]", help="Images to score: a folder of files or of shards.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[REFERENCE]", help="Real images; with --model, records whose captions are the prompts."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="paper|coco2014-val-256", help="Published way of measuring, which sets the options left out."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]", help="Models that generate the images to score, in place of GENERATED."),
    ] = None,
    langs: Annotated[
        str | None, typer.Option(metavar="LANG[,LANG]", help="Languages of the prompts (default: en,ja).")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=2, help="Maximum number of images per language.")] = None,
    split: Annotated[str | None, typer.Option(metavar="train|heldout", help="Split of the reference.")] = None,
    fid: Annotated[
        str | None, typer.Option(metavar="clean|legacy_pytorch|none", help="Mode of FID (default: no FID).")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="CLIP model for English prompts; clip-vit-b32 is the paper's (default: nano)."
        ),
    ] = None,
    clip_ja: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="CLIP model for Japanese prompts; clip-japanese-base is the paper's."),
    ] = None,
    clip_mode: Annotated[
        str | None,
        typer.Option(
            metavar="paper|hessel", help="Formula of the CLIP score: 100 max(cos, 0) (default), or 2.5 max(cos, 0)."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]", help="Further distances to the reference: kid, cmmd, precision-recall."),
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=0, help="Prompts of unseen scenes, scored by reading the images back; needs --model.")
    ] = 0,
    templated: Annotated[
        int, typer.Option(min=0, help="Templated prompts per language, scored by questions to --judge; needs --model.")
    ] = 0,
    judge: Annotated[
        str, typer.Option(metavar="NAME", help="Model that answers questions about images; nano reads scenes.")
    ] = "nano",
    endpoint: options.Endpoint = None,
    endpoint_model: options.EndpointModel = None,
    endpoint_key_file: options.EndpointKeyFile = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps (default: 20, or those of the pipeline's own class).")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0.0, callback=options.finite, help="Guidance (default: 4.5, or that of the pipeline's own class)."
        ),
    ] = None,
    interval: options.Interval = "0,1",
    batch: options.Batch = 16,
    pictures: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that keeps the images of --model; a second call continues from there "
            "(default: eval-pictures/MODEL beside -o).",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option("-o", "--out", metavar="FILE", help="File for the scores and the settings that they depend on."),
    ] = "eval.json",
    format: Annotated[
        str, typer.Option("--format", metavar="text|markdown|latex", help="Form of a protocol's table on stdout.")
    ] = "text",
    max_failures: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, callback=options.finite, help="Share of unreadable images above which the exit code is 3."
        ),
    ] = 0.01,
    text_encoder: options.TextEncoder = None,
    autoencoder: options.Autoencoder = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the CLIP model's own code; name its commit: NAME@COMMIT.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    accept_terms: options.AcceptTerms = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Score images, or a model that generates them first.

    Every score is reported with its mode, resolution, split, seed and number of images.

    \b
    commonart eval --protocol paper --model commonart-beta,sd2.1-base,japanese-stable-diffusion,common-canvas-s-c coco/,stair/
    commonart eval --model runs/512 coco/ -n 30000 --fid clean --clip clip-vit-b32
    commonart eval --model nano --scenes 1000
    commonart eval --model runs/512 --templated 200 --judge qwen3-vl-8b
    commonart eval pictures/ shards/ --split heldout
    """
    if model is not None and reference is None:
        generated, reference = None, generated  # `eval --model M SOURCE`: the one argument is the reference
    from collections import Counter

    from commonart.core.data.drops import Summary
    from commonart.core.errors import CommonArtError, UsageError
    from commonart.core.metrics.paper_table import FORMATS
    from commonart.stages import evaluate as stage

    if format not in FORMATS:
        raise UsageError(f"--format {format} is not a form.", f"Choose one of {', '.join(FORMATS)}.")
    if format != "text" and protocol is None:
        raise UsageError(f"--format {format} is of a protocol's table.", "Add --protocol paper, or leave it out.")
    started = time.monotonic()
    result = stage.run(
        generated,
        reference,
        out,
        protocol=protocol,
        model=model,
        langs=options.split_names(langs) if langs else None,
        n=n,
        split=split,
        seed=seed,
        fid=fid,
        clip=clip,
        clip_ja=clip_ja,
        clip_mode=clip_mode,
        metrics=options.split_names(metrics) if metrics else (),
        scenes=scenes,
        templated=templated,
        judge=judge,
        endpoint=options.endpoint(endpoint, endpoint_model, endpoint_key_file, None),
        steps=steps,
        guidance=guidance,
        interval=options.parse_interval("--interval", interval),
        batch=batch,
        pictures=pictures,
        overwrite=overwrite,
        device=device,
        precision=precision,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        accept_terms=accept_terms or (),
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    print(stage.table(result, format))
    scored = {(score["model"], score["lang"], score.get("set")): score["n"] for score in result["scores"]}
    lost = len(result["left_out"])
    counts = Counter({"unreadable": lost} if lost else {})
    images = sum(scored.values())
    summary = Summary("eval", images + lost, images, counts, lost, seconds=time.monotonic() - started)
    try:
        stage.check_failures(result, max_failures)
    except CommonArtError as error:
        error.summary = summary
        raise
    options.finish(summary, quiet)
