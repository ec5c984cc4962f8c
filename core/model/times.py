"""Laws of flow's times: which times in 0..1 training takes how often, before `flow_shift` (arXiv 2403.03206, section 3.1).

logit-normal  t = sigmoid(mean + std * n), n normal (equation 19)
uniform       t = u
mode          t = 1 - u - scale * (cos(pi / 2 * u)^2 - 1 + u) (equation 20): scale > 0 takes more of the middle, scale < 0 more
              of both ends (U-shaped); it grows steadily for -1 < scale <= 2 / (pi - 2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TimeLaw:
    """A law by its name, with its parameters."""

    name: str = "logit-normal"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 0.0

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw times (count,) in 0..1, float32, on the generator's device."""
        device = torch.device("cpu") if generator is None else generator.device
        if self.name == "logit-normal":
            return (self.mean + self.std * torch.randn(count, generator=generator, device=device)).sigmoid()
        uniform = torch.rand(count, generator=generator, device=device)
        if self.name == "uniform":
            return uniform
        return 1 - uniform - self.scale * (torch.cos(math.pi / 2 * uniform).square() - 1 + uniform)
