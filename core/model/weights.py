"""The weights in a transformer's folder: safetensors, in one file or in several, as diffusers lays them out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from commonart.core.data.files import naming, temporary_path
from commonart.core.errors import CommonArtError, reason

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
INDEX = f"{WEIGHTS}.index.json"
VARIANTS = ("fp16", "bf16")  # of a folder that holds its weights in half precision alone: STEM.fp16.safetensors


def read(folder: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return all tensors of the folder, by name, without the prefixes that torch.compile and DistributedDataParallel leave.

    Raises CommonArtError where there are no safetensors, some of them are missing, or a file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in _files(folder):
        try:
            state.update(load_file(file, device=str(device)))
        except (SafetensorError, OSError) as error:
            raise CommonArtError(f"{file} cannot be read: {reason(error)}.", "Download or export it again.") from error
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def variant(folder: Path, stem: str) -> str | None:
    """Return the variant ("fp16") in which alone a folder holds the weights called `stem`; None: they are there as usual."""
    if any(folder.glob(f"{stem}*.safetensors")) and not (
        (folder / f"{stem}.safetensors").exists() or (folder / f"{stem}.safetensors.index.json").exists()
    ):
        return next((name for name in VARIANTS if any(folder.glob(f"{stem}*.{name}*"))), None)
    return None


def write(state: dict[str, Tensor], folder: Path) -> None:
    """Write all tensors to one file. It is written beside and renamed: half of it never has the final name."""
    folder.mkdir(parents=True, exist_ok=True)
    part = temporary_path(folder / WEIGHTS)
    with naming(folder / WEIGHTS, part):
        save(state, part)
        os.replace(part, folder / WEIGHTS)


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file. A full disk is the OSError that it is, not the SafetensorError that hides it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """Raise CommonArtError unless `state` holds the tensors `expected`, by name and shape; names the first other."""
    for name, tensor in expected.items():
        if name not in state:
            fix = "Use the config.json that belongs to them; see its num_layers."
            raise CommonArtError(f"{folder}: the weights lack {name}.", fix)
        if state[name].shape != tensor.shape:
            has, needs = tuple(state[name].shape), tuple(tensor.shape)
            fix = "Use the config.json that belongs to the weights."
            raise CommonArtError(f"{folder}: {name} has the shape {has}; config.json means {needs}.", fix)
    if unknown := next((name for name in state if name not in expected), None):
        what = f"{folder}: the weights hold {unknown}, which this transformer does not have."
        raise CommonArtError(what, "Name a PixArt-Sigma or CommonArt transformer.")


def check_complete(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise CommonArtError for missing tensors, in whose place transformers and diffusers would go on with random numbers."""
    if missing := info["missing_keys"]:
        what = f"The weights in {folder} lack {len(missing)} tensors, among them {min(missing)}."
        raise CommonArtError(what, "Download the model again, or use the folder that holds all of it.")


def _files(folder: Path) -> list[Path]:
    half = variant(folder, STEM)
    whole = folder / (f"{STEM}.{half}.safetensors" if half else WEIGHTS)
    index = folder / (f"{WEIGHTS}.index.{half}.json" if half else INDEX)
    if whole.exists():
        return [whole]
    if not index.exists():
        fix = "Only safetensors are read: convert other formats, or name another folder."
        raise CommonArtError(f"{folder} has no {WEIGHTS}.", fix)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CommonArtError(f"{index} has no weight_map.", "Download the model again.") from error
    for name in names:
        if Path(name).name != name or not (folder / name).exists():
            raise CommonArtError(f"{index} names {name}, which does not exist.", "Download it again.")
    return [folder / name for name in names]
