"""The nano text encoder: a Llama that learns to read and to write the captions of scenes.

It is trained as a language model on pairs of captions of one scene, in every direction between English and Japanese
("a <sep> b"), so that the second caption can only be predicted from the meaning of the first. An auxiliary head, which
is discarded, has to predict from each state what the text has said of the scene so far: the last states, which the
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

from commonart.core.nano import grammar
from commonart.core.nano import tokenizer as tokenizers
from commonart.core.nano.scenes import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Scene, random_scene
from commonart.core.nano.training import LANGUAGES, Log, optimize

BATCH = 32
SKIP_SINGLE = 0.5  # of the scenes of one thing: which color belongs to which shape is learned from two and three
# Of the scenes of the wider steps, those with a pair that images hold out; by chance it would be 0.18.
HELDOUT_SHARE = 0.2
SHORT_SHARE = 0.2  # of their batches, those without places


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
    tokenizer: PreTrainedTokenizerFast, seed: int, say: Log, steps: int = 10_000, wider: int = 2_500
) -> LlamaForCausalLM:
    """Train the text encoder, with `wider` further steps of every pair of color and shape, and captions without places.

    A large language model has read of all pairs (only images hold some out). Used from the start, these keep the model
    from learning what belongs together (measured: 63 % of captions fully understood after 10,000 steps, against 100 %).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new(len(tokenizer))
    head = SceneHead(model.config.hidden_size)
    separator = tokenizers.token_id(tokenizer, tokenizers.SEP)

    widened = False

    def caption_pairs(
        count: int, write: Callable[..., str] = grammar.caption
    ) -> tuple[list[Scene], list[list[int]], list[list[int]]]:
        scenes: list[Scene] = []
        while len(scenes) < count:
            scene = random_scene(rng, heldout=bool(widened and rng.random() < HELDOUT_SHARE))
            if len(scene.things) > 1 or rng.random() >= SKIP_SINGLE:
                scenes.append(scene)
        langs = rng.integers(2, size=(count, 2))
        sides = []
        for side in range(2):
            texts = [write(s, LANGUAGES[langs[i, side]], rng) for i, s in enumerate(scenes)]
            sides.append([e.ids for e in tokenizer.backend_tokenizer.encode_batch(texts)])
        return scenes, sides[0], sides[1]

    def loss() -> Tensor:
        # Twice as many single captions take as long as pairs, and single texts are what the encoder is for.
        paired = rng.random() < 0.4
        count = BATCH if paired else 2 * BATCH
        short = widened and rng.random() < SHORT_SHARE
        scenes, first, second = caption_pairs(count, grammar.short_caption if short else grammar.caption)
        rows = [[*a, separator, *b, 0] if paired else [*a, 0] for a, b in zip(first, second, strict=True)]
        ids = pad(rows, 1)
        states = model.model(input_ids=ids).last_hidden_state
        real = ids[:, 1:] != 1
        language = F.cross_entropy(model.lm_head(states[:, :-1][real]), ids[:, 1:][real])
        if short:
            return language  # the head would ask for places
        labels = scene_labels(scenes)
        ends = torch.tensor([len(a) - 1 for a in first])
        complete = head(states[torch.arange(count), ends], labels)
        # The other tokens of the first caption, too: they say little, but they say it early.
        inside = torch.arange(ids.shape[1])[None] < ends[:, None]
        partial = head(states[inside], labels[:, None].expand(-1, ids.shape[1], -1)[inside])
        return language + 0.2 * complete.mean() + 0.1 * partial.mean()

    scenes, first, _ = caption_pairs(400)
    labels, ids = scene_labels(scenes), pad(first, 1)
    ends = torch.tensor([len(a) - 1 for a in first])

    @torch.no_grad()
    def check(average: LlamaForCausalLM) -> str:
        states = average.model(input_ids=ids).last_hidden_state[torch.arange(len(ids)), ends]
        head_loss = head(states, labels).mean().item()  # of the current head, on averaged states
        right = head.predict(states)[:, :19] == labels[:, :19]
        background, all_ = right[:, 0].float().mean(), right.all(1).float().mean()
        return f"head loss {head_loss:.3f}, background {background:.3f}, all {all_:.3f}"

    for lr, count in ((2e-3, steps), (5e-4, wider)):
        average = optimize("text_encoder", model, loss, check, say, steps=count, lr=lr, check_every=1000, extra=head)
        model.load_state_dict(average.state_dict())
        widened = True
    return model.eval()


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the text encoder and its tokenizer, and write both to `folder`; `short`: a few steps, to test the code."""
    tokenizer = vocabulary(seed)
    model = train(tokenizer, seed, say, **({"steps": 5, "wider": 5} if short else {}))
    model.half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
