"""Heads that align tokens inside the transformer with something that is known of the clean image (core.model.sra, core.model.repa).

A head is trained beside the transformer, kept in checkpoints in a file of its own, and never part of a model's folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

PREFIX = "alignment."  # of the head's weights in a transformer that is being trained


class AlignmentHead(nn.Module):
    """Linear layers of `widths`, with SiLU between them, for the tokens after `block` blocks."""

    def __init__(self, widths: Sequence[int], block: int) -> None:
        super().__init__()
        self.block = block
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Return (B, P, O), of the last width."""
        *hidden, last = self.layers
        for layer in hidden:
            x_BPD = functional.silu(layer(x_BPD))
        return last(x_BPD)


def make_head(widths: Sequence[int], block: int, seed: int) -> AlignmentHead:
    """Return a new head, of a run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AlignmentHead(widths, block)


def count_weights(widths: Sequence[int]) -> int:
    """Return the number of a head's weights."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))
