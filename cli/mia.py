"""`commonart mia`: does the model give away what it was trained on?"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from commonart.cli import options


def mia(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Anything that sample takes: a run, a folder, a name.")],
    data: Annotated[str, typer.Option(metavar="FOLDER", help="The shards that it was trained on.")] = "shards/",
    n: Annotated[int, typer.Option("-n", min=4, help="At most so many members, and so many held-out pictures.")] = 500,
    attacks: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Of loss, secmi, pia, clid.")
    ] = "loss,secmi,pia,clid",
    lang: Annotated[str | None, typer.Option(help="Whose captions condition the model (default: the first).")] = None,
    times: Annotated[int, typer.Option(min=1, help="Timesteps of loss and clid.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Noises at each timestep.")] = 1,
    replicate: Annotated[int, typer.Option(min=0, help="Pictures drawn from training captions; 0: none.")] = 50,
    judge: Annotated[str, typer.Option(metavar="NAME", help="Whose features say how alike pictures are.")] = "nano",
    resamples: Annotated[int, typer.Option(min=10, help="Of the bootstrap intervals.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Steps of DPM++ 2M, of replication.")] = 20,
    guidance: Annotated[float, typer.Option(help="Of replication.")] = 4.5,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="The result, with its intervals.")
    ] = "mia.json",
    figure: Annotated[
        str | None, typer.Option(metavar="FILE", help="The paper's figure 2: caption, training picture, drawn picture.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another text encoder of the same width.")
    ] = None,
    autoencoder: Annotated[str | None, typer.Option(metavar="NAME", help="Another autoencoder.")] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    accept_terms: options.AcceptTerms = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Test whether a model gives away its training pictures.

    It is attacked with them and with held-out ones; every number comes with its interval.

    \b
    commonart mia runs/512 --data shards/ -o mia.json --figure figure2.png
    """
    from collections import Counter

    from commonart.core.data.drops import Summary
    from commonart.stages import mia as stage

    started = time.monotonic()
    result = stage.mia(
        model,
        data,
        n=n,
        lang=lang,
        attacks=options.split_names(attacks),
        times=times,
        draws=draws,
        replicate=replicate,
        judge=judge,
        steps=steps,
        guidance=guidance,
        seed=seed,
        resamples=resamples,
        batch=batch,
        out=out,
        figure=figure,
        overwrite=overwrite,
        device=device,
        precision=precision,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        accept_terms=accept_terms or (),
        quiet=quiet,
    )
    print(stage.table(result))
    attacked, twice = result["members"] + result["heldout"], result["heldout_dropped_as_members"]
    done = Summary("mia", read=attacked + twice, written=attacked, seconds=time.monotonic() - started)
    done.dropped = Counter({"heldout_is_member": twice} if twice else {})
    options.finish(done, quiet)
