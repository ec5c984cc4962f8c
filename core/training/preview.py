"""The grid of fixed prompts that training samples as it goes: runs/NAME/samples/step-0001000.png.

    commonart train --stage 512 --sample-every 1000

Same prompts and same noise every time, so that two grids differ by what the model has learned between them, and so do the
scores of their images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from commonart.core.model import sampler
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.device import autocast
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.output import contact_sheet, metadata
from commonart.core.recipes import Recipe

GRID = 8  # images of the grid where no prompts are given, and of one batch


class Preview:
    """Samples `prompts` with the model it is called with. The encoders' work is done once, at the start.

    `scorer`: images of all prompts -> scores. `shown`: how many of the first ones stand in the grid.
    """

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
        scorer: Callable[[Sequence[Image.Image]], dict[str, float]] | None = None,
        shown: int | None = None,
    ) -> None:
        self.prompts, self.folder, self.recipe = list(prompts), folder, recipe
        self.texts = [states.float() for states in text_encoder.encode(self.prompts)]
        self.null = text_encoder.null().float()
        self.autoencoder, self.shape, self.dtype = autoencoder, shape, dtype
        self.steps, self.guidance = steps, guidance
        self.scorer, self.shown = scorer, shown or len(self.prompts)

    def latents(self, model: PixArt, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Sample the latents (B, C, H, W) of the prompts from `first` to before `last`, of all by default."""
        device = next(model.parameters()).device
        texts = self.texts[first:last]
        noise = sampler.noise_for(range(first, first + len(texts)), self.shape, device)
        with autocast(device, self.dtype):
            return sampler.sample(
                model, noise, texts, self.null, self.steps, self.guidance,
                "flow" if self.recipe.objective == "flow" else "eps", shift=self.recipe.flow_shift,
            )  # fmt: skip

    def __call__(self, model: PixArt, step: int) -> dict[str, float]:
        """Write the grid of `step`, and return the scores of all images."""
        images: list[Image.Image] = []
        for first in range(0, len(self.prompts), GRID):
            images += to_images(self.autoencoder.decode(self.latents(model, first, first + GRID)))
        prompts = self.prompts[: self.shown]
        sheet = contact_sheet.contact_sheet(images[: self.shown], prompts, columns=min(4, len(prompts)))
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {"step": step, "steps": self.steps, "guidance": self.guidance, "prompts": prompts}
        metadata.save(sheet.image, self.folder / f"step-{step:07d}.png", settings=settings, overwrite=True)
        return self.scorer(images) if self.scorer else {}
