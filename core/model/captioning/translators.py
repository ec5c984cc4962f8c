"""Models that translate captions: chat models, asked through their own chat template.

    commonart translate --to ja --model cat-translate captions.jsonl

The embedded nano translator is a Phi-3 and runs through the same code as Phi-3 Medium.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from commonart.core.data.drops import Problem
from commonart.core.data.text import language_of
from commonart.core.model.captioning.generate import RETRY, Generated, TextGenerator

LANGUAGES = {"en": "English", "ja": "Japanese"}
_LOOP = re.compile(r"(.{1,40}?)\1{4,}", re.DOTALL)  # a piece five times in a row: greedy decoding ran into a loop


class Translator(TextGenerator):
    """A chat model that translates texts."""

    ROLE = "translate"
    PROCESSOR = "AutoTokenizer"
    MODEL_CLASSES = (
        "Phi3ForCausalLM",
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "MistralForCausalLM",
    )
    MAX_NEW_TOKENS = 256

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, retry: bool = False
    ) -> list[Generated | Problem]:
        """Translate texts from language `source` to `target` (codes of LANGUAGES): one translation each, in order.

        `retry`: decode in another way than the first time.
        """
        languages = {"source": LANGUAGES.get(source, source), "target": LANGUAGES.get(target, target)}
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **(RETRY if retry else {})}
        questions = [self.model.template.format(text=text, **languages) for text in texts]
        return self._generate(questions, lambda part: self._reply(part, options))

    def _reply(self, prompts: Sequence[str], options: dict[str, Any]) -> list[Generated]:
        tokenizer, config = self.loaded.processor, self.loaded.model.generation_config
        if tokenizer.chat_template:
            prompts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
                )
                for prompt in prompts
            ]
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        inputs = tokenizer(
            list(prompts), return_tensors="pt", padding=True, padding_side="left",
            # The template writes the special tokens itself; the model has never seen a second BOS.
            add_special_tokens=not tokenizer.chat_template, return_token_type_ids=False,
        )  # fmt: skip
        pad = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
        return self.loaded.generate(
            inputs, skip=inputs["input_ids"].shape[1], num_beams=1, pad_token_id=pad, **options
        )


def problem(text: str, original: str, source: str, target: str) -> str:
    """Return why a translation is not kept, or "" when nothing is wrong with it.

    The reasons: empty; repetition (a piece five times in a row); unchanged (the original again); too_long (more than
    eight times the original); wrong_script (not in the letters of `target`).
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
    return "" if language_of(text) == target else "wrong_script"
