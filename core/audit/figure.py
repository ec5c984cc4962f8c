"""The paper's figure 2: training image, image generated from its caption, nearest training image."""

from __future__ import annotations

from collections.abc import Sequence

from commonart.core.audit.replication import Example
from commonart.core.metrics import image_set
from commonart.core.output import c2pa, watermark
from commonart.core.output.contact_sheet import write_sheet

HEADS = ("training image", "generated", "nearest training image")


def write(path: str, examples: Sequence[Example], size: int, *, overwrite: bool) -> None:
    """Write the figure, one row for each example, with images of `size` pixels.

    What was generated is marked as `commonart sample` marks it. Raises as `metadata.save` does.
    """
    panels, labels = [], []
    for example in examples:
        panels += [
            image_set.open_square(example.source, size),
            watermark.embed(example.generated),
            image_set.open_square(example.nearest, size),
        ]
        similarities = (f"similarity {value:.2f}" for value in (example.to_source, example.similarity))
        labels += [example.prompt, *similarities]
    settings = {"captions": [example.prompt for example in examples]}
    write_sheet(
        path, panels, labels, columns=3, heads=HEADS, settings=settings, overwrite=overwrite, finish=c2pa.sign_own
    )
