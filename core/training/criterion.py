"""What training minimizes: the loss of a micro batch. `trainer.train` does the rest, whatever is learned.

`DiffusionLoss` is the transformer's; `core.training.captioner.CaptionLoss` that of a captioner.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from commonart.core.model import diffusion
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import autocast
from commonart.core.recipes import Recipe
from commonart.core.training import cost
from commonart.core.training.batches import BatchSampler, Source


class Losses(NamedTuple):
    """What a criterion says of B samples."""

    loss_B: Tensor
    timestep_B: Tensor | None  # 0..1000, where samples have one
    tokens: Tensor | int  # of text, in all


class Criterion(Protocol):
    """The loss of what a source has fetched."""

    def __call__(self, model: Any, fetched: Any, step: int, samples: slice, device: torch.device) -> Losses:
        """Return the losses of one micro batch, which is `samples` of the global batch of `step`."""

    def flops(self, tokens: float) -> float:
        """Return the operations of training on one image with `tokens` of text."""


class DiffusionLoss:
    """The loss of a denoising transformer, in `dtype`."""

    def __init__(
        self, config: PixArtConfig, source: Source, recipe: Recipe, sampler: BatchSampler, dtype: torch.dtype
    ) -> None:
        self.config, self.source, self.recipe, self.sampler, self.dtype = config, source, recipe, sampler, dtype
        self.objective = diffusion.check_objective(recipe.objective)
        self._drawn: tuple[int, Tensor, Tensor, Tensor] | None = None

    def __call__(self, model: Any, fetched: Any, step: int, samples: slice, device: torch.device) -> Losses:
        batch = self.source.batch(fetched, device)
        noise, posterior, time_B = self._draws(step, batch.mean_BCHW.shape[1:], device)
        latents = batch.mean_BCHW.float()
        if batch.std_BCHW is not None:
            latents = latents + batch.std_BCHW.float() * posterior[samples]
        # Under autocast the first product takes the states as they are stored: a detour through float32 changes nothing.
        text = batch.text_BLT.float() if self.dtype == torch.float32 else batch.text_BLT
        with autocast(device, self.dtype):
            loss_B, timestep_B = diffusion.loss(
                model, latents, text, batch.mask_BL, self.objective,
                noise_BCHW=noise[samples], time_B=time_B[samples], shift=self.recipe.flow_shift,
            )  # fmt: skip
        tokens = text.shape[0] * text.shape[1] if batch.mask_BL is None else batch.mask_BL.sum()
        return Losses(loss_B, timestep_B, tokens)

    def flops(self, tokens: float) -> float:
        # A backward pass costs two forward ones.
        return 3 * cost.flops_per_image(self.config, self.config.sample_size, tokens)

    def _draws(self, step: int, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, posterior and times of a step: drawn for its whole global batch, the same for any number of devices."""
        if self._drawn is None or self._drawn[0] != step:
            generator = self.sampler.generator(step, device)
            noise, posterior = (
                torch.randn((self.recipe.batch, *shape), generator=generator, device=device) for _ in range(2)
            )
            times = diffusion.draw_times(self.recipe.batch, self.objective, generator)
            self._drawn = step, noise, posterior, times
        return self._drawn[1:]
