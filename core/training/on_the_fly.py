"""What encoders cost that run beside the transformer, for a plan: from their configurations, without their weights.

commonart train --stage 512 --quantize quanto-int8 --dry-run      # no features are there: encoded on the fly
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from commonart.core.model.quantize import BITS
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model
from commonart.core.settings import Settings
from commonart.core.training.encoders import default


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of the weights, and floating-point operations for an image."""

    weights: int
    flops: float


def text_encoder(config: dict[str, Any], quantize: str, tokens: float) -> Cost:
    """Of a language model with this config.json that reads one caption of `tokens`. Its output head is left out."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**config))
    linear = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    rest = sum(parameter.numel() for parameter in model.parameters()) - linear
    bits = BITS[quantize] if quantize else 16
    return Cost(int(linear * bits / 8 + rest * 2), 2.0 * linear * tokens)


def autoencoder(config: dict[str, Any], resolution: int) -> Cost:
    """Of an AutoencoderKL with this config.json that encodes one image of `resolution` x `resolution`, in 16 bits."""
    from diffusers import AutoencoderKL

    with torch.device("meta"), FlopCounterMode(display=False) as counted, torch.no_grad():
        model: Any = AutoencoderKL.from_config(config)
        model.encode(torch.empty(1, model.config["in_channels"], resolution, resolution))
    return Cost(2 * sum(parameter.numel() for parameter in model.parameters()), float(counted.get_total_flops()))


def costs(wanted: Settings, text: bool, image: bool, tokens: float) -> dict[str, Cost]:
    """Of the encoders that run on the fly (`text`, `image`), where the hub, its cache or a folder has their configurations."""
    found: dict[str, Cost] = {}
    if text:
        row = find_model(wanted.text_encoder or default(wanted, "text-encoder"), "text-encoder")
        if "model_type" in (config := hub.read_config(row)):
            found["text_encoder"] = text_encoder(config, wanted.quantize, tokens)
    if image:
        row = find_model(wanted.autoencoder or default(wanted, "autoencoder"), "autoencoder")
        if "block_out_channels" in (config := hub.read_config(row)):
            found["autoencoder"] = autoencoder(config, wanted.recipe.resolution)
    return found
