"""The one training loop of the nano models other than the transformer, and the scenes they learn from.

    from commonart.core.nano.training import Pictures, optimise

AdamW, linear warm-up, cosine to zero, bfloat16 autocast, a moving average of the weights. The number of steps is fixed,
not the time, so that the same seed gives the same weights on the same machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from commonart.core import log
from commonart.core.model import layers
from commonart.core.nano.scenes import Scene, Split, random_scene, render

Log = Callable[[str], None]
stderr: Log = log.say


class Pictures:
    """`count` random scenes, drawn once: `scenes[i]` and `pixels[i]`, uint8, 3 x size x size."""

    def __init__(self, count: int, seed: int, size: int = 64, heldout: bool = False, split: Split = "train") -> None:
        self.rng = np.random.default_rng(seed)
        self.scenes: list[Scene] = [random_scene(self.rng, heldout=heldout, split=split) for _ in range(count)]
        self.pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)
        for i, scene in enumerate(self.scenes):
            self.pixels[i] = torch.from_numpy(render(scene, size)).permute(2, 0, 1)

    def batches(self, size: int) -> Iterator[tuple[list[Scene], Tensor]]:
        """Endless (scenes, images float32 B x 3 x H x W in -1..1), a new order every epoch."""
        while True:
            order = self.rng.permutation(len(self.scenes))
            for at in range(0, len(order) - size + 1, size):
                index = order[at : at + size]
                yield [self.scenes[i] for i in index], images(self.pixels[torch.from_numpy(index)])


def unseen(count: int, seed: int) -> Pictures:
    """Scenes that no training run has drawn."""
    return Pictures(count, seed, split="heldout-scene")


def images(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1, same shape."""
    return pixels.float() / 127.5 - 1.0


def optimize(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    lr: float,
    extra: nn.Module | None = None,
    warmup: int = 100,
    decay: float = 0.01,
    clip: float = 1.0,
    ema: float = 0.995,
    name: str = "",
    say: Log = stderr,
    every: int = 100,
    check: Callable[[nn.Module], str] | None = None,
    check_every: int = 0,
) -> nn.Module:
    """Minimise `loss()` over `model`'s parameters and return the averaged model.

    extra: heads that are trained beside it and thrown away.
    loss: draws its own batch. check: a sentence about the averaged model, logged every `check_every` steps.
    Raises FloatingPointError when the loss is no number.
    """
    params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    extras: list[Tensor] = [] if extra is None else [p for p in extra.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params + extras, lr=lr, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    mean = copy.deepcopy(model).eval().requires_grad_(False)
    means: list[Tensor] = [m for m, p in zip(mean.parameters(), model.parameters(), strict=True) if p.requires_grad]
    started, total, seen = time.monotonic(), 0.0, 0
    model.train()
    for step in range(1, steps + 1):
        rate = lr * min(step / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps) + 1e-3)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with plain_attention(), torch.autocast("cpu", torch.bfloat16):
            value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(params + extras, clip)
        optimiser.step()
        # The average follows fast at first: early weights are not worth remembering.
        with torch.no_grad():
            torch._foreach_lerp_(means, params, 1.0 - min(ema, step / (step + 10.0)))
        total, seen = total + value.item(), seen + 1
        if not math.isfinite(total):
            raise FloatingPointError(f"{name}: the loss is no number any more at step {step}")
        if step % every == 0 or step == steps:
            say(f"{name} step {step}/{steps} loss {total / seen:.4f} {time.monotonic() - started:.0f} s")
            total, seen = 0.0, 0
        if check is not None and check_every and (step % check_every == 0 or step == steps):
            say(f"{name} step {step}/{steps} {check(mean)}")
    for buffer, source in zip(mean.buffers(), model.buffers(), strict=True):
        buffer.copy_(source)
    return mean


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as plain matrix products while gradients are needed.

    torch's fused attention for CPUs is made for long sequences: with our 64 tokens in bfloat16 its backward pass takes
    ten times as long (measured: 143 ms against 10 ms for 64 x 4 heads).
    """
    fused = F.scaled_dot_product_attention

    def plain(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not torch.is_grad_enabled() or dropout_p or enable_gqa:
            return fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if is_causal:  # torch refuses a mask beside it
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        return layers.plain_attention(query, key, value, attn_mask, scale)

    F.scaled_dot_product_attention = plain
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused
