"""The nano captioner: a Florence-2 (DaViT and BART) that describes scenes in English.

Beside the caption loss, an auxiliary head has to predict from the image features what is at each of the nine places; it
is discarded afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

from commonart.core.nano import facts, grammar
from commonart.core.nano import tokenizer as tokenizers
from commonart.core.nano.scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene
from commonart.core.nano.text_encoder import pad, scene_labels
from commonart.core.nano.tokenizer import CAPTION_QUESTION, IMAGE, token_id
from commonart.core.nano.training import Log, SceneImages, hidden_matrices, images, optimize, require, unseen
from commonart.core.nano.translator import SameOrder

WIDTH, GRID, BATCH = 96, 8, 32


def new(tokenizer: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    """Make an untrained captioner."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    ids["decoder_start_token_id"] = tokenizer.eos_token_id
    config = Florence2Config(
        image_token_id=token_id(tokenizer, IMAGE),
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [48, WIDTH],
            "num_heads": [3, 4],
            "num_groups": [3, 4],
            "window_size": 8,
            "drop_path_rate": 0.0,
            "projection_dim": WIDTH,
            "max_position_embeddings": 16,
            "max_temporal_embeddings": 4,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": WIDTH,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 3 * WIDTH,
            "decoder_ffn_dim": 3 * WIDTH,
            "max_position_embeddings": 256,
            "dropout": 0.0,
            "forced_eos_token_id": None,
        },
        **ids,
    )
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(
        **ids, forced_bos_token_id=None, forced_eos_token_id=None, max_new_tokens=96, num_beams=1, do_sample=False
    )
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> Florence2Processor:
    """Make the processor of images and text; `tokenizer` is of kind "caption"."""
    half, size = [0.5] * 3, {"height": 64, "width": 64}
    image_processor: Any = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=half, image_std=half)
    image_processor.image_seq_length = GRID * GRID + 1
    return Florence2Processor(image_processor=image_processor, tokenizer=tokenizer)


class GridHead(nn.Module):
    """Predict the background and what is at each of the nine places from the grid of image features."""

    SIZES = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = nn.Linear(width, sum(self.SIZES))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def things(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the logits [B, 9, N] of color, shape and size at each place, of features [B, 65, D]."""
        grid = features[:, 1:].unflatten(1, (GRID, GRID))
        # The centres 14, 32 and 50 px are in the middle of the cells 1-2, 3-4 and 5-6 of 8 px.
        places = grid[:, 1:7, 1:7].unflatten(2, (3, 2)).unflatten(1, (3, 2)).mean((2, 4)).flatten(1, 2)
        return self.thing(places).float().split(self.SIZES, dim=-1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of features [B, 65, D] and labels [B, 28] of `scene_labels`."""
        loss = F.cross_entropy(self.background(features[:, 0]), labels[:, 0])
        for i, each in enumerate(self.things(features)):
            loss = loss + F.cross_entropy(each.flatten(0, 1), labels[:, 1 + 9 * i : 10 + 9 * i].flatten())
        return loss


def describe(scene: Scene, rng: np.random.Generator, lang: str = "en") -> str:
    """Write a caption whose things stand in reading order, as a captioner meets them that looks from top to bottom."""
    return grammar.caption(scene, lang, SameOrder(rng.bit_generator))


def prompt(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return [1, L], what Florence2Processor makes of "<CAPTION>": image tokens, then the question."""
    question = tokenizer.encode(CAPTION_QUESTION)
    return torch.tensor([[token_id(tokenizer, IMAGE)] * (GRID * GRID + 1) + question])


def train(
    tokenizer: PreTrainedTokenizerFast, seed: int, say: Log, steps: int = 2500, scenes: int = 20_000
) -> Florence2ForConditionalGeneration:
    """Train on `scenes` scenes and captions of the grammar; the share of right facts of unseen ones goes to `say`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    source = SceneImages(scenes, seed).batches(BATCH)
    test_images = unseen(60, seed + 10_000)
    model, head = new(tokenizer), GridHead(WIDTH)
    prompts = prompt(tokenizer).expand(BATCH, -1)
    features: list[Tensor] = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, inputs, out: features.append(out))

    def loss() -> Tensor:
        batch_scenes, x = next(source)
        texts = [describe(scene, rng) for scene in batch_scenes]
        encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        labels = pad([[*e.ids, 2] for e in encoded], -100)
        features.clear()
        out = model(input_ids=prompts, pixel_values=x, labels=labels)
        return out.loss + 0.5 * head(features[0], scene_labels(batch_scenes))

    def check(average: Florence2ForConditionalGeneration) -> str:
        share, example = facts_right(average, tokenizer, test_images)
        return f"facts {share:.3f}: {example}"

    average = optimize(
        "captioner", model, loss, check, say, steps=steps, lr=4e-3, check_every=250, extra=head,
        matrices=hidden_matrices(model),
    )  # fmt: skip
    average.model.multi_modal_projector._forward_hooks.clear()
    return average


@torch.no_grad()
def facts_right(
    model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, scene_images: SceneImages
) -> tuple[float, str]:
    """Return the share of the images' facts that their captions state correctly, and the last caption.

    The facts are the background, and each thing's shape, color and place; a size counts where the caption names one.
    """
    texts: list[str] = []
    writer: Any = model
    for at in range(0, len(scene_images.scenes), 50):
        x = images(scene_images.pixels[at : at + 50])
        ids = writer.generate(input_ids=prompt(tokenizer).expand(len(x), -1), pixel_values=x, max_new_tokens=96)
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return share_right(scene_images.scenes, texts, "en"), texts[-1].strip()


def share_right(scenes: Sequence[Scene], texts: Sequence[str], lang: str) -> float:
    """Return the share of the facts of `scenes` that their captions state: `facts_right`."""
    right = total = 0
    for scene, text in zip(scenes, texts, strict=True):
        seen = facts.parse(text, lang)
        sized = {thing.place for thing in seen.things if thing.size}
        things = (
            facts.ThingFacts(t.shape, t.color, t.size if t.place in sized else None, t.place) for t in scene.things
        )
        kept, count = facts.count_kept(facts.Facts(scene.background, tuple(things)), seen)
        right, total = right + kept, total + count
    return right / total


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the captioner and write it to `folder`; `short`: a few steps, to test the code."""
    tokenizer = tokenizers.load(folder, "caption")
    model = train(tokenizer, seed, say, **({"steps": 5, "scenes": 200} if short else {}))
    model.half().save_pretrained(folder / "captioner")
    processor(tokenizer).save_pretrained(folder / "captioner")


def measure(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the share of facts that captions of `n` unseen scenes state correctly."""
    folder = require(folder, "captioner", "captioner", "tokenizer.json")
    model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return {"captioner": {"facts": facts_right(model, tokenizer, unseen(n, seed))[0]}}
