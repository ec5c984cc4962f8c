"""Deferred masking: while training, most tokens of an image leave after the first blocks, and are not asked for (arXiv 2407.15811).

    x[kept] = block_layers(... block_after+1(mixed[kept])),   mixed = block_after(... block_1(x))
    loss = mean of the loss over the patches of the kept tokens

The first blocks, which see all tokens, are the paper's patch mixer: blocks as wide as the others, as in the smallest model of its
authors (their largest has 6 of three quarters of the width). So the architecture stays as it is, and is exported as any other.
The last share of the run sees all tokens, as their second training does.
"""

from __future__ import annotations

from torch import Tensor


def weight(kept_BK: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Return what each latent of images of `size` counts, (B, 1, H, W): nothing where its token is not kept; 1 in the mean."""
    rows, columns = size[0] // patch, size[1] // patch
    counts_BP = kept_BK.new_zeros(len(kept_BK), rows * columns).scatter(1, kept_BK, 1)
    grid = counts_BP.view(-1, 1, rows, columns).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return grid * (rows * columns / kept_BK.shape[1])
