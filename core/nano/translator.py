"""The nano translator: a Phi-3 that turns English captions of scenes into Japanese ones and back.

    commonart nano build --only translator

It starts from the text encoder's weights, which have already learned to follow a caption with one of the same meaning
in the other language: a Phi-3 is a Llama whose projections lie side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from commonart.core.nano import grammar
from commonart.core.nano.scenes import Scene, random_scene
from commonart.core.nano.text_encoder import LANGUAGES, pad
from commonart.core.nano.tokenizer import TRANSLATE_PROMPT
from commonart.core.nano.training import Log, optimize, stderr

TARGET = {"en": "English", "ja": "Japanese"}


class SameOrder(np.random.Generator):
    """A generator that leaves the things of a scene in their order, so that both captions tell them alike."""

    def permutation(self, x: int, axis: int = 0) -> np.ndarray:  # type: ignore[override]
        return np.arange(x)


def pair(scene: Scene, source: str, target: str, rng: np.random.Generator) -> tuple[str, str]:
    """Two captions of a scene in two languages that tell exactly the same facts, in the same order and the same way:
    what one places by a relation, the other does too."""
    order = rng.permutation(len(scene.things))
    scene = Scene(scene.background, tuple(scene.things[i] for i in order))
    same = SameOrder(rng.bit_generator)
    text = grammar.caption(scene, source, same)
    told, related = grammar.facts(text, source), grammar.relates(text, source)
    while True:
        other = grammar.caption(scene, target, same)
        if grammar.facts(other, target) == told and grammar.relates(other, target) == related:
            return text, other


def new(llama: LlamaForCausalLM, words: PreTrainedTokenizerFast) -> Phi3ForCausalLM:
    """A Phi-3 of the Llama's size that begins with its weights."""
    c = llama.config
    config = Phi3Config(
        vocab_size=len(words),
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        rms_norm_eps=c.rms_norm_eps,
        max_position_embeddings=256,
        original_max_position_embeddings=256,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=True,
        sliding_window=None,
    )
    model = Phi3ForCausalLM(config)
    weights = {k: v.float() for k, v in llama.state_dict().items()}
    for i in range(c.num_hidden_layers):
        layer = f"model.layers.{i}."
        parts = [weights.pop(f"{layer}self_attn.{p}_proj.weight") for p in "qkv"]
        weights[f"{layer}self_attn.qkv_proj.weight"] = torch.cat(parts)
        parts = [weights.pop(f"{layer}mlp.{p}_proj.weight") for p in ("gate", "up")]
        weights[f"{layer}mlp.gate_up_proj.weight"] = torch.cat(parts)
    model.load_state_dict(weights)
    model.generation_config.update(max_new_tokens=96, do_sample=False, eos_token_id=words.eos_token_id)
    return model


def ask(words: PreTrainedTokenizerFast, text: str, target: str) -> str:
    """What the model is given: the prompt of the registry's row in the chat template."""
    content = TRANSLATE_PROMPT.format(target=TARGET[target], text=text)
    chat = words.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    assert isinstance(chat, str)
    return chat


def train(
    llama: LlamaForCausalLM,
    words: PreTrainedTokenizerFast,
    seed: int = 0,
    steps: int = 3000,
    batch: int = 32,
    say: Log = stderr,
    busy: float = 0.6,
) -> Phi3ForCausalLM:
    """words: the tokenizer of kind "chat".

    busy: the share of scenes of one thing that are drawn again, because the facts of several are what gets mixed up.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new(llama, words)
    end = words.eos_token_id
    before = {lang: ask(words, "\0", lang).split("\0") for lang in LANGUAGES}

    def draw(count: int) -> tuple[list[list[int]], list[list[int]]]:
        asked, answered = [], []
        for i in range(count):
            source, target = LANGUAGES if i % 2 else LANGUAGES[::-1]
            scene = random_scene(rng)
            if len(scene.things) == 1 and rng.random() < busy:
                scene = random_scene(rng)
            text, other = pair(scene, source, target, rng)
            asked.append(text.join(before[target]))
            answered.append(other)
        # Through the wrapper: the inner tokenizer goes on padding once somebody has asked for padding.
        encoded = words([*asked, *answered], add_special_tokens=False)["input_ids"]
        return encoded[:count], [[*ids, end] for ids in encoded[count:]]

    def loss() -> Tensor:
        asked, answered = draw(batch)
        ids = pad([a + b for a, b in zip(asked, answered, strict=True)], 1)
        at = torch.arange(ids.shape[1] - 1)[None]
        first = torch.tensor([[len(a) - 1] for a in asked])
        last = torch.tensor([[len(a) + len(b) - 1] for a, b in zip(asked, answered, strict=True)])
        wanted = (at >= first) & (at < last)
        states = model.model(input_ids=ids).last_hidden_state[:, :-1][wanted]
        return F.cross_entropy(model.lm_head(states), ids[:, 1:][wanted])

    def check(mean: nn.Module) -> str:
        assert isinstance(mean, Phi3ForCausalLM)
        return " ".join(f"{s}->{t} {right(mean, words, 60, s, t):.3f}" for s, t in (LANGUAGES, LANGUAGES[::-1]))

    mean = optimize(model, loss, steps=steps, lr=1e-3, name="translator", say=say, check=check, check_every=500)
    assert isinstance(mean, Phi3ForCausalLM)
    return mean


@torch.no_grad()
def translate(model: Phi3ForCausalLM, words: PreTrainedTokenizerFast, texts: list[str], target: str) -> list[str]:
    """Greedy translations, one for each text."""
    asked = words([ask(words, t, target) for t in texts], padding=True, add_special_tokens=False, return_tensors="pt")
    writer: Any = model
    made = writer.generate(**asked, do_sample=False, max_new_tokens=96)
    return [t.strip() for t in words.batch_decode(made[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)]


def right(
    model: Phi3ForCausalLM, words: PreTrainedTokenizerFast, count: int, source: str, target: str, seed: int = 10_000
) -> float:
    """Share of the facts of `count` captions of unseen scenes that their translations tell, by `grammar.facts`."""
    prompts = grammar.eval_prompts(count, source, seed)
    good = total = 0
    for at in range(0, count, 50):
        part = [text for _, text in prompts[at : at + 50]]
        for text, other in zip(part, translate(model, words, part, target), strict=True):
            hit, all_ = facts_kept(grammar.facts(text, source), grammar.facts(other, target))
            good, total = good + hit, total + all_
    return good / total


def facts_kept(told: grammar.Facts, seen: grammar.Facts) -> tuple[int, int]:
    """(facts of `told` that `seen` tells too, facts of `told`): background, and a thing's shape, colour, size, place.

    Things go together by place, the only field that names a thing for certain. A thing too many costs a fact.
    """
    total, hits = 1, int(told.background == seen.background)
    others = {thing.place: thing for thing in seen.things}
    for thing in told.things:
        other = others.pop(thing.place, None)
        for name in ("shape", "color", "size", "place"):
            value = getattr(thing, name)
            if value is not None:
                total += 1
                hits += int(other is not None and getattr(other, name) == value)
            elif other is not None and name == "size" and other.size is not None:
                total += 1  # an invented size is a wrong fact
    return hits, total + len(others)


def save(model: Phi3ForCausalLM, words: PreTrainedTokenizerFast, folder: Path) -> None:
    model.half().save_pretrained(folder)
    words.save_pretrained(folder)
