"""The nano dual encoder: open_clip's CustomTextCLIP, trained on scenes and their captions.

Contrastive, with captions in English and Japanese. As in the text encoder, an auxiliary head on each tower has to predict
the scene from the embedding and is discarded afterwards: it teaches shapes and places long before the contrast would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from commonart.core.nano import grammar
from commonart.core.nano import tokenizer as tokenizers
from commonart.core.nano.text_encoder import SceneHead, pad, scene_labels
from commonart.core.nano.training import LANGUAGES, Log, SceneImages, hidden_matrices, images, optimize, require, unseen

CONTEXT, BATCH = 64, 96


def config(vocabulary_size: int) -> dict[str, Any]:
    """Return open_clip's description of the model, as in open_clip_config.json."""
    return {
        "embed_dim": 96,
        "custom_text": True,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "head_width": 24, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary_size,
            "hf_tokenizer_name": "nano",  # open_clip then reads the tokenizer beside its config
            "width": 96,
            "heads": 4,
            "layers": 3,
            "pad_id": 1,
            "eos_id": 2,
            "pool_type": "eos",
        },
    }


def new(vocabulary_size: int) -> CustomTextCLIP:
    """Make an untrained dual encoder."""
    arguments = config(vocabulary_size)
    arguments.pop("custom_text")
    return CustomTextCLIP(**arguments)


def train(
    tokenizer: PreTrainedTokenizerFast, seed: int, say: Log, steps: int = 1500, scenes: int = 20_000
) -> CustomTextCLIP:
    """Train on `scenes` scenes and their captions in both languages; the retrieval of unseen ones goes to `say`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    source = SceneImages(scenes, seed).batches(BATCH)
    model = new(len(tokenizer))
    heads = nn.ModuleList([SceneHead(96), SceneHead(96)])
    image_head, text_head = heads
    test_images = unseen(200, seed + 10_000)

    def loss() -> Tensor:
        batch_scenes, x = next(source)
        langs = rng.integers(2, size=BATCH)
        texts = [grammar.caption(scene, LANGUAGES[lang], rng) for scene, lang in zip(batch_scenes, langs, strict=True)]
        ids = pad([e.ids for e in tokenizer.backend_tokenizer.encode_batch(texts)], 1)
        image = model.encode_image(x)
        text = model.encode_text(F.pad(ids, (0, CONTEXT - ids.shape[1]), value=1))
        logits = model.logit_scale.exp() * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        target = torch.arange(BATCH)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        labels = scene_labels(batch_scenes)
        return contrast + 0.1 * (image_head(image, labels) + text_head(text, labels)).mean()

    def check(average: CustomTextCLIP) -> str:
        tops = {lang: retrieval(average, tokenizer, test_images, lang, 100) for lang in LANGUAGES}
        return " ".join(f"top-1 {lang} {top:.3f}" for lang, top in tops.items())

    return optimize(
        "clip",
        model,
        loss,
        check,
        say,
        steps=steps,
        lr=4e-3,
        check_every=250,
        extra=heads,
        matrices=hidden_matrices(model),
    )


@torch.no_grad()
def retrieval(
    model: CustomTextCLIP, tokenizer: PreTrainedTokenizerFast, scene_images: SceneImages, lang: str, among: int
) -> float:
    """Return the share of captions whose own image is the nearest of `among`, in consecutive groups of the images."""
    rng = np.random.default_rng(0)
    texts = [grammar.caption(scene, lang, rng) for scene in scene_images.scenes]
    ids = pad([e.ids for e in tokenizer.backend_tokenizer.encode_batch(texts)], 1)
    text = model.encode_text(F.pad(ids, (0, CONTEXT - ids.shape[1]), value=1), normalize=True)
    image = torch.cat([model.encode_image(part, normalize=True) for part in images(scene_images.pixels).split(100)])
    groups = zip(text.split(among), image.split(among), strict=True)
    right = [(t @ i.T).argmax(1) == torch.arange(len(t)) for t, i in groups]
    return torch.cat(right).float().mean().item()


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the dual encoder and write it to `folder`; `short`: a few steps, to test the code."""
    tokenizer = tokenizers.load(folder, "clip")
    model = train(tokenizer, seed, say, **({"steps": 5, "scenes": 200} if short else {}))
    folder = folder / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_cfg": config(len(tokenizer)),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def measure(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure top-1 retrieval among 100 on `n` unseen scenes, for each language."""
    folder = require(folder, "clip", "clip", "tokenizer.json")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    scene_images = unseen(n, seed)
    return {"clip": {lang: retrieval(model, tokenizer, scene_images, lang, min(n, 100)) for lang in LANGUAGES}}
