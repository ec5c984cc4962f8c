"""The matrices of the blocks in 8 bits while they are trained, by torchao (the formats: arXiv 2209.05433).

    out = E4M3(x) E4M3(W)^T,   gradient of x = E5M2(g) E4M3(W),   gradient of W = E5M2(g)^T E4M3(x)

Each tensor is rounded with one scale, of its largest value at that moment. Weights, their update, attention, norms and everything
outside the blocks are as in bfloat16. GPUs from Ada on (L4, H100) multiply so; elsewhere the matrices are rounded and multiplied in
bfloat16, which takes longer than bfloat16 alone. Images and held-out losses are made in bfloat16 (`Trainer.averaged`).
"""

from __future__ import annotations

import torch
from torch import nn

NAME = "float8"  # what a run records as its precision
CAPABILITY = (8, 9)
MULTIPLE = 16  # of a matrix's sides, which the hardware asks for


def in_hardware(device: torch.device) -> bool:
    """Return whether the device multiplies 8-bit floats."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def convert(model: nn.Module, device: torch.device) -> None:
    """Let the layers of a transformer's blocks multiply in 8 bits, in place; names and weights stay."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def fits(layer: nn.Module, name: str) -> bool:
        if not isinstance(layer, nn.Linear) or not name.startswith("transformer_blocks."):
            return False
        return layer.in_features % MULTIPLE == 0 and layer.out_features % MULTIPLE == 0

    # A batch's text has any number of tokens: padded for the products whose inner side that is.
    config = Float8LinearConfig(emulate=not in_hardware(device), pad_inner_dim=True)
    convert_to_float8_training(model, config=config, module_filter_fn=fits)
