"""The embedded models: train all eight again from random weights, and measure them.

The folder is a diffusers pipeline (text_encoder, tokenizer, vae, transformer, scheduler) that also holds the captioner,
the translator and the dual encoder. The same seed gives the same weights on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from commonart.core import log, recipes
from commonart.core.errors import CommonArtError, UsageError

# In the order in which they need one another; where they differ, the folder and the module of core/nano.
MODELS = (
    "text_encoder", "autoencoder", "transformer", "translator", "captioner", "vision_tower", "captioner_ja", "clip",
)  # fmt: skip
MEASURED_BY = {"text_encoder": "transformer", "vision_tower": "captioner_ja"}  # not by themselves
FOLDERS, MODULES = {"autoencoder": "vae"}, {"clip": "dual_encoder"}
# What the shipped weights reach at least, by row and column of the table of `measure`.
TARGETS = {
    "autoencoder": {"psnr": 30.0},
    "captioner": {"facts": 0.95},
    "captioner_ja": {"facts": 0.95},
    "translator": {"en-ja": 0.98, "ja-en": 0.98},
    "translator related": {"en-ja": 0.95, "ja-en": 0.90},
    "clip": {"en": 0.90, "ja": 0.90},
    "transformer": {"color": 0.95, "shape": 0.95, "background": 0.95, "place": 0.95},
    "heldout": {"color": 0.95, "shape": 0.95, "background": 0.95, "place": 0.95},
    "short": {"color": 0.95, "shape": 0.95, "background": 0.95},
}


def build(
    out: str | Path, only: Sequence[str] = (), seed: int = 0, short: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Train models on generated scenes and write them to the folder `out`; return seconds, parameters, bytes of each.

    Args:
        only: names of MODELS; default: all.
        short: a few steps of everything, to test the code; such models are of no use.

    Raises:
        UsageError: an unknown name.
        CommonArtError: a model that another one needs is not in `out`.
    """
    names = _selected(only)
    import torch
    import transformers

    # One thread: the same sums in the same order, and for matrices this small a second one mostly waits.
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _write_pipeline_files(folder)
    say: Callable[[str], None] = (lambda line: None) if quiet else log.say
    models = {}
    for name in names:
        start = time.monotonic()
        _module(name).build(folder, seed, short, say)
        models[name] = {"seconds": round(time.monotonic() - start, 1), **_size(folder / FOLDERS.get(name, name))}
    return {"stage": "nano build", "out": str(folder), "models": models}


def measure(
    folder: str | Path = "", n: int = 1000, only: Sequence[str] = (), seed: int = 1
) -> dict[str, dict[str, float]]:
    """Measure the models in `folder` (default: the shipped ones) on `n` unseen scenes.

    Returns:
        One row per model, to compare with TARGETS: PSNR in dB of the autoencoder, shares of the facts that captioner and
        translator state correctly (`translator related`: of captions that place one thing by another), top-1 retrieval
        among 100 of clip. The transformer has a row per language with the shares of prompts that it follows; `heldout` is
        the same for pairs of color and shape that no training scene shows, `short` for prompts that name no places.

    Raises:
        UsageError: an unknown name, or that of a model that others measure.
        CommonArtError: a model is not in `folder`.
    """
    from commonart.core.registry.hub import NANO_WEIGHTS

    weights = Path(folder) if folder else NANO_WEIGHTS
    names = _selected(only)
    for name in only:
        if name in MEASURED_BY:
            what = (
                f"--only {name}: the {name.replace('_', ' ')} is measured through {MEASURED_BY[name]}, not by itself."
            )
            raise UsageError(what, f"Use --only {MEASURED_BY[name]}.")
    if not weights.is_dir():
        kind, what = (UsageError, "is not a folder") if weights.exists() else (CommonArtError, "does not exist")
        raise kind(f"{weights} {what}.", "Give a folder that commonart nano build wrote, or leave it out.")
    table: dict[str, dict[str, float]] = {}
    for name in names:
        if name not in MEASURED_BY:
            table |= _module(name).measure(weights, n, seed)
    return table


def _selected(only: Sequence[str]) -> list[str]:
    for name in only:
        if name not in MODELS:
            raise UsageError(f"--only {name} is not one of the nano models.", f"Choose among {', '.join(MODELS)}.")
    return [name for name in MODELS if not only or name in only]


def _module(name: str) -> Any:
    """Import the module of a model: architecture, training (`build`) and measurement (`measure`)."""
    return import_module(f"commonart.core.nano.{MODULES.get(name, name)}")


def _write_pipeline_files(folder: Path) -> None:
    """Write the files that make the folder a pipeline of diffusers."""
    import diffusers

    from commonart.core.data.files import write_json
    from commonart.core.model.sampler import scheduler_config

    index = {
        "_class_name": "PixArtSigmaPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "LlamaForCausalLM"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)
    scheduler = scheduler_config("flow", recipes.RECIPES["nano"].flow_shift)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)


def _size(folder: Path) -> dict[str, int]:
    from safetensors import safe_open

    parameters = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            parameters += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (not a mapping)
    return {"parameters": parameters, "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())}
