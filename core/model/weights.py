"""The weights in a transformer's folder: safetensors, in one file or in several, as diffusers lays them out.

`PixArt.load` and `PixArt.save` go through here. Tensors that do not fit config.json are named one by one.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from torch import Tensor

from commonart.core.data.files import temporary_path
from commonart.core.errors import CommonArtError

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"


def read(folder: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of the folder, by name.

    Raises:
        CommonArtError: no safetensors here, a part of them is missing, or a file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in _files(folder):
        try:
            state.update(load_file(file, device=str(device)))
        except (SafetensorError, OSError) as error:
            raise CommonArtError(f"{file} cannot be read: {error}.", "Download or export it again.") from error
    return state


def write(state: dict[str, Tensor], folder: Path) -> None:
    """Writes all tensors to one file. It is written beside and renamed: half of it never has the final name."""
    folder.mkdir(parents=True, exist_ok=True)
    part = temporary_path(folder / WEIGHTS)
    save(state, part)
    os.replace(part, folder / WEIGHTS)


def save(state: dict[str, Tensor], path: Path) -> None:
    """Writes one safetensors file. A full disk is the OSError that it is, not the SafetensorError that hides it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def check(found: dict[str, Tensor], wanted: dict[str, Tensor], folder: Path) -> None:
    """Raises CommonArtError unless the tensors `found` are those `wanted`, by name and shape; names the first other."""
    for name, tensor in wanted.items():
        if name not in found:
            raise CommonArtError(f"{folder}: the weights lack {name}.", "Check num_layers in its config.json.")
        if found[name].shape != tensor.shape:
            raise CommonArtError(
                f"{folder}: {name} has the shape {tuple(found[name].shape)}; config.json means {tuple(tensor.shape)}.",
                "Use the config.json that belongs to the weights.",
            )
    for name in found:
        if name not in wanted:
            raise CommonArtError(
                f"{folder}: the weights hold {name}, which this transformer does not have.",
                "Name a PixArt-Sigma or CommonArt transformer.",
            )


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CommonArtError(f"{folder / INDEX} has no weight_map.", "Download the model again.") from error
        for name in names:
            if Path(name).name != name or not (folder / name).exists():
                raise CommonArtError(f"{folder / INDEX} names {name}, which is not there.", "Download it again.")
        return [folder / name for name in names]
    raise CommonArtError(
        f"{folder} has no {WEIGHTS}.", "Only safetensors are read: convert other formats, or name another folder."
    )
