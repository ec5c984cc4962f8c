"""The byte-level BPE of all nano models: whole words in English, whole words and particles in Japanese.

Any Unicode text can be encoded and decoded; the merges come from the captions of scenes. Text is split at changes of
script before merging, so that a color and a shape never become one token: the models have to learn to combine them,
including the held-out pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from commonart.core.nano.training import require

# The first four have the ids that BART and CALM2 give them (pad = 1), so that the usual defaults hold.
BOS, PAD, EOS, UNK, SEP = "<s>", "<pad>", "</s>", "<unk>", "<sep>"
IMAGE, USER, ASSISTANT, END = "<image>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (BOS, PAD, EOS, UNK, SEP, IMAGE, USER, ASSISTANT, END)

CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# The prompts of the captioner and the translator, whose words belong in the vocabulary.
CAPTION_QUESTION = "What does the image describe?"
TRANSLATE_PROMPT = "to {target}: {text}"

_PIECES = Regex(
    r" ?[A-Za-z]+| ?[0-9]+|\p{Han}+|\p{Hiragana}+|[\p{Katakana}ー]+|\s+"
    r"|[^\sA-Za-z0-9\p{Han}\p{Hiragana}\p{Katakana}ー]+"
)


def train(texts: Iterable[str], size: int = 640) -> Tokenizer:
    """Learn a byte-level BPE of at most `size` tokens, special ones included."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(_PIECES, behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), list(SPECIAL)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of a special token. Raises KeyError where the tokenizer has none."""
    return int(tokenizer.get_vocab()[token])


def load(folder: Path, kind: str) -> PreTrainedTokenizerFast:
    """Return the text encoder's vocabulary in `folder` as another architecture expects it. Raises as `require` does."""
    require(folder, "tokenizer", "text_encoder", "tokenizer.json")
    return wrap(PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer").backend_tokenizer, kind)


def wrap(tokenizer: Tokenizer, kind: str) -> PreTrainedTokenizerFast:
    """Make the tokenizer of one architecture from the shared vocabulary.

    `kind`: "llm" (as CALM2: nothing is added), "caption" (as BART: <s> text </s>, with the image token), "chat" (as
    Phi-3: padded on the left) or "clip" (text </s>, padded on the right).
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the post-processor below must not leak into the other kinds
    options: dict[str, Any] = {"pad_token": PAD, "unk_token": UNK, "model_max_length": 256}
    if kind == "llm":
        options |= {"bos_token": BOS, "eos_token": BOS, "padding_side": "right"}
    elif kind == "chat":
        options |= {"bos_token": BOS, "eos_token": END, "padding_side": "left", "chat_template": CHAT}
    elif kind in ("caption", "clip"):
        before = BOS if kind == "caption" else ""
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {EOS}".strip(),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)],
        )
        options |= {"bos_token": BOS, "eos_token": EOS, "padding_side": "right"}
        if kind == "caption":
            options["extra_special_tokens"] = {"image_token": IMAGE}
    else:
        raise ValueError(f"kind must be llm, caption, chat or clip, got {kind!r}")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
