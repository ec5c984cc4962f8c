"""The nano transformer's data and its judge: scenes as latents and text states, and how well prompts are followed.

    commonart nano build --only transformer

The training itself is core.training.trainer with the recipe `nano`, as `commonart train --stage nano` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.sampler import noise_for, sample
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.nano import grammar, scene_reader
from commonart.core.nano.text_encoder import LANGUAGES
from commonart.core.nano.training import Pictures, images
from commonart.core.training.batches import ResidentDataset

# Chosen by measurement on 200 prompts, like the number of training steps.
STEPS, GUIDANCE = 12, 3.0


def memory(
    vae: Autoencoder, text: TextEncoder, scenes: int, captions: int, seed: int, busy: float = 0.0
) -> ResidentDataset:
    """`scenes` random scenes with `captions` captions each, half of them English and half Japanese, and one more in
    each language that tells no places, as people ask for pictures; encoded.

    busy: the share of scenes of one thing that are left out of them, because which colour goes where is learned from
    scenes of two and three.
    """
    pictures = Pictures(scenes, seed)
    luck = np.random.default_rng([seed, 2]).random(scenes)
    chosen = [i for i, scene in enumerate(pictures.scenes) if len(scene.things) > 1 or luck[i] >= busy]
    pictures.scenes = [pictures.scenes[i] for i in chosen]
    pictures.pixels = pictures.pixels[chosen]
    rng = np.random.default_rng([seed, 1])
    means, stds = [], []
    for part in pictures.pixels.split(32):
        mean, std = vae.encode(images(part), batch=32)
        means.append(mean.half())
        stds.append(std.half())
    texts = []
    for scene in pictures.scenes:
        texts += [grammar.caption(scene, LANGUAGES[i % 2], rng) for i in range(captions)]
        texts += [grammar.short_caption(scene, lang, rng) for lang in LANGUAGES]
    states = [state.to(torch.bfloat16) for state in text.encode(texts, batch=128)]
    weights = np.ones(len(texts), dtype=np.float64)
    keys = [f"scene_{seed}_{i:06d}" for i in chosen]
    return ResidentDataset(
        keys,
        torch.cat(means),
        torch.cat(stds),
        states,
        [captions + len(LANGUAGES)] * len(chosen),
        weights,
        text.null().to(torch.bfloat16),
    )


def follow(
    model: PixArt,
    vae: Autoencoder,
    text: TextEncoder,
    prompts: Sequence[tuple[scene_reader.Scene, str]],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    shift: float = 1.0,
    batch: int = 50,
    keep: Path | None = None,
) -> dict[str, float]:
    """Shares of `prompts` whose picture shows what was asked: colour, shape, background, place, size, all.

    Prompt i is drawn from seed i. `shift`: of flow's times, as the model was trained.
    `keep`: where the first pictures go, as one PNG.
    """
    pairs = []
    for at in range(0, len(prompts), batch):
        part = prompts[at : at + batch]
        noise = noise_for(range(at, at + len(part)), (model.config.in_channels, 16, 16))
        states = [state.float() for state in text.encode([prompt for _, prompt in part])]
        latents = sample(model, noise, states, text.null().float(), steps, guidance, "flow", shift=shift)
        pairs += list(zip((scene for scene, _ in part), to_images(vae.decode(latents, batch=50)), strict=True))
    if keep is not None:
        tiles = [np.asarray(image) for _, image in pairs[:40]]
        rows = [np.concatenate(tiles[i : i + 10], axis=1) for i in range(0, len(tiles) - 9, 10)]
        scene_reader.Image.fromarray(np.concatenate(rows)).save(keep)
    return scene_reader.score_many(pairs)
