"""What captioners and translators share: opening a model by name, loading it, and batches that shrink to fit memory.

    commonart caption --model qwen2-vl --batch 64 raw/    # halves the batch by itself where 64 do not fit

Weights are safetensors on this machine's disk; no code of a model's folder is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch
import transformers
from safetensors import SafetensorError

from commonart.core import log
from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, first_line, with_class
from commonart.core.model import device as devices
from commonart.core.model import memory, weights
from commonart.core.model import quantize as quantization
from commonart.core.model.captioning import cache as caches
from commonart.core.model.captioning.sampling import Sampling
from commonart.core.registry.catalogue import Model
from commonart.core.registry.hub import ResolvedModel, resolve_model
from commonart.core.registry.lookup import check_terms, find_model

Item = TypeVar("Item")
# Of a second try: what greedy decoding repeats without end, these do not let it say again.
RETRY = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 5}
MOST = {"cuda": 128, "cpu": 64}  # items of the largest batch that is chosen without --batch
PROBE = 4  # items of the batch whose memory is measured
LIKELY = 20  # first tokens whose probability is told, as many as OpenAI's protocol tells
SMALLEST = 4  # rows that are not halved any more
SHARE = 0.5  # of the free memory for a batch: texts grow longer than those of the probe, and the system wants some


class Generated(NamedTuple):
    """A text that a model wrote."""

    text: str
    finished: bool  # by its end token, and not by the limit of tokens
    tokens: int  # without padding and prompt
    first: tuple[tuple[str, float], ...] = ()  # the likely first tokens and how likely, of an answer to a question


class Inputs(NamedTuple):
    """What a processor made of a batch, for `LoadedModel.generate`."""

    tensors: Mapping[str, Any]
    skip: int = 0
    options: Mapping[str, Any] = {}


@dataclass(slots=True)
class LoadedModel:
    """A model with its processor (or tokenizer), on the device where it runs."""

    name: str
    model: Any  # transformers.PreTrainedModel, whose generate() is not typed
    processor: Any  # ProcessorMixin, or PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    max_batch: int = 1 << 30  # the largest batch that is not known to exceed the memory

    def generate(
        self, inputs: Any, *, skip: int = 0, sampling: Sampling | None = None, **options: Any
    ) -> list[Generated]:
        """Generate one text for each row of a processor's output, deterministically.

        Args:
            inputs: moved to the model's device and dtype here.
            skip: tokens at the beginning of each output row that are the prompt (decoder-only models repeat it).
            sampling: draws the tokens; None: the likeliest ones.
            options: of `transformers`' generate.
        """
        if sampling is not None:
            options["num_beams"] = 1
        moved = self._moved(inputs)
        config = self.model.generation_config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        is_end = torch.tensor([end for end in ends if end is not None], device=self.device)
        if skip and options.get("num_beams") == 1 and not getattr(self.model, "_is_stateful", False):
            rows = self._generate_by_halves(moved, skip, is_end, options, sampling)
        else:
            own = caches.new_cache(self.model) if self.model.config.is_encoder_decoder else {}
            drawn = {} if sampling is None else {"logits_processor": [sampling]}
            rows = list(self.model.generate(**moved, **own, **drawn, do_sample=False, **options)[:, skip:])
        texts = self.processor.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        generated = []
        for row, text in zip(rows, texts, strict=True):
            # An encoder-decoder's row begins with its start token, which may be the end token too.
            found = torch.isin(row if skip else row[1:], is_end).nonzero()
            tokens = int(found[0]) + 1 if len(found) else len(row) - (not skip)
            generated.append(Generated(tidy(text), len(found) > 0, tokens))
        return generated

    def answer(self, inputs: Mapping[str, Any], *, skip: int, **options: Any) -> list[Generated]:
        """Answer one question for each row of a decoder's inputs, with the probabilities of the LIKELY first tokens.

        Arguments are those of `generate`.
        """
        made = self.model.generate(
            **self._moved(inputs), do_sample=False, return_dict_in_generate=True, output_logits=True, **options
        )
        decode: Callable[..., list[str]] = self.processor.batch_decode
        texts = decode(made.sequences[:, skip:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        top = made.logits[0].float().softmax(-1).topk(min(LIKELY, made.logits[0].shape[-1]))
        answers = []
        for text, values, tokens in zip(texts, top.values.tolist(), top.indices, strict=True):
            first: dict[str, float] = {}
            for word, value in zip(decode(tokens[:, None]), values, strict=True):
                first[word] = first.get(word, 0.0) + value
            answers.append(Generated(tidy(text), True, made.sequences.shape[1] - skip, tuple(first.items())))
        return answers

    def _moved(self, inputs: Any) -> dict[str, Any]:
        """Return inputs on the model's device, floating point in its dtype."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            if torch.is_tensor(value)
            else value
            for name, value in inputs.items()
        }

    def _generate_by_halves(
        self,
        inputs: Mapping[str, Any],
        skip: int,
        is_end: torch.Tensor,
        options: Mapping[str, Any],
        sampling: Sampling | None,
    ) -> list[torch.Tensor]:
        """Generate from a decoder; whenever half of a batch has ended, the others go on without it.

        In a batch of 64, a text of 160 tokens would else compute 160 for all of them. The cache is kept, so that the texts are
        the same.
        """
        done: list[torch.Tensor] = [is_end] * len(inputs["input_ids"])
        rows = torch.arange(len(done), device=self.device)
        limit, made = options["max_new_tokens"], 0
        inputs = {**inputs, **caches.new_cache(self.model)}
        while True:
            stop = [_HalfEnded(is_end)] if len(rows) > SMALLEST else None
            drawn = {} if sampling is None else {"logits_processor": [sampling.of(rows.tolist())]}
            result = self.model.generate(
                **inputs, **drawn, **{**options, "max_new_tokens": limit - made}, do_sample=False, stopping_criteria=stop,
                return_dict_in_generate=True,
            )  # fmt: skip
            ids = result.sequences
            made = ids.shape[1] - skip
            for row, tokens in zip(rows.tolist(), ids[:, skip:], strict=True):
                done[row] = tokens
            left = (~torch.isin(ids[:, skip:], is_end).any(1)).nonzero()[:, 0]
            if made >= limit or not len(left):
                return done
            rows, ids = rows[left], ids[left]
            cache = getattr(result, caches.NAME)
            cache.batch_select_indices(left)
            seen = inputs["attention_mask"][left]
            seen = torch.cat([seen, seen.new_ones(len(left), ids.shape[1] - seen.shape[1])], 1)
            inputs = {"input_ids": ids, "attention_mask": seen, caches.NAME: cache}
            body = getattr(self.model, "model", self.model)
            if getattr(body, "rope_deltas", None) is not None:  # Qwen-VL keeps the rows' positions outside the cache
                body.rope_deltas = body.rope_deltas[left]


class _HalfEnded(transformers.StoppingCriteria):
    """Stops all rows when half of them have ended."""

    def __init__(self, is_end: torch.Tensor) -> None:
        self.is_end, self.ended = is_end, torch.tensor(False)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        self.ended = self.ended.to(input_ids.device) | torch.isin(input_ids[:, -1], self.is_end)
        return (2 * self.ended.sum() >= len(input_ids)).expand(len(input_ids))


class TextGenerator:
    """A model that writes text, and what a record keeps about it.

    It is loaded on first use: a run whose shards are all finished never loads it.
    """

    ROLE: ClassVar[str]  # of its rows in the registry
    PROCESSOR: ClassVar[str]  # the Auto class of its processor or tokenizer
    MODEL_CLASSES: ClassVar[Collection[str]]  # classes of transformers that have an adapter
    CHOICE: ClassVar[str]  # what they are, for a person
    MAX_NEW_TOKENS: ClassVar[int]

    def __init__(
        self,
        resolved: ResolvedModel,
        *,
        device: str = "auto",
        precision: str = "auto",
        quantize: str | None = None,
        max_new_tokens: int | None = None,
        side: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        accepted: bool = False,
    ) -> None:
        """Check that there is an adapter for the model's class.

        Args:
            resolved: the registry's row and the folder of its files.
            device, precision: as `core.model.device` takes them.
            quantize: a method of `core.model.quantize` for the linear layers.
            max_new_tokens: default: the class's MAX_NEW_TOKENS.
            side: pixels of the longer side of the images that it is shown; None for a model of texts.
            temperature, seed: of what is drawn from its probabilities (`sampling`); 0: the likeliest text.
            accepted: the registry refuses the model, and the user answers for its terms.

        Raises:
            CommonArtError: There is no adapter for the model's class.
        """
        model = resolved.model
        self.check_files(model, resolved.folder)
        self.resolved, self.model = resolved, model
        self.name, self.revision, self.license = resolved.name, resolved.revision, model.license
        self.device, self.precision, self.quantize, self.accepted = device, precision, quantize, accepted
        self.max_new_tokens, self.side = max_new_tokens or self.MAX_NEW_TOKENS, side
        self.temperature, self.seed = temperature, seed
        quantization.check(quantize)

    @cached_property
    def settings(self) -> dict[str, str | int | float]:
        """What its texts depend on besides prompt and input; every one of them keeps it."""
        dtype = devices.pick_dtype(self.precision, devices.pick_device(self.device))
        precision = quantization.precision_name(dtype, self.quantize)
        side = {} if self.side is None else {"side": self.side}
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return {"precision": precision, "max_new_tokens": self.max_new_tokens, **side, **drawn}

    @classmethod
    def open(
        cls,
        name: str,
        *,
        accept_terms: Sequence[str] = (),
        allow_pickle: bool = False,
        **options: Any,
    ) -> Self:
        """Find the model that `--model NAME` names. `options` are those of the class.

        Raises:
            UsageError: The name is unknown, or the model's terms are refused.
            CommonArtError: Its files cannot be found, or there is no adapter for its class.
        """
        model = find_model(name, cls.ROLE)
        accepted = check_terms(model, accept_terms)
        resolved = resolve_model(model, allow_pickle=allow_pickle, check=cls.check_files)
        return cls(resolved, accepted=accepted, **options)

    @classmethod
    def check_files(cls, model: Model, folder: Path) -> None:
        """Raise CommonArtError where a model, of whose files only the small ones lie in `folder`, cannot work here."""
        if model.cls not in cls.MODEL_CLASSES:
            raise CommonArtError(
                f"{model.name} is a {model.cls or 'model of unknown class'}, which has no adapter for {cls.ROLE}.",
                f"Choose {cls.CHOICE}.",
            )

    @property
    def _classes(self) -> tuple[Any, Any]:
        """The classes that load the model and its processor."""
        return getattr(transformers, self.model.cls), getattr(transformers, self.PROCESSOR)

    def _load_processor(self, folder: Path) -> Any:
        return self._classes[1].from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model on its device.

        Raises:
            CommonArtError: Its files do not make a model.
        """
        if not log.on_terminal():
            transformers.utils.logging.disable_progress_bar()
        folder, device = self.resolved.folder, devices.pick_device(self.device)
        dtype = devices.pick_dtype(self.precision, device)
        local = {"local_files_only": True, "trust_remote_code": False}
        four_bits: dict[str, Any] = {}
        if self.quantize == "bnb-nf4":
            config = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
            four_bits = {"quantization_config": config, "device_map": {"": device}}
        model_class = self._classes[0]
        try:
            model = model_class.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                variant=weights.variant(folder, "model"),
                **local,
                **four_bits,
            )
            processor = self._load_processor(folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, TypeError, ImportError) as error:
            raise CommonArtError(
                f"{self.name} cannot be loaded from {folder}: {with_class(error)}.",
                "Download or copy the model again; it needs config.json, safetensors and its processor's files.",
            ) from error
        if self.quantize and not four_bits:  # not the head, whose rounding would reach every word
            quantization.quantize(getattr(model, "model", model), self.quantize)
        return LoadedModel(self.name, model.eval() if four_bits else model.eval().to(device), processor, device, dtype)

    def _largest_batch(self, generate: Callable[[int], object]) -> int:
        """Return the largest power of two, up to MOST, that fits into the memory that is free: `generate(n)` takes it for n."""
        device, most = self.loaded.device, MOST.get(self.loaded.device.type, MOST["cpu"])
        try:
            with torch.inference_mode():
                generate(1)  # the first call touches the weights' pages
                each = memory.taken_by(device, lambda: generate(PROBE)) / PROBE
        except torch.OutOfMemoryError:
            return 1
        fit = int(min(most, max(1.0, memory.free(device) * SHARE / max(each, 1))))
        return 1 << fit.bit_length() - 1

    def _generate(
        self, items: Sequence[Item], batch: Callable[[Sequence[Item]], list[Generated]]
    ) -> list[Generated | Problem]:
        """Run `batch` over `items`, in smaller and smaller parts where memory runs out or an item makes it fail.

        An item that fails by itself becomes a `Problem`: out_of_memory or model_error. The others get their texts.
        """
        results: list[Generated | Problem] = []
        limit = self.loaded.max_batch
        while len(results) < len(items):
            part = items[len(results) : len(results) + min(limit, self.loaded.max_batch)]
            try:
                with torch.inference_mode():
                    results += batch(part)
                limit = self.loaded.max_batch
                continue
            except torch.OutOfMemoryError as error:
                problem = Problem("out_of_memory", first_line(error))
                if len(part) > 1:
                    self.loaded.max_batch = len(part) // 2
                    log.warn(f"{self.name}: out of memory, continuing with batches of {self.loaded.max_batch}")
            except Exception as error:  # whatever one image makes a processor or a model raise costs that image
                problem = Problem("model_error", with_class(error))
                limit = max(1, len(part) // 2)
            if len(part) == 1:
                results.append(problem)
            if self.loaded.device.type == "cuda":  # outside `except`: the traceback kept the tensors alive
                torch.cuda.empty_cache()
        return results


def tidy(text: str) -> str:
    """Return generated text on one line, without surrounding space."""
    return re.sub(r"\s+", " ", text).strip()
