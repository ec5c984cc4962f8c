"""Tiny random captioners and language models of the real classes, saved as their checkpoints are."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

# Any: its configurations take more keywords than their types say.
transformers: Any = importlib.import_module("transformers")

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "<|user|>", "<|assistant|>", "<|end|>"]
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
README = "---\nlicense: apache-2.0\n---\n"


def tokenizer(*more: str, begin: bool = False, **fields: Any) -> Any:
    """Bytes as tokens: any text, and no training; `more` are special tokens of one family. `begin`: it writes <s> first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = SPECIAL + QWEN + list(more)
    vocabulary = {token: i for i, token in enumerate(names + alphabet)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(names)
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
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


BLOCK = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BLIP_VISION = {**BLOCK, "image_size": 32, "patch_size": 16}
BLIP_QFORMER = {**BLOCK, "encoder_hidden_size": 32, "vocab_size": 8}


def blip2(folder: Path) -> Path:
    """BLIP-2 with a T5, as Salesforce/blip2-flan-t5-xl."""
    tok = tokenizer()
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(images, tok, num_query_tokens=4)
    config = transformers.Blip2Config(
        vision_config=BLIP_VISION, qformer_config=BLIP_QFORMER,
        text_config={
            "model_type": "t5", "vocab_size": len(tok), "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1,
            "num_heads": 2, "pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id,
            "decoder_start_token_id": tok.pad_token_id,
        },
        num_query_tokens=4, image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return save(folder, seeded(transformers.Blip2ForConditionalGeneration, config), processor)


def blip2_opt(folder: Path) -> Path:
    """BLIP-2 with an OPT, as Salesforce/blip2-opt-2.7b: a decoder, which continues from the images and the prompt."""
    tok = tokenizer()
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    config = transformers.Blip2Config(
        vision_config=BLIP_VISION, qformer_config=BLIP_QFORMER,
        text_config={
            "model_type": "opt", "vocab_size": len(tok), "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 512, "word_embed_proj_dim": 32, **ids(tok),
        },
        num_query_tokens=4, image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = seeded(transformers.Blip2ForConditionalGeneration, config)
    return save(folder, model, transformers.Blip2Processor(images, tok, num_query_tokens=4))


QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def decoder_config(tok: Any) -> dict[str, Any]:
    """One small block over the vocabulary of `tok`."""
    return {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, **ids(tok),
        "head_dim": 16,
    }  # fmt: skip


def qwen_token_ids(tok: Any) -> dict[str, int]:
    """The tokens by which Qwen's configs mark images and videos."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {key: tok.convert_tokens_to_ids(token) for key, token in names.items()}


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: its vision tower at one block, pictures of 28 to 56 px in patches of 14."""
    tok = tokenizer()
    images = transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    videos = transformers.Qwen2VLVideoProcessor()
    config = transformers.Qwen2VLConfig(
        text_config={**decoder_config(tok), "rope_parameters": ROPE},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1},
        **qwen_token_ids(tok),
    )  # fmt: skip
    processor = transformers.Qwen2VLProcessor(images, tok, videos, chat_template=QWEN_CHAT)
    return save(folder, seeded(transformers.Qwen2VLForConditionalGeneration, config), processor)


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: its vision tower at two blocks, one of them with windows."""
    tok = tokenizer()
    images = transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    videos = transformers.Qwen2VLVideoProcessor()
    config = transformers.Qwen2_5_VLConfig(
        text_config={**decoder_config(tok), "rope_parameters": ROPE},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "window_size": 28,
        },
        **qwen_token_ids(tok),
    )  # fmt: skip
    processor = transformers.Qwen2_5_VLProcessor(images, tok, videos, chat_template=QWEN_CHAT)
    return save(folder, seeded(transformers.Qwen2_5_VLForConditionalGeneration, config), processor)


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: its vision tower at one block."""
    tok = tokenizer()
    images = transformers.Qwen2VLImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, patch_size=16)
    videos = transformers.Qwen3VLVideoProcessor()
    config = transformers.Qwen3VLConfig(
        text_config={**decoder_config(tok), "rope_parameters": ROPE},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        **qwen_token_ids(tok),
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
        text_config={"model_type": "llama", **decoder_config(tok)},
        image_token_index=tok.image_token_id, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return save(
        folder, seeded(transformers.LlavaForConditionalGeneration, config), transformers.LlavaProcessor(images, tok)
    )


IDEFICS_CHAT = (
    "{{ bos_token }}{% for m in messages %}User:{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def idefics3(folder: Path) -> Path:
    """Idefics3, whose template writes the first token itself and whose images are cut into a grid of 32 px."""
    grid = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    tok = tokenizer("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *grid, begin=True)
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    config = transformers.Idefics3Config(
        vision_config={**BLOCK, "image_size": 32, "patch_size": 8},
        text_config={"model_type": "llama", **decoder_config(tok), "max_position_embeddings": 1024},
        image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=tok.pad_token_id, scale_factor=2,
    )  # fmt: skip
    processor = transformers.Idefics3Processor(images, tok, image_seq_len=4, chat_template=IDEFICS_CHAT)
    return save(folder, seeded(transformers.Idefics3ForConditionalGeneration, config), processor)


GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>user\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma3(folder: Path) -> Path:
    """Gemma 3, whose image token stands for many, and whose images see each other."""
    special = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = tokenizer(*special.values(), "<start_of_turn>", "<end_of_turn>", begin=True, extra_special_tokens=special)
    images = transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    config = transformers.Gemma3Config(
        vision_config={**BLOCK, "image_size": 32, "patch_size": 8, "vision_use_head": False},
        text_config={**decoder_config(tok), "sliding_window": 512, "query_pre_attn_scalar": 16},
        mm_tokens_per_image=4, image_token_id=tok.image_token_id, boi_token_id=tok.boi_token_id,
        eoi_token_id=tok.eoi_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    processor = transformers.Gemma3Processor(images, tok, chat_template=GEMMA_CHAT, image_seq_length=4)
    return save(folder, seeded(transformers.Gemma3ForConditionalGeneration, config), processor)


def internvl(folder: Path) -> Path:
    """InternVL: its vision tower on 28 px, pictures cut into as many tiles as their shape wants; Qwen2."""
    special = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
               "video_token": "<video>"}  # fmt: skip
    tok = tokenizer(*special.values(), extra_special_tokens=special)
    images = transformers.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=4)
    config = transformers.InternVLConfig(
        vision_config={**BLOCK, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config={"model_type": "qwen2", **decoder_config(tok)}, image_token_id=tok.context_image_token_id,
    )  # fmt: skip
    template = QWEN_CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
    videos = transformers.InternVLVideoProcessor(size={"height": 28, "width": 28})
    processor = transformers.InternVLProcessor(images, tok, videos, image_seq_length=4, chat_template=template)
    return save(folder, seeded(transformers.InternVLForConditionalGeneration, config), processor)


CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def phi4_multimodal(folder: Path) -> Path:
    """Phi-4 multimodal as transformers saves it, where the LoRA by which it sees was merged; its template knows text alone."""
    special = {"image_token": "<|endoftext10|>", "audio_token": "<|endoftext11|>"}
    tok = tokenizer(*special.values(), extra_special_tokens=special, chat_template=CHAT)
    config = transformers.Phi4MultimodalConfig(
        **{**decoder_config(tok), "num_key_value_heads": 2, "max_position_embeddings": 4096},
        vision_config={**BLOCK, "num_hidden_layers": 2, "image_token_id": tok.image_token_id},
        audio_config={
            "hidden_size": 16, "intermediate_size": 16, "num_blocks": 1, "num_attention_heads": 2, "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16, "nemo_conv_channels": 16, "audio_token_id": tok.audio_token_id,
        },
    )  # fmt: skip
    images = transformers.Phi4MultimodalImageProcessor(dynamic_hd=4)
    processor = transformers.Phi4MultimodalProcessor(images, transformers.Phi4MultimodalFeatureExtractor(), tok)
    return save(folder, seeded(transformers.Phi4MultimodalForCausalLM, config), processor)


def phi3(folder: Path) -> Path:
    """Phi-3, whose answer ends with <|end|>."""
    tok = tokenizer(chat_template=CHAT)
    config = transformers.Phi3Config(**{**decoder_config(tok), "num_key_value_heads": 2}, sliding_window=None)
    return save(folder, seeded(transformers.Phi3ForCausalLM, config), tok)


def llama(folder: Path, *, chat: bool = True) -> Path:
    """Llama, as CAT-Translate; without a chat template it is a plain language model."""
    tok = tokenizer(chat_template=CHAT if chat else None)
    return save(folder, seeded(transformers.LlamaForCausalLM, transformers.LlamaConfig(**decoder_config(tok))), tok)


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


def captioners(base: Path) -> dict[str, Path]:
    """A folder of each of CAPTIONERS, in `base`."""
    return {name: build(base / name) for name, build in CAPTIONERS.items()}


def pictures() -> list[Image.Image]:
    """Three pictures of noise, of different sizes."""
    rng = np.random.default_rng(0)
    sizes = ((48, 64), (64, 64), (40, 90))
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
