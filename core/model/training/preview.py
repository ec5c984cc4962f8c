"""The grid of fixed prompts that training draws as it goes: runs/NAME/samples/step-0001000.png.

    commonart train --stage 512 --sample-every 1000

Same prompts and same noise every time, so that two grids differ by what the model has learned between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from commonart.core import pictures, provenance
from commonart.core.model import sampler
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.device import autocast
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe


class Preview:
    """Draws `prompts` with the model it is called with. The encoders' work is done once, at the start."""

    def __init__(
        self,
        prompts: Sequence[str],
        folder: Path,
        text_encoder: TextEncoder,
        autoencoder: Autoencoder,
        recipe: Recipe,
        *,
        shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
        steps: int = 20,
        guidance: float = 4.5,
    ) -> None:
        self.prompts, self.folder, self.recipe = list(prompts), folder, recipe
        self.texts = [states.float() for states in text_encoder.encode(self.prompts)]
        self.null = text_encoder.null().float()
        self.autoencoder, self.shape, self.dtype = autoencoder, shape, dtype
        self.steps, self.guidance = steps, guidance

    def latents(self, model: PixArt) -> torch.Tensor:
        """The latents (B, C, H, W) of all prompts."""
        device = next(model.parameters()).device
        noise = sampler.noise_for(range(len(self.prompts)), self.shape, device)
        with autocast(device, self.dtype):
            return sampler.sample(
                model, noise, self.texts, self.null, self.steps, self.guidance,
                "flow" if self.recipe.objective == "flow" else "eps", shift=self.recipe.shift,
            )  # fmt: skip

    def __call__(self, model: PixArt, step: int) -> None:
        drawn = to_images(self.autoencoder.decode(self.latents(model)))
        sheet = pictures.contact_sheet(drawn, self.prompts, columns=min(4, len(drawn)))
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {"step": step, "steps": self.steps, "guidance": self.guidance, "prompts": self.prompts}
        provenance.save(sheet.image, self.folder / f"step-{step:07d}.png", settings=settings, overwrite=True)
