"""What a training run would be and cost, before it is one: `commonart train --stage 512 --gpus 32 --dry-run`."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from commonart.core import launch, log, recipes
from commonart.core.data.features.format import Features
from commonart.core.data.shards.manifest import read_manifest
from commonart.core.data.shards.reader import list_shards, read_shard
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.policies import load_policy
from commonart.core.model import tread
from commonart.core.model.autoencoder import latents_of
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import pick_device
from commonart.core.model.transformer import PixArt
from commonart.core.registry import hub
from commonart.core.registry.catalogue import SUBFOLDERS
from commonart.core.registry.lookup import find_model
from commonart.core.settings import Settings
from commonart.core.training import batches, cost, encoders, run, trainer
from commonart.core.training.distributed import World

# Text channels, and (channels, pixels of one on a side) of latents, where neither features nor a config.json are here to tell;
# others are taken to be as the paper's.
WIDTHS = {"calm2-7b": 4096, "nano": 128, "sarashina2.2-3b": 2560, "llm-jp-3-1.8b": 2048, "llm-jp-3.1-1.8b": 2048}
LATENTS = {"sdxl-vae": (4, 8), "nano": (4, 4), "flux2-vae": (32, 8), "dc-ae-f32c32": (32, 32)}
WARM_UP, FEWEST = 2, 3  # steps of a calibration


def plan(settings: Settings, calibrate: float = 0.0) -> dict[str, Any]:
    """Return the resolved recipe, sizes, FLOPs, memory and time of a run, from manifests, configurations and a few features.

    A plan for another machine, too: data and GPUs need not be here. `calibrate`: seconds to time real steps for, on this
    device. Raises as the run itself would.
    """
    settings.check()
    load_policy(settings.policy)
    images, size = _images(settings.data)
    recipe, world_size = settings.recipe, settings.gpus or launch.world_size()
    micro_batch, grad_accum_steps = recipes.accumulation(recipe, world_size)
    texts: list[Features] = []
    latents: list[Features] = []
    try:
        if size and all(size):
            encoders.check_size(recipe, settings.data, *size)
        texts, latents = encoders.cached_features(settings) if size else ([], [])
    except UsageError:
        raise
    except CommonArtError as error:  # a plan needs no data, so that others than these may be meant
        images, size = f"unknown: {error.what}", None
        log.warn(f"{error.what} The plan is for data that fit.")
    # Where no data are here, what is named to be encoded on the fly is.
    live_text = not texts and bool(size or settings.text_encoder or settings.quantize)
    live_images = not latents and bool(size or settings.autoencoder)
    text_config = _config(settings.text_encoder_name, "text-encoder") if live_text else {}
    image_config = _config(settings.autoencoder_name, "autoencoder") if live_images else {}
    width = texts[0].meta.width if texts else _width(text_config) or WIDTHS.get(settings.text_encoder_name, 4096)
    channels, factor = LATENTS.get(settings.autoencoder_name, (4, 8))
    if latents:
        channels, factor = latents[0].meta.width, encoders.latent_factor(latents)
    elif "latent_channels" in image_config:
        channels, factor = latents_of(image_config)
    side = recipe.resolution // factor
    config = run.config_of(recipe, (channels, side, side), width)
    if few := tread.warning(recipe.tread, (side // recipe.patch) ** 2):
        log.warn(few)
    tokens = (texts[0].mean_caption_tokens() if texts else 0) or min(settings.max_tokens, run.USUAL_TOKENS)
    sizes = cost.Sizes(side, tokens, settings.checkpointing, world_size if settings.fsdp else 1)
    measured = images_per_second(settings, config, sizes, calibrate) if calibrate else None
    live: dict[str, cost.EncoderCost] = {}
    if "model_type" in text_config:
        live["text_encoder"] = cost.text_encoder(text_config, settings.quantize, tokens)
    if "latent_channels" in image_config:
        live["autoencoder"] = cost.autoencoder(image_config, recipe.resolution)
    if recipe.repa and (vision_config := _config(settings.vision_tower, "vision-tower")):
        live["vision_tower"] = cost.vision_encoder(vision_config, (side // recipe.patch) ** 2)
    return {
        "run": str(settings.run),
        "recipe": dataclasses.asdict(recipe),
        "world_size": world_size,
        "micro_batch": micro_batch,
        "grad_accum_steps": grad_accum_steps,
        "init": settings.init or (f"newest checkpoint of {settings.previous_run}" if recipe.init_from else "none"),
        "data": settings.data,
        "images": images,
        "text": encoders.describe_features(texts) or _encoded(live_text, "text_encoder" in live),
        "image": encoders.describe_features(latents) or _encoded(live_images, "autoencoder" in live),
        **cost.account(
            config, recipe, sizes, world_size=world_size, micro_batch=micro_batch, measured=measured, encoders=live
        ),
    }


def _config(name: str, role: str) -> dict[str, Any]:
    """The config.json of an encoder, where the hub, its cache or a folder has it, in a pipeline or by itself; else {}."""
    model = find_model(name, role, f"--{role}")
    return hub.read_config(model) or hub.read_config(model, f"{SUBFOLDERS[role]}/config.json")


def _width(config: Mapping[str, Any]) -> int:
    """The channels of a text state; 0 where the configuration is not here."""
    return int(
        config.get("text_config", config).get("d_model") or config.get("text_config", config).get("hidden_size", 0)
    )


def _encoded(live: bool, counted: bool) -> dict[str, str]:
    """How the plan says that something without features is encoded."""
    if not live:
        return {"encoded": "unknown: the data are not here; counted as cached"}
    return {"encoded": "on the fly" if counted else "on the fly; not counted, its configuration is not here"}


def _images(data: str) -> tuple[int | str, tuple[int, int] | None]:
    """(images of all data sets by their manifests, or why that is not known; pixels of the first one, None without data)."""
    try:
        tars = [tar for folder, _ in data_sets(data) for tar in list_shards(folder)]
        first = next((record for tar in tars for record in read_shard(tar)), {})
    except UsageError:
        raise
    except CommonArtError as error:
        return f"unknown: {error.what}", None
    size = (first.get("width", 0), first.get("height", 0))
    manifests = [read_manifest(tar) for tar in tars]
    bare = [str(tar) for tar, manifest in zip(tars, manifests, strict=True) if manifest is None]
    return f"unknown: {bare[0]} has no manifest." if bare else sum(m.written for m in manifests if m), size


def images_per_second(settings: Settings, config: PixArtConfig, sizes: cost.Sizes, seconds: float) -> float:
    """Time real steps on made-up data for about `seconds`, on one device of this machine."""
    world, world_size = World(pick_device(settings.device)), settings.gpus or launch.world_size()
    micro_batch, grad_accum_steps = recipes.accumulation(settings.recipe, world_size)
    alone = dataclasses.replace(sizes, side=config.sample_size, shards=1)
    cost.check_fits(config, settings.recipe, micro_batch, world.device, alone)
    # Made-up data have no images that REPA's encoder could see.
    recipe = dataclasses.replace(
        settings.recipe, batch=micro_batch * grad_accum_steps, micro_batch=micro_batch, repa=0.0
    )
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        timed_settings = dataclasses.replace(settings, out=folder, track="")
        data = made_up(config, min(64, recipe.batch), sizes.tokens)
        return measured_rate(trainer.Trainer(PixArt(config), data, recipe, timed_settings, world), seconds)


def measured_rate(timed: trainer.Trainer, seconds: float) -> float:
    """Time steps of `timed` for about `seconds`, and return the images per second."""
    micro_batches = batches.stream(timed.fetch, 0, 1_000_000, timed.grad_accum_steps, workers=0)
    steps, began = 0, time.perf_counter()
    while steps < WARM_UP + FEWEST or time.perf_counter() - began < seconds:
        if steps == WARM_UP:
            started = time.perf_counter()  # every step waits for the device once, at its end
        timed.train_step(micro_batches, timed.recipe.lr)
        steps += 1
    micro_batches.close()
    return timed.recipe.batch * (steps - WARM_UP) / (time.perf_counter() - started)


def made_up(config: PixArtConfig, count: int, tokens: int) -> batches.ResidentDataset:
    """Return `count` images with one caption of `tokens` each, all of them random numbers."""
    generator, side = torch.Generator().manual_seed(0), config.sample_size
    means = torch.randn(count, config.in_channels, side, side, generator=generator)
    texts = list(torch.randn(count, tokens, config.caption_channels, generator=generator))
    keys, null = [f"k{n}" for n in range(count)], torch.zeros(1, config.caption_channels)
    return batches.ResidentDataset(keys, means, means * 0.1, texts, [1] * count, np.ones(count), null)
