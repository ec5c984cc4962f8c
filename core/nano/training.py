"""The training loop of the nano models that `commonart train` does not make, and the scenes that they learn from.

AdamW, for some matrices Muon, linear warm-up, cosine decay to zero, mixed precision where the CPU is faster in it, a moving
average of the weights.
The number of steps is fixed, not the time, so that the same seed gives the same weights on the same machine.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from commonart.core.errors import CommonArtError
from commonart.core.model import device, layers
from commonart.core.nano.scenes import Scene, Split, random_scene, render
from commonart.core.training.muon import Muon

Log = Callable[[str], None]
Model = TypeVar("Model", bound=nn.Module)
LANGUAGES = ("en", "ja")
MAX_GRAD_NORM, LOG_EVERY = 1.0, 100


def require(folder: Path, component: str, model: str, file: str = "config.json") -> Path:
    """Return the folder of one of the models inside `folder`. Raises CommonArtError where it has not been built yet."""
    if not (folder / component / file).is_file():
        raise CommonArtError(
            f"{folder / component} holds no {model.replace('_', ' ')} yet.",
            f"Build it first: commonart nano build -o {folder} --only {model}.",
        )
    return folder / component


class SceneImages:
    """`count` random scenes, rendered once: `scenes[i]` and `pixels[i]`, uint8 [3, 64, 64]."""

    def __init__(self, count: int, seed: int, split: Split = "train") -> None:
        self.rng = np.random.default_rng(seed)
        self.scenes: list[Scene] = [random_scene(self.rng, split=split) for _ in range(count)]
        self.pixels = torch.empty(count, 3, 64, 64, dtype=torch.uint8)
        for i, scene in enumerate(self.scenes):
            self.pixels[i] = torch.from_numpy(render(scene)).permute(2, 0, 1)

    def batches(self, size: int) -> Iterator[tuple[list[Scene], Tensor]]:
        """Yield (scenes, images float32 [B, 3, H, W] in -1..1) without end, in a new order every epoch."""
        while True:
            order = self.rng.permutation(len(self.scenes))
            for at in range(0, len(order) - size + 1, size):
                index = order[at : at + size]
                yield [self.scenes[i] for i in index], images(self.pixels[torch.from_numpy(index)])


def unseen(count: int, seed: int) -> SceneImages:
    """Return scenes that no training run has seen."""
    return SceneImages(count, seed, split="heldout-scene")


def images(pixels: Tensor) -> Tensor:
    """Convert uint8 0..255 to float32 -1..1, in the same shape."""
    return pixels.float() / 127.5 - 1.0


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of a model's layers, which Muon updates: no embedding and no head."""
    return [
        p for name, p in model.named_parameters() if p.dim() == 2 and re.search(r"\.(layers|blocks|resblocks)\.", name)
    ]


def optimize(
    name: str,
    model: Model,
    loss: Callable[[], Tensor],
    check: Callable[[Model], str],
    say: Log,
    *,
    steps: int,
    lr: float,
    check_every: int,
    extra: nn.Module | None = None,
    matrices: Sequence[nn.Parameter] = (),
    warmup: int = 100,
    decay: float = 0.01,
    ema: float = 0.995,
) -> Model:
    """Minimize `loss()`, of a new batch at each call, and return the averaged model.

    Args:
        check: describes the averaged model; logged every `check_every` steps.
        extra: heads that are trained beside the model and discarded.
        matrices: of the model, which Muon updates with the same rate and its own decay (0.1).
        decay, ema: of the weights, and of their moving average.

    Raises:
        FloatingPointError: the loss is NaN or infinite.
    """
    params: list[Tensor] = list(model.parameters())
    extras: list[Tensor] = [] if extra is None else list(extra.parameters())
    dtype = device.pick_matmul_dtype(device=torch.device("cpu"))
    chosen = {id(matrix) for matrix in matrices}
    rest = {"params": [p for p in params + extras if id(p) not in chosen], "weight_decay": decay}
    optimizer = Muon(matrices, [rest], 0.1, dtype, lr=lr, betas=(0.9, 0.98))
    average = copy.deepcopy(model).eval().requires_grad_(False)
    averages: list[Tensor] = list(average.parameters())
    started, total, count = time.monotonic(), 0.0, 0
    model.train()
    for step in range(1, steps + 1):
        rate = lr * min(step / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps) + 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with plain_attention(), device.autocast(torch.device("cpu"), dtype):
            value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(params + extras, MAX_GRAD_NORM)
        optimizer.step()
        # The average follows quickly at first, so that it forgets the first weights.
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1.0 - min(ema, step / (step + 10.0)))
        total, count = total + value.item(), count + 1
        if not math.isfinite(total):
            raise FloatingPointError(f"{name}: the loss is not finite at step {step}")
        if step % LOG_EVERY == 0 or step == steps:
            say(f"{name} step {step}/{steps} loss {total / count:.4f} {time.monotonic() - started:.0f} s")
            total, count = 0.0, 0
        if step % check_every == 0 or step == steps:
            say(f"{name} step {step}/{steps} {check(average)}")
    for buffer, source in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(source)
    return average


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention as plain matrix products while gradients are needed.

    PyTorch's fused attention for CPUs is made for long sequences: with 64 tokens in bfloat16 its backward pass takes
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
