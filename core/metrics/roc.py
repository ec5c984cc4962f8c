"""Exact ROC curves for membership inference, and bootstrap intervals of the numbers read from them.

A score is **larger for a member** (losses are negated beforehand). Nothing is interpolated or binned: the curve has one
point for each distinct score, and ties move both rates at once. The area is the Mann-Whitney statistic. The TPR at an
FPR limit is that of the best threshold whose FPR does not exceed it, as Carlini et al. report it ("Membership Inference
Attacks From First Principles", arXiv 2112.03570).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FPR_LIMITS = (0.01, 0.001)
LEVEL = 0.95  # share of the resamples inside an interval


@dataclass(frozen=True, slots=True)
class Roc:
    """One point for each threshold, from (0, 0) at +inf to (1, 1); a score >= the threshold means member."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def curve(members: Floats, others: Floats) -> Roc:
    """Compute the exact ROC curve of scores [M] and [N]. Raises ValueError where either is empty or holds a NaN."""
    thresholds, rank = _ranked(members, others)
    return _curve(thresholds, rank, np.ones(len(members)), np.ones(len(others)))


def auc(roc: Roc) -> float:
    """Return the area under the curve: P(member > other) + P(member = other) / 2."""
    return float(np.sum(np.diff(roc.fpr) * (roc.tpr[1:] + roc.tpr[:-1]) / 2))


def best_accuracy(roc: Roc) -> float:
    """Return the best threshold's accuracy for equally frequent members and others: max (TPR + 1 - FPR) / 2."""
    return float(np.max(roc.tpr + 1 - roc.fpr) / 2)


def tpr_at(roc: Roc, limit: float) -> float:
    """Return the largest TPR of a threshold whose FPR is at most `limit`."""
    return float(roc.tpr[np.searchsorted(roc.fpr, limit + 1e-12, side="right") - 1])


def summary(roc: Roc) -> dict[str, float]:
    """Return the four numbers that are reported: `auc`, `accuracy`, `tpr@1%fpr`, `tpr@0.1%fpr`."""
    rates = {f"tpr@{100 * limit:g}%fpr": tpr_at(roc, limit) for limit in FPR_LIMITS}
    return {"auc": auc(roc), "accuracy": best_accuracy(roc), **rates}


def report(members: Floats, others: Floats, *, seed: int, resamples: int = 1000) -> dict[str, Any]:
    """Return every number of `summary` with its percentile bootstrap interval.

    Scores [M] and [N] are resampled with replacement, each within its own group. `smallest_fpr` is 1 / N: the TPR at a
    limit below it is the TPR at no false positive at all.

    Returns:
        {"auc": {"value", "low", "high"}, "accuracy": ..., "tpr@1%fpr": ..., "tpr@0.1%fpr": ...,
        "members", "others", "smallest_fpr", "resamples", "level", "seed"}
    """
    thresholds, rank = _ranked(members, others)
    values = summary(curve(members, others))
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples):
        # Counts of each score instead of resampled scores: the sorted order never changes.
        counts_m = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
        counts_o = np.bincount(rng.integers(len(others), size=len(others)), minlength=len(others))
        for name, value in summary(_curve(thresholds, rank, counts_m, counts_o)).items():
            draws[name].append(value)
    result: dict[str, Any] = {}
    for name, value in values.items():
        low, high = interval(draws[name])
        result[name] = {"value": value, "low": low, "high": high}
    counts = {"members": len(members), "others": len(others), "smallest_fpr": 1 / len(others)}
    return {**result, **counts, "resamples": resamples, "level": LEVEL, "seed": seed}


def bootstrap(
    values: Floats, statistic: Callable[[Floats], float], *, seed: int, resamples: int = 1000
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic of one sample, [N]."""
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    rng = np.random.default_rng(seed)
    return interval([statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(resamples)])


def interval(draws: list[float]) -> tuple[float, float]:
    """Return the interval that holds the central 95 % of the draws."""
    low, high = np.quantile(np.asarray(draws), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _curve(thresholds: Floats, rank: NDArray[np.intp], members: NDArray[Any], others: NDArray[Any]) -> Roc:
    """Compute the curve where score i equals `thresholds[rank[i]]` and counts as often as its group's weights say."""
    size, n = len(thresholds), len(members)
    hits = np.bincount(rank[:n], weights=members, minlength=size)[::-1].cumsum()
    alarms = np.bincount(rank[n:], weights=others, minlength=size)[::-1].cumsum()
    fpr, tpr = np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]]
    return Roc(fpr, tpr, np.r_[np.inf, thresholds[::-1]])


def _ranked(members: Floats, others: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Return the distinct scores, rising, and the index of each score among them."""
    if not len(members) or not len(others):
        raise ValueError("a ROC curve needs at least one member and one non-member")
    scores = np.concatenate([members, others]).astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    return np.unique(scores, return_inverse=True)
