"""What captioners and translators share: a model by its name, loading it, and batches that shrink when memory runs out.

    commonart caption --model qwen2-vl --batch 64 raw/    # halves the batch by itself where 64 do not fit

Weights come from safetensors and from this machine alone; nothing in a model's folder is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from commonart.core import log
from commonart.core.errors import CommonArtError
from commonart.core.model import device as devices
from commonart.core.registry.catalogue import Model
from commonart.core.registry.hub import ResolvedModel, resolve_model
from commonart.core.registry.lookup import check_terms, find_model

Item = TypeVar("Item")


@dataclass(slots=True)
class Loaded:
    """A model with its processor (or tokenizer) on the device where it runs."""

    resolved: ResolvedModel
    model: Any  # transformers.PreTrainedModel; its generate() is not typed
    processor: Any  # ProcessorMixin, or PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    fits: int = field(default=1 << 30)  # the largest batch known to fit

    def to_device(self, inputs: Any) -> dict[str, Any]:
        """A processor's output on the model's device, floating point in the model's dtype."""
        return {
            k: v.to(self.device, self.dtype if v.is_floating_point() else None) if torch.is_tensor(v) else v
            for k, v in inputs.items()
        }


class Writer:
    """A model that writes text, and what records keep about it.

    It is loaded when it is first asked: a run whose shards are all finished never does.
    """

    def __init__(
        self,
        resolved: ResolvedModel,
        classes: Iterable[str],
        auto: str,
        max_new_tokens: int,
        *,
        device: str = "auto",
        precision: str = "auto",
        accepted: bool = False,
    ) -> None:
        """`classes` of transformers that are known here; `auto`, as `load` takes it. Raises as `need_adapter` does."""
        need_adapter(resolved, classes)
        self.resolved, self.auto, self.device, self.precision = resolved, auto, device, precision
        self.model: Model = resolved.model
        self.name, self.revision, self.license = resolved.name, resolved.revision, resolved.model.license
        self.accepted = accepted  # used although refused, on the user's word
        self.max_new_tokens = max_new_tokens

    @cached_property
    def loaded(self) -> Loaded:
        """The model on its device. Raises CommonArtError where its files do not make one."""
        return load(self.resolved, self.auto, self.device, self.precision)


def found(name: str, role: str, accept_terms: Sequence[str], allow_pickle: bool) -> tuple[ResolvedModel, bool]:
    """What `--model NAME` means, and whether it is used although refused. Raises UsageError and CommonArtError."""
    model = find_model(name, role)
    accepted = check_terms(model, accept_terms)
    return resolve_model(model, allow_pickle=allow_pickle), accepted


def need_adapter(resolved: ResolvedModel, classes: Iterable[str]) -> None:
    """Raise CommonArtError for a model whose class is none of `classes`."""
    cls = resolved.model.cls
    if cls not in classes:
        raise CommonArtError(
            f"{resolved.name} is a {cls or 'model of no known class'}, which has no adapter for {resolved.model.role}.",
            f"Give a model of one of these classes: {', '.join(sorted(classes))}.",
        )


def load(resolved: ResolvedModel, auto: str, device: str, precision: str) -> Loaded:
    """Load a resolved model with its own class, and its processor or tokenizer with the `auto` class.

    Only safetensors and only local files: `resolved` is where the hub ends. Raises CommonArtError for files that do not
    make a model.
    """
    import transformers

    if not log.on_terminal():
        transformers.utils.logging.disable_progress_bar()
    where = devices.pick_device(device)
    dtype = devices.pick_dtype(precision, where)
    try:
        model = getattr(transformers, resolved.model.cls).from_pretrained(
            resolved.folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        processor = getattr(transformers, auto).from_pretrained(
            resolved.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CommonArtError(
            f"{resolved.name} cannot be loaded from {resolved.folder}: {type(error).__name__}: {first[:300]}",
            "Download or copy the model again; it needs config.json, safetensors and its processor's files.",
        ) from error
    return Loaded(resolved, model.eval().to(where), processor, where, dtype)


def halving(loaded: Loaded, items: Sequence[Item], work: Callable[[Sequence[Item]], list[str]]) -> list[str]:
    """`work` over `items`, in halves of halves where the device's memory runs out, and no larger from then on.

    Raises CommonArtError when one item alone does not fit.
    """
    done: list[str] = []
    while len(done) < len(items):
        part = items[len(done) : len(done) + loaded.fits]
        try:
            with torch.inference_mode():
                made = work(part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise CommonArtError(
                    f"{loaded.resolved.name} does not fit into the memory of {loaded.device}.",
                    "Use a smaller model, --precision bf16, or --device cpu.",
                ) from None
            loaded.fits = max(1, len(part) // 2)
            log.warn(f"{loaded.resolved.name}: out of memory, going on with batches of {loaded.fits}")
        else:
            done += made
            continue
        if loaded.device.type == "cuda":  # outside `except`: the traceback kept the tensors alive
            torch.cuda.empty_cache()
    return done


def tidy(text: str) -> str:
    """Generated text on one line, without surrounding space."""
    return re.sub(r"\s+", " ", text).strip()
