"""Does the model copy? How close generated images come to training images, by the features of a dual encoder.

Images of one subject are alike without any copying, so the training set itself is the baseline: the similarity of each
generated image to its nearest training image is compared with that of each training image to its nearest other one.
What is counted is how many generated images come closer than 95 % of the training images do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.metrics import roc

Floats = NDArray[np.float64]
LEVEL = 0.95  # quantile of the baseline above which a generated image counts


@dataclass(frozen=True, slots=True)
class Replication:
    """Cosine similarities of N generated images to M training images."""

    similarity: Floats  # [N], to the nearest training image
    nearest: NDArray[np.intp]  # [N], the row of that image
    to_source: Floats  # [N], to the training image whose caption was the prompt
    baseline: Floats  # [M], of each training image to the nearest other one

    def report(self, seed: int) -> dict[str, Any]:
        """Return the summary for mia.json; `seed` is that of the bootstrap."""
        limit = float(np.quantile(self.baseline, LEVEL))
        above = (self.similarity > limit).astype(float)
        low, high = roc.bootstrap(above, lambda values: float(values.mean()), seed=seed)
        return {
            "drawn": len(self.similarity),
            "training_pictures": len(self.baseline),
            "similarity": _spread(self.similarity),
            "to_own_picture": _spread(self.to_source),
            "background": _spread(self.baseline),
            "limit": limit,
            "above_background": {"value": float(above.mean()), "low": low, "high": high},
        }


def compare(generated_ND: Floats, training_MD: Floats, source_N: Sequence[int]) -> Replication:
    """Compare unit features; `source_N`: the training row whose caption was the prompt of each generated image."""
    similarity_NM = generated_ND @ training_MD.T
    rows = np.arange(len(generated_ND))
    nearest, to_source = similarity_NM.argmax(axis=1), similarity_NM[rows, np.asarray(source_N)]
    return Replication(similarity_NM[rows, nearest], nearest, to_source, _nearest_other(training_MD))


def _nearest_other(features: Floats, rows: int = 1024) -> Floats:
    """Return each image's similarity to the nearest other one, in parts: the whole matrix may not fit into memory."""
    similarities = []
    for start in range(0, len(features), rows):
        part = features[start : start + rows] @ features.T
        part[np.arange(len(part)), np.arange(start, start + len(part))] = -np.inf
        similarities.append(part.max(axis=1))
    return np.concatenate(similarities)


def _spread(values: Floats) -> dict[str, float]:
    median, p95 = np.quantile(values, [0.5, 0.95])
    return {"mean": float(values.mean()), "p50": float(median), "p95": float(p95), "max": float(values.max())}
