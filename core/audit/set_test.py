"""Was this *set* of images in the training set? One answer for all of them together, which a single image cannot give.

After CDI (arXiv 2411.12858): the attacks' scores are combined by a model that is fitted on other images, and the set's
scores are compared with those of images that the model cannot have seen, by Welch's t. CDI splits once and trusts the
t distribution; here the scores are cross-fitted, so that every image counts, and the p-value comes from dealing the labels
anew, with the whole fit in each: it is uniform where nothing is to be found (tests/audit/test_permutation.py simulates it).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.audit.permutation import LEVEL, Labels

Floats = NDArray[np.float64]
FEWEST = 70  # images on each side: CDI's smallest set


def report(combined: Floats, labels: Labels) -> dict[str, Any] | None:
    """Test the set, the first rows, against the others; None with fewer than 70 images on a side.

    Args:
        combined: cross-fitted scores of the attacks, [N, B], each column fitted for its column of labels.
        labels: as `permutation.deal` gives them.

    Returns:
        {"t", "p_value", "confidence", "members", "others", "in_training_set"}
    """
    members = int(labels[:, 0].sum())
    others = len(labels) - members
    if min(members, others) < FEWEST:
        return None
    t = welch(combined, labels)
    p = float((t >= t[0] - 1e-12).mean())
    return {
        "t": float(t[0]), "p_value": p, "confidence": 1 - p, "members": members, "others": others,
        "in_training_set": p < LEVEL,
    }  # fmt: skip


def welch(scores: Floats, labels: Labels) -> Floats:
    """Return Welch's t of members against others, for each column of scores and labels [N, B]."""
    m = labels.sum(axis=0)
    n = len(labels) - m
    means = [(scores * side).sum(axis=0) / count for side, count in ((labels, m), (~labels, n))]
    spread = [
        (np.square(scores - mean) * side).sum(axis=0) / (count - 1) / count
        for side, count, mean in ((labels, m, means[0]), (~labels, n, means[1]))
    ]
    result: Floats = (means[0] - means[1]) / np.sqrt(np.maximum(spread[0] + spread[1], 1e-300))
    return result
