"""What training minimizes: the loss of a micro batch. `trainer.train` does the rest, whatever is learned.

`DiffusionLoss` is the transformer's; `core.training.captioner.CaptionLoss` that of a captioner.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from commonart.core.model import diffusion, masking, repa, sra, tread
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import autocast
from commonart.core.model.times import TimeLaw
from commonart.core.recipes import Recipe
from commonart.core.training import cost
from commonart.core.training.batches import BatchSampler, Source


def time_law(recipe: Recipe) -> TimeLaw:
    """Return the law of the recipe's times."""
    return TimeLaw(recipe.times, recipe.time_mean, recipe.time_std, recipe.time_scale)


class Losses(NamedTuple):
    """What a criterion says of B samples: images, or draws of them (`Recipe.draws`)."""

    loss_B: Tensor
    timestep_B: Tensor | None  # 0..1000, where samples have one
    tokens: Tensor | int  # of text, in all
    alignment_B: Tensor | None = None  # what is minimized beside, weighted (core.model.alignment)


class Criterion(Protocol):
    """The loss of what a source has fetched."""

    def __call__(
        self, model: Any, fetched: Any, step: int, samples: slice, device: torch.device, progress: float = 0.0
    ) -> Losses:
        """Return the losses of one micro batch, which is `samples` of the global batch of `step`; `progress`: of the run, 0..1."""

    def flops(self, tokens: float) -> float:
        """Return the operations of training on one image with `tokens` of text, as the last step did."""


def dynamic_length(text_BLT: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return text and mask such that a compiled transformer takes any length of text, with and without padding, as one graph.

    Otherwise it is compiled for the first length, and again when the next batch has another, or needs no mask.
    """
    mask_BL = torch.ones(text_BLT.shape[:2], dtype=torch.bool, device=text_BLT.device) if mask_BL is None else mask_BL
    if text_BLT.shape[1] == 1:  # to a compiler 1 is a constant
        text_BLT, mask_BL = functional.pad(text_BLT, (0, 0, 0, 1)), functional.pad(mask_BL, (0, 1))
    for tensor in (text_BLT, mask_BL):
        torch._dynamo.maybe_mark_dynamic(tensor, 1)
    return text_BLT, mask_BL


class DiffusionLoss:
    """The loss of a denoising transformer, in `dtype`."""

    def __init__(
        self, config: PixArtConfig, source: Source, recipe: Recipe, sampler: BatchSampler, dtype: torch.dtype,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        self.compiled = compiled
        self.config, self.source, self.recipe, self.sampler, self.dtype = config, source, recipe, sampler, dtype
        self.objective = diffusion.check_objective(recipe.objective)
        self.share, self.first, self.stop, self.off = recipe.skipping
        self.routed = bool(self.share)
        self._drawn: tuple[int, Tensor, Tensor, Tensor, Tensor | None] | None = None

    def __call__(
        self, model: Any, fetched: Any, step: int, samples: slice, device: torch.device, progress: float = 0.0
    ) -> Losses:
        batch = self.source.batch(fetched, device)
        recipe = self.recipe
        self.routed = bool(self.share) and progress < 1 - self.off
        noise, posterior, time_B, order_BP = self._draws(step, batch.mean_BCHW.shape[1:], device)
        draws = self.recipe.draws
        drawn = slice(samples.start * draws, samples.stop * draws)
        latents = batch.mean_BCHW.float().repeat_interleave(draws, 0)
        if batch.std_BCHW is not None:
            latents = latents + batch.std_BCHW.float().repeat_interleave(draws, 0) * posterior[drawn]
        # Under autocast the first product takes the states as they are stored: a detour through float32 changes nothing.
        text = batch.text_BLT.float() if self.dtype == torch.float32 else batch.text_BLT
        mask = batch.mask_BL
        if self.compiled:
            text, mask = dynamic_length(text, mask)
        route = weight = aligned_weight = projected = None
        if order_BP is not None:
            route = tread.Route(tread.choose(order_BP[drawn], self.share), self.first, self.stop)
            weight = masking.weight(route.kept_BK, (latents.shape[2], latents.shape[3]), self.config.patch_size)
            alone = recipe.aligned > self.first if recipe.mask else route.covers(recipe.aligned)
            aligned_weight = weight if alone else None  # before the tokens part, and after they rejoin, all are aligned

        def denoise(*inputs: Any) -> Tensor:
            nonlocal projected
            output = model(*inputs, route)
            if not recipe.aligned:
                return output  # type: ignore[no-any-return]
            prediction, projected = output
            return prediction  # type: ignore[no-any-return]

        with autocast(device, self.dtype):
            loss_B, timestep_B = diffusion.loss(
                denoise, latents, text, mask, self.objective,
                noise_BCHW=noise[drawn], time_B=time_B[drawn], shift=self.recipe.flow_shift,
                prediction=self.recipe.prediction, weight_B1HW=weight if recipe.mask else None,
            )  # fmt: skip
        tokens = batch.text_BLT.shape[:2].numel() if batch.mask_BL is None else batch.mask_BL.sum()
        if projected is None:
            return Losses(loss_B, timestep_B, tokens)
        patch = self.config.patch_size
        if recipe.sra:
            return Losses(loss_B, timestep_B, tokens, recipe.sra * sra.loss(projected, latents, patch, aligned_weight))
        assert batch.vision_BPO is not None
        weight_BP = None if aligned_weight is None else aligned_weight[:, 0, ::patch, ::patch].flatten(1)
        aligned_B = repa.loss(projected, batch.vision_BPO.repeat_interleave(draws, 0), weight_BP)
        return Losses(loss_B, timestep_B, tokens, recipe.repa * aligned_B)

    def flops(self, tokens: float) -> float:
        # A backward pass costs two forward ones.
        return 3 * cost.forward_flops(self.config, self.recipe, self.config.sample_size, tokens, self.routed)

    def _draws(
        self, step: int, shape: torch.Size, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Noise, posterior, times and order of the tokens of a step: drawn for its whole global batch, whatever the devices.

        Draw d of image i is row i * draws + d.
        """
        if self._drawn is None or self._drawn[0] != step:
            generator = self.sampler.generator(step, device)
            count = self.recipe.batch * self.recipe.draws
            noise, posterior = (torch.randn((count, *shape), generator=generator, device=device) for _ in range(2))
            times = diffusion.draw_times(count, self.objective, generator, time_law(self.recipe))
            tokens = shape[1] * shape[2] // self.config.patch_size**2
            order = torch.rand(count, tokens, generator=generator, device=device) if self.routed else None
            self._drawn = step, noise, posterior, times, order
        return self._drawn[1:]
