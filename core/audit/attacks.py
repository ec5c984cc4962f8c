"""Membership inference: a score for each image, larger where it is more likely to have been in the training set.

| attack | score (negated where a lower value means member) | source |
|---|---|---|
| loss  | squared error of the prediction, over fixed times and noises | arXiv 2302.01316 |
| secmi | squared distance after one deterministic step to t + 10 and back, at t = 100 | arXiv 2302.01316 |
| pia   | sum of (e0 - prediction at x_t made with e0)^4, e0 the prediction at t = 0 | arXiv 2305.18355 |
| pfami | (loss - loss of a crop) / loss, mean over three crops, over the times below 500 | arXiv 2308.12143 |
| clid  | loss without the caption minus loss with it | arXiv 2405.14800 |
| sima  | sum of e^4, e the noise that is predicted for the clean image at t = 100 | arXiv 2509.25003 |

The papers attack models that predict the noise. For flow matching, time runs in 0..1, the velocity (noise - data)
takes the place of the noise, and Euler's step that of DDIM; SimA's noise is x + (1 - t) velocity. SecMI is the paper's
(its authors' code compares at t = 90). CLiD's authors published no code, and shorten captions as well: this is the null
text only. PFAMI's authors take ten crops, these are the first, the middle and the last of their range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commonart.core.audit import ATTACKS
from commonart.core.model import diffusion
from commonart.core.model.diffusion import STEPS, Objective
from commonart.core.model.sampler import noise_for

Floats = NDArray[np.float64]
Measures = dict[str, Floats]  # name -> [B], or [B, T] for what is measured at each of T times

SECMI_TIME, SECMI_STEP = 100, 10
PIA_TIME = 200
SIMA_TIME = 100
PFAMI_CROPS, PFAMI_BELOW = (0.95, 0.825, 0.7), 500


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

    def noise_in(self, x: Tensor, t: int) -> Tensor:
        """Return the noise that the model sees in x at timestep t."""
        prediction = self.predict(x, t)
        return x + (1 - t / STEPS) * prediction if self.objective == "flow" else prediction


@torch.inference_mode()
def measure(
    attacks: Sequence[str],
    conditional: Denoiser,
    unconditional: Denoiser,
    latents: Tensor,
    crops: Sequence[Tensor] = (),
    *,
    times: Sequence[int],
    draws: int,
    seed: int,
) -> Measures:
    """Measure what `attacks` need of one batch of scaled latents (B, C, H, W); `attack_scores` makes scores of it.

    Args:
        conditional, unconditional: with each image's own caption, and with the empty one.
        crops: the latents of each of the images' PFAMI_CROPS, for `pfami`.
        times, draws: timesteps of `loss`, `clid` and `pfami`, in 0..999, and noise samples at each of them.
        seed: of the noise, which is the same for every image.
    """
    found: dict[str, Tensor] = {}
    if not {"loss", "clid", "pfami"}.isdisjoint(attacks):
        found["loss"] = _losses(conditional, latents, times, draws, seed)
    if "clid" in attacks:
        found["null"] = _losses(unconditional, latents, times, draws, seed)
    if "pfami" in attacks:
        early = early_times(times)
        own = found["loss"][:, : len(early)]
        cropped = [(own - _losses(conditional, crop, early, draws, seed)) / own for crop in crops]
        found["pfami"] = torch.stack(cropped).mean((0, 2))
    if "secmi" in attacks:
        found["secmi"] = _secmi(conditional, latents)
    if "pia" in attacks:
        found["pia"] = _pia(conditional, latents)
    if "sima" in attacks:
        found["sima"] = conditional.noise_in(latents, SIMA_TIME).pow(4).flatten(1).sum(1)
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def attack_scores(attack: str, measures: Measures) -> Floats:
    """Return the scores [N] of one attack, larger for a member, from what `measure` found."""
    if attack == "loss":
        return -measures["loss"].mean(1)
    if attack == "clid":
        scores: Floats = (measures["null"] - measures["loss"]).mean(1)
        return scores
    return -measures[attack]


def scores(
    attack: str, conditional: Denoiser, unconditional: Denoiser, latents: Tensor, crops: Sequence[Tensor] = (), *,
    times: Sequence[int], draws: int, seed: int,
) -> Floats:  # fmt: skip
    """Score one batch by one attack: [B], larger means member. Arguments as those of `measure`."""
    if attack not in ATTACKS:
        raise ValueError(f"{attack!r} is not one of {', '.join(ATTACKS)}")
    found = measure([attack], conditional, unconditional, latents, crops, times=times, draws=draws, seed=seed)
    return attack_scores(attack, found)


def even_times(count: int) -> list[int]:
    """Return `count` timesteps, each in the middle of one of `count` equal parts of 0..999."""
    return [int((i + 0.5) * STEPS / count) for i in range(count)]


def early_times(times: Sequence[int]) -> Sequence[int]:
    """Return those of the rising `times` that PFAMI takes: below 500, or the first where none is."""
    return [t for t in times if t < PFAMI_BELOW] or times[:1]


def center_crop(pixels: Tensor, share: float) -> Tensor:
    """Return the middle of (B, C, H, W), `share` of each side, enlarged to the size of the whole."""
    height, width = (int(side * share) for side in pixels.shape[2:])
    top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
    part = pixels[:, :, top : top + height, left : left + width]
    return torch.nn.functional.interpolate(part, size=pixels.shape[2:], mode="bilinear", antialias=True)


def _losses(denoiser: Denoiser, latents: Tensor, times: Sequence[int], draws: int, seed: int) -> Tensor:
    """The squared error per latent value at each time, mean over the draws: (B, T)."""
    total = torch.zeros(len(latents), len(times), device=latents.device)
    for number, t in enumerate(times):
        for draw in range(draws):
            noise = noise_for([seed + number * draws + draw], latents.shape[1:], latents.device).expand_as(latents)
            target = diffusion.target(latents, noise, denoiser.objective)
            error = denoiser.predict(denoiser.noisy(latents, noise, t), t) - target
            total[:, number] += error.square().flatten(1).mean(1)
    return total / draws


def _secmi(denoiser: Denoiser, latents: Tensor) -> Tensor:
    x = latents
    for t in range(0, SECMI_TIME, SECMI_STEP):
        x = denoiser.step(x, t, t + SECMI_STEP)
    forward = denoiser.step(x, SECMI_TIME, SECMI_TIME + SECMI_STEP)
    back = denoiser.step(forward, SECMI_TIME + SECMI_STEP, SECMI_TIME)
    return (back - x).square().flatten(1).sum(1)


def _pia(denoiser: Denoiser, latents: Tensor) -> Tensor:
    noise = denoiser.noise_in(latents, 0)
    prediction = denoiser.predict(denoiser.noisy(latents, noise, PIA_TIME), PIA_TIME)
    target = diffusion.target(latents, noise, denoiser.objective)
    return (target - prediction).pow(4).flatten(1).sum(1)
