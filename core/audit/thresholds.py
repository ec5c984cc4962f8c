"""Does a threshold carry over? It is fixed on one half of the images, and its rates are measured on the other.

A threshold that is set to an FPR of 1 % on the images at hand had one of 10.5 % on new ones in a published audit, so the
rates that are read from the curve of one sample are no statement about the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.metrics import roc

Floats = NDArray[np.float64]
LIMITS = (0.1, 0.01, 0.001)
SPLITS = 200


def carried_over(members: Floats, others: Floats, *, seed: int, splits: int = SPLITS) -> dict[str, Any]:
    """Split both groups in halves many times: {"10%": {"tpr": {"mean", "low", "high"}, "fpr": ...}, ...}.

    `low` and `high` hold 95 % of the splits, which share images: they say how much depends on the split, and are no
    confidence interval. A limit that half of the others does not carry is None.
    """
    rng = np.random.default_rng(seed)
    rates: dict[float, list[tuple[float, float]]] = {limit: [] for limit in LIMITS}
    for _ in range(splits):
        apart = rng.permutation(others)
        fixed, rest = apart[: len(others) // 2], apart[len(others) // 2 :]
        tested = rng.permutation(members)[len(members) // 2 :]
        for limit, found in rates.items():
            threshold = roc.carried_threshold(fixed, limit) if len(fixed) else None
            if threshold is not None:
                found.append((float((tested > threshold).mean()), float((rest > threshold).mean())))
    result: dict[str, Any] = {"splits": splits}
    for limit, found in rates.items():
        tpr, fpr = zip(*found, strict=True) if found else ((), ())
        result[f"{100 * limit:g}%"] = {"tpr": _spread(tpr), "fpr": _spread(fpr)} if found else None
    return result


def _spread(values: tuple[float, ...]) -> dict[str, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}
