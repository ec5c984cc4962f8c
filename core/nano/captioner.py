"""The nano captioner: a Florence-2 (DaViT and BART) that describes scenes in English.

    commonart nano build --only captioner

Beside the caption loss, the features of the nine places have to tell what stands there; that head is thrown away.
"""

from __future__ import annotations

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

from commonart.core.nano import grammar, lexicon
from commonart.core.nano.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene
from commonart.core.nano.text_encoder import answers, pad
from commonart.core.nano.tokenizer import CAPTION_QUESTION, IMAGE, number
from commonart.core.nano.training import Log, Pictures, images, optimize, stderr, unseen
from commonart.core.nano.translator import SameOrder, facts_kept

WIDTH, GRID = 96, 8


def new(words: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    ids = {
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "decoder_start_token_id": words.eos_token_id,
    }
    config = Florence2Config(
        image_token_id=number(words, IMAGE),
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
            "vocab_size": len(words),
            "d_model": WIDTH,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 3 * WIDTH,
            "decoder_ffn_dim": 3 * WIDTH,
            "max_position_embeddings": 256,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "forced_bos_token_id": None,
            "forced_eos_token_id": None,
            "tie_word_embeddings": True,
            **ids,
        },
        **ids,
    )
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(
        **ids, forced_bos_token_id=None, forced_eos_token_id=None, max_new_tokens=96, num_beams=1, do_sample=False
    )
    return model


def processor(words: PreTrainedTokenizerFast) -> Florence2Processor:
    """words: the tokenizer of kind "caption"."""
    pictures: Any = CLIPImageProcessor(
        size={"height": 64, "width": 64},
        do_center_crop=False,
        do_resize=True,
        resample=3,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pictures.image_seq_length = GRID * GRID + 1
    return Florence2Processor(image_processor=pictures, tokenizer=words)


class Places(nn.Module):
    """What stands at each of the nine places and behind them, told from the grid of image features."""

    SIZES = (len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = nn.Linear(width, sum(self.SIZES))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, features: Tensor, truth: Tensor) -> Tensor:
        """features B x 65 x D, truth B x 28 of `language.answers`."""
        grid = features[:, 1:].unflatten(1, (GRID, GRID))
        # The centres 14, 32 and 50 px lie in the middle of the cells 1-2, 3-4 and 5-6 of 8 px.
        places = grid[:, 1:7, 1:7].unflatten(2, (3, 2)).unflatten(1, (3, 2)).mean((2, 4)).flatten(1, 2)
        logits = self.thing(places).float().split(self.SIZES, dim=-1)
        loss = F.cross_entropy(self.background(features[:, 0]), truth[:, 0])
        for i, each in enumerate(logits):
            loss = loss + F.cross_entropy(each.flatten(0, 1), truth[:, 1 + 9 * i : 10 + 9 * i].flatten())
        return loss


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A caption in reading order that names every place, rather than telling one thing's from another's."""
    while True:
        text = grammar.caption(scene, "en", SameOrder(rng.bit_generator))
        if not any(token.kind in ("of", "it") for token in lexicon.tokens(text, "en")):
            return text


def prompt(words: PreTrainedTokenizerFast) -> Tensor:
    """What Florence2Processor makes of "<CAPTION>": image tokens, then the question. 1 x L."""
    text = words.encode(CAPTION_QUESTION)
    return torch.tensor([[number(words, IMAGE)] * (GRID * GRID + 1) + text])


def train(
    words: PreTrainedTokenizerFast,
    seed: int = 0,
    steps: int = 2500,
    batch: int = 32,
    scenes: int = 20_000,
    say: Log = stderr,
) -> Florence2ForConditionalGeneration:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    source = Pictures(scenes, seed).batches(batch)
    judged = unseen(60, seed + 10_000)
    model, places = new(words), Places(WIDTH)
    asked = prompt(words).expand(batch, -1)
    seen: list[Tensor] = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, inputs, out: seen.append(out))

    def loss() -> Tensor:
        drawn, x = next(source)
        texts = [describe(scene, rng) for scene in drawn]
        labels = pad([[*e.ids, 2] for e in words.backend_tokenizer.encode_batch(texts, add_special_tokens=False)], -100)
        seen.clear()
        out = model(input_ids=asked, pixel_values=x, labels=labels)
        return out.loss + 0.5 * places(seen[0], answers(drawn))

    def check(mean: nn.Module) -> str:
        assert isinstance(mean, Florence2ForConditionalGeneration)
        told, example = right(mean, words, judged)
        return f"facts {told:.3f}: {example}"

    mean = optimize(
        model,
        loss,
        steps=steps,
        lr=1e-3,
        warmup=300,
        extra=places,
        name="captioner",
        say=say,
        check=check,
        check_every=250,
    )
    whole: Any
    for whole in (model, mean):
        whole.model.multi_modal_projector._forward_hooks.clear()
    assert isinstance(mean, Florence2ForConditionalGeneration)
    return mean


@torch.no_grad()
def right(
    model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerFast, pictures: Pictures
) -> tuple[float, str]:
    """Share of the facts of the pictures that their captions tell rightly, and the last caption.

    The facts are background, and each thing's shape, colour and place; a size counts where the caption tells one.
    """
    good = total = 0
    text = ""
    writer: Any = model
    for at in range(0, len(pictures.scenes), 50):
        x = images(pictures.pixels[at : at + 50])
        made = writer.generate(input_ids=prompt(words).expand(len(x), -1), pixel_values=x, max_new_tokens=96)
        texts = words.batch_decode(made, skip_special_tokens=True)
        for scene, text in zip(pictures.scenes[at : at + 50], texts, strict=True):
            seen = grammar.facts(text, "en")
            sized = {thing.place: thing.size for thing in seen.things}
            told = grammar.Facts(
                scene.background,
                tuple(
                    grammar.ThingFacts(t.shape, t.color, t.size if sized.get(t.place) else None, t.place)
                    for t in scene.things
                ),
            )
            hit, all_ = facts_kept(told, seen)
            good, total = good + hit, total + all_
    return good / total, text.strip()


def save(model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerFast, folder: Path) -> None:
    model.half().save_pretrained(folder)
    processor(words).save_pretrained(folder)
