"""What a training run will cost, from its sizes alone: parameters, floating-point operations, memory, time.

commonart train --stage 512 --dry-run
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonart.core.model.config import TIME_CHANNELS, PixArtConfig
from commonart.core.recipes import Recipe
from commonart.core.training.on_the_fly import Cost
from commonart.core.training.optimizers import bytes_per_parameter

# Dense bf16 rates in FLOP/s, from the makers' data sheets; training reaches a part of them.
RATES = {"L4": 121e12, "A6000": 155e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}
REACHED = 0.4  # of the data sheet's rate: model FLOPs utilisation of a good PixArt-sized training loop
# Bytes that a bf16 block keeps for its backward pass, of each channel of each token, and all that is left of it where blocks
# are computed again: its input. Counted by tests/benchmarks/memory.py.
ACTIVATIONS, INPUT = 47.5, 4


def parameters(config: PixArtConfig) -> int:
    """Number of weights of the transformer."""
    d, patch = config.hidden, config.patch_size**2
    block = 2 * (4 * d * d + 4 * d) + (8 * d * d + 5 * d) + 6 * d
    embed = patch * config.in_channels * d + d
    time = TIME_CHANNELS * d + d + d * d + d + 6 * d * d + 6 * d
    text = config.caption_channels * d + d + d * d + d
    return (
        config.num_layers * block
        + embed
        + time
        + text
        + 2 * d
        + d * patch * config.out_channels
        + patch * config.out_channels
    )


def flops_per_image(config: PixArtConfig, side: int, text: float) -> float:
    """Floating-point operations of one image forward, with latents of `side` x `side` and `text` tokens. A multiply-add is two."""
    d, tokens = config.hidden, (side // config.patch_size) ** 2
    itself = tokens * 4 * d * d + 2 * tokens * tokens * d
    cross = tokens * 2 * d * d + text * 2 * d * d + 2 * tokens * text * d
    feed = tokens * 8 * d * d
    ends = tokens * d * config.patch_size**2 * (config.in_channels + config.out_channels)
    conditions = text * (config.caption_channels * d + d * d) + TIME_CHANNELS * d + 7 * d * d
    return 2.0 * (config.num_layers * (itself + cross + feed) + ends + conditions)


def memory(
    config: PixArtConfig,
    recipe: Recipe,
    micro_batch: int,
    side: int,
    text: int,
    checkpointing: bool = False,
    shards: int = 1,
) -> dict[str, int]:
    """Bytes on one device while training in bf16: weights, gradients and average in float32, autocast's copies of the weights,
    the optimizer's state, activations. A text encoder beside them is not among them.

    `shards`: parts that all but the activations are cut into.
    """
    count, tokens = parameters(config) // shards, (side // config.patch_size) ** 2
    block = ACTIVATIONS * tokens + 4 * text
    kept = config.num_layers * INPUT * tokens + block if checkpointing else config.num_layers * block
    parts = {
        "weights": 4 * count,
        "copies": 2 * count,
        "gradients": 4 * count,
        "optimizer": int(bytes_per_parameter(recipe.optimizer) * count),
        "ema": 4 * count if recipe.ema else 0,
        "activations": int(micro_batch * config.hidden * kept),
    }
    return {**parts, "total": sum(parts.values())}


def account(
    config: PixArtConfig, recipe: Recipe, *, side: int, text: int, world: int, micro_batch: int, shards: int = 1,
    checkpointing: bool = False, measured: float | None = None, beside: Mapping[str, Cost] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The estimate as --dry-run prints it. `measured`: images/s of one device where it was timed; else data-sheet rates.

    `beside`: the encoders that run on the fly; they are in all but what was measured.
    """
    beside = beside or {}
    forward = flops_per_image(config, side, text)
    # A backward pass costs two forward ones; encoders are not trained.
    step = (3 * forward + sum(cost.flops for cost in beside.values())) * recipe.batch
    hours = {name: _hours(step * recipe.steps / (rate * REACHED * world)) for name, rate in RATES.items()}
    held = memory(config, recipe, micro_batch, side, text, checkpointing, shards)
    weights = {name: cost.weights for name, cost in beside.items()}
    said: dict[str, Any] = {
        "parameters": parameters(config),
        "flops_per_image_forward": forward,
        **{f"flops_per_image_{name}": cost.flops for name, cost in beside.items()},
        "flops_per_step": step,
        "flops_total": step * recipe.steps,
        "memory_bytes_per_device": {**held, **weights, "total": held["total"] + sum(weights.values())},
        "hours": hours if measured is None else _hours(recipe.batch * recipe.steps / (measured * world)),
    }
    said["hours_are"] = (
        f"at {REACHED:.0%} of the data sheet's bf16 rate on {world} of each GPU"
        if measured is None
        else f"at {measured:.3g} images/s, measured on this device{', without the encoders' if beside else ''}, on {world} of it"
    )
    return said


def _hours(seconds: float) -> float:
    return float(f"{seconds / 3600:.3g}")  # of a short run, too
