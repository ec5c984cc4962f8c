"""Does the model copy? How near drawn pictures come to training pictures, by the features of a dual encoder.

    commonart mia runs/512 --data shards/ --replicate 50 --figure mia.png

A similarity means something only beside the training set's own: pictures of one subject are alike without any
copying. So each drawn picture's nearest training picture stands against each training picture's nearest other
one, and what is counted is how many come nearer than 95 % of those do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.log import say
from commonart.core.metrics import roc
from commonart.core.output import metadata

if TYPE_CHECKING:
    from PIL import Image

Floats = NDArray[np.float64]
LEVEL = 0.95  # quantile of the background above which a drawn picture counts


@dataclass(frozen=True, slots=True)
class Replication:
    """Cosine similarities of N drawn pictures to M training pictures.

    Attributes:
        similarity: [N], to the nearest training picture.
        nearest: [N], which one that is.
        own: [N], to the training picture whose caption was drawn.
        background: [M], of each training picture to the nearest other one.
    """

    similarity: Floats
    nearest: NDArray[np.intp]
    own: Floats
    background: Floats

    def report(self, seed: int) -> dict[str, Any]:
        """What mia.json says of it; `seed` draws the bootstrap."""
        limit = float(np.quantile(self.background, LEVEL))
        above = (self.similarity > limit).astype(float)
        low, high = roc.bootstrap(above, lambda values: float(values.mean()), seed=seed)
        return {
            "drawn": len(self.similarity),
            "training_pictures": len(self.background),
            "similarity": _spread(self.similarity),
            "to_own_picture": _spread(self.own),
            "background": _spread(self.background),
            "limit": limit,
            "above_background": {"value": float(above.mean()), "low": low, "high": high},
        }


def compare(drawn_ND: Floats, training_MD: Floats, own_N: Sequence[int]) -> Replication:
    """Compare unit features of drawn and of training pictures; `own_N` is the row of each drawn one's own picture."""
    similarity_NM = drawn_ND @ training_MD.T
    rows = np.arange(len(drawn_ND))
    nearest = similarity_NM.argmax(axis=1)
    return Replication(
        similarity=similarity_NM[rows, nearest],
        nearest=nearest,
        own=similarity_NM[rows, np.asarray(own_N)],
        background=_nearest_other(training_MD),
    )


def _nearest_other(features: Floats, rows: int = 1024) -> Floats:
    """Each picture's similarity to the nearest other one, some rows at a time: all of them would fill the memory."""
    found = []
    for start in range(0, len(features), rows):
        part = features[start : start + rows] @ features.T
        part[np.arange(len(part)), np.arange(start, start + len(part))] = -np.inf
        found.append(part.max(axis=1))
    return np.concatenate(found)


def _spread(values: Floats) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "p50": float(np.quantile(values, 0.5)),
        "p95": float(np.quantile(values, 0.95)),
        "max": float(values.max()),
    }


def write_figure(
    path: str,
    rows: Sequence[tuple[str, Image.Image, Image.Image, float, Image.Image, float]],
    *,
    overwrite: bool = False,
) -> None:
    """A contact sheet as the paper's figure 2.

    Args:
        rows: caption, its training picture, drawn picture, how alike these are, nearest training picture, how alike
            it and the drawn one are.
    """
    from commonart.core.output.contact_sheet import contact_sheet

    images: list[Image.Image] = []
    labels: list[str] = []
    for caption, training, drawn, alike, nearest, nearer in rows:
        images += [training, drawn, nearest]
        labels += [caption, f"similarity {alike:.2f}", f"similarity {nearer:.2f}"]
    sheet = contact_sheet(images, labels, columns=3, heads=("training picture", "drawn", "nearest training picture"))
    for number, caption in sheet.legend.items():
        say(f"  [{number}] {caption}")
    settings = {"captions": [row[0] for row in rows]}
    metadata.save(sheet.image, path, settings=settings, overwrite=overwrite)
