"""Models that translate captions: chat models through their own chat template, behind one call.

    commonart translate --to ja --model cat-translate captions.jsonl

The embedded nano translator is a Phi-3 and goes through the same code as Phi-3 Medium.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from commonart.core.data.language import lang_of
from commonart.core.model.captioning import generate
from commonart.core.model.captioning.generate import Loaded, Writer
from commonart.core.registry.hub import Resolved

MAX_NEW_TOKENS = 256
LANGUAGES = {"en": "English", "ja": "Japanese"}
FAMILIES = ("Phi3ForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM")

_LOOP = re.compile(r"(.{1,40}?)\1{4,}", re.DOTALL)  # five times the same: greedy decoding that ran into a loop


class Translator(Writer):
    """One model. `translate` is all that a stage needs beside what records keep about it."""

    def __init__(self, resolved: Resolved, *, max_new_tokens: int = MAX_NEW_TOKENS, **options: Any) -> None:
        super().__init__(resolved, FAMILIES, "AutoTokenizer", max_new_tokens, **options)

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """One translation for each text, in order, from language `source` to `target` (codes of LANGUAGES)."""
        if not texts:
            return []
        asked = [
            self.model.prompt.format(
                text=text, source=LANGUAGES.get(source, source), target=LANGUAGES.get(target, target)
            )
            for text in texts
        ]

        def work(part: Sequence[str]) -> list[str]:
            return _chat(self.loaded, part, self.max_new_tokens)

        return [generate.tidy(text) for text in generate.halving(self.loaded, asked, work)]


def open_translator(
    name: str,
    *,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    **options: Any,
) -> Translator:
    """The translator that `--model NAME` means. Raises UsageError (unknown, refused) and CommonArtError."""
    resolved, accepted = generate.found(name, "translate", accept_terms, allow_pickle)
    return Translator(resolved, accepted=accepted, **options)


def problem(text: str, original: str, source: str, target: str) -> str:
    """Why a translation is not kept, as a code, or "" when nothing is wrong with it.

    empty; repetition (five times the same piece); unchanged (the original given back); wrong_script (Japanese without
    one kana or Han character, or another language that is mostly those); too_long (more than eight times the original).
    """
    if not text:
        return "empty"
    if _LOOP.search(text) and not _LOOP.search(original):
        return "repetition"
    if text.casefold() == original.casefold() and source != target:
        return "unchanged"
    if len(text) > 8 * max(len(original), 16):
        return "too_long"
    if target == "ja":  # names and numbers may stay in Latin letters
        text = re.sub("[A-Za-z]+", "", text)
    return "" if lang_of(text) == target else "wrong_script"


def _chat(loaded: Loaded, asked: Sequence[str], max_new_tokens: int) -> list[str]:
    tokenizer, generation = loaded.processor, loaded.model.generation_config
    if tokenizer.chat_template:
        asked = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in asked
        ]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(
        list(asked), return_tensors="pt", padding=True, padding_side="left",
        # The template writes the special tokens itself; a second BOS would be a prompt that it never saw.
        add_special_tokens=not tokenizer.chat_template, return_token_type_ids=False,
    )  # fmt: skip
    written = loaded.model.generate(
        **loaded.to_device(inputs), do_sample=False, num_beams=1, max_new_tokens=max_new_tokens,
        pad_token_id=generation.pad_token_id if generation.pad_token_id is not None else tokenizer.pad_token_id,
    )  # fmt: skip
    texts: list[str] = tokenizer.batch_decode(
        written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts
