"""The embedded models: trains all six again from nothing, and measures them.

    commonart nano build -o weights/                  # about four hours on one core
    commonart nano build -o weights/ --only captioner # one of them; the others are taken from weights/
    commonart nano measure weights/ -n 1000

The folder is a diffusers pipeline (text_encoder, tokenizer, vae, transformer, scheduler) with the captioner, the
translator and the dual encoder beside it. The same seed gives the same weights on the same machine.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core import log, recipes
from commonart.core.errors import CommonArtError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# In the order in which they need one another.
MODELS = ("text_encoder", "autoencoder", "transformer", "translator", "captioner", "clip")
SCENES, CAPTIONS = 20_000, 4  # of the transformer's training set, and captions of each
BUSY = 0.5  # share of the scenes of one thing that are left out of it
RECIPE = {"steps": 9000, "lr": 2e-3}  # what the shipped transformer is trained with, beyond the recipe's row
TARGETS = {
    "autoencoder": {"psnr": 30.0},
    "captioner": {"facts": 0.95},
    "translator": {"en-ja": 0.98, "ja-en": 0.98},
    "clip": {"en": 0.90, "ja": 0.90},
    "transformer": {"color": 0.90, "shape": 0.90, "background": 0.90, "place": 0.90},
    "heldout": {"color": 0.80, "shape": 0.80, "background": 0.80, "place": 0.80},
}


def build(
    out: str | Path, only: Sequence[str] = (), seed: int = 0, short: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Trains the models named in `only` (default: all) on generated scenes and writes them to the folder `out`.

    short: a few steps of everything, to try the machinery; such models are of no use. The result names seconds,
    parameters and bytes of each model.

    Raises:
        UsageError: an unknown name.
        CommonArtError: a model that another one needs is not in `out`.
    """
    for name in only:
        if name not in MODELS:
            raise UsageError(f"--only {name} is none of the nano models.", f"Use one of {', '.join(MODELS)}.")
    import torch
    import transformers

    # One thread: the same sums in the same order, and for matrices this small a second one mostly waits.
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _pipeline_files(folder)
    say: Callable[[str], None] = (lambda line: None) if quiet else log.say
    made = {}
    for name in [each for each in MODELS if not only or each in only]:
        start = time.monotonic()
        _BUILDERS[name](folder, seed, short, say)
        made[name] = {"seconds": round(time.monotonic() - start, 1), **_size(folder / _FOLDERS[name])}
    return {"stage": "nano build", "out": str(folder), "models": made}


def measure(
    folder: str | Path = "", n: int = 1000, only: Sequence[str] = (), seed: int = 1
) -> dict[str, dict[str, float]]:
    """The quality of the models in `folder` (default: the shipped ones) on `n` unseen scenes, beside TARGETS.

    autoencoder: psnr in dB. captioner, translator: share of facts told rightly. clip: top-1 retrieval among 100.
    transformer: shares of `n` prompts followed, per language; heldout: the same for pairs of colour and shape that no
    training scene shows; short: for prompts that tell no places.
    """
    from commonart.core.registry.hub import NANO_WEIGHTS

    where = Path(folder) if folder else NANO_WEIGHTS
    table: dict[str, dict[str, float]] = {}
    for name in MODELS:
        if name in _MEASURES and (not only or name in only):
            table |= _MEASURES[name](where, n, seed)
    return table


# -- building ----------------------------------------------------------------------------------------------------------


def _text_encoder(folder: Path, seed: int, short: bool, say: Callable[[str], None]) -> None:
    from commonart.core.nano import text_encoder

    words = text_encoder.vocabulary(seed)
    model = text_encoder.train(words, seed, say=say, **({"steps": 5, "wider": 5} if short else {}))
    text_encoder.save(model, words, folder / "text_encoder", folder / "tokenizer")


def _autoencoder(folder: Path, seed: int, short: bool, say: Callable[[str], None]) -> None:
    from commonart.core.nano import autoencoder

    model = autoencoder.train(seed, say=say, **({"steps": 5, "scenes": 200} if short else {}))
    autoencoder.save(model, folder / "vae")


def _transformer(folder: Path, seed: int, short: bool, say: Callable[[str], None]) -> None:
    """With the training loop and the recipe of `commonart train --stage nano`."""
    import torch

    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.diffusion import out_channels
    from commonart.core.model.text_encoder import TextEncoder
    from commonart.core.model.transformer import PixArt, PixArtConfig
    from commonart.core.nano import grammar, transformer
    from commonart.core.training import trainer
    from commonart.core.training.distributed import World

    _need(folder, "vae", "autoencoder")
    _need(folder, "text_encoder", "text_encoder")
    vae, text = (
        Autoencoder.load(folder / "vae", torch.float32),
        TextEncoder.load(folder / "text_encoder", torch.float32),
    )
    recipe = recipes.resolve("nano", {"steps": 4, "batch": 8, "warmup": 1} if short else RECIPE)
    count = 64 if short else SCENES
    torch.manual_seed(seed)
    model = PixArt(
        PixArtConfig(
            num_attention_heads=recipe.heads,
            attention_head_dim=recipe.head_dim,
            num_layers=recipe.layers,
            in_channels=vae.channels,
            out_channels=out_channels("flow", vae.channels),
            patch_size=recipe.patch,
            sample_size=recipe.resolution // vae.factor,
            caption_channels=text.width,
            interpolation_scale=recipe.interpolation,
        )
    )
    prompts = {lang: grammar.eval_prompts(60, lang, seed + 2) for lang in ("en", "ja")}
    prompts["short"] = grammar.eval_prompts(60, "ja", seed + 2, short=True)

    def draw(averaged: PixArt, step: int) -> None:
        for lang, some in prompts.items():
            scores = transformer.follow(averaged, vae, text, some, shift=recipe.flow_shift)
            say(f"transformer step {step} {lang} " + " ".join(f"{k} {v:.3f}" for k, v in scores.items()))

    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    options = trainer.Options(
        seed=seed,
        dtype=torch.bfloat16,
        checkpoint_every=500,
        sample_every=0 if short else 1000,
        log_every=50,
        keep=1,
        quiet=True,
    )
    source = transformer.memory(vae, text, count, CAPTIONS, seed, BUSY)
    done = trainer.train(model, source, recipe, run, options, World(torch.device("cpu")), preview=draw)
    assert done.checkpoint is not None
    PixArt.load(done.checkpoint / "ema", dtype=torch.float32).half().save(folder / "transformer")
    shutil.rmtree(run)


def _translator(folder: Path, seed: int, short: bool, say: Callable[[str], None]) -> None:
    import torch
    from transformers import LlamaForCausalLM

    from commonart.core.nano import translator

    _need(folder, "text_encoder", "text_encoder")
    llama = LlamaForCausalLM.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    words = _words(folder, "chat")
    model = translator.train(llama, words, seed, say=say, **({"steps": 5} if short else {}))
    translator.save(model, words, folder / "translator")


def _captioner(folder: Path, seed: int, short: bool, say: Callable[[str], None]) -> None:
    from commonart.core.nano import captioner

    words = _words(folder, "caption")
    model = captioner.train(words, seed, say=say, **({"steps": 5, "scenes": 200} if short else {}))
    captioner.save(model, words, folder / "captioner")


def _clip(folder: Path, seed: int, short: bool, say: Callable[[str], None]) -> None:
    from commonart.core.nano import dual_encoder

    words = _words(folder, "clip")
    model = dual_encoder.train(words, seed, say=say, **({"steps": 5, "scenes": 200} if short else {}))
    dual_encoder.save(model, words, folder / "clip")


_BUILDERS: dict[str, Callable[[Path, int, bool, Callable[[str], None]], None]] = {
    "text_encoder": _text_encoder,
    "autoencoder": _autoencoder,
    "transformer": _transformer,
    "translator": _translator,
    "captioner": _captioner,
    "clip": _clip,
}
_FOLDERS = {"autoencoder": "vae", **{name: name for name in MODELS if name != "autoencoder"}}


def _words(folder: Path, kind: str) -> PreTrainedTokenizerFast:
    """The text encoder's vocabulary as another architecture expects it."""
    from transformers import PreTrainedTokenizerFast

    from commonart.core.nano import tokenizer

    _need(folder, "tokenizer", "text_encoder", "tokenizer.json")
    return tokenizer.wrap(PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer").backend_tokenizer, kind)


def _need(folder: Path, part: str, name: str, file: str = "config.json") -> None:
    if not (folder / part / file).is_file():
        raise CommonArtError(
            f"{folder / part} holds no {name.replace('_', ' ')} yet.",
            f"Build it first: commonart nano build --only {name}.",
        )


def _pipeline_files(folder: Path) -> None:
    """What makes the folder a pipeline of diffusers."""
    import diffusers

    from commonart.core.data.files import write_json
    from commonart.core.model.sampler import scheduler_config

    parts = {
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "LlamaForCausalLM"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    about = {"_class_name": "PixArtSigmaPipeline", "_diffusers_version": diffusers.__version__}
    write_json(folder / "model_index.json", about | parts)
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(
        folder / "scheduler" / "scheduler_config.json", scheduler_config("flow", recipes.RECIPES["nano"].flow_shift)
    )


def _size(folder: Path) -> dict[str, int]:
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += sum(_product(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (no mapping)
    return {"parameters": count, "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())}


def _product(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


# -- measuring ---------------------------------------------------------------------------------------------------------


def _own(folder: Path, part: str) -> PreTrainedTokenizerFast:
    """The tokenizer that lies beside a model."""
    from transformers import PreTrainedTokenizerFast

    _need(folder, part, part, "tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(folder / part)


def _measure_autoencoder(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    import torch
    from diffusers import AutoencoderKL

    from commonart.core.nano import autoencoder
    from commonart.core.nano.training import images, unseen

    model = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    return {"autoencoder": {"psnr": autoencoder.psnr(model, images(unseen(n, seed).pixels))}}


def _measure_captioner(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    import torch
    from transformers import Florence2ForConditionalGeneration

    from commonart.core.nano import captioner
    from commonart.core.nano.training import unseen

    model = Florence2ForConditionalGeneration.from_pretrained(folder / "captioner", dtype=torch.float32).eval()
    return {"captioner": {"facts": captioner.right(model, _own(folder, "captioner"), unseen(n, seed))[0]}}


def _measure_translator(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    import torch
    from transformers import Phi3ForCausalLM

    from commonart.core.nano import translator

    model = Phi3ForCausalLM.from_pretrained(folder / "translator", dtype=torch.float32).eval()
    words = _own(folder, "translator")
    return {
        "translator": {
            f"{s}-{t}": translator.right(model, words, n, s, t, seed) for s, t in (("en", "ja"), ("ja", "en"))
        }
    }


def _measure_clip(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    import open_clip

    from commonart.core.nano import dual_encoder
    from commonart.core.nano.training import unseen

    model = open_clip.create_model(f"local-dir:{folder / 'clip'}").eval()
    pictures, words = unseen(n, seed), _own(folder, "clip")
    return {"clip": {lang: dual_encoder.retrieval(model, words, pictures, lang, min(n, 100)) for lang in ("en", "ja")}}


def _measure_transformer(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    import torch

    from commonart.core.generation.components import locate
    from commonart.core.generation.request import ModelSpec
    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.text_encoder import TextEncoder
    from commonart.core.model.transformer import PixArt
    from commonart.core.nano import grammar, transformer

    vae, text = (
        Autoencoder.load(folder / "vae", torch.float32),
        TextEncoder.load(folder / "text_encoder", torch.float32),
    )
    model = PixArt.load(folder / "transformer", dtype=torch.float32).eval()
    shift = locate(ModelSpec(str(folder))).shift
    table = {}
    for kind in ("transformer", "heldout", "short"):
        for lang in ("en", "ja"):
            prompts = grammar.eval_prompts(n, lang, seed, heldout=kind == "heldout", short=kind == "short")
            row = transformer.follow(model, vae, text, prompts, shift=shift)
            asked = ("color", "shape", "background") if kind == "short" else tuple(row)
            table[f"{kind} {lang}"] = {fact: row[fact] for fact in asked}
    return table


_MEASURES: dict[str, Callable[[Path, int, int], dict[str, dict[str, float]]]] = {
    "autoencoder": _measure_autoencoder,
    "captioner": _measure_captioner,
    "translator": _measure_translator,
    "clip": _measure_clip,
    "transformer": _measure_transformer,
}


def as_text(table: dict[str, dict[str, float]]) -> str:
    """The table of `measure`, one line per model, as JSON lines for a program to read."""
    return "\n".join(
        json.dumps({"model": name, **{k: round(v, 4) for k, v in row.items()}}) for name, row in table.items()
    )
