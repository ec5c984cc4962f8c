"""TREAD: while training, a random share of an image's tokens skips the blocks in the middle (arXiv 2501.04765, section 3).

    x[kept] = block_stop-1(... block_first(x[kept])),   x[skipped] = x[skipped]

No weights, and no routing of anything but training steps: a sampler never gives a route. Which tokens are kept is drawn for
every image by itself. Positions were added before the first block, so that a token takes its own along.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# Photoroom's ablations of PRX: it cost quality at 256 tokens, and helped at 1,024.
FEW = 1000


class Route(NamedTuple):
    """Tokens `kept_BK` (their places, ascending) alone pass the blocks first .. stop - 1."""

    kept_BK: Tensor
    first: int
    stop: int

    def covers(self, block: int) -> bool:
        """Return whether only the kept tokens are at hand after `block` blocks."""
        return self.first < block < self.stop

    def leave(self, x_BPD: Tensor) -> Tensor:
        """Return the kept tokens, (B, K, D)."""
        return x_BPD.gather(1, self._index(x_BPD))

    def rejoin(self, x_BPD: Tensor, x_BKD: Tensor) -> Tensor:
        """Return `x_BPD` with the kept tokens replaced by `x_BKD`."""
        return x_BPD.scatter(1, self._index(x_BPD), x_BKD.to(x_BPD.dtype))

    def _index(self, x_BPD: Tensor) -> Tensor:
        return self.kept_BK[:, :, None].expand(-1, -1, x_BPD.shape[-1])


def kept_tokens(tokens: int, share: float) -> int:
    """Return how many of `tokens` are kept where `share` of them skips: at least one."""
    return max(1, tokens - int(tokens * share))


def choose(numbers_BP: Tensor, share: float) -> Tensor:
    """Return the places (B, K) of the tokens that are kept, ascending, given a random number of each."""
    return numbers_BP.argsort(1)[:, : kept_tokens(numbers_BP.shape[1], share)].sort(1).values


def warning(share: float, tokens: int) -> str:
    """Return what there is to say against routing images of `tokens`; "" where there is nothing."""
    if not share or tokens >= FEW:
        return ""
    return f"tread={share:g}: images of {tokens:,} tokens are few for routing, which helped at 1,024 and hurt at 256."
