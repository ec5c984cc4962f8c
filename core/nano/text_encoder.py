"""The nano text encoder: a Llama that learns to read and to write the captions of scenes.

It is trained as a language model on pairs of captions of one scene, in every direction between English and Japanese
("a <sep> b"), so that the second caption can only be predicted from the meaning of the first. Two auxiliary heads, which
are discarded, give the states that the diffusion transformer attends to the same meaning in both languages: the last one
has to tell the whole scene, and each one the thing that the text is about there, as a single place, color, shape and size.
An image token then finds by its own place what is there, whatever else the caption names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from commonart.core.nano import facts, grammar
from commonart.core.nano import tokenizer as tokenizers
from commonart.core.nano.scenes import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Scene, random_scene
from commonart.core.nano.training import LANGUAGES, Log, hidden_matrices, optimize

BATCH = 32
SKIP_SINGLE = 0.5  # of the scenes of one thing: which color belongs to which shape is learned from two and three
# Of the scenes of the wider steps, those with a pair that images hold out; by chance it would be 0.18.
HELDOUT_SHARE = 0.2
SHORT_SHARE = 0.2  # of their batches, those without places
UNKNOWN = -100  # the label that costs nothing


def vocabulary(seed: int, captions: int = 20_000) -> PreTrainedTokenizerFast:
    """Learn the tokenizer of the text encoder, from captions in both languages and from the adapters' prompts."""
    rng = np.random.default_rng(seed)
    texts = [grammar.caption(random_scene(rng), LANGUAGES[i % 2], rng) for i in range(captions)]
    prompts = [tokenizers.TRANSLATE_PROMPT.format(target=t, text="") for t in ("Japanese", "English")]
    texts += [tokenizers.CAPTION_QUESTION, *prompts] * 50
    return tokenizers.wrap(tokenizers.train(texts), "llm")


class SceneHead(nn.Module):
    """Predict from states [N, D] the background, and color, shape and size (or nothing) at each of the nine places."""

    FIELDS = (("color", COLORS), ("shape", SHAPES), ("size", SIZES))

    def __init__(self, width: int) -> None:
        super().__init__()
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.cells = nn.ModuleList(nn.Linear(width, len(PLACES) * (len(names) + 1)) for _, names in self.FIELDS)

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy [N] of states [N, D] and labels [N, 28] of `scene_labels`."""
        loss = F.cross_entropy(self.background(states), labels[:, 0], reduction="none")
        for i, head in enumerate(self.cells):
            logits = head(states).unflatten(-1, (len(PLACES), -1)).flatten(0, 1).float()
            target = labels[:, 1 + 9 * i : 10 + 9 * i].flatten()
            loss = loss + F.cross_entropy(logits, target, reduction="none").unflatten(0, (-1, len(PLACES))).sum(1)
        return loss

    def predict(self, states: Tensor) -> Tensor:
        """Return the most likely labels, [N, 28]."""
        labels = [self.background(states).argmax(-1, keepdim=True)]
        labels += [head(states).unflatten(-1, (len(PLACES), -1)).argmax(-1) for head in self.cells]
        return torch.cat(labels, 1)


class ThingHead(nn.Module):
    """Predict from states [N, D] the place, color, shape and size of the thing that the text is about there."""

    FIELDS = (("place", PLACES), ("color", COLORS), ("shape", SHAPES), ("size", SIZES))

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Linear(width, len(names)) for _, names in self.FIELDS)

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of states [N, D] and labels [N, 4] of `thing_labels`; unknown fields cost nothing."""
        parts = [
            F.cross_entropy(head(states).float(), labels[:, i], ignore_index=UNKNOWN, reduction="sum")
            for i, head in enumerate(self.fields)
        ]
        return torch.stack(parts).sum() / len(states)


def thing_labels(texts: Sequence[str], langs: Sequence[str], offsets: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """Return the labels [B, L, 4] of texts, whose tokens span the characters `offsets`; UNKNOWN where a text says nothing."""
    labels = torch.full((len(texts), max(map(len, offsets)), len(ThingHead.FIELDS)), UNKNOWN)
    for row, (text, lang, spans) in enumerate(zip(texts, langs, offsets, strict=True)):
        parts = facts.mentions(text, lang)
        for at, (start, thing) in enumerate(parts):
            stop = parts[at + 1][0] if at + 1 < len(parts) else len(text)
            about = [i for i, (_, end) in enumerate(spans) if start < end <= stop]
            for field, (name, names) in enumerate(ThingHead.FIELDS):
                if (value := getattr(thing, name)) is not None:
                    labels[row, about, field] = names.index(value)
    return labels


def scene_labels(scenes: Sequence[Scene]) -> Tensor:
    """Return the labels [B, 28] of scenes: background, then nine colors, shapes and sizes (0: nothing there)."""
    rows = []
    for scene in scenes:
        row = [BACKGROUNDS.index(scene.background)] + [0] * 27
        for thing in scene.things:
            at = 1 + PLACES.index(thing.place)
            row[at] = 1 + COLORS.index(thing.color)
            row[at + 9] = 1 + SHAPES.index(thing.shape)
            row[at + 18] = 1 + SIZES.index(thing.size)
        rows.append(row)
    return torch.tensor(rows)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of token ids as one tensor [B, L], filled up with `value` on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def new(vocabulary_size: int) -> LlamaForCausalLM:
    """Make an untrained text encoder."""
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    # The fused attention's backward pass is ten times slower than plain products, in bfloat16 on a CPU.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def train(
    tokenizer: PreTrainedTokenizerFast, seed: int, say: Log, steps: int = 5_000, wider: int = 1_250
) -> LlamaForCausalLM:
    """Train the text encoder, with `wider` further steps of every pair of color and shape, and captions without places.

    A large language model has read of all pairs (only images hold some out). Used from the start, these keep the model
    from learning what belongs together (measured: 63 % of captions fully understood after 10,000 steps, against 100 %).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new(len(tokenizer))
    scene_head, thing_head = SceneHead(model.config.hidden_size), ThingHead(model.config.hidden_size)
    separator = tokenizers.token_id(tokenizer, tokenizers.SEP)

    widened = False

    def random_scenes(count: int) -> list[Scene]:
        scenes: list[Scene] = []
        while len(scenes) < count:
            scene = random_scene(rng, heldout=bool(widened and rng.random() < HELDOUT_SHARE))
            if len(scene.things) > 1 or rng.random() >= SKIP_SINGLE:
                scenes.append(scene)
        return scenes

    def write(scenes: Sequence[Scene], short: bool) -> tuple[list[list[int]], Tensor]:
        """Return the token ids of a caption of each scene, in either language, and its `thing_labels`."""
        langs = [LANGUAGES[i] for i in rng.integers(2, size=len(scenes))]
        caption = grammar.short_caption if short else grammar.caption
        texts = [caption(scene, lang, rng) for scene, lang in zip(scenes, langs, strict=True)]
        encoded = tokenizer.backend_tokenizer.encode_batch(texts)
        return [e.ids for e in encoded], thing_labels(texts, langs, [e.offsets for e in encoded])

    def loss() -> Tensor:
        # Twice as many single captions take as long as pairs, and single texts are what the encoder is for.
        paired = rng.random() < 0.4
        short = bool(widened and rng.random() < SHORT_SHARE)
        scenes = random_scenes(BATCH if paired else 2 * BATCH)
        first, things = write(scenes, short)
        if paired:
            second, _ = write(scenes, short)
            rows = [[*a, separator, *b, 0] for a, b in zip(first, second, strict=True)]
        else:
            rows = [[*a, 0] for a in first]
        ids = pad(rows, 1)
        states = model.model(input_ids=ids).last_hidden_state
        real = ids[:, 1:] != 1
        value = F.cross_entropy(model.lm_head(states[:, :-1][real]), ids[:, 1:][real])
        said = (things != UNKNOWN).any(-1)
        value = value + 0.3 * thing_head(states[:, : said.shape[1]][said], things[said])
        if short:
            return value  # the other head would ask for places
        ends = torch.tensor([len(a) - 1 for a in first])
        return value + 0.2 * scene_head(states[torch.arange(len(scenes)), ends], scene_labels(scenes)).mean()

    scenes = random_scenes(400)
    labels = scene_labels(scenes)
    first, things = write(scenes, False)
    ids, said = pad(first, 1), (things != UNKNOWN).any(-1)
    ends = torch.tensor([len(a) - 1 for a in first])

    @torch.no_grad()
    def check(average: LlamaForCausalLM) -> str:
        states = average.model(input_ids=ids).last_hidden_state  # and the current heads
        last = states[torch.arange(len(ids)), ends]
        right = scene_head.predict(last)[:, :19] == labels[:, :19]
        background, all_ = right[:, 0].float().mean(), right.all(1).float().mean()
        of_things = thing_head(states[said], things[said])
        return f"background {background:.3f}, all {all_:.3f}, head loss of things {of_things:.3f}"

    heads = nn.ModuleList([scene_head, thing_head])
    # With Muon a thousand steps understand what two thousand of AdamW do (98.5 % of captions fully).
    matrices = hidden_matrices(model)
    for lr, count in ((4e-3, steps), (1e-3, wider)):
        average = optimize(
            "text_encoder",
            model,
            loss,
            check,
            say,
            steps=count,
            lr=lr,
            check_every=1000,
            extra=heads,
            matrices=matrices,
        )
        model.load_state_dict(average.state_dict())
        widened = True
    return model.eval()


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the text encoder and its tokenizer, and write both to `folder`; `short`: a few steps, to test the code."""
    tokenizer = vocabulary(seed)
    model = train(tokenizer, seed, say, **({"steps": 5, "wider": 5} if short else {}))
    model.half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
