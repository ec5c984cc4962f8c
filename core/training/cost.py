"""What a training run costs, from its sizes alone: parameters, floating-point operations, memory, time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from commonart.core.errors import CommonArtError, first_line
from commonart.core.model import alignment, repa, sra, tread
from commonart.core.model import memory as device_memory
from commonart.core.model.config import TIME_CHANNELS, PixArtConfig
from commonart.core.model.quantize import BITS
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe, accumulation
from commonart.core.training.distributed import World
from commonart.core.training.optimizers import bytes_per_parameter

# Dense bf16 rates in FLOP/s, from the makers' data sheets; training reaches a share of them.
RATES = {"L4": 121e12, "A6000": 155e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}
REACHED = 0.4  # of the data sheet's rate: model FLOPs utilization of a good PixArt-sized training loop
# Bytes that a bf16 block keeps for its backward pass, of each channel of each token, and all that is left of it where blocks
# are computed again: its input. Counted by tests/benchmarks/memory.py.
ACTIVATIONS, INPUT = 47.5, 4
VISION_CHANNELS = 768  # channels of REPA's encoder, for estimates
SURE = 0.75  # of the estimated activations: what is refused does not fit even if the estimate is a third too high
SPARE = 0.92  # of a GPU's free memory, the share that a micro batch is chosen for: allocators leave gaps


@dataclass(frozen=True, slots=True)
class Sizes:
    """What memory and operations depend on, beside the transformer's configuration."""

    side: int  # of the latents
    tokens: int  # of a usual caption
    checkpointing: bool = False
    shards: int = 1  # parts that all but the activations are cut into


class EncoderCost(NamedTuple):
    """What a frozen encoder beside the trainer costs."""

    weights: int  # bytes of a frozen encoder
    flops: float  # floating-point operations for an image


@lru_cache
def parameters(config: PixArtConfig) -> int:
    """Return the number of weights of the transformer."""
    with torch.device("meta"):
        return PixArt(config, initialize=False).parameters_count


def flops_per_image(
    config: PixArtConfig, side: int, text: float, draws: int = 1, few: int = 0, passing: int = 0
) -> float:
    """Return the operations of one image forward, latents of `side` x `side` and `text` tokens. A multiply-add is two.

    `draws`: how often it is noised, with its text read once. `few`: blocks that only `passing` of its tokens pass.
    """
    d, tokens = config.hidden, (side // config.patch_size) ** 2

    def block(tokens: int) -> float:
        itself = tokens * 4 * d * d + 2 * tokens * tokens * d
        cross, feed = tokens * 2 * d * d + 2 * tokens * text * d, tokens * 8 * d * d
        return itself + cross + feed

    read = text * 2 * d * d
    ends = tokens * d * config.patch_size**2 * (config.in_channels + config.out_channels)
    projection, time = text * (config.caption_channels * d + d * d), TIME_CHANNELS * d + 7 * d * d
    image = (config.num_layers - few) * block(tokens) + few * block(passing) + ends + time
    return 2.0 * (draws * image + config.num_layers * read + projection)


def forward_flops(config: PixArtConfig, recipe: Recipe, side: int, text: float, routed: bool) -> float:
    """Return the operations of one image forward as `recipe` trains it; `routed`: while tokens skip blocks."""
    tokens = (side // config.patch_size) ** 2
    share, first, stop, off = recipe.skipping
    few, passing = (stop - first if routed and off < 1 else 0), tread.kept_tokens(tokens, share)
    head = 2.0 * recipe.draws * tokens * head_weights(config, recipe)
    return flops_per_image(config, side, text, recipe.draws, few, passing) + head


def mean_forward_flops(config: PixArtConfig, recipe: Recipe, side: int, text: float) -> float:
    """Return the operations of one image forward in the mean of a run, at whose end no token skips blocks."""
    whole, routed = (forward_flops(config, recipe, side, text, routed) for routed in (False, True))
    return whole - (1 - recipe.skipping[3]) * (whole - routed)


def head_weights(config: PixArtConfig, recipe: Recipe) -> int:
    """Return the weights of the head that `recipe` trains beside the transformer; of REPA's for VISION_CHANNELS channels."""
    if recipe.sra:
        return alignment.count_weights(sra.widths(config))
    return alignment.count_weights(repa.widths(config, VISION_CHANNELS)) if recipe.repa else 0


def memory(config: PixArtConfig, recipe: Recipe, micro_batch: int, sizes: Sizes) -> dict[str, int]:
    """Return the bytes on one device while training in bf16, by what they hold, and their "total".

    Weights, gradients and average in float32, autocast's copies of the weights, the optimizer's state, activations; no encoder.
    """
    count = (parameters(config) + head_weights(config, recipe)) // sizes.shards
    tokens = recipe.draws * (sizes.side // config.patch_size) ** 2  # all of them, as at the end of the run
    block = ACTIVATIONS * tokens + 4 * sizes.tokens
    stored = config.num_layers * INPUT * tokens + block if sizes.checkpointing else config.num_layers * block
    nbytes = {
        "weights": 4 * count,
        "copies": 2 * count,
        "gradients": 4 * count,
        "optimizer": int(bytes_per_parameter(recipe.optimizer) * count),
        "ema": 4 * count if recipe.ema else 0,
        "activations": int(micro_batch * config.hidden * stored),
    }
    return {**nbytes, "total": sum(nbytes.values())}


def fit_micro_batch(config: PixArtConfig, recipe: Recipe, world: World, sizes: Sizes) -> Recipe:
    """Return `recipe` with the micro batch that fits the GPUs: its own, or else the largest below it. All processes agree."""
    if world.device.type != "cuda":
        return recipe
    micro_batch, grad_accum_steps = accumulation(recipe, world.size)
    free = SPARE * device_memory.free(world.device)
    possible = [size for size in range(1, micro_batch + 1) if micro_batch * grad_accum_steps % size == 0]
    fitting = [size for size in possible if memory(config, recipe, size, sizes)["total"] <= free]
    (smallest,) = world.all_reduce_max(-max(fitting, default=1))
    return replace(recipe, micro_batch=-int(smallest))


def check_fits(config: PixArtConfig, recipe: Recipe, micro_batch: int, device: torch.device, sizes: Sizes) -> None:
    """Raise CommonArtError, naming the setting to lower, for a run that surely needs more than the device has free."""
    free = device_memory.free(device)
    need = memory(config, recipe, micro_batch, sizes)
    if need["total"] - (1 - SURE) * need["activations"] <= free:
        return
    fixed = need["total"] - need["activations"]
    most = int((free - fixed) / (SURE * need["activations"] / micro_batch))
    if most >= 1:
        fix = f"Train with --set micro_batch={most}."
    elif fixed <= free:
        fix = _lower(1, sizes.checkpointing)
    else:
        fix = "Use a larger device, --set optimizer=AdamW8bit, or --set ema=0."
    gib = 2.0**30
    raise CommonArtError(
        f"Stage {recipe.name} needs about {need['total'] / gib:.1f} GiB on each device, of which {fixed / gib:.1f} whatever "
        f"the batch; {device} has {free / gib:.1f} GiB free.",
        fix,
    )


@contextmanager
def out_of_memory(micro_batch: int, checkpointing: bool) -> Iterator[None]:
    """Turn an allocator's error into a sentence that names the setting to lower."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        what = f"The device's memory is full: {first_line(error)}."
        raise CommonArtError(what, _lower(micro_batch, checkpointing)) from error


def _lower(micro_batch: int, checkpointing: bool) -> str:
    ways = [f"--set micro_batch={micro_batch // 2}"] if micro_batch > 1 else []
    ways += [] if checkpointing else ["--checkpointing"]
    return f"Train with {' or '.join(ways)}; the batch of a step stays the same." if ways else "Use a larger device."


def text_encoder(config: Mapping[str, Any], quantize: str, tokens: float) -> EncoderCost:
    """Return the cost of a language model with this config.json that reads one caption of `tokens`, without output head."""
    from transformers import AutoConfig

    from commonart.core.model.text_encoder import SEEING

    known = AutoConfig.for_model(**config)
    return _reader(
        known.get_text_config() if known.model_type in SEEING else known, tokens, BITS[quantize] if quantize else 16
    )


def vision_encoder(config: Mapping[str, Any], patches: int) -> EncoderCost:
    """Return the cost of a vision encoder with this config.json that sees `patches` of an image, in 16 bits."""
    from transformers import AutoConfig

    from commonart.core.model.pretrained import vision_side

    return _reader(vision_side(AutoConfig.for_model(**config)), patches, 16)


def _reader(config: Any, tokens: float, bits: float) -> EncoderCost:
    """The cost of a model of transformers that reads `tokens`, its layers in `bits`, everything else in 16."""
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    linear = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    rest = sum(parameter.numel() for parameter in model.parameters()) - linear
    return EncoderCost(int(linear * bits / 8 + rest * 2), 2.0 * linear * tokens)


def autoencoder(config: Mapping[str, Any], resolution: int) -> EncoderCost:
    """Return the cost of an autoencoder with this config.json that encodes one square image, in 16 bits."""
    import diffusers

    from commonart.core.model.autoencoder import class_of

    with torch.device("meta"), FlopCounterMode(display=False) as counted, torch.no_grad():
        model: Any = getattr(diffusers, class_of(config)).from_config(config)
        model.encode(torch.empty(1, model.config["in_channels"], resolution, resolution))
    return EncoderCost(2 * sum(parameter.numel() for parameter in model.parameters()), float(counted.get_total_flops()))


def account(
    config: PixArtConfig, recipe: Recipe, sizes: Sizes, *, world_size: int, micro_batch: int,
    measured: float | None = None, encoders: Mapping[str, EncoderCost] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the estimate as --dry-run prints it.

    `measured`: images/s of one device where it was timed, else data-sheet rates are taken. `encoders`: those that run on the
    fly; they are in all but what was measured.
    """
    encoders = encoders or {}
    forward = mean_forward_flops(config, recipe, sizes.side, sizes.tokens)
    if measured is not None:  # it was timed at the start
        measured *= forward_flops(config, recipe, sizes.side, sizes.tokens, True) / forward
    # A backward pass costs two forward ones; encoders are not trained.
    step = (3 * forward + sum(cost.flops for cost in encoders.values())) * recipe.batch
    hours = {name: rounded_hours(step * recipe.steps / (rate * REACHED * world_size)) for name, rate in RATES.items()}
    model_memory = memory(config, recipe, micro_batch, sizes)
    weights = {name: cost.weights for name, cost in encoders.items()}
    if measured is None:
        hours_are = f"at {REACHED:.0%} of the data sheet's bf16 rate on {world_size} of each GPU"
    else:
        without = ", without the encoders" if encoders else ""
        hours_are = f"at {measured:.3g} images/s, measured on this device{without}, on {world_size} of it"
    return {
        "parameters": parameters(config),
        "flops_per_image_forward": forward,
        **{f"flops_per_image_{name}": cost.flops for name, cost in encoders.items()},
        "flops_per_step": step,
        "flops_total": step * recipe.steps,
        "memory_bytes_per_device": {**model_memory, **weights, "total": model_memory["total"] + sum(weights.values())},
        "hours": hours if measured is None else rounded_hours(recipe.batch * recipe.steps / (measured * world_size)),
        "hours_are": hours_are,
    }


def rounded_hours(seconds: float) -> float:
    """Return `seconds` in hours."""
    return float(f"{seconds / 3600:.3g}")  # three digits, of a short run too
