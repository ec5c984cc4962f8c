"""Is a group of scores larger than another by chance? Permutation tests of several areas under the ROC curve at once.

The split between members and held-out images was made by a hash before training. A model that does not give it away behaves
the same whichever way the labels are dealt, so dealing them anew many times shows what chance does: the p-values are exact
for any distribution, at any size, and, as each is that of the largest deviation among all tests (Westfall and Young 1993,
max-T), the chance that *any* of them falls below a level is that level, however many attacks there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

LEVEL = 0.01  # of every verdict: one honest audit in a hundred is called anything else
POWER = 0.8  # with which the smallest leak that is reported would have been found


def deal(members: int, others: int, permutations: int, seed: int) -> Labels:
    """Return who is called a member, [N, 1 + permutations]: first as it is, members first, then dealt anew."""
    true = np.arange(members + others) < members
    rng = np.random.default_rng(seed)
    return np.stack([true, *(rng.permutation(true) for _ in range(permutations))], axis=1)


def areas(scores: Floats, labels: Labels) -> Floats:
    """Return the area under the curve for each column of labels [N, B], of scores [N], or [N, B] of their own."""
    ranks = stats.rankdata(scores, axis=0)
    members = labels.sum(axis=0)
    sums = labels.T.astype(float) @ ranks if ranks.ndim == 1 else (labels * ranks).sum(axis=0)
    found: Floats = (sums - members * (members + 1) / 2) / (members * (len(labels) - members))
    return found


@dataclass(frozen=True, slots=True)
class Family:
    """Areas [1 + permutations] of several tests, corrected for one another. `learnt`: those that can only rise."""

    areas: Mapping[str, Floats]
    learnt: frozenset[str] = frozenset()

    def p_values(self) -> dict[str, float]:
        """Return the corrected p-value of each test; two-sided, but for those that are learnt."""
        deviations = self._deviations()
        largest = np.max(list(deviations.values()), axis=0)
        return {name: float((largest >= d[0] - 1e-12).mean()) for name, d in deviations.items()}

    def smallest(self, level: float = LEVEL) -> dict[str, float]:
        """Return for each test the area that would have been called significant four times in five."""
        largest = np.sort(np.max(list(self._deviations().values()), axis=0))
        limit = largest[min(len(largest) - 1, int(np.ceil((1 - level) * len(largest))))]
        needed = limit + stats.norm.ppf(POWER)
        return {name: float(min(1.0, a.mean() + needed * a.std())) for name, a in self.areas.items()}

    def _deviations(self) -> dict[str, Floats]:
        """Return how many standard deviations each area is from what chance gives on average."""
        found = {}
        for name, values in self.areas.items():
            spread = values.std()
            z = (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)
            found[name] = z if name in self.learnt else np.abs(z)
        return found
