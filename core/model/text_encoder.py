"""Texts to hidden states: what the transformer is conditioned on, in training, caching and sampling alike.

Any causal language model (CALM2-7B in the paper), the one inside of Qwen3.5 or Qwen3-VL, or a T5-style encoder. A text becomes
`hidden_states[-1]` of its tokens: the last layer's states **after** the final norm; or those of another layer. Texts are padded
on the right and trimmed back to their true length: with a causal mask the states of real tokens do not depend on the pads after
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from commonart.core.errors import CommonArtError, UsageError, first_line
from commonart.core.log import on_terminal
from commonart.core.model import quantize as quantizing
from commonart.core.model import weights
from commonart.core.model.device import pick_device, pick_dtype
from commonart.core.model.quantize import precision_name
from commonart.core.model.tokenizer import load_tokenizer
from commonart.core.registry.lookup import read_json, require_plain_json

MAX_TOKENS = 300  # PixArt-Sigma's length; the paper states none.
# In tokenizer_config.json, which keeps what it does not know; `model_max_length` is the language model's own limit.
LENGTH = "max_sequence_length"
T5_FAMILY = ("t5", "mt5", "umt5")
SEEING = ("qwen3_5", "qwen3_vl")  # they read images, too: of these the language model alone is loaded
LAST = -1  # the hidden state that is taken, counted from the last


@dataclass(slots=True)
class TextEncoder:
    """A frozen language model with its tokenizer. Make one with `TextEncoder.load`."""

    model: Any
    tokenizer: Any
    device: torch.device
    precision: str  # as runs and caches record it: "bfloat16" or "quanto-int8/bfloat16"
    width: int  # D, the channels of a hidden state
    null_id: int  # the one token that stands for "no text"
    max_tokens: int = MAX_TOKENS
    layer: int = LAST  # of hidden_states
    truncated: int = 0  # of `texts`, both counted since loading, over every `encode`
    texts: int = 0

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: torch.dtype | str = "auto",
        quantize: str | None = None,
        *,
        device: torch.device | str = "auto",
        max_tokens: int = MAX_TOKENS,
        layer: int = LAST,
    ) -> TextEncoder:
        """Load from a local folder: a model with its tokenizer, or a pipeline's `text_encoder/` and `tokenizer/`.

        safetensors only, and no remote code. `quantize`: one of `core.settings.QUANTIZERS`. `layer`: -1 for the last of
        `hidden_states`, which alone is normed, -2 for the one before, and so on. Raises CommonArtError where the folder holds
        no such model, lacks weights, or needs remote code; UsageError for a `layer` that it does not have.
        """
        quantizing.check(quantize)
        if max_tokens < 1:
            raise UsageError("--max-tokens must be at least 1.", f"{MAX_TOKENS} is the default.")
        device = pick_device(device) if isinstance(device, str) else device
        dtype = pick_dtype(dtype, device) if isinstance(dtype, str) else dtype
        model_folder, tokenizer_folder = model_folders(Path(folder))
        four_bits: dict[str, Any] = {}
        if quantize == "bnb-nf4":
            from transformers import BitsAndBytesConfig

            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
            four_bits = {"quantization_config": config, "device_map": {"": device}}
        model, tokenizer = _load(model_folder, tokenizer_folder, dtype, four_bits)
        if not four_bits:
            if quantize:
                quantizing.quantize(model, quantize)
            model.to(device)
        model.eval().requires_grad_(False)
        null_id = _null_id(tokenizer, model.config, model_folder)
        config = model.config.get_text_config()
        width, states = int(getattr(config, "d_model", None) or config.hidden_size), config.num_hidden_layers + 1
        if not -states <= layer <= LAST:
            raise UsageError(
                f"--layer {layer}: {model_folder} has {states} hidden states.", f"Give {LAST}, the last, to {-states}."
            )
        return cls(model, tokenizer, device, precision_name(dtype, quantize), width, null_id, max_tokens, layer)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return token ids of every text, at most `max_tokens`, and whether each was cut; of a text without any, the null token."""
        if not texts:
            return [], []
        ids: list[list[int]] = [list(i) for i in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        cut = [len(i) > self.max_tokens for i in ids]
        for n, text in enumerate(texts):
            if cut[n]:  # The tokenizer cuts, not a slice: it keeps the end token that T5 needs.
                ids[n] = list(self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"])
        return [i or [self.null_id] for i in ids], cut

    def encode(self, texts: Sequence[str], batch: int = 32) -> list[Tensor]:
        """Return the hidden states Tensor[L, D] of every text of L tokens, on the encoder's device, in its dtype, no gradients.

        Longer texts than `max_tokens` are cut and counted in `truncated`.
        """
        ids, cut = self.tokenize(texts)
        self.texts += len(ids)
        self.truncated += sum(cut)
        return self.encode_ids(ids, batch)

    @torch.no_grad()  # Not inference_mode: training saves these tensors for its backward pass.
    def encode_ids(self, ids: Sequence[Sequence[int]], batch: int = 32) -> list[Tensor]:
        """As `encode`, for token ids (each list at least one long)."""
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]), reverse=True)
        states: list[Tensor] = [torch.empty(0)] * len(ids)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = [torch.tensor(ids[n], dtype=torch.long) for n in rows]
            tokens_BL = pad_sequence(tokens, batch_first=True, padding_value=self.null_id).to(self.device)
            mask_BL = pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True).to(self.device)
            more = {} if self.model.config.model_type in T5_FAMILY else {"use_cache": False}
            every = {"output_hidden_states": True} if self.layer != LAST else {}
            found = self.model(input_ids=tokens_BL, attention_mask=mask_BL, **more, **every)
            out = found.hidden_states[self.layer] if every else found.last_hidden_state
            for row, n in enumerate(rows):
                states[n] = out[row, : len(ids[n])].clone()
        return states

    def null(self) -> Tensor:
        """Return the state of "no text", Tensor[1, D]: the unconditional side of guidance and of caption dropout.

        It is that of the tokenizer's begin-of-text token, else of its end-of-text token, else of its pad (CALM2: token 0; T5:
        `</s>`, what it makes of "").
        """
        return self.encode_ids([[self.null_id]])[0]


def carried_tokens(folder: Path) -> int:
    """Return the longest text that a transformer beside this text encoder was trained with, as an export wrote it."""
    length = read_json(model_folders(folder)[1] / "tokenizer_config.json").get(LENGTH)
    return length if isinstance(length, int) and length > 0 else MAX_TOKENS


def model_folders(folder: Path) -> tuple[Path, Path]:
    """(folder of the model, folder of the tokenizer) of a plain model or of a diffusers pipeline."""
    if (folder / "text_encoder" / "config.json").is_file():
        folder = folder / "text_encoder"
    if not (folder / "config.json").is_file():
        raise CommonArtError(
            f"{folder} does not hold a text encoder: it has no config.json.",
            "Use a folder with a transformers model and its tokenizer, or a name from `commonart models`.",
        )
    files = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
    return folder, folder if any((folder / name).is_file() for name in files) else folder.parent / "tokenizer"


def _load(folder: Path, tokenizer_folder: Path, dtype: torch.dtype, more: dict[str, Any]) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    offline = {"local_files_only": True, "trust_remote_code": False}
    # A cut file, a config that does not fit its weights, a tokenizer of another kind: each has its own error.
    load_errors = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
    require_plain_json(folder)
    require_plain_json(tokenizer_folder)
    try:
        config = AutoConfig.from_pretrained(folder, **offline)
        names = {r"^_orig_mod\.": ""}
        if config.model_type in SEEING:
            config, names = config.get_text_config(), {r"^(model\.)?language_model\.": "", **names}
        elif config.model_type not in T5_FAMILY and config.model_type not in CAUSAL:
            raise CommonArtError(
                f"{folder} holds a '{config.model_type}' model, which is neither a causal language model nor T5.",
                "Use a text encoder: `commonart models` lists those that are known to work.",
            )
        # AutoModel leaves the output head out: its last_hidden_state is the causal LM's hidden_states[-1].
        auto: Any = AutoModelForTextEncoding if config.model_type in T5_FAMILY else AutoModel
        with _quiet():
            model, info = auto.from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True,
                variant=weights.variant(folder, "model"), key_mapping=names, **offline, **more,
            )  # fmt: skip
        if not any(file for name in ("tokenizer*", "*vocab*", "*.model") for file in tokenizer_folder.glob(name)):
            raise CommonArtError(
                f"Neither {folder} nor {tokenizer_folder} holds a tokenizer.",
                "Download the model again, or use the folder that holds all of it.",
            )
        tokenizer = load_tokenizer(tokenizer_folder)
    except load_errors as error:
        raise CommonArtError(
            f"The text encoder in {folder} cannot be loaded: {first_line(error)}.",
            "It must be safetensors of a class that transformers has, with its tokenizer; no remote code runs.",
        ) from error
    weights.check_complete(folder, info)
    return model, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports the output head, which is left out on purpose, and prints progress bars into log files."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not on_terminal():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _null_id(tokenizer: Any, config: Any, folder: Path) -> int:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    for token in (getattr(owner, name, None) for owner in (tokenizer, config) for name in names):
        if isinstance(token, int) and token >= 0:
            return token
    raise CommonArtError(
        f"The tokenizer of {folder} has neither a begin, an end nor a pad token to stand for an empty text.",
        "Add a bos_token to its tokenizer_config.json.",
    )
