"""Which gradients may be used: a step that would spoil the weights is skipped, and a run that only skips ends."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from commonart.core.errors import Diverged

WINDOW = 100  # gradient norms that a new one is compared with
ENOUGH = 50  # of them, before anything counts as a spike


@dataclass(slots=True)
class GradientGuard:
    """Judges gradient norms. The same norms give the same answers on every process, and after a restart.

    A norm above `spike` times the median of the last WINDOW is a spike; 0 takes them all. `norms` belongs into the checkpoint.
    """

    spike: float
    patience: int = 5  # skipped steps in a row after which the run gives up
    norms: list[float] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)  # keys of the batches skipped in a row

    def admit(self, norm: float, keys: list[str], step: int) -> bool:
        """Return whether the gradient of `step` may be used; `keys` are the images of this process's share of the batch.

        Raises Diverged, which names images, where `patience` steps in a row were skipped.
        """
        finite = math.isfinite(norm)
        median = statistics.median(self.norms) if len(self.norms) >= ENOUGH else math.inf
        if finite and not (self.spike and norm > self.spike * median > 0):
            self.skipped.clear()
            self.norms = [*self.norms[1 - WINDOW :], norm]
            return True
        self.skipped.append(keys)
        if len(self.skipped) < self.patience:
            return False
        names = ", ".join(dict.fromkeys(key for batch in self.skipped for key in batch[:4]))
        what = f"{norm:.3g}, where {median:.3g} is usual," if finite else "not finite"
        raise Diverged(
            f"The gradient was {what} in {len(self.skipped)} steps in a row, up to step {step}; "
            f"the batches begin with the images {names}.",
            "Lower the rate (--set lr=...), train with --precision fp32, or look at those images."
            + (" --set spike=0 takes large gradients as they are." if finite else ""),
        )
