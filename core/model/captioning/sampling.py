"""Captions that vary: each token is drawn from the model's probabilities, for an image alike in every batch.

Greedy decoding words the same facts the same way in a million captions, and a model that is trained on them knows no other.
The largest of log p / T + Gumbel noise is a draw from p ^ (1 / T), and noise that depends on the image and the token's
number alone does not change with the images beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import transformers

# Of the TOP likeliest tokens, the fewest that together have the probability NUCLEUS may be drawn (Holtzman et al. 2020, arXiv
# 1904.09751): where a model knows what is in the image, that is one, and where it has a choice of words, they are many.
TOP, NUCLEUS = 50, 0.9


def seed_of(*parts: str | int) -> int:
    """Return 63 bits that depend on all `parts`."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Sampling(transformers.LogitsProcessor):
    """Leaves of each row's tokens the one that is drawn.

    Args:
        temperature: T, above 0.
        seeds: of each row.
        skip: tokens of the rows that are their prompt.
    """

    def __init__(self, temperature: float, seeds: Sequence[int], skip: int = 0) -> None:
        self.temperature, self.seeds, self.skip = temperature, list(seeds), skip

    def of(self, rows: Sequence[int]) -> Sampling:
        """Return the sampling of some rows."""
        return Sampling(self.temperature, [self.seeds[row] for row in rows], self.skip)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        step = input_ids.shape[1] - self.skip
        top = (scores.float() / self.temperature).log_softmax(1).topk(min(TOP, scores.shape[1]))
        before = top.values.exp().cumsum(1) - top.values.exp()  # the probability of the likelier ones
        logits = top.values.masked_fill(before >= NUCLEUS, -torch.inf)
        noise = np.stack([np.random.default_rng([seed, step]).gumbel(size=top.values.shape[1]) for seed in self.seeds])
        drawn = (logits + torch.from_numpy(noise).to(logits)).argmax(1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, top.indices.gather(1, drawn), 0.0)
