"""`commonart mia`: does the model give away what it was trained on?"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from commonart.cli import options


def mia(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A run, an exported folder, a name of the registry or a hub id."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A model of the same size that never saw the images: attacks are calibrated by it."
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Works in question (keys, sha256, URLs, authors), instead of the training images."
        ),
    ] = None,
    data: Annotated[str, typer.Option(metavar="FOLDER", help="Shards that the model was trained on.")] = "shards/",
    n: Annotated[int, typer.Option("-n", min=4, help="Maximum number of members, and of held-out images.")] = 500,
    attacks: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Attacks to run: loss, secmi, pia, pfami, clid, sima.")
    ] = "loss,secmi,pia,pfami,clid,sima",
    lang: Annotated[
        str | None,
        typer.Option(
            metavar="LANG", help="Language of the captions that condition the model (default: each record's first)."
        ),
    ] = None,
    times: Annotated[int, typer.Option(min=1, help="Timesteps per image of loss, clid and pfami.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Noise samples per timestep.")] = 1,
    replicate: Annotated[
        int, typer.Option(min=0, help="Images made from training captions to look for copies; 0 for none.")
    ] = 50,
    extract: Annotated[
        int,
        typer.Option(
            min=0, help="Training captions of which 20 images each are made, to look for cliques; 0 for none."
        ),
    ] = 0,
    judge: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="CLIP model, or file of SSCD's weights, that compares images and judges blind."
        ),
    ] = "nano",
    permutations: Annotated[int, typer.Option(min=199, help="Permutations of the labels behind the p-values.")] = 1000,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Try the audit itself on models whose answers are known.")
    ] = False,
    steps: options.Steps = 20,
    guidance: options.Guidance = 4.5,
    batch: options.Batch = 16,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="File for the results; their page for readers, mia.html, lies beside it.",
        ),
    ] = "mia.json",
    figure: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="File for the paper's figure 2: caption, training image, generated image."),
    ] = None,
    text_encoder: options.TextEncoder = None,
    autoencoder: options.Autoencoder = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    accept_terms: options.AcceptTerms = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Test whether a model gives away its training images.

    It is attacked with them and with held-out ones, beside a judge that never saw the model; the verdict is "leaks", "no leak
    found", or "groups differ".

    \b
    commonart mia runs/512 --data shards/ -o mia.json --figure figure2.png
    commonart mia runs/512 --reference commonart-beta --keys authors.txt
    """
    from commonart.core.data.drops import Summary
    from commonart.core.errors import CommonArtError, UsageError
    from commonart.stages import mia as stage

    started = time.monotonic()
    if self_test:
        if model is not None or keys is not None or reference is not None:
            raise UsageError(
                "--self-test makes its own models, and takes no MODEL, --keys or --reference.", "Leave them out."
            )
        told, passed = stage.self_test(seed=seed, quiet=quiet)
        print(told)
        options.finish(Summary("mia", len(passed), sum(passed), seconds=time.monotonic() - started), quiet)
        if not all(passed):
            raise CommonArtError(
                "A control failed.", "Do not rely on audits of this installation; report what it printed."
            )
        return
    if model is None:
        raise UsageError("mia needs a MODEL.", "Name a run, as in `commonart mia runs/512`, or add --self-test.")
    result = stage.run(
        model,
        data,
        out,
        reference=reference,
        keys=keys,
        figure=figure,
        n=n,
        lang=lang,
        attacks=options.split_names(attacks),
        times=times,
        draws=draws,
        replicate=replicate,
        extract=extract,
        judge=judge,
        steps=steps,
        guidance=guidance,
        seed=seed,
        permutations=permutations,
        batch=batch,
        overwrite=overwrite,
        device=device,
        precision=precision,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        accept_terms=accept_terms or (),
        quiet=quiet,
    )
    print(stage.table(result))
    attacked, dropped = result["members"] + result["heldout"], result["dropped"]
    summary = Summary("mia", attacked + sum(dropped.values()), attacked, seconds=time.monotonic() - started)
    summary.dropped.update(dropped)
    options.finish(summary, quiet)
