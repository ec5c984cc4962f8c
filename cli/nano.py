"""`commonart nano`: the embedded models, built again from nothing and measured."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options

nano = typer.Typer(
    help="Build the embedded models again, or measure them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@nano.command()
def build(
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the models.")],
    only: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Models to build; the others are read from FOLDER.")
    ] = "",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train all eight nano models on generated scenes.

    About six hours; it uses one core.

    \b
    commonart nano build -o weights/
    commonart nano build -o weights/ --only captioner
    """
    import orjson

    from commonart.stages import nano as stage

    summary = stage.build(out, only=options.split_names(only), seed=seed, quiet=quiet)
    print(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())


@nano.command()
def measure(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder of the models (default: the embedded ones).")
    ] = "",
    n: Annotated[int, typer.Option("-n", min=1, help="Number of unseen scenes.")] = 1000,
    only: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="Models to measure (default: all).")] = "",
    seed: options.Seed = 1,
) -> None:
    """Measure the nano models on unseen scenes.

    \b
    commonart nano measure -n 1000
    """
    import orjson

    from commonart.stages import nano as stage

    table = stage.measure(folder, n=n, only=options.split_names(only), seed=seed)
    print(orjson.dumps(table, option=orjson.OPT_INDENT_2).decode())
