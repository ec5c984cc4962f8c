"""Random models of the real classes, small enough to make in a test."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from commonart.core.data.features.format import Features, unpack_latent, unpack_text
from commonart.core.data.shards.writer import ShardWriter

WIDTH = 32


def tokenizer(folder: Path, *, end: bool = False) -> Any:
    """One token a byte, as CALM2's where it matters: begin = end = 0, pad = 1, none of them added (T5: `</s>` is)."""
    from transformers import PreTrainedTokenizerFast

    special = ["</s>" if end else "<|endoftext|>", "<|padding|>"]
    letters = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if end:
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    begin = {} if end else {"bos_token": special[0]}
    whole = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=special[0], pad_token=special[1], model_max_length=4096, **begin
    )
    whole.save_pretrained(folder)
    return whole


def llama(folder: Path, *, width: int = WIDTH, seed: int = 0, vocabulary: int = 258) -> Any:
    """A LlamaForCausalLM with its tokenizer, saved in `folder`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=4096, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.norm.weight.uniform_(0.5, 2.0)  # so that states before and after the norm differ
    model.save_pretrained(folder)
    tokenizer(folder)
    return model


def qwen(folder: Path, kind: str) -> Any:
    """A `kind`ForConditionalGeneration ("Qwen3_5" or "Qwen3VL"), which sees, with a tokenizer, saved in `folder`."""
    import transformers

    torch.manual_seed(0)
    text = {
        "vocab_size": 258, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip
    if kind == "Qwen3_5":  # three layers of linear attention, and one of full attention
        text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    else:
        text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]}}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH, "patch_size": 4,
        "num_position_embeddings": 16, **({} if kind == "Qwen3_5" else {"deepstack_visual_indexes": [0]}),
    }  # fmt: skip
    tokens = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **tokens)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    model.save_pretrained(folder)
    tokenizer(folder)
    return model


def t5(folder: Path) -> Any:
    """A T5EncoderModel with its tokenizer, saved in `folder`."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(vocab_size=258, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1)
    model = T5EncoderModel(config).eval()
    model.save_pretrained(folder)
    tokenizer(folder, end=True)
    return model


def vae(folder: Path, *, levels: int = 3, **settings: Any) -> Any:
    """An AutoencoderKL with f = 2 ** (levels - 1), saved in `folder`."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    settings = {"scaling_factor": 0.5, "shift_factor": 0.1, "sample_size": 32, "latent_channels": 4, **settings}
    model: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels, layers_per_block=1, norm_num_groups=4, **settings,
    )  # fmt: skip
    model.eval().save_pretrained(folder)
    return model


def flux2_vae(folder: Path, *, levels: int = 3, channels: int = 4) -> Any:
    """An AutoencoderKLFlux2 with batch norm statistics of each channel of each patch, saved in `folder`."""
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(0)
    model: Any = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels, layers_per_block=1, norm_num_groups=4, latent_channels=channels,
    )  # fmt: skip
    model.bn.running_mean.normal_(0, 0.3)
    model.bn.running_var.uniform_(0.2, 3.0)
    model.eval().save_pretrained(folder)
    return model


def dc_ae(folder: Path, *, levels: int = 3, channels: int = 8) -> Any:
    """An AutoencoderDC of convolutions and, at the last level, linear attention, saved in `folder`."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    kinds, kernels = ("ResBlock",) * (levels - 1) + ("EfficientViTBlock",), ((),) * (levels - 1) + ((5,),)
    widths, layers = (16,) * (levels - 1) + (2 * channels,), (1,) * levels
    model: Any = AutoencoderDC(
        latent_channels=channels, attention_head_dim=8, encoder_block_types=kinds, decoder_block_types=kinds,
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, encoder_layers_per_block=layers,
        decoder_layers_per_block=layers, encoder_qkv_multiscales=kernels, decoder_qkv_multiscales=kernels,
        scaling_factor=0.41407,
    )  # fmt: skip
    model.eval().save_pretrained(folder)
    return model


def jpeg(size: tuple[int, int] = (32, 32), color: tuple[int, int, int] = (200, 30, 90)) -> bytes:
    """One picture, a gradient over `color`."""
    image = Image.new("RGB", size, color)
    image.paste(Image.linear_gradient("L").resize(size).convert("RGB"), (size[0] // 2, 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def shards(folder: Path, count: int = 3, each: int = 4, size: tuple[int, int] = (32, 32)) -> Path:
    """A folder of image shards whose records have an English and a Japanese caption of different lengths."""
    for number in range(count):
        with ShardWriter(folder / f"{number:05d}.tar") as writer:
            for n in range(each):
                key = f"k{number}_{n}"
                captions = [
                    {"text": f"a red circle {'x' * (3 * n)}", "lang": "en"},
                    {"text": f"赤い丸 {number}", "lang": "ja"},
                ]
                record = {"key": key, "captions": captions, "width": size[0], "height": size[1], "sha256": "a" * 64}
                record["license"] = "CC0-1.0"
                writer.add_record(record, jpeg(size, (40 * n, 50 * number, 90)), "jpg")
    return folder


def sentencepiece(folder: Path, texts: list[str], **settings: Any) -> None:
    """T5's tokenizer as PixArt-Sigma's repositories hold it: a spiece.model, and no tokenizer.json; or one with `settings`."""
    import json

    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    usual = {"vocab_size": 60, "model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        **{**usual, **settings},
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    about = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "extra_ids": 100, "model_max_length": 512}))


def stored(features: Features, shard: str) -> dict[str, Any]:
    """All of a feature shard: key -> the states of its captions, or (mean, std) of its latents."""
    unpack = unpack_latent if features.meta.kind == "image" else lambda data: unpack_text(data)[0]
    return {key: unpack(features.read(shard, span)) for key, span in features.spans(shard).items()}
