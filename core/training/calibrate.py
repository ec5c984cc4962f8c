"""How fast this device really trains: a few steps of the real loop on made-up data, for an estimate that holds.

commonart train --stage 512 --dry-run --calibrate 30
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe
from commonart.core.training import batches, trainer
from commonart.core.training.distributed import World

WARM_UP, FEWEST = 2, 3  # steps


def made_up(config: PixArtConfig, count: int, text: int, null: int = 1, seed: int = 0) -> batches.ResidentDataset:
    """`count` images with one caption of `text` tokens each, all of them random numbers."""
    made = torch.Generator().manual_seed(seed)
    side = config.sample_size
    means = torch.randn(count, config.in_channels, side, side, generator=made)
    texts = [torch.randn(text, config.caption_channels, generator=made) for _ in range(count)]
    keys = [f"k{n}" for n in range(count)]
    empty = torch.zeros(null, config.caption_channels)
    return batches.ResidentDataset(keys, means, means * 0.1, texts, [1] * count, np.ones(count), empty)


def images_per_second(
    config: PixArtConfig, recipe: Recipe, options: trainer.Options, world: World, micro_batch: int, parts: int, text: int,
    seconds: float,
) -> float:  # fmt: skip
    """Images per second of one device that takes `parts` micro batches of `micro_batch` a step, timed for about `seconds`."""
    recipe = dataclasses.replace(recipe, batch=micro_batch * parts, micro_batch=micro_batch)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        model = PixArt(config)
        made = trainer.Trainer(
            model, made_up(config, min(64, recipe.batch), text), recipe, Path(folder), options, world, print
        )
        stream = batches.stream(made.fetch, 0, 1_000_000, parts, options.workers)
        taken, began = 0, time.perf_counter()
        while taken < WARM_UP + FEWEST or time.perf_counter() - began < seconds:
            if taken == WARM_UP:
                started = time.perf_counter()  # every step waits for the device once, at its end
            made.step(stream, recipe.lr)
            taken += 1
        stream.close()
    return recipe.batch * (taken - WARM_UP) / (time.perf_counter() - started)
