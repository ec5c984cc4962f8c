"""What an image says about itself: whether a model made it, its settings, and who signed it."""

from __future__ import annotations

import os
from typing import Any

from commonart.core.output import c2pa, metadata


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return {"image", "synthetic", "digital_source_type", "settings"} of an image, and "c2pa" if it is signed.

    Raises as `metadata.read` does.
    """
    marks = metadata.read(path)
    about = {"synthetic": marks.synthetic, "digital_source_type": marks.digital_source_type, "settings": marks.settings}
    signed = c2pa.read(path)
    return {"image": str(path), **about, **({"c2pa": signed} if signed else {})}
