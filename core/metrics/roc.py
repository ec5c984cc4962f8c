"""Exact ROC curves for membership inference, and intervals that cover the truth, for the numbers read from them.

A score is **larger for a member** (losses are negated beforehand). Nothing is interpolated or binned: the curve has one
point for each distinct score, and ties move both rates at once. The area is the Mann-Whitney statistic. The TPR at an
FPR limit is that of the best threshold whose FPR does not exceed it, as Carlini et al. report it ("Membership Inference
Attacks From First Principles", arXiv 2112.03570).

`report` says more than the curve of one sample: the TPR at an FPR limit of 1 % is there only where the non-members carry it
(99 of them), at a threshold whose *expected* FPR on new images is within the limit, and every interval covers the truth
at least as often as it says, down to a dozen images (tests/metrics/test_roc.py simulates it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FPR_LIMITS = (0.01, 0.001)
LEVEL = 0.95  # of the intervals


@dataclass(frozen=True, slots=True)
class Roc:
    """One point for each threshold, from (0, 0) at +inf to (1, 1); a score >= the threshold means member."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def curve(members: Floats, others: Floats) -> Roc:
    """Compute the exact ROC curve of scores [M] and [N]. Raises ValueError where either is empty or holds a NaN."""
    thresholds, rank = _ranked(members, others)
    size, m = len(thresholds), len(members)
    hits = np.bincount(rank[:m], minlength=size)[::-1].cumsum()
    alarms = np.bincount(rank[m:], minlength=size)[::-1].cumsum()
    fpr, tpr = np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]]
    return Roc(fpr, tpr, np.r_[np.inf, thresholds[::-1]])


def corners(roc: Roc) -> list[tuple[float, float]]:
    """Return the (FPR, TPR) at which the curve changes its direction: enough to draw it, and to read every rate."""
    steps = np.stack([np.diff(roc.fpr), np.diff(roc.tpr)])
    turns = np.abs(steps[0, 1:] * steps[1, :-1] - steps[1, 1:] * steps[0, :-1]) > 1e-15
    keep = np.r_[True, turns, True]
    return [(round(float(x), 6), round(float(y), 6)) for x, y in zip(roc.fpr[keep], roc.tpr[keep], strict=True)]


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


def report(members: Floats, others: Floats) -> dict[str, Any]:
    """Return every number of `summary` with its 95 % interval; None for a TPR whose limit N non-members do not carry.

    The area has DeLong's interval on the logit scale (Biometrics 1988) or Newcombe's (Stat. Med. 2006, method 5), whichever
    is wider. The best accuracy's are Kolmogorov's bands around both groups, and a TPR's that of `carried_tpr`.

    Returns:
        {"auc": {"value", "low", "high"}, "accuracy": ..., "tpr@1%fpr": ... or None, "tpr@0.1%fpr": ...,
        "members", "others", "smallest_fpr", "level"}
    """
    found = curve(members, others)
    area, accuracy = auc(found), best_accuracy(found)
    low, high = auc_interval(members, others)
    band = (_band(len(members)) + _band(len(others))) / 2
    result: dict[str, Any] = {
        "auc": {"value": area, "low": low, "high": high},
        "accuracy": {"value": accuracy, "low": max(0.5, accuracy - band), "high": min(1.0, accuracy + band)},
    }
    for limit in FPR_LIMITS:
        result[f"tpr@{100 * limit:g}%fpr"] = carried_tpr(members, others, limit)
    return {
        **result,
        "members": len(members),
        "others": len(others),
        "smallest_fpr": smallest_fpr(len(others)),
        "level": LEVEL,
    }


@lru_cache(maxsize=64)
def _band(n: int) -> float:
    """Return how far the distribution of n scores may be from the true one, at half of the error (Kolmogorov, exact)."""
    from scipy import stats

    return float(stats.kstwo.ppf((1 + LEVEL) / 2, n))


def smallest_fpr(others: int) -> float:
    """Return the smallest FPR that N non-members carry, 1 / (N + 1): that of a new one above all N of them."""
    return 1 / (others + 1)


def carried_threshold(others: Floats, limit: float) -> float | None:
    """Return the score that a new non-member exceeds with a probability of at most `limit`; None where N is too small.

    It is the j-th largest of N, j = limit * (N + 1) rounded down: a new score is above it with a probability of at most
    j / (N + 1), whatever the distribution.
    """
    rank = int(limit * (len(others) + 1) + 1e-9)
    return float(np.sort(others)[-rank]) if rank else None


def carried_tpr(members: Floats, others: Floats, limit: float) -> dict[str, float] | None:
    """Return the share of members above `carried_threshold`, and an interval for the TPR at a true FPR of `limit`.

    The interval joins that of the threshold, by order statistics, with Clopper and Pearson's of the share above its ends,
    each at half of the error: it assumes no distribution. Its lower end is 0 below some 430 non-members at 1 %.
    """
    from scipy import stats

    threshold = carried_threshold(others, limit)
    if threshold is None:
        return None
    rising, n, m = np.sort(others), len(others), len(members)
    tail = (1 - LEVEL) / 4
    # Above the quantile lie Binomial(n, limit) scores; the bounds are its quantiles.
    fewest, most = (int(stats.binom.ppf(q, n, limit)) for q in (tail, 1 - tail))
    above_high = int((members > rising[-fewest]).sum()) if fewest else 0
    above_low = int((members >= rising[-most - 1]).sum()) if most < n else m
    low = float(stats.beta.ppf(tail, above_high, m - above_high + 1)) if above_high else 0.0
    high = float(stats.beta.ppf(1 - tail, above_low + 1, m - above_low)) if above_low < m else 1.0
    return {"value": float((members > threshold).mean()), "low": low, "high": high}


def auc_interval(members: Floats, others: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Return the wider of DeLong's interval (logit scale, Welch's degrees of freedom) and Newcombe's, of scores [M], [N]."""
    from scipy import stats

    m, n = len(members), len(others)
    ranks = stats.rankdata(np.concatenate([members, others]))
    per_member = (ranks[:m] - stats.rankdata(members)) / n  # how many of the others each one exceeds
    per_other = 1 - (ranks[m:] - stats.rankdata(others)) / m
    area = float(per_member.mean())
    low, high = _newcombe(area, m, n, level)
    parts: list[float] = [float(x.var(ddof=1)) / len(x) if len(x) > 1 else 0.0 for x in (per_member, per_other)]
    if 0 < area < 1 and min(m, n) > 1 and sum(parts) > 0:
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (m - 1) + parts[1] ** 2 / (n - 1))
        width = stats.t.ppf((1 + level) / 2, freedom) * sum(parts) ** 0.5 / (area * (1 - area))
        logit = np.log(area / (1 - area))
        low, high = min(low, float(1 / (1 + np.exp(width - logit)))), max(high, float(1 / (1 + np.exp(-width - logit))))
    return low, high


def _newcombe(area: float, m: int, n: int, level: float) -> tuple[float, float]:
    """Newcombe's method 5: the areas whose variance, after Hanley and McNeil, puts the observed one at their limit."""
    from scipy import optimize, stats

    z, excess = float(stats.norm.ppf((1 + level) / 2)), (m + n) / 2 - 1

    def beyond(q: float) -> float:
        variance = q * (1 - q) * (1 + excess * ((1 - q) / (2 - q) + q / (1 + q))) / (m * n)
        return (area - q) ** 2 - z * z * variance

    edge = 1e-9  # at 0 and 1 the variance is 0, which is no solution
    low = float(optimize.brentq(beyond, edge, min(area, 1 - edge))) if area > edge and beyond(edge) > 0 else 0.0
    high = (
        float(optimize.brentq(beyond, max(area, edge), 1 - edge)) if area < 1 - edge and beyond(1 - edge) > 0 else 1.0
    )
    return low, high


def proportion(count: int, of: int) -> dict[str, float]:
    """Return a share with Clopper and Pearson's 95 % interval (Biometrika 1934), which is never of zero width."""
    from scipy import stats

    found = stats.binomtest(count, of).proportion_ci(LEVEL, "exact")
    return {"value": count / of, "low": float(found.low), "high": float(found.high)}


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


def _ranked(members: Floats, others: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Return the distinct scores, rising, and the index of each score among them."""
    if not len(members) or not len(others):
        raise ValueError("a ROC curve needs at least one member and one non-member")
    scores = np.concatenate([members, others]).astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    return np.unique(scores, return_inverse=True)
