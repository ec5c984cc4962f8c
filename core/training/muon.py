"""Muon for the matrices inside the blocks, AdamW for everything else (Jordan et al. 2024; Liu et al., arXiv 2502.16982).

    M = momentum M + (1 - momentum) G;  O = Newton-Schulz(momentum M + (1 - momentum) G), about U V^T of its decomposition
    W = (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) O

The factor gives a step the size that AdamW's has (equation 4 of the latter), so that one rate and one decay serve both. Steps
are those of `torch.optim.Muon`, which takes one matrix after the other, always in bfloat16: matrices of one shape are stacked
here, and multiplied in the precision of the run, for on some CPUs bfloat16 is the slower one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
POLYNOMIAL, ITERATIONS = (3.4445, -4.7750, 2.0315), 5  # steep at 0, so that small singular values grow fast


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix inside a block: no embedding, head, bias, or table of shifts and scales."""
    return parameter.dim() == 2 and name.startswith("transformer_blocks.") and name.endswith(".weight")


def orthogonal(matrices_NRC: Tensor, dtype: torch.dtype) -> Tensor:
    """Return about U V^T of each matrix U S V^T, computed in `dtype`: singular values between 0.7 and 1.2."""
    if matrices_NRC.shape[1] > matrices_NRC.shape[2]:
        return orthogonal(matrices_NRC.mT, dtype).mT
    x = matrices_NRC.to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    a, b, c = POLYNOMIAL
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Muon over `matrices` and `torch.optim.AdamW` over the groups of `rest`, as one list of groups and one state.

    `dtype`: of Muon's products, bfloat16 or float32.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], rest: Sequence[dict[str, Any]], weight_decay: float,
        dtype: torch.dtype = torch.float32, **adam: Any,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.adamw = torch.optim.AdamW(list(rest), **adam, fused=True)
        self.hidden = {"params": list(matrices), "lr": adam["lr"], "weight_decay": weight_decay}
        groups = [*self.adamw.param_groups, self.hidden]
        super().__init__(groups, {})
        # The very same groups and state, so that what is set or restored here is theirs.
        self.param_groups = groups
        self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        self.adamw.step()
        alike = defaultdict(list)
        for param in self.hidden["params"]:
            if param.grad is not None:
                alike[param.shape].append(param)
        lr, decay = self.hidden["lr"], self.hidden["weight_decay"]
        for shape, params in alike.items():
            grads: list[Tensor] = [param.grad for param in params]  # type: ignore[misc]
            states = [self.state[param] for param in params]
            for state, grad in zip(states, grads, strict=True):
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(grad)
            momenta = [state["momentum_buffer"] for state in states]
            torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
            nesterov = torch.stack(grads).lerp_(torch.stack(momenta), MOMENTUM)
            steps = orthogonal(nesterov, self.dtype).float().unbind()
            torch._foreach_mul_(params, 1 - lr * decay)
            torch._foreach_add_(params, steps, alpha=-lr * 0.2 * max(shape) ** 0.5)
