"""The grid of fixed prompts that training samples as it goes: runs/NAME/samples/step-0001000.png.

    commonart train --stage 512 --sample-every 1000

Same prompts and same noise every time, so that two grids differ by what the model has learned between them, and so do the
scores of their images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from commonart.core.model import sampler
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.device import autocast
from commonart.core.model.diffusion import check_objective
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.output import c2pa, contact_sheet, metadata, watermark
from commonart.core.settings import Settings

GRID = 8  # images of the grid where no prompts are given, and of one batch
STEPS = 20  # of the sampler


class Preview:
    """Samples `prompts` with the model it is called with. The encoders' work is done once, at the start.

    `shape`: of the latents of an image. `scorer`: images of all prompts -> scores. `shown`: the grid's share of the prompts.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        settings: Settings,
        text_encoder: TextEncoder,
        autoencoder: Autoencoder,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        scorer: Callable[[Sequence[Image.Image]], dict[str, float]] | None,
        shown: int | None,
    ) -> None:
        self.prompts, self.settings, self.recipe = list(prompts), settings, settings.recipe
        self.texts = [states.float() for states in text_encoder.encode(self.prompts)]
        self.null = text_encoder.null().float()
        self.autoencoder, self.shape, self.dtype = autoencoder, shape, dtype
        self.scorer, self.shown = scorer, self.prompts[:shown]

    def latents(self, model: PixArt, first: int) -> torch.Tensor:
        """Sample the latents (B, C, H, W) of the GRID prompts from `first` on."""
        device = next(model.parameters()).device
        texts = self.texts[first : first + GRID]
        noise = sampler.noise_for(range(first, first + len(texts)), self.shape, device)
        objective, shift = check_objective(self.recipe.objective), self.recipe.flow_shift
        with autocast(device, self.dtype):
            return sampler.sample(model, noise, texts, self.null, STEPS, self.settings.guidance, objective, shift=shift)

    def __call__(self, model: PixArt, step: int) -> dict[str, float]:
        """Write the grid of `step`, marked as `commonart sample` marks images, and return the scores of all images."""
        images: list[Image.Image] = []
        for first in range(0, len(self.prompts), GRID):
            images += to_images(self.autoencoder.decode(self.latents(model, first)))
        shown = [watermark.embed(image) for image in images[: len(self.shown)]]  # those that are large enough for it
        sheet = contact_sheet.contact_sheet(shown, self.shown, columns=min(4, len(self.shown)))
        path = self.settings.run / "samples" / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"step": step, "steps": STEPS, "guidance": self.settings.guidance, "prompts": self.shown}
        metadata.save(sheet.image, path, settings=about, overwrite=True, finish=c2pa.sign_own)
        return self.scorer(images) if self.scorer else {}
