"""Images to latents and back: any diffusers `AutoencoderKL`, SDXL's (f = 8) and the nano one (f = 4) alike.

Latents here are always the scaled ones that the transformer sees: (z - shift_factor) * scaling_factor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from commonart.core.errors import CommonArtError, first_line
from commonart.core.model import weights
from commonart.core.model.device import dtype_name, pick_device, pick_dtype
from commonart.core.registry.lookup import require_plain_json

TILE_ABOVE = 1024  # pixels of the longer side; SDXL's autoencoder was trained up to this size


@dataclass(slots=True)
class Autoencoder:
    """A frozen AutoencoderKL. Make one with `Autoencoder.load`."""

    model: Any
    device: torch.device
    dtype: torch.dtype
    channels: int  # C of the latents (4 for SDXL's)
    factor: int  # f, pixels per latent along one side (8 for SDXL's)
    scaling: float  # latents = (z - shift) * scaling
    shift: float
    # Pixels of the longer side above which images run in tiles of that size: less memory, faint seams.
    tile_above: int = TILE_ABOVE

    @property
    def precision(self) -> str:
        """Name of the weights' type."""
        return dtype_name(self.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """What runs and caches record beside `channels` and `precision`."""
        return {"factor": self.factor, "scaling": self.scaling, "shift": self.shift}

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | str = "auto", *, device: torch.device | str = "auto"
    ) -> Autoencoder:
        """Load from a local folder: the model itself, or a pipeline with `vae/`. safetensors only.

        `dtype` may be a name, as `pick_precision` takes it. Raises CommonArtError for a folder without an AutoencoderKL, or
        without all of its weights.
        """
        from diffusers import AutoencoderKL

        device = pick_device(device) if isinstance(device, str) else device
        dtype = pick_precision(folder, dtype, device) if isinstance(dtype, str) else dtype
        path = _folder(folder)
        require_plain_json(path)
        try:
            model, info = AutoencoderKL.from_pretrained(
                path, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True,
                variant=weights.variant(path, weights.STEM),
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            what = f"The autoencoder in {path} cannot be loaded: {first_line(error)}."
            raise CommonArtError(what, "It must be an AutoencoderKL in safetensors, complete.") from error
        weights.check_complete(path, info)
        model.to(device).eval().requires_grad_(False)
        c = model.config
        factor, shift = 2 ** (len(c.block_out_channels) - 1), float(c.shift_factor or 0.0)
        return cls(model, device, dtype, int(c.latent_channels), factor, float(c.scaling_factor), shift)

    @torch.no_grad()
    def encode(self, images: Tensor, batch: int = 16) -> tuple[Tensor, Tensor]:
        """Encode images [B, 3, H, W] in -1..1 to (mean, std) of the scaled latents, [B, C, H/f, W/f] in float32 each.

        A sample of the posterior is `mean + std * noise`. Raises ValueError where H or W is not a multiple of f.
        """
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"{width}x{height} pixels are not a multiple of the autoencoder's {self.factor}")
        self._tile(max(height, width))
        means, stds = [], []
        for part in images.split(batch):
            posterior = self.model.encode(part.to(self.device, self.dtype)).latent_dist
            means.append((posterior.mean.float() - self.shift) * self.scaling)
            stds.append(posterior.std.float() * self.scaling)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Decode scaled latents [B, C, h, w] to images [B, 3, h f, w f] in -1..1, float32."""
        self._tile(max(latents.shape[-2:]) * self.factor)
        images = []
        for part in latents.split(batch):
            z = part.to(self.device, torch.float32) / self.scaling + self.shift
            images.append(self.model.decode(z.to(self.dtype)).sample.float().clamp(-1, 1))
        return torch.cat(images)

    def _tile(self, side: int) -> None:
        """Tiles only where one pass would be too large: they cost a little accuracy at their seams."""
        self.model.use_tiling = side > self.tile_above
        self.model.tile_sample_min_size = self.tile_above
        self.model.tile_latent_min_size = self.tile_above // self.factor


def pick_precision(folder: str | Path, name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `--precision NAME` means for the autoencoder in `folder`.

    auto is float32, except on a GPU for weights that say they survive float16 (`force_upcast: false`, as
    madebyollin/sdxl-vae-fp16-fix does; SDXL's own overflow there).
    """
    if name != "auto":
        return pick_dtype(name, device)
    config = json.loads((_folder(folder) / "config.json").read_bytes())
    half = device.type == "cuda" and not config.get("force_upcast", True)
    return torch.float16 if half else torch.float32


def _folder(folder: str | Path) -> Path:
    """The folder of the model itself. Raises CommonArtError where it is not an AutoencoderKL's."""
    path = Path(folder)
    if (path / "vae" / "config.json").is_file():
        path = path / "vae"
    try:
        config = json.loads((path / "config.json").read_bytes())
        name = config.get("_class_name", "AutoencoderKL")
    except (OSError, ValueError, AttributeError):
        raise CommonArtError(
            f"{path} holds no autoencoder: its config.json is missing or cannot be read.",
            "Give a folder with a diffusers AutoencoderKL, or a name from `commonart models`.",
        ) from None
    if name != "AutoencoderKL":
        raise CommonArtError(f"{path} holds a {name}, not an AutoencoderKL.", "Give the folder of an AutoencoderKL.")
    return path


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Convert RGB images of one size to Tensor[B, 3, H, W] in -1..1, float32. Raises ValueError for several sizes."""
    pixels_BHWC = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return pixels_BHWC.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_images(images: Tensor) -> list[Image.Image]:
    """Tensor[B, 3, H, W] in -1..1 to PIL RGB images."""
    pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]
