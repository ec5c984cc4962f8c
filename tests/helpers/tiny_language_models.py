"""Tiny random models of the real classes, saved as their checkpoints are: what the adapters are tested on."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

# Any: its configurations take more keywords than their types say.
transformers: Any = importlib.import_module("transformers")

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "<|user|>", "<|assistant|>", "<|end|>"]
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
README = "---\nlicense: apache-2.0\n---\n"


def tokenizer(**fields: Any) -> Any:
    """Bytes as tokens: any text, and no training."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = SPECIAL + QWEN
    vocabulary = {token: i for i, token in enumerate(names + alphabet)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(names)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **fields
    )


def save(folder: Path, model: Any, processor: Any) -> Path:
    """As `save_pretrained` writes it, with a model card that names an open licence."""
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(README)
    return folder


def ids(tok: Any) -> dict[str, int]:
    """The special tokens of a config."""
    return {"bos_token_id": tok.bos_token_id, "pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id}


def florence2(folder: Path) -> Path:
    """Florence-2: DaViT in two stages on 32 px, 8 x 8 cells and one for all; BART."""
    tok = tokenizer(extra_special_tokens={"image_token": "<image>"})
    images = clip_images(32)
    images.image_seq_length = 17
    config = transformers.Florence2Config(
        image_token_id=tok.image_token_id, decoder_start_token_id=tok.eos_token_id, **ids(tok),
        vision_config={
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 4], "num_groups": [2, 4],
            "window_size": 4, "drop_path_rate": 0.0, "projection_dim": 32,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tok), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "max_position_embeddings": 256, "decoder_start_token_id": tok.eos_token_id, "forced_eos_token_id": None,
            "tie_word_embeddings": True, **ids(tok),
        },
    )  # fmt: skip
    model = seeded(transformers.Florence2ForConditionalGeneration, config)
    model.generation_config.decoder_start_token_id = tok.eos_token_id
    model.generation_config.num_beams = 3  # as the published checkpoint says
    return save(folder, model, transformers.Florence2Processor(image_processor=images, tokenizer=tok))


def blip2(folder: Path) -> Path:
    """BLIP-2 with a T5, as Salesforce/blip2-flan-t5-xl."""
    tok = tokenizer()
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(images, tok, num_query_tokens=4)
    config = transformers.Blip2Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16,
        },
        qformer_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "encoder_hidden_size": 32, "vocab_size": 8,
        },
        text_config={
            "model_type": "t5", "vocab_size": len(tok), "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1,
            "num_heads": 2, "pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id,
            "decoder_start_token_id": tok.pad_token_id,
        },
        num_query_tokens=4, image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return save(folder, seeded(transformers.Blip2ForConditionalGeneration, config), processor)


QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def _qwen_text(tok: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, **ids(tok),
        "head_dim": 16,
    }  # fmt: skip


def _qwen_ids(tok: Any) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {key: tok.convert_tokens_to_ids(token) for key, token in names.items()}


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: its vision tower at one block, pictures of 28 to 56 px in patches of 14."""
    tok = tokenizer()
    images = transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    videos = transformers.Qwen2VLVideoProcessor()
    config = transformers.Qwen2VLConfig(
        text_config={**_qwen_text(tok), "rope_parameters": ROPE},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1},
        **_qwen_ids(tok),
    )  # fmt: skip
    processor = transformers.Qwen2VLProcessor(images, tok, videos, chat_template=QWEN_CHAT)
    return save(folder, seeded(transformers.Qwen2VLForConditionalGeneration, config), processor)


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: its vision tower at one block."""
    tok = tokenizer()
    images = transformers.Qwen2VLImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, patch_size=16)
    videos = transformers.Qwen3VLVideoProcessor()
    config = transformers.Qwen3VLConfig(
        text_config={**_qwen_text(tok), "rope_parameters": ROPE},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        **_qwen_ids(tok),
    )  # fmt: skip
    processor = transformers.Qwen3VLProcessor(images, tok, videos, chat_template=QWEN_CHAT)
    return save(folder, seeded(transformers.Qwen3VLForConditionalGeneration, config), processor)


def llava(folder: Path) -> Path:
    """LLaVA from SigLIP and Llama, as cyberagent/llava-calm2-siglip; its processor file is from before patch sizes."""
    tok = tokenizer(extra_special_tokens={"image_token": "<image>"})
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    config = transformers.LlavaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "vision_use_head": False,
        },
        text_config={"model_type": "llama", **_qwen_text(tok)},
        image_token_index=tok.image_token_id, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return save(
        folder, seeded(transformers.LlavaForConditionalGeneration, config), transformers.LlavaProcessor(images, tok)
    )


CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def phi3(folder: Path) -> Path:
    """Phi-3, whose answer ends with <|end|>."""
    tok = tokenizer(chat_template=CHAT)
    config = transformers.Phi3Config(**{**_qwen_text(tok), "num_key_value_heads": 2}, sliding_window=None)
    return save(folder, seeded(transformers.Phi3ForCausalLM, config), tok)


def llama(folder: Path, *, chat: bool = True) -> Path:
    """Llama, as CAT-Translate; without a chat template it is a plain language model."""
    tok = tokenizer(chat_template=CHAT if chat else None)
    return save(folder, seeded(transformers.LlamaForCausalLM, transformers.LlamaConfig(**_qwen_text(tok))), tok)


def clip_images(size: int) -> Any:
    """CLIP's preprocessing at `size` pixels, without a crop."""
    return transformers.CLIPImageProcessor(size={"height": size, "width": size}, do_center_crop=False)


def seeded(cls: Any, config: Any) -> Any:
    """A random model, the same every time, wide enough apart that different inputs give different words."""
    torch.manual_seed(0)
    random.seed(0)
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


CAPTIONERS = {
    "florence2": florence2, "blip2": blip2, "qwen2-vl": qwen2_vl, "qwen3-vl": qwen3_vl, "llava-jp": llava,
}  # fmt: skip


def siglip(folder: Path) -> Path:
    """SigLIP of images and texts, as google/siglip-so400m-patch14-384: four patches of 16 px."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config={**sizes, "vocab_size": 16}
    )
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return save(folder, seeded(transformers.SiglipModel, config), images)


def clip(folder: Path) -> Path:
    """CLIP of images and texts, as openai/clip-vit-large-patch14: four patches of 16 px, and a token for all."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config={**sizes, "vocab_size": 16}
    )
    return save(folder, seeded(transformers.CLIPModel, config), clip_images(32))
