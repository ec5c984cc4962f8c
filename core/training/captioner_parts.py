"""The parts of a captioner, and how they become one: LLaVA of a vision tower, a new projector and a language model.

The model is transformers' `LlavaForConditionalGeneration`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging as transformers_logging

from commonart.core import log
from commonart.core.errors import CommonArtError, with_class
from commonart.core.model.pretrained import LOADING, LOCAL, load_whole, vision_side
from commonart.core.model.tokenizer import load_tokenizer

IMAGE = "<image>"
# Class of a vision tower -> (layer that is read, how it is selected, tokens beside the patches): SigLIP as in
# cyberagent/llava-calm2-siglip, CLIP as in LLaVA-1.5, which drops the class token of the layer before the last.
TOWERS: dict[str, tuple[int, Literal["default", "full"], int]] = {
    "siglip_vision_model": (-1, "full", 0),
    "clip_vision_model": (-2, "default", 1),
}

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
    vision = _part("vision tower", tower, lambda: AutoConfig.from_pretrained(tower, **LOCAL))
    vision = tower_config(vision, tower)
    text = _part("language model", language_model, lambda: AutoConfig.from_pretrained(language_model, **LOCAL))
    tokenizer = _part("language model", language_model, lambda: load_tokenizer(tokenizer_folder))
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
        lambda: load_whole(AutoModelForCausalLM, language_model, copy.deepcopy(text), whole),
    )  # fmt: skip
    _grow(writer, len(tokenizer))
    config = llava_config(vision, writer.config, int(tokenizer.encode(IMAGE, add_special_tokens=False)[0]))
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = _part("vision tower", tower, lambda: load_whole(AutoModel, tower, vision, frozen))
    model.model.language_model, model.lm_head = writer.base_model, writer.get_output_embeddings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.model.multi_modal_projector = LlavaMultiModalProjector(config)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    processor = LlavaProcessor(
        _part("vision tower", tower, lambda: AutoImageProcessor.from_pretrained(tower, **LOCAL)), tokenizer,
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
    config = vision_side(config)
    if config.model_type not in TOWERS:
        raise CommonArtError(
            f"--vision-tower {name} is a {config.model_type} model, which cannot be a captioner's vision tower here.",
            "Choose a SigLIP or a CLIP vision model.",
        )
    return config


def llava_config(vision: Any, text: Any, image_token: int) -> LlavaConfig:
    """Return the configuration of a captioner of these two."""
    layer, strategy, _ = TOWERS[vision.model_type]
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token, vision_feature_layer=layer,
        vision_feature_select_strategy=strategy, image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip


def _part(what: str, folder: Path, load: Callable[[], Value]) -> Value:
    """Return what `load` does, or raise a sentence that names the option."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the texts' side of a SigLIP or CLIP model is left unread on purpose
    if not log.on_terminal():
        transformers_logging.disable_progress_bar()
    try:
        return load()
    except LOADING as error:
        raise CommonArtError(
            f"--{what.replace(' ', '-')} {folder} cannot be loaded: {with_class(error)}.",
            f"It needs config.json, safetensors and {'preprocessor_config.json' if what[0] == 'v' else 'a tokenizer'}.",
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


@torch.no_grad()
def _grow(writer: Any, tokens: int) -> None:
    """Make room for tokens that the language model does not know; they begin as the mean of the others."""
    known = writer.get_input_embeddings().weight.shape[0]
    if tokens <= known:
        return
    writer.resize_token_embeddings(tokens, mean_resizing=False)
    for layer in (writer.get_input_embeddings(), writer.get_output_embeddings()):
        layer.weight[known:] = layer.weight[:known].float().mean(0).to(layer.weight.dtype)
