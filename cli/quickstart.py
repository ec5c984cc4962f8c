"""`commonart quickstart`: the whole chain on the embedded models."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def quickstart(
    context: typer.Context,
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for all results.")] = "quickstart",
    scenes: Annotated[int, typer.Option(min=200, help="Number of images to fetch.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1.0, callback=options.finite, help="Seconds of training.")] = 180.0,
    seed: options.Seed = 0,
) -> None:
    """Run every stage once on the embedded models.

    From pictures with licences to a trained model, its scores and its audit.

    Needs no network and no GPU: scenes are generated, and the models are the embedded nano ones. Each command is
    printed as it runs. The same command again goes on where it was interrupted.

    \b
    commonart quickstart
    """
    from commonart.stages import quickstart as stage

    stage.run(context.obj, out, scenes=scenes, seconds=seconds, seed=seed)
