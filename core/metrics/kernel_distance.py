"""Distances between two sets of features by kernels: KID and CMMD. Both are squared maximum mean discrepancies.

KID (arXiv 1801.01401) is unbiased, so that sets of different sizes can be compared, and may fall below 0. CMMD (arXiv
2401.09603) takes CLIP's features, and needs no Gaussian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.metrics.fid import Z

Floats = NDArray[np.float64]
BLOCK = 1000  # images: what KID's authors take
MIN_BLOCKS = 5  # below, their spread says nothing
FEWEST = 4 * MIN_BLOCKS  # images on a side, below which KID has no interval
NEIGHBOUR = 3  # of arXiv 1904.06991, section 3.1
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # of the paper, section 4


def kid(generated: NDArray[Any], real: NDArray[Any]) -> tuple[float, float | None, float | None]:
    """Return KID of features [N, D] and [M, D] with its 95 % interval, None where there are too few images for one.

    The mean over disjoint blocks of at most BLOCK images (the B-test, Zaremba et al. 2013), whose spread gives the
    interval. Both in an order that says nothing of the images.
    """
    blocks = max(min(len(generated), len(real)) // BLOCK, MIN_BLOCKS)
    if min(len(generated), len(real)) < 4 * blocks:
        return polynomial_mmd(generated, real), None, None
    pairs = zip(np.array_split(generated, blocks), np.array_split(real, blocks), strict=True)
    values = [polynomial_mmd(a, b) for a, b in pairs]
    value, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(blocks))
    return value, value - Z * error, value + Z * error


def polynomial_mmd(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the unbiased squared MMD by the kernel (x.y / D + 1)^3 (arXiv 1801.01401, section 4)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    within = 0.0
    for one in (a, b):
        kernel = (one @ one.T / one.shape[1] + 1) ** 3
        within += float(kernel.sum() - np.trace(kernel)) / (len(one) * (len(one) - 1))
    return within - 2 * float(((a @ b.T / a.shape[1] + 1) ** 3).mean())


def cmmd(generated: NDArray[Any], real: NDArray[Any], block: int = 2000) -> tuple[float, float, float]:
    """Return 1000 times the squared MMD by a Gaussian kernel of sigma 10, of unit features [N, D] and [M, D].

    As the paper's code, with each image beside itself: biased, and never below 0. In blocks, for the kernel of 30,000
    images takes 7 GB. With its 95 % interval, by a jackknife over the images of both sets, each of which the sums of the
    kernel's rows give at once.
    """

    def sums(a: Floats, b: Floats) -> Floats:
        total = np.empty(len(a))
        for start in range(0, len(a), block):
            part = a[start : start + block]
            squares = (part**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * part @ b.T
            total[start : start + block] = np.exp(-squares.clip(min=0) / (2 * CMMD_SIGMA**2)).sum(axis=1)
        return total

    a, b = generated.astype(np.float64), real.astype(np.float64)
    n, m = len(a), len(b)
    aa, bb, ab, ba = sums(a, a), sums(b, b), sums(a, b), sums(b, a)
    between = ab.sum() / (n * m)
    value = float(aa.sum() / n**2 + bb.sum() / m**2 - 2 * between)
    variance = 0.0
    for own, other, count, rest in ((aa, ab, n, bb.sum() / m**2), (bb, ba, m, aa.sum() / n**2)):
        if count > 1:  # without image i: its row and its column of the kernel, whose diagonal is 1
            without = (own.sum() - 2 * own + 1) / (count - 1) ** 2
            across = (other.sum() - other) / ((count - 1) * (n + m - count))
            values = without + rest - 2 * across
            variance += float((count - 1) * values.var())
    margin = Z * variance**0.5
    return CMMD_SCALE * value, CMMD_SCALE * max(0.0, value - margin), CMMD_SCALE * (value + margin)


def precision_recall(generated: NDArray[Any], real: NDArray[Any], k: int = NEIGHBOUR) -> tuple[Floats, Floats]:
    """Return which generated images [N] lie among the real ones, and which real ones [M] among the generated, as 0 or 1.

    Their means are precision and recall (arXiv 1904.06991): a set reaches as far around each of its images as that one's
    `k`-th nearest neighbour in the set.

    Raises:
        ValueError: a set of no more than `k` images.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"precision and recall need more than {k} images on either side")
    a, b = generated.astype(np.float64), real.astype(np.float64)
    return _inside(a, b, k), _inside(b, a, k)


def _inside(points: Floats, others: Floats, k: int, block: int = 1000) -> Floats:
    radii = np.concatenate([
        np.partition(_squares(others[start : start + block], others), k, axis=1)[:, k]  # the first is the image itself
        for start in range(0, len(others), block)
    ])  # fmt: skip
    found = [
        (_squares(points[start : start + block], others) <= radii).any(axis=1) for start in range(0, len(points), block)
    ]
    return np.concatenate(found).astype(np.float64)


def _squares(a: Floats, b: Floats) -> Floats:
    squares: Floats = ((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T).clip(min=0)
    return squares
