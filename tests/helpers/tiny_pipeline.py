"""A whole text-to-image model at toy size, in the layouts that `sample` reads."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import torch
from tiny_encoders import WIDTH, llama, tokenizer, vae

from commonart.core.model.config import PixArtConfig
from commonart.core.model.sampler import scheduler_config
from commonart.core.model.transformer import PixArt

SIDE = 32  # pixels of its own size: 8 x 8 latents of f = 4


def transformer(folder: Path, objective: str = "flow", width: int = WIDTH, seed: int = 0) -> PixArt:
    """A PixArt whose output depends on everything that goes in, saved in `folder`."""
    torch.manual_seed(seed)
    config = PixArtConfig(
        num_layers=2, num_attention_heads=2, attention_head_dim=16, caption_channels=width, sample_size=8,
        out_channels=4 if objective == "flow" else 8, interpolation_scale=1.0,
    )  # fmt: skip
    model = PixArt(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero hides the text
                parameter.normal_(std=0.2)
    model.save(folder)
    return model


def pipeline(folder: Path, objective: str = "flow", shift: float = 1.0) -> Path:
    """An exported model: transformer/, text_encoder/, tokenizer/, vae/ and scheduler/."""
    transformer(folder / "transformer", objective)
    llama(folder / "text_encoder")
    for file in (folder / "text_encoder").glob("tokenizer*"):
        file.unlink()
    tokenizer(folder / "tokenizer")
    vae(folder / "vae")
    (folder / "scheduler").mkdir()
    config = json.dumps(scheduler_config(objective, shift))  # type: ignore[arg-type]
    (folder / "scheduler" / "scheduler_config.json").write_text(config)
    parts = {"_class_name": "PixArtSigmaPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    return folder


def published(folder: Path) -> tuple[Path, Path, Path]:
    """(transformer, text encoder, autoencoder) as commonart-beta is published: a bare transformer of the old class."""
    transformer(folder / "beta", "eps")
    config = json.loads((folder / "beta" / "config.json").read_text())
    config["_class_name"] = "Transformer2DModel"
    (folder / "beta" / "config.json").write_text(json.dumps(config))
    llama(folder / "calm2")
    vae(folder / "sdxl")
    return folder / "beta", folder / "calm2", folder / "sdxl"


def spiece(folder: Path) -> Path:
    """T5's tokenizer as PixArt-Sigma's repository holds it: spiece.model without a tokenizer.json."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    texts = ["a red circle on a hill", "a zebra in a meadow", "草原のシマウマ", "赤い丸"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "spiece"), vocab_size=90, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {**special, "tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 300}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def pixart_sigma(folder: Path) -> tuple[Path, Path]:
    """(transformer, T5 and the rest) as PixArt-Sigma at 512 px is published: one holds `transformer/` alone."""
    from transformers import T5Config, T5EncoderModel

    transformer(folder / "sigma" / "transformer", "eps")
    rest = folder / "rest"
    torch.manual_seed(0)
    config = T5Config(vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    T5EncoderModel(config).save_pretrained(rest / "text_encoder", max_shard_size="20KB")
    spiece(rest / "tokenizer")
    vae(rest / "vae")
    (rest / "scheduler").mkdir()
    (rest / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_config("eps")))
    index = {"_class_name": "PixArtSigmaPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (rest / "model_index.json").write_text(json.dumps(index))
    return folder / "sigma", rest


def stable_diffusion(folder: Path, second: bool = False) -> Path:
    """A StableDiffusionPipeline as version 1 is laid out, or as 2.1 and CommonCanvas-S-C: linear projections, heads a block."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = folder / "tokenizer"
    words.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32, "pad_token": "<|endoftext|>"}))
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, bos_token_id=512, eos_token_id=513, pad_token_id=1,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4) if second else 4, use_linear_projection=second,
    )  # fmt: skip
    decoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8,) * 3, layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
    whole = StableDiffusionPipeline(
        vae=decoder, text_encoder=text, tokenizer=CLIPTokenizer.from_pretrained(words), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    whole.save_pretrained(folder)
    (words / "tokenizer.json").unlink(missing_ok=True)  # the published repositories hold vocab.json and merges.txt
    return folder


def japanese(files: dict[str, bytes], words: Path) -> dict[str, bytes]:
    """The same repository as rinna's of 2022: pickles, a class of its own, and sentencepiece for a tokenizer."""
    index = json.loads(files["model_index.json"]) | {
        "_class_name": "JapaneseStableDiffusionPipeline",
        "tokenizer": ["transformers", "T5Tokenizer"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    tokenizer = {f"tokenizer/{name}": data for name, data in files_of(spiece(words)).items()}
    pickled = as_pickles({name: data for name, data in files.items() if not name.startswith("tokenizer/")})
    return pickled | tokenizer | {"model_index.json": json.dumps(index).encode()}


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files as a repository's."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def as_pickles(files: dict[str, bytes], shards: bool = False) -> dict[str, bytes]:
    """The same repository with its weights in .bin, as before 2023; `shards`: two files and an index, as CALM2's."""
    from safetensors.torch import load

    out: dict[str, bytes] = {}
    for name, data in files.items():
        if not name.endswith(".safetensors"):
            out[name] = data
            continue
        where, _, last = name.rpartition("/")
        stem = "pytorch_model" if last.startswith("model") else "diffusion_pytorch_model"
        state = load(data)
        names = sorted(state)
        parts = [names[: len(names) // 2], names[len(names) // 2 :]] if shards else [names]
        index = {}
        for number, part in enumerate(parts, 1):
            file = f"{stem}-{number:05d}-of-{len(parts):05d}.bin" if shards else f"{stem}.bin"
            written = io.BytesIO()
            torch.save({key: state[key] for key in part}, written)
            out[f"{where}/{file}".lstrip("/")] = written.getvalue()
            index |= dict.fromkeys(part, file)
        if shards:
            out[f"{where}/{stem}.bin.index.json".lstrip("/")] = json.dumps({"weight_map": index}).encode()
    return out


def copy(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to
