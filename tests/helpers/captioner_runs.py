"""Captioners that train in a second: their parts, shards with captions, and a run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language_models as tiny
from PIL import Image
from tiny_runs import train as train_stage

from commonart.core.data.record import Record
from commonart.core.data.shards.writer import ShardWriter

SMALL: dict[str, Any] = {"batch": 4, "micro_batch": 4, "steps": 3, "warmup": 0, "cooldown": 0, "lr": 1e-2}


def said(text: str, lang: str = "ja", model: str = "florence2", **more: Any) -> dict[str, Any]:
    return {"text": text, "lang": lang, "model": model, "revision": "r", "license": "MIT", "synthetic": True, **more}


def shards(folder: Path, captions_of: Callable[[int], list[dict[str, Any]]], count: int = 8) -> Path:
    """One shard of `count` pictures of one color each."""
    folder.mkdir(parents=True)
    with ShardWriter(folder / "00000.tar") as writer:
        for n in range(count):
            png = io.BytesIO()
            Image.new("RGB", (40, 24), tuple(np.random.default_rng(n).integers(0, 255, 3).tolist())).save(png, "PNG")
            record: Record = {"key": f"k{n}", "width": 40, "height": 24, "split": "train"}
            record |= {"license": "CC0-1.0", "captions": captions_of(n)}
            writer.add_record(record, png.getvalue(), "png")
    return folder


def siglip(folder: Path) -> Path:
    """SigLIP of images and texts, as google/siglip-so400m-patch14-384: four patches of 16 px."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tiny.transformers.SiglipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config={**sizes, "vocab_size": 16}
    )
    images = tiny.transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return tiny.save(folder, tiny.seeded(tiny.transformers.SiglipModel, config), images)


def clip(folder: Path) -> Path:
    """CLIP of images and texts, as openai/clip-vit-large-patch14: four patches of 16 px, and a token for all."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tiny.transformers.CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config={**sizes, "vocab_size": 16}
    )
    return tiny.save(folder, tiny.seeded(tiny.transformers.CLIPModel, config), tiny.clip_images(32))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("parts")
    siglip(home / "siglip")
    clip(home / "clip")
    tiny.llama(home / "llama", chat=False)
    return home


def start(
    parts: Path,
    data: Path,
    out: Path,
    stage: str = "captioner-align",
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    defaults = {
        "vision_tower": str(parts / "siglip"), "language_model": str(parts / "llama"), "languages": {"ja": 1.0},
        "device": "cpu", "precision": "fp32", "log_every": 1, "workers": 0, "quiet": True,
    }  # fmt: skip
    return train_stage(
        stage, data=str(data), out=str(out), overrides={**SMALL, **(more or {})}, **{**defaults, **settings}
    )
