"""The optimizers of the recipe table, and their states as flat tensors, bit for bit (so that a checkpoint needs no pickle).

CAME: Luo et al. 2023, arXiv 2307.02047, algorithm 2. AdamW8bit: Dettmers et al. 2021 (bitsandbytes). AdamW: torch's fused one.
Muon: `core.training.muon`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from commonart.core.errors import CommonArtError
from commonart.core.recipes import Recipe
from commonart.core.training import fsdp
from commonart.core.training.muon import Muon, is_hidden

Named = Iterable[tuple[str, nn.Parameter]]


class CAME(torch.optim.Optimizer):
    """Confidence-guided Adafactor-like optimizer (arXiv 2307.02047): second moments of matrices are kept as row and column means.

    Weight decay is decoupled. States are float32 whatever the parameters' dtype, which is what keeps a resumed run finite.
    """

    BETAS = (0.9, 0.999, 0.9999)  # of the momentum, of the squared gradient and of the instability (g - m)^2
    EPS = (1e-30, 1e-16)  # added to the squared gradient and to the instability
    CLIP = 1.0  # the root mean square of an update is cut to it

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient. No closures: training computes its gradients before."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)

    def _update(self, param: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2, beta3), (eps1, eps2) = self.BETAS, self.EPS
        # A convolution counts as the matrix (out, in * height * width): means over a 2 x 2 kernel would say nothing.
        shape = (param.shape[0], -1) if param.dim() >= 2 else param.shape
        grad = param.grad.float().reshape(shape)  # type: ignore[union-attr]
        state = self.state[param]
        if not state:
            state["momentum"] = torch.zeros_like(grad)
            if grad.dim() == 2:
                for name in ("square", "residual"):
                    state[f"{name}_row"], state[f"{name}_column"] = map(grad.new_zeros, grad.shape)
            else:
                state["square"] = torch.zeros_like(grad)

        square = grad.square().add_(eps1)
        if grad.dim() == 2:
            update = _factored(square, state["square_row"], state["square_column"], beta2).mul_(grad)
        else:
            update = state["square"].lerp_(square, 1 - beta2).rsqrt().mul_(grad)
        update.div_((update.square().mean().sqrt_() / self.CLIP).clamp_(min=1.0))
        momentum = state["momentum"].lerp_(update, 1 - beta1)
        if grad.dim() == 2:
            instability = (update - momentum).square_().add_(eps2)
            momentum = _factored(instability, state["residual_row"], state["residual_column"], beta3).mul_(momentum)
        if group["weight_decay"]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_((group["lr"] * momentum).view_as(param))


def _factored(square: Tensor, row: Tensor, column: Tensor, beta: float) -> Tensor:
    """1 / sqrt of the rank-1 estimate row x column / mean(row), after moving both means towards `square` (in place)."""
    row.lerp_(square.mean(dim=1), 1 - beta)
    column.lerp_(square.mean(dim=0), 1 - beta)
    return torch.outer((row / row.mean()).rsqrt_(), column.rsqrt())


def make(named: Named, recipe: Recipe, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over `named` parameters. Weight decay reaches matrices only, never biases, norms and tables.

    `dtype` is that of the run's matrix products, which Muon shares (float16 would not hold its small values).
    """
    trained = [(name, param) for name, param in named if param.requires_grad]
    matrices = [param for name, param in trained if recipe.optimizer == "Muon" and is_hidden(name, param)]
    inside = {id(param) for param in matrices}
    params = [param for _, param in trained if id(param) not in inside]
    decayed, free = [p for p in params if p.dim() >= 2], [p for p in params if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "CAME":
        return CAME(groups, lr=recipe.lr)
    adam: dict[str, Any] = {"lr": recipe.lr, "betas": (recipe.beta1, recipe.beta2), "eps": recipe.epsilon}
    if recipe.optimizer == "AdamW8bit":
        return _adamw8bit()(groups, **adam)
    if recipe.optimizer == "Muon":
        return Muon(matrices, groups, recipe.weight_decay, torch.float32 if dtype == torch.float16 else dtype, **adam)
    return torch.optim.AdamW(groups, **adam, fused=True)


def _adamw8bit() -> Any:
    # bitsandbytes logs optional kernels that it did not find as errors; they concern 4-bit inference, not the optimizer.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise CommonArtError(
            f"The optimizer AdamW8bit needs bitsandbytes, which does not import: {error}.",
            "Reinstall commonart, or train with --set optimizer=AdamW.",
        ) from error
    return AdamW8bit


def state_of(optimizer: torch.optim.Optimizer, named: Named) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's state as (tensors, JSON values), keyed "PARAMETER/ENTRY"; shared tensors are stored once."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    seen: dict[tuple[int, torch.Size, torch.dtype], str] = {}
    for name, param in named:
        for entry, value in optimizer.state.get(param, {}).items():
            key = f"{name}/{entry}"
            if not isinstance(value, Tensor):
                values[key] = value
                continue
            local = fsdp.local_shard(value)
            identity = (local.data_ptr(), value.shape, value.dtype)
            if local.numel() and identity in seen:
                values[key] = {"same as": seen[identity]}
            else:
                seen[identity] = key
                tensors[key] = value.detach().contiguous()
    return tensors, values


def load_state(
    optimizer: torch.optim.Optimizer, named: Named, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    """Restore what `state_of` returned, in its own dtypes. Raises CommonArtError where a parameter is unknown."""
    params = dict(named)
    fused = {id(param): bool(group.get("fused")) for group in optimizer.param_groups for param in group["params"]}
    restored: dict[str, Any] = {}
    for key, value in {**tensors, **values}.items():
        name, _, entry = key.rpartition("/")
        param = params.get(name)
        if param is None:
            raise CommonArtError(
                f"The optimizer's state names the parameter {name}, which this transformer does not have.",
                "Start from the weights alone with --init, in another run folder.",
            )
        if isinstance(value, Tensor):
            # torch keeps AdamW's step on the CPU unless the fused kernel needs it beside the parameter.
            stays = entry == "step" and not fused.get(id(param))
            value = value.clone() if stays else fsdp.shard_like(value, param).clone()
        elif isinstance(value, dict) and "same as" in value:
            value = restored[value["same as"]]
        restored[key] = optimizer.state[param][entry] = value


def bytes_per_parameter(optimizer: str) -> float:
    """Return the bytes of the optimizer's state per parameter, for memory estimates."""
    return {"CAME": 4.02, "AdamW8bit": 2.03, "AdamW": 8.0, "Muon": 4.2}[optimizer]
