"""Membership inference: a score for each image, larger where it is more likely to have been in the training set.

| attack | score (negated where a lower value means member) | source |
|---|---|---|
| loss  | squared error of the prediction, over fixed times and noises | arXiv 2302.01316 |
| secmi | squared distance after one deterministic step to t + 10 and back, at t = 100 | arXiv 2302.01316 |
| pia   | sum of (e0 - prediction at x_t made with e0)^4, e0 the prediction at t = 0 | arXiv 2305.18355 |
| clid  | loss without the caption minus loss with it | arXiv 2405.14800 |

The papers attack models that predict the noise. For flow matching, time runs in 0..1, the velocity (noise - data)
takes the place of the noise, and Euler's step that of DDIM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        """Return the latents at timestep t on the way from data to this noise."""
        time = torch.tensor([t / STEPS if self.objective == "flow" else t], device=data.device)
        return diffusion.add_noise(data, noise, time, self.objective)

    def step(self, x: Tensor, start: int, end: int) -> Tensor:
        """Take one deterministic step along the model's trajectory, in either direction: DDIM's, or Euler's for flow."""
        prediction = self.predict(x, start)
        if self.objective == "flow":
            return x + (end - start) / STEPS * prediction
        schedule = diffusion.schedule(x.device)
        data = (x - schedule.noise[start] * prediction) / schedule.signal[start]
        return self.noisy(data, prediction, end)


@torch.inference_mode()
def scores(
    attack: str,
    conditional: Denoiser,
    unconditional: Denoiser,
    latents: Tensor,
    *,
    times: Sequence[int],
    draws: int,
    seed: int,
) -> Floats:
    """Score one batch of scaled latents (B, C, H, W): [B], larger means member.

    Args:
        conditional, unconditional: with each image's own caption, and with the empty one.
        times, draws: timesteps of `loss` and `clid`, in 0..999, and noise samples at each of them.
        seed: of the noise, which is the same for every image.
    """
    if attack in ("loss", "clid"):
        errors = _losses(conditional, latents, times, draws, seed)
        if attack == "clid":
            errors -= _losses(unconditional, latents, times, draws, seed)
    elif attack == "secmi":
        errors = _secmi(conditional, latents)
    elif attack == "pia":
        errors = _pia(conditional, latents)
    else:
        raise ValueError(f"{attack!r} is not one of {', '.join(ATTACKS)}")
    return -errors.double().cpu().numpy()


def even_times(count: int) -> list[int]:
    """Return `count` timesteps, each in the middle of one of `count` equal parts of 0..999."""
    return [int((i + 0.5) * STEPS / count) for i in range(count)]


def _losses(denoiser: Denoiser, latents: Tensor, times: Sequence[int], draws: int, seed: int) -> Tensor:
    total = torch.zeros(len(latents), device=latents.device)
    for number, t in enumerate(t for t in times for _ in range(draws)):
        noise = noise_for([seed + number], latents.shape[1:], latents.device).expand_as(latents)
        target = diffusion.target(latents, noise, denoiser.objective)
        error = denoiser.predict(denoiser.noisy(latents, noise, t), t) - target
        total += error.square().flatten(1).mean(1)
    return total / (len(times) * draws)


def _secmi(denoiser: Denoiser, latents: Tensor) -> Tensor:
    x = latents
    for t in range(0, SECMI_TIME, SECMI_STEP):
        x = denoiser.step(x, t, t + SECMI_STEP)
    forward = denoiser.step(x, SECMI_TIME, SECMI_TIME + SECMI_STEP)
    back = denoiser.step(forward, SECMI_TIME + SECMI_STEP, SECMI_TIME)
    return (back - x).square().flatten(1).sum(1)


def _pia(denoiser: Denoiser, latents: Tensor) -> Tensor:
    noise = denoiser.predict(latents, 0)
    if denoiser.objective == "flow":
        noise = latents + noise  # the velocity is noise - data
    prediction = denoiser.predict(denoiser.noisy(latents, noise, PIA_TIME), PIA_TIME)
    target = diffusion.target(latents, noise, denoiser.objective)
    return (target - prediction).pow(4).flatten(1).sum(1)
