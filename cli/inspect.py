"""`commonart inspect`: what an image's marks say."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Image file.")],
    log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Log of sample --log: is the image in it? Exits with 1 where not."),
    ] = None,
) -> None:
    """Print what an image's marks say.

    Whether a model made it, its settings, who signed it, whether a watermark is in its pixels, and what that proves.

    \b
    commonart inspect out.png
    commonart inspect --log made.jsonl found-on-the-web.jpg
    """
    import json

    from commonart.core.data.text import printable_json
    from commonart.stages import inspect as stage

    marks = stage.inspect(file, log)
    print(printable_json(json.dumps(marks, indent=2, ensure_ascii=False)))
    if log is not None and marks["log"]["how"] == "none":
        raise typer.Exit(1)
