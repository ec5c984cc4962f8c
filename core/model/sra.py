"""SRA 2: tokens inside the transformer are aligned with the autoencoder's latents (arXiv 2601.17830, section 3.2).

    loss = loss of the objective + weight * mean(smooth_l1(head(tokens after a block) - latents of their patches, BETA))

The latents are those that the noise was added to, so that no other model is needed. The head is five layers; twice as wide as the
transformer, they are the 18 million weights and 4 % of the operations that the paper states for its largest.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from commonart.core.model.config import PixArtConfig
from commonart.core.model.layers import unpatch

BETA = 0.05  # where the loss goes over from squared to absolute
LAYERS = 5


def widths(config: PixArtConfig) -> list[int]:
    """Return the widths of the head's layers, from a token's to that of the latents of its patch."""
    return [config.hidden, *[2 * config.hidden] * (LAYERS - 1), config.patch_size**2 * config.in_channels]


def loss(projected_BPO: Tensor, latents_BCHW: Tensor, patch: int, weight_B1HW: Tensor | None = None) -> Tensor:
    """Return the distance of the projected tokens to the latents, (B,), float32; `weight_B1HW`: what each latent counts."""
    projected_BCHW = unpatch(projected_BPO, latents_BCHW.shape[2], latents_BCHW.shape[3], patch)
    distance_BCHW = functional.smooth_l1_loss(projected_BCHW.float(), latents_BCHW.float(), reduction="none", beta=BETA)
    return (distance_BCHW if weight_B1HW is None else distance_BCHW * weight_B1HW).flatten(1).mean(1)
