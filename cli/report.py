"""`commonart report`: the card of a run or of shards, from their manifests alone."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] [SHARDS]", help="A run, a folder of shards, or both where the shards have moved."
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the card.")] = "card/",
    evaluation: Annotated[
        str | None, typer.Option("--eval", metavar="FILE", help="Scores of the model (default: eval.json in the run).")
    ] = None,
    audit: Annotated[
        str | None, typer.Option("--mia", metavar="FILE", help="Audit of the model (default: mia.json in the run).")
    ] = None,
    evidence: Annotated[bool, typer.Option("--evidence", help="A folder evidence/, for a certifier.")] = False,
    verify: Annotated[
        str | None, typer.Option(metavar="CARD", help="Card to check against SHARDS and, where given, RUN.")
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model card with every work, licence and model that took part.

    From manifests alone: nothing is written by hand. On another machine --verify counts works, licences and captions again
    in SHARDS, and compares every file of the card. What shards cannot confirm (policy, curves, cost, scores, audit) it
    holds against RUN, and without RUN says "not checked". Exits with 1 where a claim does not hold.

    \b
    commonart report runs/512 -o card/
    commonart report shards/ -o card/
    commonart report --verify card/ shards/
    """
    from commonart.core.errors import UsageError
    from commonart.stages import report as stage

    if verify is not None:
        given = {"--eval": evaluation, "--mia": audit, "--evidence": evidence, "--overwrite": overwrite}
        if several := [name for name, value in given.items() if value]:
            raise UsageError(f"--verify and {several[0]} do not go together.", "--verify writes nothing: leave it out.")
        if not stage.verify(verify, paths, quiet=quiet):
            raise typer.Exit(1)
        return
    summary = stage.run(
        paths, out, evaluation=evaluation, audit=audit, certify=evidence, overwrite=overwrite, quiet=quiet
    )
    options.finish(summary, quiet)
