"""Images to latents and back, by an autoencoder of diffusers.

AutoencoderKL       SDXL's (f = 8, 4 channels) and the nano one (f = 4); latents are (z - shift_factor) * scaling_factor
AutoencoderKLFlux2  FLUX.2's (f = 8, 32 channels): its batch norm's statistics, of each channel of each patch of 2 x 2, are
                    shift and scale, as in diffusers' Flux2Pipeline; the patches stay apart, so that any patch size fits
AutoencoderDC       DC-AE (f = 32, 32 channels; arXiv 2410.10733): latents are z * scaling_factor, and have no deviation

Latents here are always those that the transformer sees: shifted and scaled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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

CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderDC")
TILE_ABOVE = 1024  # pixels of the longer side; SDXL's autoencoder was trained up to this size
OVERLAP = 8  # of AutoencoderDC's tiles: a side in this many parts


@dataclass(slots=True)
class Autoencoder:
    """A frozen autoencoder, of one of CLASSES. Make one with `Autoencoder.load`."""

    model: Any
    device: torch.device
    dtype: torch.dtype
    channels: int  # C of the latents (4 for SDXL's)
    factor: int  # f, pixels per latent along one side (8 for SDXL's)
    scaling: float | Tensor  # latents = (z - shift) * scaling; FLUX.2's are [C, 2, 2], for the places in a patch
    shift: float | Tensor
    # Pixels of the longer side above which images run in tiles of that size: less memory, faint seams.
    tile_above: int = TILE_ABOVE

    @property
    def precision(self) -> str:
        """Name of the weights' type."""
        return dtype_name(self.dtype)

    @property
    def deterministic(self) -> bool:
        """Whether an image has one latent, and no distribution of them."""
        return type(self.model).__name__ == "AutoencoderDC"

    @property
    def settings(self) -> dict[str, Any]:
        """What runs and caches record beside `channels` and `precision`. FLUX.2's statistics are among its weights."""
        if isinstance(self.scaling, Tensor):
            return {"factor": self.factor}
        return {"factor": self.factor, "scaling": self.scaling, "shift": self.shift}

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | str = "auto", *, device: torch.device | str = "auto"
    ) -> Autoencoder:
        """Load from a local folder: the model itself, or a pipeline with `vae/`. safetensors only.

        `dtype` may be a name, as `pick_precision` takes it. Raises CommonArtError for a folder without one of CLASSES, or
        without all of its weights.
        """
        import diffusers

        device = pick_device(device) if isinstance(device, str) else device
        dtype = pick_precision(folder, dtype, device) if isinstance(dtype, str) else dtype
        path, config = _read(folder)
        require_plain_json(path)
        try:
            model, info = getattr(diffusers, class_of(config)).from_pretrained(
                path, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True,
                variant=weights.variant(path, weights.STEM),
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            what = f"The autoencoder in {path} cannot be loaded: {first_line(error)}."
            raise CommonArtError(what, f"It must be one of {', '.join(CLASSES)} in safetensors, complete.") from error
        weights.check_complete(path, info)
        scaling, shift = _statistics(model)
        torch.nn.Module.to(model, device, dtype)  # diffusers' own warns, whatever there is to warn of
        model.eval().requires_grad_(False)
        return cls(model, device, dtype, *latents_of(config), scaling, shift)

    @torch.no_grad()
    def encode(self, images: Tensor, batch: int = 16) -> tuple[Tensor, Tensor]:
        """Encode images [B, 3, H, W] in -1..1 to (mean, std) of the scaled latents, [B, C, H/f, W/f] in float32 each.

        A sample of the posterior is `mean + std * noise`; where it is `deterministic`, std is 0. Raises ValueError where H or
        W is not a multiple of f.
        """
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"{width}x{height} pixels are not a multiple of the autoencoder's {self.factor}")
        self._tile(max(height, width))
        means, stds = [], []
        for part in images.split(batch):
            encoded = self.model.encode(part.to(self.device, self.dtype))
            mean, std = (
                (encoded.latent, torch.zeros_like(encoded.latent))
                if self.deterministic
                else (encoded.latent_dist.mean, encoded.latent_dist.std)
            )
            scaling = _over(self.scaling, mean)
            means.append((mean.float() - _over(self.shift, mean)) * scaling)
            stds.append(std.float() * scaling)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Decode scaled latents [B, C, h, w] to images [B, 3, h f, w f] in -1..1, float32."""
        self._tile(max(latents.shape[-2:]) * self.factor)
        images = []
        for part in latents.split(batch):
            z = part.to(self.device, torch.float32)
            z = z / _over(self.scaling, z) + _over(self.shift, z)
            images.append(self.model.decode(z.to(self.dtype)).sample.float().clamp(-1, 1))
        return torch.cat(images)

    def _tile(self, side: int) -> None:
        """Tiles only where one pass would be too large: they cost a little accuracy at their seams."""
        if self.deterministic:
            stride = self.tile_above - self.tile_above // OVERLAP // self.factor * self.factor
            self.model.enable_tiling(self.tile_above, self.tile_above, stride, stride)
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
    config = _read(folder)[1]
    half = device.type == "cuda" and not config.get("force_upcast", True)
    return torch.float16 if half else torch.float32


def class_of(config: Mapping[str, Any]) -> str:
    """Return the class that an autoencoder's config.json names."""
    return str(config.get("_class_name", CLASSES[0]))


def latents_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return (channels of a latent, pixels of one on a side) of the autoencoder with this config.json."""
    levels = config.get("encoder_block_out_channels") or config.get("block_out_channels") or [0] * 4
    return int(config.get("latent_channels", 4)), int(2 ** (len(levels) - 1))


def _statistics(model: Any) -> tuple[float | Tensor, float | Tensor]:
    """(scaling, shift) of a model in float32: they are not rounded to the dtype that it runs in."""
    config = model.config
    if type(model).__name__ == "AutoencoderKLFlux2":
        shape = (int(config.latent_channels), *config.patch_size)
        deviation = (model.bn.running_var + config.batch_norm_eps).sqrt()
        return (1 / deviation).reshape(shape), model.bn.running_mean.clone().reshape(shape)
    return float(config.scaling_factor), float(config.get("shift_factor") or 0.0)


def _over(value: float | Tensor, latents: Tensor) -> float | Tensor:
    """A number as it is; numbers [C, 2, 2], for the places in a patch, as [C, h, w] of latents [B, C, h, w]."""
    if not isinstance(value, Tensor):
        return value
    height, width = latents.shape[-2:]
    rows, columns = -(-height // value.shape[1]), -(-width // value.shape[2])
    return value.to(latents.device).repeat(1, rows, columns)[:, :height, :width]


def _read(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the model itself, and its config.json. Raises CommonArtError where it is of none of CLASSES."""
    path = Path(folder)
    if (path / "vae" / "config.json").is_file():
        path = path / "vae"
    try:
        config = json.loads((path / "config.json").read_bytes())
        name = class_of(config)
    except (OSError, ValueError, AttributeError):
        raise CommonArtError(
            f"{path} holds no autoencoder: its config.json is missing or cannot be read.",
            "Give a folder with an autoencoder of diffusers, or a name from `commonart models`.",
        ) from None
    if name not in CLASSES:
        what = f"{path} holds a {name}, not an {', '.join(CLASSES[:-1])} or {CLASSES[-1]}."
        raise CommonArtError(what, "Give the folder of one of them.")
    return path, config


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Convert RGB images of one size to Tensor[B, 3, H, W] in -1..1, float32. Raises ValueError for several sizes."""
    pixels_BHWC = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return pixels_BHWC.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_images(images: Tensor) -> list[Image.Image]:
    """Tensor[B, 3, H, W] in -1..1 to PIL RGB images."""
    pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]
