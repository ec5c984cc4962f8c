"""The nearest neighbours of unit features, exact: in blocks of matrix products, whose memory does not grow with the set.

No index library: an audit asks for the neighbours of some thousands of images once, and to build an approximate index over
25 million takes longer than to look at all of them (tests/benchmarks/memorisation.py estimates both memory and time).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[Any]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
QUERIES, BASE = 1024, 65_536  # rows of one block: 256 MB of similarities in float32
TWIN = 0.25  # twins are nearer than this share of the usual angle between an image and its nearest other one


def nearest(
    queries_ND: Features, base_MD: Features, own: Rows | None = None, below: float = np.inf
) -> tuple[Floats, Rows]:
    """Return the cosine similarity [N] of each query to its nearest row of the base, and that row [N].

    Args:
        own: [N], the row of the base that each query is itself, and which does not count.
        below: only rows with a smaller similarity count; where none is left, the similarity is -inf and the row -1.
    """
    best, found = np.full(len(queries_ND), -np.inf), np.full(len(queries_ND), -1, dtype=np.intp)
    for query, start, part in _blocks(queries_ND, base_MD):
        if own is not None:
            column = own[query] - start
            inside = np.flatnonzero((column >= 0) & (column < part.shape[1]))
            part[inside, column[inside]] = -np.inf
        if below < np.inf:
            part[part >= below] = -np.inf
        column = part.argmax(axis=1)
        value = part[np.arange(len(part)), column]
        better = value > best[query]
        best[query] = np.where(better, value, best[query])
        found[query] = np.where(better, column + start, found[query])
    return best, found


def twin_limit(closest: Floats) -> float:
    """Return the similarity from which two training images are twins, by each one's similarity to its nearest other one.

    The limit is a quarter of the usual angle, the median over the images without an exact double: an angle belongs to
    the features at hand, as no fixed similarity does.
    """
    single = closest[closest < 1 - 1e-5]
    if not len(single):
        return 1 - 1e-5
    return float(min(1 - 1e-5, np.cos(TWIN * np.arccos(np.clip(np.median(single), -1, 1)))))


def _blocks(queries: Features, base: Features) -> Iterator[tuple[slice, int, NDArray[Any]]]:
    for first in range(0, len(queries), QUERIES):
        query = slice(first, min(first + QUERIES, len(queries)))
        for start in range(0, len(base), BASE):
            yield query, start, queries[query] @ base[start : start + BASE].T
