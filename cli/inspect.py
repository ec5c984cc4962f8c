"""`commonart inspect`: what an image's marks say."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(file: Annotated[str, typer.Argument(metavar="FILE", help="PNG, JPEG or WebP file.")]) -> None:
    """Print what an image's marks say.

    Whether a model made it, its settings, and who signed it.

    \b
    commonart inspect out.png
    """
    import json

    from commonart.stages import inspect as stage

    text = json.dumps(stage.inspect(file), indent=2, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode())  # whatever stands in the image
