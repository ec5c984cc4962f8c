"""clip-japanese-base at toy size, as its three repositories hold it, with weights that follow from their names alone."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

VISION = "eva02_base_patch16_clip_224.merged2b"
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
TEXT = {
    "model_type": "roberta", "vocab_size": 120, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 40, "max_position_embeddings": 40, "type_vocab_size": 2, "pad_token_id": 3,
    "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}  # fmt: skip
CONFIG = {
    "architectures": ["CLYPModel"], "model_type": "clyp",
    "auto_map": {"AutoConfig": "configuration_clyp.CLYPConfig", "AutoModel": "modeling_clyp.CLYPModel"},
    "vision_encoder_config": {
        "backbone_config": {"model_name": VISION, "pretrained": False, "extra_kwargs": SMALL},
        "pooler_config": {"input_type": "timm", "return_patch_features": False},
        "neck_config": {"in_channels": 32, "out_channels": 16, "bias": False},
    },
    "text_encoder_config": {
        "backbone_config": {"model_name": "rinna/japanese-clip-vit-b-16"},
        "pooler_config": {"input_type": "huggingface", "return_patch_features": False},
        "neck_config": {"in_channels": 24, "out_channels": 16, "bias": False},
    },
}  # fmt: skip
PREPROCESSOR = {"image_processor_type": "CLYPImageProcessor", "image_size": 32, "normalization_type": "openai_clip"}
WORDS = {"tokenizer_class": "CLYPTokenizer", "max_length": 12, "padding": "max_length", "truncation": True}


def weights(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights that need no generator: a hash of each place, which begins with its name's checksum."""
    made = {}
    for name, shape in shapes.items():
        places = torch.arange(shape.numel(), dtype=torch.float64) + zlib.crc32(name.encode()) % 1000
        noise = (torch.sin(places * 12.9898) * 43758.5453) % 1 - 0.5
        norm = name.lower().endswith(("norm.weight", "norm1.weight", "norm2.weight"))
        made[name] = (1 + 0.3 * noise if norm else 0.6 * noise).reshape(shape).float()
    return made


def spiece(path: Path) -> None:
    import sentencepiece

    texts = ["赤い丸と青い四角", "草原のシマウマ", "a red circle", "海の上の白い星", "雪の中の緑の三角"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")), vocab_size=100, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, pad_piece="[PAD]", user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )  # fmt: skip


def shapes() -> dict[str, torch.Size]:
    """Of the published weights, by their names: those of timm, of RobertaModel, of two necks and of the temperature."""
    import timm
    from transformers import RobertaConfig, RobertaModel

    eva = timm.create_model(VISION, pretrained=False, **SMALL)
    eva.reset_classifier(0, "")
    roberta = RobertaModel(
        RobertaConfig(**{k: v for k, v in TEXT.items() if k != "model_type"}), add_pooling_layer=False
    )
    return {
        **{f"vision_encoder.backbone.{k}": v.shape for k, v in eva.state_dict().items()},
        "vision_encoder.neck.linear.weight": torch.Size((16, 32)),
        **{f"text_encoder.backbone.model.{k}": v.shape for k, v in roberta.state_dict().items()},
        "text_encoder.neck.linear.weight": torch.Size((16, 24)),
        "itc_loss_fn.temperature": torch.Size(()),
    }


def repositories(folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of the three repositories, by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(shapes()), folder / "model.safetensors")
    spiece(folder / "spiece.model")
    rinna = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]", "cls_token": "[CLS]", "extra_ids": 0}

    def text(value: object) -> bytes:
        return json.dumps(value).encode()

    return {
        "line-corporation/clip-japanese-base": {
            "config.json": text(CONFIG), "preprocessor_config.json": text(PREPROCESSOR), "tokenizer_config.json": text(WORDS),
            "modeling_clyp.py": b"raise SystemExit('code of a repository was run')",
            "model.safetensors": (folder / "model.safetensors").read_bytes(),
        },
        "rinna/japanese-clip-vit-b-16": {
            "config.json": text({"model_type": "clip", "projection_dim": 512, "text_config": TEXT, "vision_config": {}}),
        },
        "rinna/japanese-roberta-base": {
            "spiece.model": (folder / "spiece.model").read_bytes(),
            "tokenizer_config.json": text({**rinna, "tokenizer_class": "T5Tokenizer"}),
        },
    }  # fmt: skip
