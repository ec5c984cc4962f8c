"""Can training images be extracted? Many seeds for one caption: a model that has memorised it makes one image again and again.

After "Extracting Training Data from Diffusion Models" (Carlini et al., USENIX Security 2023, arXiv 2301.13188): two images are
near-identical where the largest distance among corresponding tiles is small, so that a like background does not hide another
subject; a clique of near-identical images from different seeds betrays a memorised one without the training set at hand;
and it is extracted where the training image is as near. The same captions' worth of held-out images is the control: a model
that paints everything alike makes cliques of those too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from commonart.core.audit.replication import tested
from commonart.core.generation.outputs import PlannedImage
from commonart.core.generation.prompts import text_of
from commonart.core.generation.request import GenerationConfig
from commonart.core.generation.session import Session
from commonart.core.metrics import image_set, roc
from commonart.core.metrics.image_set import ImageRef

Floats = NDArray[np.float64]
TILES, PIXELS = 4, 64  # tiles along a side; images are compared at this size
NEAR = 0.15  # root mean square of the difference, values in 0..1: the paper's delta
EXTRACTED, NOTHING = "extracted", "nothing extracted"
NAMED = "extracted, rate uncertain"
EXAMPLES, SHOWN = 3, 2  # extracted images that come back to be shown, and images of each one's clique


@dataclass(frozen=True, slots=True)
class Extracted:
    """A training image that was extracted, and images of its clique."""

    source: ImageRef
    generated: tuple[Image.Image, ...]
    prompt: str
    distance: float


def audit(
    session: Session,
    members: Sequence[ImageRef],
    heldout: Sequence[ImageRef],
    config: GenerationConfig,
    *,
    seeds: int,
    clique: int,
    lang: str | None,
    seed: int,
    batch: int,
    quiet: bool = False,
) -> tuple[dict[str, Any], list[Extracted]]:
    """Generate `seeds` images for the caption of each item and look for cliques.

    Args:
        clique: how many of the images of one caption must be near-identical.

    Returns:
        (`extraction` of mia.json, the first images that were extracted)
    """
    size, shared = session.generator.size, session.settings(config)
    items = [*members, *heldout]
    planned = [
        PlannedImage(
            {"prompt": text_of(item.record, lang), "seed": image_set.seed_for(seed, f"{item.name} {j}"), **shared}
        )
        for item in items
        for j in range(seeds)
    ]
    made = (image for _, image in session.generate(planned, config, batch=batch, quiet=quiet) if image is not None)
    rows, shown = list[dict[str, Any]](), list[Extracted]()
    for number, item in enumerate(items):
        drawn = list(islice(made, seeds))
        images = np.stack([shrink(image) for image in drawn])
        found = largest_clique(images, clique)
        source = shrink(image_set.open_square(item, size))
        nearest = float(distances(np.stack([source, np.median(images[found], axis=0)]))[0, 1]) if found else None
        rows.append({
            "key": item.name, "prompt": text_of(item.record, lang), "clique": len(found), "distance": nearest,
            "extracted": nearest is not None and nearest <= NEAR,
        })  # fmt: skip
        if nearest is not None and nearest <= NEAR and number < len(members) and len(shown) < EXAMPLES:
            clique_images = tuple(drawn[row] for row in found[:SHOWN])
            shown.append(Extracted(item, clique_images, rows[-1]["prompt"], nearest))
    inside, outside = rows[: len(members)], rows[len(members) :]
    counts = [sum(row["extracted"] for row in group) for group in (inside, outside)]
    report = {
        "seeds": seeds,
        "clique": clique,
        "near": NEAR,
        "captions": len(inside),
        "heldout_captions": len(outside),
        "with_clique": roc.proportion(sum(row["clique"] > 0 for row in inside), len(inside)),
        "heldout_with_clique": roc.proportion(sum(row["clique"] > 0 for row in outside), len(outside)),
        "extracted": roc.proportion(counts[0], len(inside)),
        "heldout_extracted": roc.proportion(counts[1], len(outside)),
        **concluded((counts[0], len(inside)), (counts[1], len(outside))),
        "images": [row for row in inside if row["extracted"]],
        "steps": config.steps,
        "guidance": config.guidance,
    }
    return report, shown


def concluded(inside: tuple[int, int], outside: tuple[int, int]) -> dict[str, Any]:
    """Return what `tested` says of extracted images (count, of): one that came back is a fact, however uncertain the rate.

    Where held-out captions bring theirs back as well, the model paints what any caption says, and no fact is claimed.
    """
    result = tested(inside, outside, EXTRACTED, NOTHING)
    if result["verdict"] != EXTRACTED and inside[0] and not outside[0]:
        result["verdict"] = NAMED
    return result


def shrink(image: Image.Image) -> Floats:
    """Return an image at the size at which images are compared, [64, 64, 3] in 0..1."""
    return np.asarray(image.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX), dtype=np.float64) / 255


def distances(images: Floats) -> Floats:
    """Return the distance [N, N] between images [N, 64, 64, 3]: the largest root mean square difference of a tile."""
    n, side = len(images), PIXELS // TILES
    tiles = images.reshape(n, TILES, side, TILES, side, 3).swapaxes(2, 3).reshape(n, TILES * TILES, -1)
    squares = np.square(tiles).sum(-1)
    products = np.einsum("ite,jte->ijt", tiles, tiles, optimize=True)
    result: Floats = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * products, 0).max(-1) / tiles.shape[-1])
    return result


def largest_clique(images: Floats, least: int) -> list[int]:
    """Return the rows of a clique of near-identical images, the largest of a complete-linkage clustering.

    In such a cluster every two are near each other. There may be a larger clique, which takes an age to look for. [] where
    none has `least` images.
    """
    apart = distances(images)
    np.fill_diagonal(apart, 0)
    cluster = fcluster(linkage(squareform(apart, checks=False), "complete"), NEAR, "distance")
    largest = np.bincount(cluster).argmax()
    rows: list[int] = np.flatnonzero(cluster == largest).tolist()
    return rows if len(rows) >= least else []
