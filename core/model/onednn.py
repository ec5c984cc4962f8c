"""The transformer's weights as oneDNN multiplies by them, laid out once instead of at every step.

In bfloat16 on a CPU a product of matrices begins by copying its weights into blocks. Weights that only sample never change, so
`pack` does that once, and lets the first half of each feed-forward end in its GELU: a guided step of PixArt-Sigma's width
at 256 px is 10 % shorter (tests/benchmarks/sample.py), and where the product itself is faster the copy weighs more.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from commonart.core.model.layers import Gelu
from commonart.core.model.transformer import PixArt


class PackedLinear(nn.Module):
    """`linear`, and the GELU after it if `gelu`, for inference alone. Its weights are not parameters any more."""

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias
        self.after: tuple[str, list[float], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.after))


def can_pack() -> bool:
    """Return whether oneDNN is there and multiplies bfloat16 on this CPU: without AVX-512 it does not."""
    ops = torch.ops.mkldnn
    return bool(
        torch.backends.mkldnn.is_available() and hasattr(ops, "_linear_pointwise") and ops._is_mkldnn_bf16_supported()
    )


def pack(model: PixArt) -> PixArt:
    """Pack the linear layers of the blocks of `model`, in place, if they are bfloat16 on a CPU where that can be done."""
    weight = model.proj_out.weight
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and can_pack():
        _pack_children(model.transformer_blocks)
    return model


def _pack_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Gelu):
            setattr(module, name, PackedLinear(child.proj, gelu=True))
        elif isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        else:
            _pack_children(child)
