"""A whole text-to-image model at toy size, in the layouts that `sample` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from tiny_encoders import WIDTH, llama, tokenizer, vae

from commonart.core.model.config import PixArtConfig
from commonart.core.model.sampler import scheduler_config
from commonart.core.model.transformer import PixArt

SIDE = 32  # pixels of its own size: 8 x 8 latents of f = 4


def transformer(folder: Path, objective: str = "flow", width: int = WIDTH, seed: int = 0) -> PixArt:
    """A PixArt whose output depends on everything that goes in, saved in `folder`."""
    torch.manual_seed(seed)
    config = PixArtConfig(
        num_layers=2, num_attention_heads=2, attention_head_dim=16, caption_channels=width, sample_size=8,
        out_channels=4 if objective == "flow" else 8, interpolation_scale=1.0,
    )  # fmt: skip
    model = PixArt(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero hides the text
                parameter.normal_(std=0.2)
    model.save(folder)
    return model


def pipeline(folder: Path, objective: str = "flow", shift: float = 1.0) -> Path:
    """An exported model: transformer/, text_encoder/, tokenizer/, vae/ and scheduler/."""
    transformer(folder / "transformer", objective)
    llama(folder / "text_encoder")
    for file in (folder / "text_encoder").glob("tokenizer*"):
        file.unlink()
    tokenizer(folder / "tokenizer")
    vae(folder / "vae")
    (folder / "scheduler").mkdir()
    config = json.dumps(scheduler_config(objective, shift))  # type: ignore[arg-type]
    (folder / "scheduler" / "scheduler_config.json").write_text(config)
    parts = {"_class_name": "PixArtSigmaPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    return folder


def published(folder: Path) -> tuple[Path, Path, Path]:
    """(transformer, text encoder, autoencoder) as commonart-beta is published: a bare transformer of the old class."""
    transformer(folder / "beta", "eps")
    config = json.loads((folder / "beta" / "config.json").read_text())
    config["_class_name"] = "Transformer2DModel"
    (folder / "beta" / "config.json").write_text(json.dumps(config))
    llama(folder / "calm2")
    vae(folder / "sdxl")
    return folder / "beta", folder / "calm2", folder / "sdxl"


def copy(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to
