"""A frozen vision encoder: the last hidden states of an image's patches. SigLIP, CLIP, DINOv2 and others of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from commonart.core.errors import CommonArtError, first_line
from commonart.core.model.device import pick_dtype
from commonart.core.model.pretrained import LOADING, LOCAL, load_whole, vision_side


class VisionEncoder:
    """`width`: channels of a patch. Images are taken in any size: positions are interpolated, as REPA's authors do."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model, self.processor, self.device = model, processor, device
        self.width, self.patch = int(model.config.hidden_size), int(model.config.patch_size)
        asks = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters  # DINOv2 does so by itself
        self.options = {"interpolate_pos_encoding": True} if asks else {}

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> VisionEncoder:
        """Load a local folder, of a vision model or of one of images and texts. Raises CommonArtError where it is neither."""
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        try:
            config = vision_side(AutoConfig.from_pretrained(folder, **LOCAL))
            if not all(isinstance(getattr(config, name, None), int) for name in ("hidden_size", "patch_size")):
                raise ValueError(f"a {config.model_type} model has no patches of one size")
            model = load_whole(AutoModel, folder, config, pick_dtype(device=device))
            processor = AutoImageProcessor.from_pretrained(folder, **LOCAL)
        except LOADING as error:
            raise CommonArtError(
                f"--vision-tower {folder} cannot be loaded: {first_line(error)}.",
                "It needs config.json, safetensors and preprocessor_config.json of a vision model with patches.",
            ) from error
        return cls(model.to(device).eval().requires_grad_(False), processor, device)

    def prepare(self, image: Image.Image, rows: int, columns: int) -> Tensor:
        """Return an image as (3, H, W), normalised, of rows x columns patches; nothing is cropped. Touches no device."""
        size = (columns * self.patch, rows * self.patch)
        sized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pixels = self.processor(sized, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
        return torch.as_tensor(pixels[0])

    @torch.no_grad()
    def encode(self, prepared: Sequence[Tensor]) -> Tensor:
        """Return the patches of images of one size that `prepare` made, (B, rows * columns, width), row by row."""
        pixels_B3HW = torch.stack(list(prepared)).to(self.device, self.model.dtype)
        count = pixels_B3HW.shape[2] // self.patch * (pixels_B3HW.shape[3] // self.patch)
        states: Tensor = self.model(pixel_values=pixels_B3HW, **self.options).last_hidden_state
        return states[:, -count:]  # the class token and registers come first
