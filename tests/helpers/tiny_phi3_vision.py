"""Phi-3 Vision at toy size, as its checkpoint is published: its own names of weights and settings, and no class of a library."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_language_models import README, tokenizer

PHI3_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def phi3_vision(folder: Path, num_crops: int = 4, seed: int = 0) -> Path:
    """The folder, with images cut into at most `num_crops` tiles."""
    tok = tokenizer("<|image|>")
    width, inner, words = 16, 32, len(tok)
    config = {
        "architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "_attn_implementation": "flash_attention_2",
        "auto_map": {"AutoConfig": "configuration_phi3_v.Phi3VConfig", "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM"},
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "num_attention_heads": 2,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": {"type": "su", "short_factor": [1 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]},
        "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": words,
        "embd_layer": {"embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
                       "use_hd_transform": True, "with_learnable_separator": True},
        "img_processor": {"image_dim_out": width, "model_name": "openai/clip-vit-large-patch14-336", "name": "clip_vision_model",
                          "num_img_tokens": 144, "clip": PHI3_VISION},  # the published one leaves `clip` to its code
        "image_token_id": tok.convert_tokens_to_ids("<|image|>"),  # and this, which is 32044 there
    }  # fmt: skip
    clip = "model.vision_embed_tokens.img_processor.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        clip + "embeddings.class_embedding": (width,), clip + "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        clip + "embeddings.position_embedding.weight": (577, width),
        **{f"{clip}{norm}.{kind}": (width,) for norm in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")},
        "model.vision_embed_tokens.sub_GN": (1, 1, 1, 4 * width), "model.vision_embed_tokens.glb_GN": (1, 1, 4 * width),
        "model.vision_embed_tokens.img_projection.0.weight": (32, 4 * width),
        "model.vision_embed_tokens.img_projection.0.bias": (32,),
        "model.vision_embed_tokens.img_projection.2.weight": (32, 32),
        "model.vision_embed_tokens.img_projection.2.bias": (32,),
        "model.embed_tokens.weight": (words, 32), "model.norm.weight": (32,), "lm_head.weight": (words, 32),
    }  # fmt: skip
    for i in range(3):
        layer = f"{clip}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{layer}self_attn.{name}.weight": (width, width), f"{layer}self_attn.{name}.bias": (width,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
        shapes |= {f"{layer}mlp.fc1.weight": (inner, width), f"{layer}mlp.fc1.bias": (inner,),
                   f"{layer}mlp.fc2.weight": (width, inner), f"{layer}mlp.fc2.bias": (width,)}  # fmt: skip
    for i in range(2):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}self_attn.qkv_proj.weight": (96, 32), f"{layer}self_attn.o_proj.weight": (32, 32),
            f"{layer}mlp.gate_up_proj.weight": (96, 32), f"{layer}mlp.down_proj.weight": (32, 48),
            f"{layer}input_layernorm.weight": (32,), f"{layer}post_attention_layernorm.weight": (32,),
        }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.3 + ("norm" in name and name.endswith("weight"))
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tok.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({
            "auto_map": {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"}, "num_crops": num_crops, "num_img_tokens": 144,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        })
    )  # fmt: skip
    (folder / "README.md").write_text(README)
    return folder
