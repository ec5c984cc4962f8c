"""SRA 2: tokens inside the transformer are aligned with the autoencoder's latents (arXiv 2601.17830, section 3.2).

    loss = loss of the objective + weight * mean(smooth_l1(head(tokens after a block) - latents, BETA))

The latents are those that the noise was added to, so that no other model is needed. The head is five layers; twice as wide as the
transformer, they are the 18 million weights and 4 % of the operations that the paper states for its largest. It is trained
beside the transformer, kept in checkpoints, and never part of a model's folder.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from commonart.core.model.config import PixArtConfig

BETA = 0.05  # where the loss goes over from squared to absolute
LAYERS = 5
PREFIX = "alignment."  # of the head's weights in a transformer that is being trained


class AlignmentHead(nn.Module):
    """Tokens after `block` blocks to the latents of their patches."""

    def __init__(self, config: PixArtConfig, block: int) -> None:
        super().__init__()
        self.block = block
        wide, out = 2 * config.hidden, config.patch_size**2 * config.in_channels
        widths = [config.hidden, *[wide] * (LAYERS - 1), out]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Return (B, P, patch * patch * C)."""
        *hidden, last = self.layers
        for layer in hidden:
            x_BPD = functional.silu(layer(x_BPD))
        return last(x_BPD)


def make_head(config: PixArtConfig, block: int, seed: int) -> AlignmentHead:
    """Return a new head, of a run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AlignmentHead(config, block)


def weights(config: PixArtConfig) -> int:
    """Return the number of the head's weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AlignmentHead(config, 1).parameters())


def loss(found_BCHW: Tensor, latents_BCHW: Tensor, weight_B1HW: Tensor | None = None) -> Tensor:
    """Return how far what the head found is from the latents, (B,), float32; `weight_B1HW`: what each latent counts."""
    far_BCHW = functional.smooth_l1_loss(found_BCHW.float(), latents_BCHW.float(), reduction="none", beta=BETA)
    return (far_BCHW if weight_B1HW is None else far_BCHW * weight_B1HW).flatten(1).mean(1)
