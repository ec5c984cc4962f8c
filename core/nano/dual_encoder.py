"""The nano dual encoder: open_clip's CustomTextCLIP, which brings a scene and its captions together.

    commonart nano build --only clip

Contrastive, with captions in English and Japanese. As in the text encoder, a reading head beside each tower has to tell
the scene from the embedding and is thrown away afterwards: it teaches shapes and places long before the contrast would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from commonart.core.nano import grammar
from commonart.core.nano.text_encoder import LANGUAGES, Reader, answers, pad
from commonart.core.nano.training import Log, Pictures, images, optimize, stderr, unseen

CONTEXT = 64


def config(vocabulary_size: int) -> dict[str, Any]:
    """open_clip's own description of the model, as open_clip_config.json holds it."""
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
    parts = config(vocabulary_size)
    parts.pop("custom_text")
    return CustomTextCLIP(**parts)


class Readers(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.text = Reader(width), Reader(width)


def train(
    words: PreTrainedTokenizerFast,
    seed: int = 0,
    steps: int = 1500,
    batch: int = 96,
    scenes: int = 20_000,
    say: Log = stderr,
) -> CustomTextCLIP:
    """words: the tokenizer of kind "clip"."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures = Pictures(scenes, seed)
    source = pictures.batches(batch)
    model = new(len(words))
    readers = Readers(96)
    judged = unseen(200, seed + 10_000)

    def loss() -> Tensor:
        drawn, x = next(source)
        langs = rng.integers(2, size=batch)
        texts = [grammar.caption(scene, LANGUAGES[lang], rng) for scene, lang in zip(drawn, langs, strict=True)]
        ids = pad([e.ids for e in words.backend_tokenizer.encode_batch(texts)], 1)
        image = model.encode_image(x)
        text = model.encode_text(F.pad(ids, (0, CONTEXT - ids.shape[1]), value=1))
        logits = model.logit_scale.exp() * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        target = torch.arange(batch)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        truth = answers(drawn)
        return contrast + 0.1 * (readers.image(image, truth) + readers.text(text, truth)).mean()

    def check(mean: nn.Module) -> str:
        assert isinstance(mean, CustomTextCLIP)
        tops = {lang: retrieval(mean, words, judged, lang, 100) for lang in LANGUAGES}
        return " ".join(f"top-1 {lang} {top:.3f}" for lang, top in tops.items())

    mean = optimize(
        model, loss, steps=steps, lr=2e-3, extra=readers, name="clip", say=say, check=check, check_every=250
    )
    assert isinstance(mean, CustomTextCLIP)
    return mean


@torch.no_grad()
def retrieval(
    model: CustomTextCLIP,
    words: PreTrainedTokenizerFast,
    pictures: Pictures,
    lang: str,
    among: int = 100,
    seed: int = 0,
) -> float:
    """Share of captions whose own picture is the nearest of `among`; groups follow each other in `pictures`."""
    rng = np.random.default_rng(seed)
    texts = [grammar.caption(scene, lang, rng) for scene in pictures.scenes]
    ids = pad([e.ids for e in words.backend_tokenizer.encode_batch(texts)], 1)
    text = model.encode_text(F.pad(ids, (0, CONTEXT - ids.shape[1]), value=1), normalize=True)
    image = torch.cat([model.encode_image(part, normalize=True) for part in images(pictures.pixels).split(100)])
    right = [
        (t @ i.T).argmax(1) == torch.arange(len(t)) for t, i in zip(text.split(among), image.split(among), strict=True)
    ]
    return torch.cat(right).float().mean().item()


def save(model: CustomTextCLIP, words: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_cfg": config(len(words)),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    words.save_pretrained(folder)
