"""The nano translator: a Phi-3 that translates captions of scenes from English to Japanese and back.

It starts from the text encoder's weights, which have already learned to continue a caption with one of the same meaning
in the other language: a Phi-3 is a Llama whose projections are concatenated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from commonart.core.nano import facts, grammar
from commonart.core.nano import tokenizer as tokenizers
from commonart.core.nano.scenes import Scene, random_scene
from commonart.core.nano.text_encoder import pad
from commonart.core.nano.tokenizer import TRANSLATE_PROMPT
from commonart.core.nano.training import LANGUAGES, Log, hidden_matrices, optimize, require

LANGUAGE_NAMES = {"en": "English", "ja": "Japanese"}
DIRECTIONS = (("en", "ja"), ("ja", "en"))
# Share of the scenes of one thing that are replaced by another scene: the model confuses the facts of several things.
REDRAW_SINGLE = 0.6
RELATED = 0.25  # share of the pairs that must place one thing by another; of the others the grammar places 6 % so


class SameOrder(np.random.Generator):
    """A generator that keeps the order of a scene's things, so that two captions name them in the same order."""

    def permutation(self, x: int, axis: int = 0) -> np.ndarray:  # type: ignore[override]
        return np.arange(x)


def pair(scene: Scene, source: str, target: str, rng: np.random.Generator) -> tuple[str, str]:
    """Write captions of a scene in two languages that state the same facts in the same order and the same way.

    Where one of them places a thing by a relation, so does the other.
    """
    order = rng.permutation(len(scene.things))
    scene = Scene(scene.background, tuple(scene.things[i] for i in order))
    same = SameOrder(rng.bit_generator)
    text = grammar.caption(scene, source, same)
    expected, related = facts.parse(text, source), facts.has_relation(text, source)
    while True:
        other = grammar.caption(scene, target, same)
        if facts.parse(other, target) == expected and facts.has_relation(other, target) == related:
            return text, other


def random_pair(source: str, target: str, rng: np.random.Generator) -> tuple[str, str]:
    """Write a `pair` of a random scene, RELATED of them with a relation at least."""
    if rng.random() < RELATED:
        while True:
            text, other = pair(grammar.random_related_scene(rng), source, target, rng)
            if facts.has_relation(text, source):
                return text, other
    scene = random_scene(rng)
    if len(scene.things) == 1 and rng.random() < REDRAW_SINGLE:
        scene = random_scene(rng)
    return pair(scene, source, target, rng)


def new(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Phi3ForCausalLM:
    """Make a Phi-3 of the Llama's size that starts from its weights."""
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = Phi3Config(
        **{name: getattr(llama.config, name) for name in (*same, "rms_norm_eps")},
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        original_max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    model = Phi3ForCausalLM(config)
    weights = {k: v.float() for k, v in llama.state_dict().items()}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        for inner, names, joint in (("self_attn", "qkv", "qkv"), ("mlp", ("gate", "up"), "gate_up")):
            projections = [weights.pop(f"{layer}{inner}.{name}_proj.weight") for name in names]
            weights[f"{layer}{inner}.{joint}_proj.weight"] = torch.cat(projections)
    model.load_state_dict(weights)
    model.generation_config.update(max_new_tokens=96, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    return model


def prompt(tokenizer: PreTrainedTokenizerFast, text: str, target: str) -> str:
    """Return the prompt of the registry's row in the chat template."""
    content = TRANSLATE_PROMPT.format(target=LANGUAGE_NAMES[target], text=text)
    turn = [{"role": "user", "content": content}]
    chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert isinstance(chat, str)
    return chat


def train(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, say: Log, steps: int = 3000
) -> Phi3ForCausalLM:
    """Train the translator from the weights of the text encoder `llama`; `tokenizer` is of kind "chat"."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new(llama, tokenizer)
    end = tokenizer.eos_token_id
    prompts = {lang: prompt(tokenizer, "\0", lang).split("\0") for lang in LANGUAGES}

    def random_pairs(count: int) -> tuple[list[list[int]], list[list[int]]]:
        sources, targets = [], []
        for i in range(count):
            source, target = LANGUAGES if i % 2 else LANGUAGES[::-1]
            text, other = random_pair(source, target, rng)
            sources.append(text.join(prompts[target]))
            targets.append(other)
        # Not the inner tokenizer, which keeps padding once somebody has asked for padding.
        encoded = tokenizer([*sources, *targets], add_special_tokens=False)["input_ids"]
        return encoded[:count], [[*ids, end] for ids in encoded[count:]]

    def loss() -> Tensor:
        sources, targets = random_pairs(32)
        ids = pad([a + b for a, b in zip(sources, targets, strict=True)], 1)
        position = torch.arange(ids.shape[1] - 1)[None]
        first = torch.tensor([[len(a) - 1] for a in sources])
        last = torch.tensor([[len(a) + len(b) - 1] for a, b in zip(sources, targets, strict=True)])
        is_target = (position >= first) & (position < last)
        states = model.model(input_ids=ids).last_hidden_state[:, :-1][is_target]
        return F.cross_entropy(model.lm_head(states), ids[:, 1:][is_target])

    def check(average: Phi3ForCausalLM) -> str:
        return " ".join(
            f"{s}->{t} {facts_kept(average, tokenizer, 60, s, t):.3f} "
            f"related {facts_kept(average, tokenizer, 60, s, t, kind='related'):.3f}"
            for s, t in DIRECTIONS
        )

    return optimize(
        "translator", model, loss, check, say, steps=steps, lr=2e-3, check_every=500, matrices=hidden_matrices(model)
    )


@torch.no_grad()
def translate(model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], target: str) -> list[str]:
    """Translate texts greedily, one translation each."""
    prompts = [prompt(tokenizer, text, target) for text in texts]
    inputs = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
    writer: Any = model
    ids = writer.generate(**inputs, do_sample=False, max_new_tokens=96)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def facts_kept(
    model: Phi3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    source: str,
    target: str,
    seed: int = 10_000,
    kind: grammar.Kind = "full",
) -> float:
    """Return the share of the facts of `count` captions of unseen scenes that their translations state.

    `kind`: of the captions, as `grammar.eval_prompts` takes it.
    """
    prompts = grammar.eval_prompts(count, source, seed, kind=kind)
    kept = total = 0
    for at in range(0, count, 50):
        part = [text for _, text in prompts[at : at + 50]]
        for text, other in zip(part, translate(model, tokenizer, part, target), strict=True):
            hits, count_ = facts.count_kept(facts.parse(text, source), facts.parse(other, target))
            kept, total = kept + hits, total + count_
    return kept / total


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the translator and write it to `folder`; `short`: a few steps, to test the code."""
    text_encoder = require(folder, "text_encoder", "text_encoder")
    llama = LlamaForCausalLM.from_pretrained(text_encoder, dtype=torch.float32)
    tokenizer = tokenizers.load(folder, "chat")
    model = train(llama, tokenizer, seed, say, **({"steps": 5} if short else {}))
    model.half().save_pretrained(folder / "translator")
    tokenizer.save_pretrained(folder / "translator")


def measure(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the share of facts that translations of `n` captions keep, in each direction, and of `n` with a relation."""
    folder = require(folder, "translator", "translator", "tokenizer.json")
    model = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    kinds: dict[str, grammar.Kind] = {"translator": "full", "translator related": "related"}
    return {
        row: {f"{s}-{t}": facts_kept(model, tokenizer, n, s, t, seed, kind) for s, t in DIRECTIONS}
        for row, kind in kinds.items()
    }
