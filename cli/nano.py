"""`commonart nano`: the embedded models, built again from nothing and measured."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options

app = typer.Typer(
    help="Build the embedded models again, or measure them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("build")
def build(
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Where the models go.")],
    only: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Build these; the others are taken from FOLDER.")
    ] = "",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train all six nano models on generated scenes.

    About two hours on two cores.

    \b
    commonart nano build -o weights/
    commonart nano build -o weights/ --only captioner
    """
    import orjson

    from commonart.stages import nano as stage

    done = stage.build(out, only=options.split_names(only), seed=seed, quiet=quiet)
    print(orjson.dumps(done, option=orjson.OPT_INDENT_2).decode())


@app.command("measure")
def measure(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Models to measure (default: the shipped ones).")
    ] = "",
    n: Annotated[int, typer.Option("-n", min=1, help="Unseen scenes to measure on.")] = 1000,
    only: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="Measure only these.")] = "",
    seed: options.Seed = 1,
) -> None:
    """Measure the nano models on unseen scenes.

    \b
    commonart nano measure -n 1000
    """
    import orjson

    from commonart.stages import nano as stage

    found = stage.measure(folder, n=n, only=options.split_names(only), seed=seed)
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
