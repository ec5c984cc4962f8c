"""Was this picture in the training set? Scores of single pictures, from what the denoiser makes of them.

    commonart mia runs/512 --data shards/

A larger score says that it is more likely.

| attack | score (negated where lower means member) | source |
|---|---|---|
| loss  | squared error of the prediction, over fixed times and noises | arXiv 2302.01316 |
| secmi | squared distance after one deterministic step to t + 10 and back, at t = 100 | arXiv 2302.01316 |
| pia   | sum of (e0 - prediction at x_t made with e0)^4, e0 the prediction at t = 0 | arXiv 2305.18355 |
| clid  | loss without the caption minus loss with it | arXiv 2405.14800 |

Written for noise-predicting models. For flow the same, with time in 0..1, the velocity (noise - data) in place of the
noise, and Euler's step in place of DDIM's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commonart.core.errors import UsageError
from commonart.core.model import diffusion
from commonart.core.model.diffusion import STEPS, Objective
from commonart.core.model.sampler import noise_for

Floats = NDArray[np.float64]

ATTACKS = ("loss", "secmi", "pia", "clid")
SECMI_TIME, SECMI_STEP = 100, 10
PIA_TIME = 200


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A frozen transformer with one batch of texts.

    `predict(x, t)`: latents (B, C, H, W) at timestep t in 0..999 -> noise (eps) or velocity (flow), float32.
    """

    predict: Callable[[Tensor, int], Tensor]
    objective: Objective

    def noisy(self, data: Tensor, noise: Tensor, t: int) -> Tensor:
        """The latents at timestep t on the way from data to this noise."""
        time = torch.tensor([t / STEPS if self.objective == "flow" else t], device=data.device)
        return diffusion.add_noise(data, noise, time, self.objective)

    def noise_in(self, x: Tensor, prediction: Tensor, t: int) -> Tensor:
        """The noise that a prediction at (x, t) means."""
        return x + (1 - t / STEPS) * prediction if self.objective == "flow" else prediction

    def step(self, x: Tensor, start: int, end: int) -> Tensor:
        """One deterministic step along the model's own trajectory, in either direction: DDIM's, or Euler's for flow."""
        prediction = self.predict(x, start)
        if self.objective == "flow":
            return x + (end - start) / STEPS * prediction
        table = diffusion.schedule(x.device)
        data = (x - table.noise[start] * prediction) / table.signal[start]
        return self.noisy(data, prediction, end)


@torch.inference_mode()
def scores(
    attack: str, with_text: Denoiser, without: Denoiser, latents: Tensor, *, times: Sequence[int], draws: int, seed: int
) -> Floats:
    """The scores [B] of one batch of scaled latents (B, C, H, W); larger means member.

    Args:
        attack: one of ATTACKS.
        with_text: conditioned on each picture's own caption.
        without: conditioned on no text.
        times: timesteps of `loss` and `clid`, in 0..999.
        draws: noises at each of them.
        seed: of the noises, which are the same for every picture.

    Raises:
        UsageError: an unknown attack.
    """
    if attack == "loss":
        lower = _losses(with_text, latents, times, draws, seed)
    elif attack == "clid":
        lower = _losses(with_text, latents, times, draws, seed) - _losses(without, latents, times, draws, seed)
    elif attack == "secmi":
        lower = _secmi(with_text, latents)
    elif attack == "pia":
        lower = _pia(with_text, latents)
    else:
        raise UsageError(f"--attack {attack}: there is no such attack.", f"Choose among {', '.join(ATTACKS)}.")
    return -lower.double().cpu().numpy()


def even_times(count: int) -> list[int]:
    """`count` timesteps in the middles of equal parts of 0..999."""
    return [int((i + 0.5) * STEPS / count) for i in range(count)]


def _losses(denoiser: Denoiser, latents: Tensor, times: Sequence[int], draws: int, seed: int) -> Tensor:
    total = torch.zeros(len(latents), device=latents.device)
    for t, noise in _noises(latents, times, draws, seed):
        error = denoiser.predict(denoiser.noisy(latents, noise, t), t) - diffusion.target(
            latents, noise, denoiser.objective
        )
        total += error.square().flatten(1).mean(1)
    return total / (len(times) * draws)


def _noises(latents: Tensor, times: Sequence[int], draws: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    for number, t in enumerate(times):
        for draw in range(draws):
            one = noise_for([seed + number * draws + draw], latents.shape[1:], latents.device)
            yield t, one.expand_as(latents)


def _secmi(denoiser: Denoiser, latents: Tensor) -> Tensor:
    x = latents
    for t in range(0, SECMI_TIME, SECMI_STEP):
        x = denoiser.step(x, t, t + SECMI_STEP)
    there = denoiser.step(x, SECMI_TIME, SECMI_TIME + SECMI_STEP)
    back = denoiser.step(there, SECMI_TIME + SECMI_STEP, SECMI_TIME)
    return (back - x).square().flatten(1).sum(1)


def _pia(denoiser: Denoiser, latents: Tensor) -> Tensor:
    first = denoiser.noise_in(latents, denoiser.predict(latents, 0), 0)
    second = denoiser.predict(denoiser.noisy(latents, first, PIA_TIME), PIA_TIME)
    return (diffusion.target(latents, first, denoiser.objective) - second).pow(4).flatten(1).sum(1)
