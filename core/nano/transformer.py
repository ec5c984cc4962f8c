"""The nano transformer: its training data, scenes as latents and text states, and how well it follows prompts.

It is trained by core.training.trainer with the recipe `nano`, as `commonart train --stage nano` does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from commonart.core import recipes
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.sampler import noise_for, sample
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.nano import grammar
from commonart.core.nano.scene_reader import score_many
from commonart.core.nano.scenes import Scene, random_scene, render
from commonart.core.nano.training import LANGUAGES, Log, images, require
from commonart.core.settings import Settings
from commonart.core.training import trainer
from commonart.core.training.batches import ResidentDataset
from commonart.core.training.distributed import World
from commonart.core.training.run import config_of

# Chosen by measurement (tests/benchmarks/README.md): where little but noise is seen, guidance draws things twice.
STEPS, GUIDANCE, INTERVAL = 24, 3.0, (0.0, 0.75)
SCENES = {1: 8_000, 2: 17_000, 3: 15_000}  # number of things -> scenes of the training set
CAPTIONS, ODDS = 2, (1.0, 2.0)  # of each scene, with places and without: how many, and the odds of each


def training_set(vae: Autoencoder, text: TextEncoder, scenes: Mapping[int, int], seed: int) -> ResidentDataset:
    """Encode random scenes, `scenes[n]` of n (1 to 3) things, each with captions that are half English and half Japanese.

    Of the captions drawn two in three name no places, as people ask for images: they are the harder ones to follow. Scenes of two
    and three things are more frequent than among prompts, because they are what a model gets wrong.
    """
    rng = np.random.default_rng(seed)
    remaining, chosen = dict(scenes), list[Scene]()
    while any(remaining.values()):
        scene = random_scene(rng)
        if remaining[len(scene.things)]:
            remaining[len(scene.things)] -= 1
            chosen.append(scene)
    rng = np.random.default_rng([seed, 1])
    means, stds, texts, weights = list[Tensor](), list[Tensor](), list[str](), list[float]()
    for at in range(0, len(chosen), 32):
        pixels = np.stack([render(scene) for scene in chosen[at : at + 32]])
        mean, std = vae.encode(images(torch.from_numpy(pixels).permute(0, 3, 1, 2)), batch=32)
        means.append(mean.half())
        stds.append(std.half())
    for scene in chosen:
        for write, weight in zip((grammar.caption, grammar.short_caption), ODDS, strict=True):
            texts += [write(scene, LANGUAGES[i % 2], rng) for i in range(CAPTIONS)]
            weights += [weight] * CAPTIONS
    states = [state.to(torch.bfloat16) for state in text.encode(texts, batch=128)]
    keys = [f"scene_{seed}_{i:06d}" for i in range(len(chosen))]
    counts = [2 * CAPTIONS] * len(chosen)
    null = text.null().to(torch.bfloat16)
    return ResidentDataset(keys, torch.cat(means), torch.cat(stds), states, counts, np.array(weights), null)


def follow(
    model: PixArt, vae: Autoencoder, text: TextEncoder, prompts: Sequence[tuple[Scene, str]], shift: float
) -> dict[str, float]:
    """Return the shares of `prompts` whose image, of seed i, shows color, shape, background, place, size, and all of them.

    `shift` is that of flow matching's times, as in training.
    """
    pairs: list[tuple[Scene, Image.Image]] = []
    for at in range(0, len(prompts), 50):
        part = prompts[at : at + 50]
        noise = noise_for(range(at, at + len(part)), (model.config.in_channels, 16, 16))
        states = [state.float() for state in text.encode([prompt for _, prompt in part])]
        null = text.null().float()
        latents = sample(model, noise, states, null, STEPS, GUIDANCE, "flow", shift=shift, interval=INTERVAL)
        pairs += list(zip((scene for scene, _ in part), to_images(vae.decode(latents, batch=50)), strict=True))
    return score_many(pairs)


def load_encoders(folder: Path) -> tuple[Autoencoder, TextEncoder]:
    """Load the autoencoder and the text encoder of `folder`. Raises as `require` does."""
    vae, text = require(folder, "vae", "autoencoder"), require(folder, "text_encoder", "text_encoder")
    return Autoencoder.load(vae, torch.float32), TextEncoder.load(text, torch.float32)


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the transformer and write it to `folder`; `short`: a few steps, to test the code."""
    vae, text = load_encoders(folder)
    recipe = recipes.resolve("nano", {"steps": 4, "batch": 8, "warmup": 1} if short else None)
    torch.manual_seed(seed)
    side = recipe.resolution // vae.factor
    model = PixArt(config_of(recipe, (vae.channels, side, side), text.width))
    prompts = {lang: grammar.eval_prompts(60, lang, seed + 2) for lang in LANGUAGES}
    prompts["short"] = grammar.eval_prompts(60, "ja", seed + 2, kind="short")

    def evaluate(averaged: PixArt, step: int) -> None:
        for name, pairs in prompts.items():
            scores = follow(averaged, vae, text, pairs, recipe.flow_shift)
            say(f"transformer step {step} {name} " + " ".join(f"{k} {v:.3f}" for k, v in scores.items()))

    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    settings = Settings(
        recipe.name, out=str(run), seed=seed, checkpoint_every=500, sample_every=0 if short else 1000,
        log_every=50, keep=1, workers=0, quiet=True,
    )  # fmt: skip
    source = training_set(vae, text, {1: 16, 2: 32, 3: 16} if short else SCENES, seed)
    result = trainer.train(model, source, recipe, settings, World(torch.device("cpu")), preview=evaluate)
    assert result.checkpoint is not None
    PixArt.load(result.checkpoint / "ema", dtype=torch.float32).half().save(folder / "transformer")
    shutil.rmtree(run)


def measure(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the shares of `n` prompts that are followed, for each kind of prompt and each language."""
    vae, text = load_encoders(folder)
    model = PixArt.load(folder / "transformer", dtype=torch.float32).eval()
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    table = {}
    for kind in ("transformer", "heldout", "short"):
        for lang in LANGUAGES:
            prompts = grammar.eval_prompts(n, lang, seed, kind == "heldout", "short" if kind == "short" else "full")
            shares = follow(model, vae, text, prompts, scheduler["flow_shift"])
            facts = ("color", "shape", "background") if kind == "short" else tuple(shares)
            table[f"{kind} {lang}"] = {fact: shares[fact] for fact in facts}
    return table
