"""The matrices of the blocks in 8 bits while they are trained, by torchao (the formats: arXiv 2209.05433).

    out = E4M3(x) E4M3(W)^T,   gradient of x = E5M2(g) E4M3(W),   gradient of W = E5M2(g)^T E4M3(x)

Each tensor is rounded with one scale, of its largest value at that moment. Weights, their update, attention, norms and everything
outside the blocks are as in bfloat16. GPUs multiply so from Ada on (L4, H100); elsewhere the same is computed by rounding alone,
which is as exact and slower than bfloat16.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch
from torch import nn

from commonart.core.errors import CommonArtError

NAME = "float8"  # what a run records as its precision
CAPABILITY = (8, 9)
MULTIPLE = 16  # of a matrix's sides, which the hardware asks for


def in_hardware(device: torch.device) -> bool:
    """Return whether the device multiplies 8-bit floats."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def convert(model: nn.Module, device: torch.device) -> None:
    """Let the layers of a transformer's blocks multiply in 8 bits, in place; names and weights stay.

    Raises CommonArtError where torchao is missing.
    """
    if find_spec("torchao") is None:
        raise CommonArtError(
            "--precision fp8 needs torchao, which is not installed.",
            "Install it (uv sync --extra torchao), or use --precision bf16.",
        )
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # tells torchao of something deprecated
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def fits(layer: nn.Module, name: str) -> bool:
        sides = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (1,)
        return name.startswith("transformer_blocks.") and all(side % MULTIPLE == 0 for side in sides)

    # A batch's text has any number of tokens: padded for the products whose inner side that is.
    config = Float8LinearConfig(emulate=not in_hardware(device), pad_inner_dim=True)
    convert_to_float8_training(model, config=config, module_filter_fn=fits)
