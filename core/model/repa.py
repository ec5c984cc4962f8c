"""REPA: tokens inside the transformer are aligned with what a frozen vision encoder sees in the image (arXiv 2410.06940).

    loss = loss of the objective + weight * mean over tokens (1 - cos(head(tokens after a block), encoder's patches))

The 1 is ours, so that the term is 0 where both agree. The head is the paper's: three layers, 2048 wide (ours: no wider than
four times the transformer, which matters to toy ones alone). The encoder sees the image in the size that has as many of its patches
as the transformer has tokens (`core.model.vision_encoder`).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from commonart.core.model.config import PixArtConfig

WIDE, LAYERS = 2048, 3


def widths(config: PixArtConfig, channels: int) -> list[int]:
    """Return the widths of the head's layers, from a token's to the `channels` of the encoder."""
    return [config.hidden, *[min(WIDE, 4 * config.hidden)] * (LAYERS - 1), channels]


def loss(projected_BPO: Tensor, vision_BPO: Tensor, weight_BP: Tensor | None = None) -> Tensor:
    """Return how far projected tokens are from the encoder's patches, (B,), float32: 0 to 2; `weight_BP`: what a token counts."""
    distance_BP = 1 - functional.cosine_similarity(projected_BPO.float(), vision_BPO.float(), dim=2)
    return (distance_BP if weight_BP is None else distance_BP * weight_BP).mean(1)
