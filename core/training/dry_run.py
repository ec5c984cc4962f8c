"""What a training run would be and cost, before it is one: `commonart train --stage 512 --gpus 32 --dry-run`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from commonart.core import launch, recipes
from commonart.core.data.shards.manifest import read_note
from commonart.core.data.shards.reader import list_shards, read_shard
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import pick_device, pick_dtype
from commonart.core.model.diffusion import check_objective, out_channels
from commonart.core.recipes import Recipe
from commonart.core.settings import Settings
from commonart.core.training import calibrate, cost, encoders, gradient_guard, on_the_fly, trainer
from commonart.core.training.distributed import World

USUAL_TEXT = 77  # tokens of a caption, for estimates


def plan(wanted: Settings, seconds: float = 0.0) -> dict[str, Any]:
    """The resolved recipe, sizes, FLOPs, memory and time of a run. A plan for another machine, too: data and GPUs need not be
    here. Reads notes, configurations and a few features. `seconds`: to time real steps for, on this device.

    Raises CommonArtError and UsageError as the run itself would.
    """
    images, size = _images(wanted.data)
    recipe, world = wanted.recipe, wanted.gpus or launch.world_size()
    micro_batch, parts = recipes.accumulation(recipe, world)
    text, image = encoders.beside(wanted) if size else (None, None)
    if size and all(size):
        encoders.check_size(recipe, wanted.data, *size)
    factor = int(image.meta.settings.get("factor", 8)) if image else (4 if recipe.name == "nano" else 8)
    width = text.meta.width if text else (128 if recipe.name == "nano" else 4096)
    side, channels = recipe.resolution // factor, image.meta.width if image else 4
    config = config_of(recipe, (channels, side, side), width)
    tokens = (text.usual_length() if text else 0) or min(wanted.max_tokens, USUAL_TEXT)
    measured = _measured(wanted, config, (micro_batch, parts), tokens, seconds) if seconds else None
    # Where no data are here, what is named for the fly runs on the fly.
    reads = text is None and bool(size or wanted.text_encoder or wanted.quantize)
    looks = image is None and bool(size or wanted.autoencoder)
    beside = on_the_fly.costs(wanted, reads, looks, tokens)
    return {
        "run": str(wanted.run),
        "recipe": asdict(recipe),
        "world_size": world,
        "micro_batch": micro_batch,
        "accumulation": parts,
        "init": wanted.init or (f"newest checkpoint of {wanted.previous_run}" if recipe.init_from else "none"),
        "data": wanted.data,
        "images": images,
        "text": encoders.named(text) or _encoded(reads, "text_encoder" in beside),
        "image": encoders.named(image) or _encoded(looks, "autoencoder" in beside),
        **cost.account(
            config,
            recipe,
            side=side,
            text=tokens,
            world=world,
            micro_batch=micro_batch,
            shards=world if wanted.fsdp else 1,
            checkpointing=wanted.checkpointing,
            measured=measured,
            beside=beside,
        ),
    }


def _encoded(now: bool, counted: bool) -> dict[str, str]:
    """How what is not in the features is said to be encoded."""
    if not now:
        return {"encoded": "unknown: the data are not here; counted as cached"}
    return {"encoded": "on the fly" if counted else "on the fly; not counted, its configuration is not here"}


def _images(data: str) -> tuple[int | str, tuple[int, int] | None]:
    """(images of all data sets, held-out ones too, by the notes beside their shards, or why that is not known; pixels of the
    first one, None where there are no data)."""
    try:
        tars = [tar for folder, _ in data_sets(data) for tar in list_shards(folder)]
        first = next((record for tar in tars for record in read_shard(tar)), {})
    except UsageError:
        raise
    except CommonArtError as error:
        return f"unknown: {error.what}", None
    size = (first.get("width", 0), first.get("height", 0))
    notes = [read_note(tar) for tar in tars]
    bare = [str(tar) for tar, note in zip(tars, notes, strict=True) if "out" not in note]
    return f"unknown: {bare[0]} has no note." if bare else sum(int(note["out"]) for note in notes), size


def _measured(wanted: Settings, config: PixArtConfig, share: tuple[int, int], text: int, seconds: float) -> float:
    """Images per second of one device of this machine."""
    world = World(pick_device(wanted.device))
    micro_batch, parts = share
    gradient_guard.check_fits(
        config, wanted.recipe, micro_batch, config.sample_size, text, world.device, wanted.checkpointing
    )
    options = trainer.Options(
        dtype=dtype_of(wanted, world), compile=wanted.compile, checkpointing=wanted.checkpointing, quiet=True
    )
    return calibrate.images_per_second(config, wanted.recipe, options, world, micro_batch, parts, text, seconds)


def config_of(recipe: Recipe, shape: tuple[int, int, int], width: int) -> PixArtConfig:
    """The transformer of `recipe` for latents of `shape` (C, side, side) and text states of `width` channels."""
    return PixArtConfig(
        num_attention_heads=recipe.heads, attention_head_dim=recipe.head_dim, num_layers=recipe.layers,
        in_channels=shape[0], out_channels=out_channels(check_objective(recipe.objective), shape[0]),
        patch_size=recipe.patch, sample_size=shape[1], caption_channels=width, interpolation_scale=recipe.interpolation,
    )  # fmt: skip


def dtype_of(wanted: Settings, world: World) -> torch.dtype:
    """What the matrix products are computed in."""
    dtype = pick_dtype(wanted.precision, world.device)
    # No loss scaling here: gradients in float16 would underflow.
    return torch.float32 if dtype == torch.float16 else dtype
