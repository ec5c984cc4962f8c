"""CLIP judges of toy size, in the folders of open_clip and of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_encoders
import torch
from safetensors.torch import save_file


def open_clip_folder(folder: Path, quick_gelu: bool = False) -> Path:
    import open_clip

    folder.mkdir()
    tiny_encoders.tokenizer(folder)
    config = {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {
            "context_length": 16, "vocab_size": 258, "width": 32, "heads": 2, "layers": 1, "hf_tokenizer_name": "x",
        },
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def transformers_folder(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 258, "max_position_embeddings": 16, "eos_token_id": 0, "bos_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    tiny_encoders.tokenizer(folder)
    return folder
