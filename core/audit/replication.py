"""Does the model copy? How close images from training captions come to training images, by the features of an encoder.

Images of one subject are alike without any copying, so the training set itself is the background: the similarity of each
training image to its nearest other one. What counts as a copy comes closer than 95 % of the training images do. Twins
within the training set are no part of the background, or the copies among 5 % of it would hide every other one; an image
that is as close as twins are is always counted.

A caption describes its image, so what follows it well comes close without having seen it (the embedded model passes the
limit with half of the captions of a set that it never saw). The control are images from held-out captions, each compared
with its own held-out image as well: only where those from training captions come closer is "near copies" the verdict.

After "Diffusion Art or Digital Forgery?" (Somepalli et al., arXiv 2212.03860), which takes SSCD's features and 0.5.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from commonart.core.audit import neighbours
from commonart.core.audit.permutation import LEVEL as ALPHA
from commonart.core.generation.outputs import PlannedImage
from commonart.core.generation.prompts import text_of
from commonart.core.generation.request import GenerationConfig
from commonart.core.generation.session import Session
from commonart.core.metrics import features, image_set, roc
from commonart.core.metrics.image_set import ImageRef

if TYPE_CHECKING:
    from PIL import Image

    from commonart.core.metrics.clip_score import DualEncoder

Floats = NDArray[np.float64]
LEVEL = 0.95  # quantile of the background above which a generated image counts
BACKGROUND = 10_000  # training images, at most, whose nearest other one is looked for
COPIES, NOTHING, TOO_FEW = "near copies", "no near copies found", "too few to tell"


@dataclass(frozen=True, slots=True)
class Replication:
    """Cosine similarities of N generated images to M training images."""

    similarity: Floats  # [N], to the nearest training image
    nearest: NDArray[np.intp]  # [N], the row of that image
    to_source: Floats  # [N], to the training image whose caption was the prompt, or to the nearest of its twins
    baseline: Floats  # [B], of training images to the nearest other one that is no twin
    training: int  # M
    twins: int  # how many of the B have a twin
    twin_limit: float  # the similarity from which two training images are twins
    control: Floats | None = None  # [H], of images from held-out captions to the nearest training image or their own

    @property
    def limit(self) -> float:
        """The similarity above which an image counts as a copy."""
        return float(np.quantile(self.baseline, LEVEL))

    def report(self) -> dict[str, Any]:
        """Return the summary for mia.json."""
        above = int((self.similarity > self.limit).sum())
        result: dict[str, Any] = {
            "generated": len(self.similarity),
            "training_images": self.training,
            "similarity": _spread(self.similarity),
            "to_own_image": _spread(self.to_source),
            "background": {**_spread(self.baseline), "images": len(self.baseline), "with_twins": self.twins},
            "twin_limit": self.twin_limit,
            "limit": self.limit,
            "by_chance": 1 - LEVEL,
            "copies": above,
            "above_background": roc.proportion(above, len(self.similarity)),
        }
        if self.control is not None and len(self.control):
            passed = int((self.control > self.limit).sum())
            result |= {
                "control": {
                    "generated": len(self.control), "similarity": _spread(self.control), "copies": passed,
                    "above_background": roc.proportion(passed, len(self.control)),
                },
                **tested((above, len(self.similarity)), (passed, len(self.control)), COPIES, NOTHING),
            }  # fmt: skip
        return result


@dataclass(frozen=True, slots=True)
class Example:
    """A generated image beside the training image that its prompt describes and the nearest one."""

    prompt: str
    source: ImageRef
    generated: Image.Image
    nearest: ImageRef
    to_source: float
    similarity: float


def audit(
    session: Session,
    encoder: DualEncoder,
    sources: Sequence[ImageRef],
    heldout: Sequence[ImageRef],
    train: Sequence[ImageRef],
    config: GenerationConfig,
    *,
    lang: str | None,
    seed: int,
    batch: int,
    cache: Path | None = None,
    quiet: bool = False,
    examples: int = 3,
) -> tuple[dict[str, Any], list[Example]]:
    """Generate an image for the caption of each source and each held-out image, and compare them with the training set.

    Args:
        sources: training images whose captions are the prompts; all of them among `train`.
        heldout: as many images that the model never saw, without twins in `train`.
        train: the whole training set; what of it cannot be read is left out.
        cache: as `features.extract` takes it, for the training set.
        examples: how many of the images that are nearest to their sources come back.

    Returns:
        (`replication` of mia.json, the examples)
    """
    size, shared = session.generator.size, session.settings(config)
    planned = [
        PlannedImage({"prompt": text_of(item.record, lang), "seed": image_set.seed_for(seed, item.name), **shared})
        for item in (*sources, *heldout)
    ]
    generated = [made for _, made in session.generate(planned, config, batch=batch, quiet=quiet) if made is not None]

    by = features.encoder_of(encoder)
    read = features.extract(train, [by], side=size, cache=cache, quiet=quiet)
    base, train = read.rows[by.name], [train[place] for place in read.kept]
    row_of = {item.name: row for row, item in enumerate(train)}
    made = encoder.encode_images(generated).astype(np.float32)
    control = None
    if heldout:
        own = encoder.encode_images(image_set.open_square(item, size) for item in heldout).astype(np.float32)
        control = made[len(sources) :], own
    found = compare(made[: len(sources)], base, [row_of[item.name] for item in sources], control, seed=seed)
    report = {"judge": encoder.name, "judge_revision": encoder.revision, **found.report()}
    report |= {"steps": config.steps, "guidance": config.guidance, "seed": seed}
    shown = [
        Example(
            planned[i].settings["prompt"], sources[i], generated[i], train[found.nearest[i]],
            float(found.to_source[i]), float(found.similarity[i]),
        )
        for i in np.argsort(-found.to_source)[:examples]
    ]  # fmt: skip
    return report, shown


def compare(
    generated_ND: NDArray[Any],
    training_MD: NDArray[Any],
    source_N: Sequence[int],
    control: tuple[NDArray[Any], NDArray[Any]] | None = None,
    *,
    seed: int = 0,
) -> Replication:
    """Compare unit features.

    Args:
        source_N: the training row whose caption was the prompt of each generated image.
        control: images generated from held-out captions and the held-out images themselves, [H, D] each.
        seed: of the choice of training images for the background, where there are more than 10,000.
    """
    rows = np.arange(len(training_MD))
    if len(rows) > BACKGROUND:
        rows = np.sort(np.random.default_rng(seed).choice(rows, BACKGROUND, replace=False))
    part = training_MD[rows]
    closest, _ = neighbours.nearest(part, training_MD, rows)
    limit = neighbours.twin_limit(closest)
    baseline, _ = neighbours.nearest(part, training_MD, rows, below=limit)
    similarity, nearest = neighbours.nearest(generated_ND, training_MD)
    own = training_MD[np.asarray(source_N)]
    to_source = np.array(
        [
            (training_MD[training_MD @ source >= min(limit, float(source @ source) - 1e-6)] @ image).max()
            for source, image in zip(own, generated_ND, strict=True)
        ]
    )
    return Replication(
        similarity, nearest, to_source.astype(np.float64), baseline[np.isfinite(baseline)], len(training_MD),
        int((closest >= limit).sum()), limit,
        None if control is None else _control(*control, training_MD),
    )  # fmt: skip


def _control(generated_HD: NDArray[Any], own_HD: NDArray[Any], training_MD: NDArray[Any]) -> Floats:
    result: Floats = np.maximum(neighbours.nearest(generated_HD, training_MD)[0], (generated_HD * own_HD).sum(axis=1))
    return result


def tested(inside: tuple[int, int], outside: tuple[int, int], found: str, nothing: str) -> dict[str, Any]:
    """Is the share (count, of) larger inside than outside, by Fisher's exact test?

    Returns:
        {"p_value", "verdict", "smallest_share_found"}: the verdict is "too few to tell" where not even all against none would
        be a finding; the share inside from which on it would be one, with this share outside, is None where none would.
    """

    def p(count: int) -> float:
        counts = [[count, inside[1] - count], [outside[0], outside[1] - outside[0]]]
        return float(stats.fisher_exact(counts, alternative="greater").pvalue)

    least = bisect.bisect_left(range(inside[1] + 1), True, key=lambda count: p(count) < ALPHA)
    smallest = 1 / math.comb(inside[1] + outside[1], inside[1])
    return {
        "p_value": p(inside[0]),
        "verdict": found if p(inside[0]) < ALPHA else nothing if smallest < ALPHA else TOO_FEW,
        "smallest_share_found": least / inside[1] if least <= inside[1] else None,
    }


def _spread(values: Floats) -> dict[str, float]:
    median, p95 = np.quantile(values, [0.5, 0.95])
    return {"mean": float(values.mean()), "p50": float(median), "p95": float(p95), "max": float(values.max())}
