"""Held-out loss while training: of a few held-out images, and of as many training images, at fixed times with fixed noise.

    {"step": 1000, "weights": "ema", "heldout_loss": 0.61, "training_loss": 0.60, "gap": -0.01, "gap_error": 0.004,
     "heldout_loss_by_t": [...], "training_loss_by_t": [...], "gap_by_t": [...]}

A curve without sampling, as MLPerf's image task has one: the same images, captions, times (the middles of the ten bins of
`loss_by_t`) and noise at every step and in every run of the same data, whatever its seed. `gap` is training minus held-out loss:
where it falls below zero by more than its standard error explains, the model knows its training images by heart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonart.core import log
from commonart.core.data import order
from commonart.core.data.training_index import read_heldout
from commonart.core.errors import CommonArtError
from commonart.core.model import diffusion
from commonart.core.model.device import autocast
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe
from commonart.core.settings import Settings
from commonart.core.training.batches import Batch, Source
from commonart.core.training.dataset import TrainingData, open_dataset
from commonart.core.training.encoders import Encoders, rules_of
from commonart.core.training.logging import BINS, Line

IMAGES = 64  # of each of the two sets
SEED = 0x4E1D  # of images, captions and noise; no run's own
TIMESTEPS = tuple((n + 0.5) * diffusion.STEPS / BINS for n in range(BINS))
ALARM = 3.0  # standard errors


@dataclass(slots=True)
class HeldoutLoss:
    """Measures a model. `heldout` and `training`: batches on the CPU, of at most a micro batch of images of one size."""

    heldout: list[Batch]
    training: list[Batch]
    recipe: Recipe
    dtype: torch.dtype
    averaged: bool  # whether the weights that it is called with are the average
    alarmed: bool = False

    @torch.no_grad()
    def __call__(self, model: PixArt, step: int) -> Line:
        """Return the line of `step` for metrics.jsonl; warn once where training images are better known than others."""
        heldout_NT, training_NT = self.losses(model, self.heldout), self.losses(model, self.training)
        gap_T = training_NT.mean(0) - heldout_NT.mean(0)
        variances = [each.mean(1).var() / len(each) for each in (heldout_NT, training_NT) if len(each) > 1]
        gap, error = float(gap_T.mean()), float(sum(variances)) ** 0.5
        if gap < -ALARM * error < 0 and not self.alarmed:
            self.alarmed = True
            log.warn(
                f"step {step:,}: the loss of training images is {-gap:.3g} below that of held-out ones, {-gap / error:.1f} "
                f"standard errors: the model begins to know them by heart."
            )
        return {
            "step": step,
            "weights": "ema" if self.averaged else "trained",
            "heldout_loss": float(heldout_NT.mean()),
            "training_loss": float(training_NT.mean()),
            "gap": gap,
            "gap_error": error,
            "heldout_loss_by_t": heldout_NT.mean(0).tolist(),
            "training_loss_by_t": training_NT.mean(0).tolist(),
            "gap_by_t": gap_T.tolist(),
        }

    def losses(self, model: PixArt, batches: list[Batch]) -> Tensor:
        """Return the loss of each image at each of TIMESTEPS, (N, T), float64."""
        device, found, first = next(model.parameters()).device, [], 0
        for batch in batches:
            shape = (BINS, *batch.mean_BCHW.shape[1:])
            noise_BTCHW = torch.stack([_noise(first + n, shape) for n in range(len(batch.mean_BCHW))])
            first += len(batch.mean_BCHW)
            here = batch.map(lambda tensor: tensor.to(device))
            text = here.text_BLT.float() if self.dtype == torch.float32 else here.text_BLT
            by_time = []
            for n, timestep in enumerate(TIMESTEPS):
                flow = self.recipe.objective == "flow"
                time_B = torch.full((len(text),), timestep / diffusion.STEPS if flow else int(timestep))
                with autocast(device, self.dtype):
                    loss_B, _ = diffusion.loss(
                        model, here.mean_BCHW, text, here.mask_BL, diffusion.check_objective(self.recipe.objective),
                        noise_BCHW=noise_BTCHW[:, n], time_B=time_B, prediction=self.recipe.prediction,
                    )  # fmt: skip
                by_time.append(loss_B.cpu().double())
            found.append(torch.stack(by_time, 1))
        return torch.cat(found)


def _noise(image: int, shape: tuple[int, ...]) -> Tensor:
    """The noise of the image of this number at each time: drawn by itself, so that batches of any size see the same."""
    generator = torch.Generator().manual_seed(int(order.mix(SEED, image) >> np.uint64(1)))
    return torch.randn(shape, generator=generator)


def open_heldout(
    used: Encoders, data: TrainingData, settings: Settings, recipe: Recipe, dtype: torch.dtype
) -> HeldoutLoss | None:
    """Read the images; None, with a warning, where the data hold none back or they cannot be used."""
    try:
        index = read_heldout(settings.data, rules_of(settings), IMAGES)
        if index is None:
            raise CommonArtError(f"{settings.data} holds no held-out records", "")
        languages = {name: weight for name, weight in settings.languages.items() if name in index.names}
        index.keep_usable(languages)
        heldout = open_dataset(
            index, used.text_features or used.text_encoder(), used.image_features or used.autoencoder(),
            languages=languages, lengths=settings.lengths or None,
        )  # fmt: skip
        ours, theirs = (list(_batches(source, recipe.micro_batch, used.device)) for source in (heldout, data.source))
    except CommonArtError as error:
        if not settings.quiet:
            log.warn(f"no held-out loss is measured: {error.what.rstrip('.')}.")
        return None
    return HeldoutLoss(ours, theirs, recipe, dtype, bool(recipe.ema))


def _batches(source: Source, size: int, device: torch.device) -> Iterator[Batch]:
    """IMAGES of a source, or all that it has, with a caption each: chosen by SEED, `size` to a batch."""
    count = len(source.offsets) - 1
    chosen = order.permute(np.arange(min(IMAGES, count)), count, SEED, 0)
    captions = order.choose(source.weights, source.offsets, chosen, SEED, np.zeros(len(chosen), np.int64))
    for bucket in source.buckets:
        here = np.concatenate([
            np.flatnonzero(chosen < part.count if part.rows is None else np.isin(chosen, part.rows)) for part in bucket
        ])  # fmt: skip
        for first in range(0, len(here), size):
            part = here[first : first + size]
            fetched: Any = source.fetch(chosen[part], captions[part])
            yield source.batch(fetched, device).map(lambda tensor: tensor.cpu())
