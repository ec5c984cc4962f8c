"""Models that translate captions: chat models, asked through their own chat template, and encoder-decoders.

    commonart translate --to ja --model cat-translate captions.jsonl
    commonart translate --to ja --model owner/opus-mt-en-jap --accept-terms owner/opus-mt-en-jap captions.jsonl

The embedded nano translator is a Phi-3 and runs through the same code as Phi-3 Medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, with_class
from commonart.core.model.captioning.generate import RETRY, Generated, TextGenerator
from commonart.core.model.captioning.languages import LANGUAGES, language_code, language_tokens
from commonart.core.model.tokenizer import load_tokenizer

SEQ2SEQ = {
    "MarianMTModel", "M2M100ForConditionalGeneration", "NllbMoeForConditionalGeneration", "MBartForConditionalGeneration",
    "T5ForConditionalGeneration", "MT5ForConditionalGeneration", "UMT5ForConditionalGeneration",
}  # fmt: skip
CHAT = {
    cls
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    for cls in (names if isinstance(names, tuple) else (names,))
}
_T5_TEMPLATE = "translate {source} to {target}: {text}"


class Translator(TextGenerator):
    """A model that translates texts."""

    ROLE = "translate"
    PROCESSOR = "AutoTokenizer"
    MODEL_CLASSES = frozenset(SEQ2SEQ | CHAT)
    CHOICE = f"a causal language model, or one of these classes: {', '.join(sorted(SEQ2SEQ))}"
    MAX_NEW_TOKENS = 512

    @cached_property
    def piece_size(self) -> int:
        """Characters that it is given at once; 0: one sentence, as encoder-decoders were trained."""
        return 0 if self.model.cls in SEQ2SEQ else 500

    @cached_property
    def template(self) -> str:
        """What is asked, with {text}, {source}, {target}; of an encoder-decoder mostly the text alone."""
        if self.model.cls not in SEQ2SEQ:
            return self.model.template
        example = next(iter(self._tokens.values()), "")
        if example.startswith(("<2", ">>")):  # MADLAD and Marian read the target's token before the text
            return "{token} {text}"
        return _T5_TEMPLATE if "T5" in self.model.cls and not example else "{text}"

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The languages that it reads."""
        only = language_code(getattr(self._tokenizer, "source_lang", "")) if self.model.cls == "MarianMTModel" else ""
        return (only,) if only in LANGUAGES else self._languages

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The languages that it writes."""
        only = language_code(getattr(self._tokenizer, "target_lang", "")) if self.model.cls == "MarianMTModel" else ""
        return (only,) if only in LANGUAGES and not self._tokens else self._languages

    @cached_property
    def _languages(self) -> tuple[str, ...]:
        return self.model.langs or tuple(self._tokens) or tuple(LANGUAGES)

    @cached_property
    def _tokens(self) -> dict[str, str]:
        if self.model.cls not in SEQ2SEQ:
            return {}
        # M2M100's tokenizer keeps its languages beside its vocabulary.
        return language_tokens([*self._tokenizer.get_vocab(), *getattr(self._tokenizer, "lang_token_to_id", ())])

    def _load_processor(self, folder: Path) -> Any:
        return load_tokenizer(folder)

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer, before the weights: of an encoder-decoder it alone says which languages there are."""
        folder = self.resolved.folder
        try:
            return self._load_processor(folder)
        except Exception as error:  # as many kinds as there are tokenizers
            raise CommonArtError(
                f"the tokenizer of {self.name} cannot be loaded from {folder}: {with_class(error)}.",
                "Download or copy the model again; it needs its tokenizer's files.",
            ) from error

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, retry: bool = False
    ) -> list[Generated | Problem]:
        """Translate texts from language `source` to `target` (of `sources` and `targets`): one translation each, in order.

        A text that is longer than the model reads is a problem, `input_too_long`.

        Args:
            retry: decode in another way than the first time.
        """
        names = {"source": LANGUAGES.get(source, source), "target": LANGUAGES.get(target, target)}
        questions = [self.template.format(text=text, token=self._tokens.get(target), **names) for text in texts]
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **(RETRY if retry else {})}
        most = self._max_input if questions else 0
        sizes = [len(ids) for ids in self._tokenizer(questions, verbose=False)["input_ids"]] if questions else []
        short = [question for question, size in zip(questions, sizes, strict=True) if size <= most]
        if self.model.cls in SEQ2SEQ:
            options["max_new_tokens"] = min(self.max_new_tokens, most - 1)
            done = iter(self._generate(short, lambda part: self._rewrite(part, source, target, options)))
        else:
            done = iter(self._generate(short, lambda part: self._reply(part, options)))
        return [
            next(done) if size <= most else Problem("input_too_long", f"{size} tokens; {self.name} reads {most}")
            for size in sizes
        ]

    @cached_property
    def _max_input(self) -> int:
        """Tokens that it reads; of a chat model the half, which leaves room for its answer and the template."""
        config = self.loaded.model.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        if self.model.cls not in SEQ2SEQ:
            return int(positions) // 2
        return int(min(self._tokenizer.model_max_length, positions))

    def _rewrite(self, texts: Sequence[str], source: str, target: str, options: Mapping[str, Any]) -> list[Generated]:
        tokenizer, tokens = self.loaded.processor, self._tokens
        forced: dict[str, Any] = {}
        if hasattr(tokenizer, "src_lang"):  # NLLB, M2M100, mBART: one token begins the text, another the translation
            tokenizer.src_lang = tokens[source].strip("_")
            forced["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(tokens[target])
        inputs = tokenizer(list(texts), return_tensors="pt", padding=True, return_token_type_ids=False)
        return self.loaded.generate(inputs, **forced, **options)

    def _reply(self, prompts: Sequence[str], options: Mapping[str, Any]) -> list[Generated]:
        tokenizer, config = self.loaded.processor, self.loaded.model.generation_config
        if tokenizer.chat_template:
            prompts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True,
                    enable_thinking=False,  # Qwen3's template: the answer alone
                )
                for prompt in prompts
            ]  # fmt: skip
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        inputs = tokenizer(
            list(prompts), return_tensors="pt", padding=True, padding_side="left",
            # The template writes the special tokens itself; the model has never seen a second BOS.
            add_special_tokens=not tokenizer.chat_template, return_token_type_ids=False,
        )  # fmt: skip
        pad = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
        return self.loaded.generate(inputs, skip=inputs["input_ids"].shape[1], num_beams=1, pad_token_id=pad, **options)
