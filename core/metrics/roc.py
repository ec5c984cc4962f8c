"""Exact ROC curves for membership inference, and bootstrap intervals for what is read from them.

    commonart mia runs/512 --data shards/

A score is a number that is **larger for a member** (a loss is negated before it comes here). Nothing is interpolated
or binned: the curve has one point for each distinct score, and ties move both rates at once. The area is the
Mann-Whitney statistic. The TPR at a limit on the FPR is that of the best threshold whose FPR does not pass the limit,
as Carlini et al. report it ("Membership Inference Attacks From First Principles", arXiv 2112.03570).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FPR_LIMITS = (0.01, 0.001)


@dataclass(frozen=True, slots=True)
class Roc:
    """One point for each threshold, from (0, 0) at +inf to (1, 1): score >= threshold says member."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def curve(members: Floats, others: Floats) -> Roc:
    """The exact ROC curve.

    Args:
        members: scores of the members, [M].
        others: scores of the non-members, [N].

    Raises:
        ValueError: one of them is empty or holds a NaN.
    """
    members, others = _checked(members), _checked(others)
    thresholds, place = np.unique(np.concatenate([members, others]), return_inverse=True)
    return _curve(thresholds, place, np.ones(len(members)), np.ones(len(others)))


def auc(roc: Roc) -> float:
    """The area under the curve: P(member > other) + P(member = other) / 2."""
    return float(np.sum(np.diff(roc.fpr) * (roc.tpr[1:] + roc.tpr[:-1]) / 2))


def best_accuracy(roc: Roc) -> float:
    """The best threshold's accuracy when members and others are equally frequent: max (TPR + 1 - FPR) / 2."""
    return float(np.max(roc.tpr + 1 - roc.fpr) / 2)


def tpr_at(roc: Roc, limit: float) -> float:
    """The largest TPR of a threshold whose FPR is at most `limit`."""
    return float(roc.tpr[np.searchsorted(roc.fpr, limit + 1e-12, side="right") - 1])


def summary(roc: Roc) -> dict[str, float]:
    """The four numbers that are reported: `auc`, `accuracy`, `tpr@1%fpr`, `tpr@0.1%fpr`."""
    return {
        "auc": auc(roc),
        "accuracy": best_accuracy(roc),
        **{f"tpr@{100 * limit:g}%fpr": tpr_at(roc, limit) for limit in FPR_LIMITS},
    }


def report(members: Floats, others: Floats, *, seed: int, resamples: int = 1000, level: float = 0.95) -> dict[str, Any]:
    """Every number of `summary` with its percentile bootstrap interval.

    Members and others are drawn anew with replacement, each within its own group. `smallest_fpr` is 1 / N:
    a TPR at a limit below it is the TPR at no false positive at all, however many more images would bring.

    Args:
        members, others: scores, [M] and [N].
        seed: of the bootstrap.
        resamples: how often it draws.
        level: part of the draws that the interval holds.

    Returns:
        {"auc": {"value", "low", "high"}, "accuracy": ..., "tpr@1%fpr": ..., "tpr@0.1%fpr": ...,
        "members", "others", "smallest_fpr", "resamples", "level", "seed"}
    """
    members, others = _checked(members), _checked(others)
    thresholds, place = np.unique(np.concatenate([members, others]), return_inverse=True)
    values = summary(curve(members, others))
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples):
        # How often each score was drawn, instead of the drawn scores: the sorted order never changes.
        counts_m = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
        counts_o = np.bincount(rng.integers(len(others), size=len(others)), minlength=len(others))
        for name, value in summary(_curve(thresholds, place, counts_m, counts_o)).items():
            draws[name].append(value)
    result: dict[str, Any] = {
        name: {"value": value, **dict(zip(("low", "high"), interval(draws[name], level), strict=True))}
        for name, value in values.items()
    }
    return result | {
        "members": len(members),
        "others": len(others),
        "smallest_fpr": 1 / len(others),
        "resamples": resamples,
        "level": level,
        "seed": seed,
    }


def bootstrap(
    values: Floats,
    statistic: Callable[[Floats], float],
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of one sample, [N]."""
    values = _checked(values)
    rng = np.random.default_rng(seed)
    return interval([statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(resamples)], level)


def interval(draws: list[float], level: float = 0.95) -> tuple[float, float]:
    """The central `level` of the draws."""
    low, high = np.quantile(np.asarray(draws), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _curve(thresholds: Floats, place: NDArray[np.intp], members: NDArray[Any], others: NDArray[Any]) -> Roc:
    """The curve where score i stands at `thresholds[place[i]]` and counts as often as its group says."""
    size, n = len(thresholds), len(members)
    hits = np.bincount(place[:n], weights=members, minlength=size)[::-1].cumsum()
    alarms = np.bincount(place[n:], weights=others, minlength=size)[::-1].cumsum()
    zero = np.zeros(1)
    return Roc(
        fpr=np.concatenate([zero, alarms / alarms[-1]]),
        tpr=np.concatenate([zero, hits / hits[-1]]),
        thresholds=np.concatenate([[np.inf], thresholds[::-1]]),
    )


def _checked(scores: Floats) -> Floats:
    scores = np.asarray(scores, dtype=np.float64).ravel()
    if not len(scores):
        raise ValueError("a ROC curve needs at least one member and one non-member")
    if np.isnan(scores).any():
        raise ValueError("a score is no number (NaN)")
    return scores
