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
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model that generates the images to score, in place of GENERATED."),
    ] = None,
    langs: Annotated[str, typer.Option(metavar="LANG[,LANG]", help="Languages of the prompts.")] = "en,ja",
    n: Annotated[int | None, typer.Option("-n", min=2, help="Maximum number of images per language.")] = None,
    split: Annotated[str | None, typer.Option(metavar="train|heldout", help="Split of the reference.")] = None,
    fid: Annotated[
        str | None, typer.Option(metavar="clean|legacy_pytorch", help="Mode of FID (default: no FID).")
    ] = None,
    clip: Annotated[
        str, typer.Option(metavar="NAME", help="CLIP model for English prompts; clip-vit-b32 is the paper's.")
    ] = "nano",
    clip_ja: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="CLIP model for Japanese prompts; clip-japanese-base is the paper's."),
    ] = None,
    clip_mode: Annotated[
        str,
        typer.Option(metavar="paper|hessel", help="Formula of the CLIP score: 100 max(cos, 0), or 2.5 max(cos, 0)."),
    ] = "paper",
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
    steps: options.Steps = 20,
    guidance: options.Guidance = 4.5,
    batch: options.Batch = 16,
    pictures: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder that keeps the images of --model; a second call continues from there."
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option("-o", "--out", metavar="FILE", help="File for the scores and the settings that they depend on."),
    ] = "eval.json",
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
    commonart eval --model runs/512 coco/ -n 30000 --fid clean --clip clip-vit-b32
    commonart eval --model nano --scenes 1000
    commonart eval --model runs/512 --templated 200 --judge qwen3-vl-8b
    commonart eval pictures/ shards/ --split heldout
    """
    if model is not None and reference is None:
        generated, reference = None, generated  # `eval --model M SOURCE`: the one argument is the reference
    from commonart.core.data.drops import Summary
    from commonart.stages import evaluate as stage

    started = time.monotonic()
    result = stage.run(
        generated,
        reference,
        out,
        model=model,
        langs=options.split_names(langs),
        n=n,
        split=split,
        seed=seed,
        fid=fid,
        clip=clip,
        clip_ja=clip_ja,
        clip_mode=clip_mode,
        scenes=scenes,
        templated=templated,
        judge=judge,
        endpoint=options.endpoint(endpoint, None, None, None),
        steps=steps,
        guidance=guidance,
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
    print(stage.table(result))
    images = sum({(score["lang"], score.get("set")): score["n"] for score in result["scores"]}.values())
    summary = Summary("eval", images, images, seconds=time.monotonic() - started)
    options.finish(summary, quiet)
