"""A captioner in the making: a vision tower and a language model joined by a projector (LLaVA, arXiv 2304.08485, 2310.03744).

    commonart train --stage captioner-align --vision-tower siglip --language-model calm2-7b

The model is transformers' `LlavaForConditionalGeneration`. What is not trained stays as it came, in the precision of the matrix
products; checkpoints hold what is trained, and `export` writes the whole.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging as transformers_logging

from commonart.core import log
from commonart.core.errors import CommonArtError
from commonart.core.model import weights
from commonart.core.model.device import autocast
from commonart.core.registry.catalogue import Prompt
from commonart.core.training.criterion import Losses

IMAGE = "<image>"
WEIGHTS = "model.safetensors"
IGNORED = -100  # label of a token that is not predicted
# Class of a vision tower -> (layer that is read, how it is selected, tokens beside the patches): SigLIP as in
# cyberagent/llava-calm2-siglip, CLIP as in LLaVA-1.5, which drops the class token of the layer before the last.
TOWERS: dict[str, tuple[int, Literal["default", "full"], int]] = {
    "siglip_vision_model": (-1, "full", 0),
    "clip_vision_model": (-2, "default", 1),
}
LOADING = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError)

Value = TypeVar("Value")


def assemble(
    tower: Path, language_model: Path, tokenizer_folder: Path, *, seed: int, frozen: torch.dtype, trains: str
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Join the models of two folders by a new projector, and make the processor.

    Args:
        seed: of the projector's weights.
        frozen: precision of the parts that `trains` does not name; the others are float32.

    Raises:
        CommonArtError: a folder is not a SigLIP or CLIP tower, or not a language model with a tokenizer.
    """
    vision = _part("vision tower", tower, lambda: AutoConfig.from_pretrained(tower, **_LOCAL))
    vision = tower_config(vision, tower)
    text = _part("language model", language_model, lambda: AutoConfig.from_pretrained(language_model, **_LOCAL))
    tokenizer = _part(
        "language model", language_model, lambda: AutoTokenizer.from_pretrained(tokenizer_folder, **_LOCAL)
    )
    if tokenizer.eos_token_id is None:
        raise CommonArtError(
            f"--language-model {language_model} has no end token, without which a caption never ends.",
            "Choose another, or name its eos_token in tokenizer_config.json.",
        )
    new = {IMAGE} - set(tokenizer.get_vocab())
    tokenizer.add_tokens(sorted(new), special_tokens=True)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    whole = torch.float32 if "language_model" in trains else frozen
    writer = _part(
        "language model", language_model,
        lambda: _loaded(AutoModelForCausalLM, language_model, copy.deepcopy(text), whole),
    )  # fmt: skip
    _grow(writer, len(tokenizer))
    config = llava_config(vision, writer.config, int(tokenizer.encode(IMAGE, add_special_tokens=False)[0]))
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = _part("vision tower", tower, lambda: _loaded(AutoModel, tower, vision, frozen))
    model.model.language_model, model.lm_head = writer.base_model, writer.get_output_embeddings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.model.multi_modal_projector = LlavaMultiModalProjector(config)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    processor = LlavaProcessor(
        _part("vision tower", tower, lambda: AutoImageProcessor.from_pretrained(tower, **_LOCAL)), tokenizer,
        patch_size=vision.patch_size, vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=TOWERS[vision.model_type][2],
        image_token=IMAGE,
    )  # fmt: skip
    pixels = processor.image_processor(Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"]
    if pixels.shape[-2:] != (vision.image_size, vision.image_size):
        raise CommonArtError(
            f"--vision-tower {tower} takes {vision.image_size} pixels, and its processor makes {pixels.shape[-1]}.",
            "Use the preprocessor_config.json that belongs to it.",
        )
    return model, processor


def tower_config(config: Any, name: object) -> Any:
    """Return the configuration of a vision tower, which may be one side of a model of images and texts.

    Raises:
        CommonArtError: it is neither a SigLIP nor a CLIP.
    """
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWERS:
        raise CommonArtError(
            f"--vision-tower {name} is a {config.model_type} model, which cannot be a captioner's vision tower here.",
            "Choose a SigLIP or a CLIP vision model.",
        )
    config.vision_use_head = False  # of SigLIP; nothing reads it
    return config


def llava_config(vision: Any, text: Any, image_token: int) -> LlavaConfig:
    """Return the configuration of a captioner of these two."""
    layer, strategy, _ = TOWERS[vision.model_type]
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token, vision_feature_layer=layer,
        vision_feature_select_strategy=strategy, image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip


_LOCAL: Any = {"local_files_only": True, "trust_remote_code": False}


def _part(what: str, folder: Path, load: Callable[[], Value]) -> Value:
    """Return what `load` does, or raise a sentence that names the option."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the texts' side of a SigLIP or CLIP model is left unread on purpose
    if not log.on_terminal():
        transformers_logging.disable_progress_bar()
    try:
        return load()
    except LOADING as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise CommonArtError(
            f"--{what.replace(' ', '-')} {folder} cannot be loaded: {type(error).__name__}: {first_line[:300]}",
            f"It needs config.json, safetensors and {'preprocessor_config.json' if what[0] == 'v' else 'a tokenizer'}.",
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _loaded(auto: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """A model of a folder with all of its weights; transformers fills up what a file lacks with random numbers."""
    model, info = auto.from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, variant=weights.variant(folder, "model"),
        output_loading_info=True, **_LOCAL,
    )  # fmt: skip
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"its weights lack {missing[0]}")
    return model


@torch.no_grad()
def _grow(writer: Any, tokens: int) -> None:
    """Make room for tokens that the language model does not know; they begin as the mean of the others."""
    known = writer.get_input_embeddings().weight.shape[0]
    if tokens <= known:
        return
    writer.resize_token_embeddings(tokens, mean_resizing=False)
    for layer in (writer.get_input_embeddings(), writer.get_output_embeddings()):
        layer.weight[known:] = layer.weight[:known].float().mean(0).to(layer.weight.dtype)


class CaptionModel(nn.Module):
    """What is trained of a LLaVA: the parts named in `trains`, "projector" or "projector+language_model"."""

    FOLDER = "captioner"  # of a checkpoint or a run

    def __init__(self, llava: LlavaForConditionalGeneration, trains: str) -> None:
        super().__init__()
        self.llava: Any = llava
        inner: Any = llava.model
        for module in llava.modules():  # nothing in a step is random, so that a resumed run is the same
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name in {"attention_dropout", "dropout"} & vars(module).keys():
                setattr(module, name, 0.0)
        llava.requires_grad_(False)
        inner.multi_modal_projector.requires_grad_(True)
        if "language_model" in trains:
            inner.language_model.requires_grad_(True)
            llava.lm_head.requires_grad_(True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, pixel_values: Tensor) -> Tensor:
        """Return the mean loss of each caption's tokens (B,), float32. Captions count alike, whatever their length."""
        states = self.llava.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False,
            pixel_values=pixel_values.to(self.llava.model.vision_tower.dtype),
        ).last_hidden_state  # fmt: skip
        target_BL = labels[:, 1:]
        taken_BL = target_BL != IGNORED
        # The vocabulary is wide: only where a token is predicted.
        logits_NV = self.llava.lm_head(states[:, :-1][taken_BL]).float()
        loss_N = F.cross_entropy(logits_NV, target_BL[taken_BL], reduction="none")
        loss_BL = torch.zeros_like(target_BL, dtype=loss_N.dtype).masked_scatter(taken_BL, loss_N)
        return loss_BL.sum(1) / taken_BL.sum(1)

    @property
    def transformer_blocks(self) -> Any:
        """The language model's blocks, which `--fsdp` cuts one by one."""
        return self.llava.model.language_model.layers

    @property
    def positions(self) -> int:
        """The longest sequence that the language model reads."""
        return int(getattr(self.llava.config.text_config, "max_position_embeddings", 1 << 30))

    @property
    def gradient_checkpointing(self) -> bool:
        return bool(self.llava.is_gradient_checkpointing)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self.llava.gradient_checkpointing_enable({"use_reentrant": False})

    def counts(self) -> dict[str, int]:
        """Return the number of weights: in all, and trained."""
        parameters = list(self.parameters())
        return {
            "parameters": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        }

    def save(self, folder: Path, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None) -> Path:
        """Write the trained weights, or those in `state`."""
        named = {name: p for name, p in self.named_parameters() if p.requires_grad} if state is None else state
        folder.mkdir(parents=True, exist_ok=True)
        weights.save({name: t.detach().to("cpu", dtype).contiguous() for name, t in named.items()}, folder / WEIGHTS)
        return folder

    @torch.no_grad()
    def load(self, folder: Path, partly: bool = False) -> None:
        """Take over what `save` wrote. `partly`: of a stage that trained less.

        Raises:
            CommonArtError: it is of another model.
        """
        state = load_file(folder / WEIGHTS)
        here = dict(self.named_parameters())
        lacking = [n for n, p in here.items() if p.requires_grad and n not in state and not partly]
        misfits = [n for n, t in state.items() if n not in here or here[n].shape != t.shape]
        if lacking or misfits:
            name = (lacking + misfits)[0].removeprefix("llava.")
            raise CommonArtError(
                f"{folder} does not fit these parts: {name} is missing or of another shape.",
                "Name the vision tower and the language model that it was trained with.",
            )
        for name, tensor in state.items():
            here[name].copy_(tensor)


class CaptionLoss:
    """Cross-entropy of a caption's tokens, its end included, after the image and the prompt."""

    def __init__(self, model: CaptionModel, dtype: torch.dtype, prompt_tokens: int) -> None:
        self.dtype = dtype
        llava = model.llava
        count = {name: sum(p.numel() for p in part.parameters()) for name, part in llava.model.named_children()}
        inner = count["language_model"] - llava.get_input_embeddings().weight.numel()
        head = llava.lm_head.weight.numel()
        image = llava.config.image_seq_length
        # Two operations a weight and token; a backward pass costs two forward ones, one where no weight is trained.
        passes = 3 if llava.lm_head.weight.requires_grad else 2
        self._image = 2.0 * image * (count["vision_tower"] + 3 * count["multi_modal_projector"])
        self._token, self._head, self._prompt = 2.0 * passes * inner, 2.0 * passes * head, image + prompt_tokens

    def __call__(
        self, model: Any, fetched: Mapping[str, Tensor], step: int, samples: slice, device: torch.device
    ) -> Losses:
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in fetched.items()}
        with autocast(device, self.dtype):
            loss_B = model(**inputs)
        return Losses(loss_B, None, (inputs["labels"] != IGNORED).sum())

    def flops(self, tokens: float) -> float:
        return self._image + self._token * (self._prompt + tokens) + self._head * tokens


class CaptionInputs:
    """Images and captions as the tensors that `CaptionModel` takes, on the CPU. Threads may share one."""

    def __init__(
        self, processor: LlavaProcessor, prompts: Sequence[Prompt], max_tokens: int, positions: int = 1 << 30
    ) -> None:
        """Ask what `prompts` say. `max_tokens`: of a caption; `positions`: of all tokens together.

        Raises:
            CommonArtError: image and prompt leave no room for a caption.
        """
        self.processor: Any = processor
        blank = Image.new("RGB", (8, 8))
        # As the processor writes them when a captioner is asked: image tokens, and a start token where there is one.
        self.prompts: dict[tuple[str, str], list[int]] = {
            (p.lang, p.length): self.processor(text=p.texts[0], images=blank)["input_ids"][0] for p in prompts
        }
        longest = max(map(len, self.prompts.values()))
        self.max_tokens = min(max_tokens, positions - longest)
        if self.max_tokens < 2:
            raise CommonArtError(
                f"--language-model reads {positions} tokens, and image and prompt take {longest}.",
                "Choose one with a longer context, or a vision tower with fewer patches.",
            )

    def __call__(self, texts: Sequence[tuple[str, str, str]], images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the inputs of `texts`, each (language, length, caption), and their images."""
        tokenizer = self.processor.tokenizer
        rows, starts = [], []
        for lang, length, text in texts:
            prompt = self.prompts[lang, length]
            ids = tokenizer.encode(text, add_special_tokens=False)
            # One that is cut off has no end.
            ids = [*ids, tokenizer.eos_token_id] if len(ids) < self.max_tokens else ids[: self.max_tokens]
            rows.append(torch.tensor([*prompt, *ids]))
            starts.append(len(prompt))
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        position_L, ends = torch.arange(input_ids.shape[1]), torch.tensor([len(row) for row in rows])
        mask = position_L < ends[:, None]
        said = mask & (position_L >= torch.tensor(starts)[:, None])
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return {
            "input_ids": input_ids, "attention_mask": mask.long(), "pixel_values": pixels,
            "labels": input_ids.masked_fill(~said, IGNORED),
        }  # fmt: skip


def export(model: CaptionModel, processor: LlavaProcessor, prompts: Sequence[Prompt], card: str, folder: Path) -> None:
    """Write a captioner that `commonart caption --model` loads: beside `folder`, then under its name.

    Args:
        prompts: what it was trained to answer, the usual one first.
        card: README.md.
    """
    part, gone = (folder.with_name(f".{folder.name}.{word}") for word in ("part", "gone"))
    for old in (part, gone):
        shutil.rmtree(old, ignore_errors=True)
    llava = model.llava
    for config in (llava.config.text_config, llava.config.vision_config):
        config._name_or_path = ""  # where the part lay; the card names it
    llava.config.commonart_prompts = [[p.lang, p.length, list(p.texts)] for p in prompts]
    llava.save_pretrained(part)
    processor.save_pretrained(part)
    (part / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        folder.rename(gone)
    part.rename(folder)
    shutil.rmtree(gone, ignore_errors=True)


def sentences(text: str) -> int:
    """Return the number of sentences of a caption."""
    return len([part for part in re.split(r"[。．！？!?]|\.(?:\s|$)", text) if part.strip()])
