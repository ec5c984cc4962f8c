"""Muon for the matrices inside the blocks, AdamW for everything else (Jordan et al. 2024; Liu et al., arXiv 2502.16982).

    M = momentum M + G;  O = Newton-Schulz(G + momentum M), about U V^T of its singular value decomposition
    W = (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) O

The factor gives a step the size that AdamW's has (equation 4 of the latter), so that one rate and one decay serve both. Both
are torch's own; here they become one optimizer, whose state checkpoints keep as any other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.95


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix inside a block: no embedding, head, bias, or table of shifts and scales."""
    return parameter.dim() == 2 and name.startswith("transformer_blocks.") and name.endswith(".weight")


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` over one list of groups and one state."""

    def __init__(
        self, matrices: Sequence[nn.Parameter], rest: Sequence[dict[str, Any]], weight_decay: float, **adam: Any
    ) -> None:
        lr = adam["lr"]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(list(rest), **adam, fused=True)]
        if matrices:
            muon = torch.optim.Muon(
                list(matrices), lr=lr, weight_decay=weight_decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
            )
            self.parts.append(muon)
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, {})
        # The very same groups and state, so that what is set or restored here is theirs.
        self.param_groups = groups
        for part in self.parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for part in self.parts:
            part.step()
