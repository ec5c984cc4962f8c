"""Models of transformers from a local folder: safetensors only, no code of theirs, and with all of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from commonart.core.model import weights

LOCAL: Any = {"local_files_only": True, "trust_remote_code": False}
# What transformers raises for folders that it cannot read.
LOADING = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError)


def load_whole(auto: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """Return a model of a folder with all of its weights; transformers fills up what a file lacks with random numbers.

    Raises one of LOADING.
    """
    model, info = auto.from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, variant=weights.variant(folder, "model"),
        output_loading_info=True, **LOCAL,
    )  # fmt: skip
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"its weights lack {missing[0]}")
    return model


def vision_side(config: Any) -> Any:
    """Return the configuration of the vision model in one of images and texts, or of a vision model, without a pooling head."""
    config = getattr(config, "vision_config", config)
    config.vision_use_head = False  # of SigLIP; nothing reads it
    return config
