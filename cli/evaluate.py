"""`commonart eval`: FID, CLIP score and prompt following, in English and Japanese."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from commonart.cli import options


def evaluate(
    generated: Annotated[str | None, typer.Argument(metavar="[GENERATED]", help="Pictures that were drawn.")] = None,
    reference: Annotated[
        str | None, typer.Argument(metavar="[REFERENCE]", help="Real pictures; with --model, records to draw from.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw first: anything that sample takes; needs no GENERATED.")
    ] = None,
    langs: Annotated[str, typer.Option(metavar="LANG[,LANG]", help="Languages of the prompts.")] = "en,ja",
    n: Annotated[int | None, typer.Option("-n", min=2, help="At most so many pictures per language.")] = None,
    split: Annotated[str | None, typer.Option(help="Of the reference: train or heldout.")] = None,
    fid: Annotated[str | None, typer.Option(help="Measure FID too: clean or legacy_pytorch.")] = None,
    clip: Annotated[
        str, typer.Option(metavar="NAME", help="Judge of English prompts; clip-vit-b32 is the paper's.")
    ] = "nano",
    clip_ja: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge of Japanese prompts; clip-japanese-base is the paper's.")
    ] = None,
    clip_mode: Annotated[str, typer.Option(help="paper: 100 max(cos, 0); hessel: 2.5 max(cos, 0).")] = "paper",
    scenes: Annotated[int, typer.Option(min=0, help="With --model: so many prompts of unseen scenes, read back.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of DPM++ 2M.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 4.5,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    pictures: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Keep what is drawn; a second call goes on from there.")
    ] = None,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="The scores, with all that they hang on.")
    ] = "eval.json",
    text_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another text encoder of the same width.")
    ] = None,
    autoencoder: Annotated[str | None, typer.Option(metavar="NAME", help="Another autoencoder.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the judge's own code; its commit must be named: NAME@COMMIT."),
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    accept_terms: options.AcceptTerms = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Score pictures, or a model that draws them first. Every score stands with mode, resolution, split, seed and n.

    \b
    commonart eval --model runs/512 coco/ -n 30000 --fid clean --clip clip-vit-b32
    commonart eval --model nano --scenes 1000
    commonart eval pictures/ shards/ --split heldout
    """
    if model is not None and reference is None:
        generated, reference = None, generated  # `eval --model M SOURCE`: the one argument is what to draw from
    from commonart.core.data.drops import Summary
    from commonart.stages import evaluate as stage

    started = time.monotonic()
    result = stage.evaluate(
        generated,
        reference,
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
        steps=steps,
        guidance=guidance,
        batch=batch,
        pictures=pictures,
        out=out,
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
    judged = sum({(score["lang"], score.get("set")): score["n"] for score in result["scores"]}.values())
    done = Summary("eval", read=judged, written=judged, seconds=time.monotonic() - started)
    options.finish(done, quiet)
