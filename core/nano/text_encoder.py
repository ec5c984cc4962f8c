"""The nano text encoder: a Llama that learns to read and to write the captions of scenes.

    commonart nano build --only text_encoder

It is trained as a language model on pairs of captions of one scene, in every direction between English and Japanese
("a <sep> b"), so that the second caption can only be foretold from what the first one means. Beside it a reading head,
which is thrown away, has to tell from each state what is known of the scene so far: the last states, which the
diffusion transformer attends to, then mean the same in both languages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from commonart.core.nano import grammar, tokenizer
from commonart.core.nano.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, random_scene
from commonart.core.nano.training import Log, optimize, stderr

LANGUAGES = ("en", "ja")
OTHERS = 0.2  # of the scenes of the wider steps, those with a pair that pictures hold out; by chance it were 0.18
SHORT = 0.2  # of their batches, those without places


def vocabulary(seed: int = 0, captions: int = 20_000) -> PreTrainedTokenizerFast:
    """The tokenizer of the text encoder, learned from captions in both languages and from the adapters' prompts."""
    rng = np.random.default_rng(seed)
    texts = []
    for i in range(captions):
        scene = random_scene(rng)
        texts.append(grammar.caption(scene, LANGUAGES[i % 2], rng))
    prompts = [tokenizer.TRANSLATE_PROMPT.format(target=t, text="") for t in ("Japanese", "English")]
    texts += [tokenizer.CAPTION_QUESTION, *prompts] * 50
    return tokenizer.wrap(tokenizer.train(texts), "llm")


class Reader(nn.Module):
    """From states ... x D: background, and colour, shape and size (or nothing) at each of the nine places."""

    FIELDS = (("color", COLOURS), ("shape", SHAPES), ("size", SIZES))

    def __init__(self, width: int) -> None:
        super().__init__()
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.cells = nn.ModuleList(nn.Linear(width, len(PLACES) * (len(names) + 1)) for _, names in self.FIELDS)

    def forward(self, states: Tensor, truth: Tensor) -> Tensor:
        """Cross entropy per state. states N x D, truth N x 28 as `answers` makes it; returns N."""
        loss = F.cross_entropy(self.background(states), truth[:, 0], reduction="none")
        for i, head in enumerate(self.cells):
            logits = head(states).unflatten(-1, (len(PLACES), -1)).flatten(0, 1).float()
            target = truth[:, 1 + 9 * i : 10 + 9 * i].flatten()
            loss = loss + F.cross_entropy(logits, target, reduction="none").unflatten(0, (-1, len(PLACES))).sum(1)
        return loss

    def read(self, states: Tensor) -> Tensor:
        """The likeliest answers, N x 28."""
        parts = [self.background(states).argmax(-1, keepdim=True)]
        parts += [head(states).unflatten(-1, (len(PLACES), -1)).argmax(-1) for head in self.cells]
        return torch.cat(parts, 1)


def answers(scenes: Sequence[Scene]) -> Tensor:
    """What a Reader should say: background, then nine colours, nine shapes, nine sizes (0 = nothing there). B x 28."""
    rows = []
    for scene in scenes:
        row = [BACKGROUNDS.index(scene.background)] + [0] * 27
        for thing in scene.things:
            at = 1 + PLACES.index(thing.place)
            row[at] = 1 + COLOURS.index(thing.color)
            row[at + 9] = 1 + SHAPES.index(thing.shape)
            row[at + 18] = 1 + SIZES.index(thing.size)
        rows.append(row)
    return torch.tensor(rows)


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Rows of token ids as one tensor B x L, filled with `value`."""
    length = max(map(len, rows))
    fill = [[value] * (length - len(row)) for row in rows]
    return torch.tensor([[*f, *r] if left else [*r, *f] for r, f in zip(rows, fill, strict=True)])


def new(vocabulary_size: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
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
    words: PreTrainedTokenizerFast,
    seed: int = 0,
    steps: int = 10_000,
    batch: int = 32,
    say: Log = stderr,
    busy: float = 0.5,
    wider: int = 2_500,
) -> LlamaForCausalLM:
    """words: the tokenizer of kind "llm". busy: the share of scenes of one thing that are passed over, because which
    colour belongs to which shape and place is learned from scenes of two and three.

    wider: further steps in which it reads of every pair of colour and shape, as a large language model has (pictures
    alone hold some out), and captions that leave places out. From the start they keep it from ever learning what
    belongs to what (measured: 10,000 steps, 63 % of captions understood whole, where the other order reaches 100 %).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new(len(words))
    reader = Reader(model.config.hidden_size)
    separator = tokenizer.number(words, tokenizer.SEP)

    widened = False

    def pairs(
        count: int, tell: Callable[..., str] = grammar.caption
    ) -> tuple[list[Scene], list[list[int]], list[list[int]]]:
        scenes: list[Scene] = []
        while len(scenes) < count:
            scene = random_scene(rng, heldout=bool(widened and rng.random() < OTHERS))
            if len(scene.things) > 1 or rng.random() >= busy:
                scenes.append(scene)
        langs = rng.integers(2, size=(count, 2))
        sides = []
        for side in range(2):
            texts = [tell(s, LANGUAGES[langs[i, side]], rng) for i, s in enumerate(scenes)]
            sides.append([e.ids for e in words.backend_tokenizer.encode_batch(texts)])
        return scenes, sides[0], sides[1]

    def loss() -> Tensor:
        # Twice as many single captions take the time of pairs, and a text alone is what the encoder is for.
        paired = rng.random() < 0.4
        count = batch if paired else 2 * batch
        short = widened and rng.random() < SHORT
        scenes, first, second = pairs(count, grammar.short_caption if short else grammar.caption)
        rows = [[*a, separator, *b, 0] if paired else [*a, 0] for a, b in zip(first, second, strict=True)]
        ids = pad(rows, 1)
        states = model.model(input_ids=ids).last_hidden_state
        real = ids[:, 1:] != 1
        language = F.cross_entropy(model.lm_head(states[:, :-1][real]), ids[:, 1:][real])
        if short:
            return language  # the reading head asks for places
        truth = answers(scenes)
        ends = torch.tensor([len(a) - 1 for a in first])
        known = reader(states[torch.arange(count), ends], truth)
        # Every other token of the first caption too: what can be known there is little, but it is told early.
        inside = torch.arange(ids.shape[1])[None] < ends[:, None]
        partly = reader(states[inside], truth[:, None].expand(-1, ids.shape[1], -1)[inside])
        return language + 0.2 * known.mean() + 0.1 * partly.mean()

    scenes, first, _ = pairs(400)
    truth, ids = answers(scenes), pad(first, 1)
    ends = torch.tensor([len(a) - 1 for a in first])

    @torch.no_grad()
    def check(mean: nn.Module) -> str:
        assert isinstance(mean, LlamaForCausalLM)
        states = mean.model(input_ids=ids).last_hidden_state[torch.arange(len(ids)), ends]
        right = reader(states, truth).mean().item()  # of the heads as they are, which lag the average a little
        seen = reader.read(states)[:, :19] == truth[:, :19]
        background, all_ = seen[:, 0].float().mean(), seen.all(1).float().mean()
        return f"reading loss {right:.3f}, background {background:.3f}, all {all_:.3f}"

    for lr, count in ((2e-3, steps), (5e-4, wider)):
        mean = optimize(
            model, loss, steps=count, lr=lr, extra=reader, name="text_encoder", say=say, check=check, check_every=1000
        )
        assert isinstance(mean, LlamaForCausalLM)
        model.load_state_dict(mean.state_dict())
        widened = True
    return model.eval()


def save(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, folder: Path, tokenizer_folder: Path) -> None:
    model.half().save_pretrained(folder)
    words.save_pretrained(tokenizer_folder)
