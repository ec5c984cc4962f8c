"""The two training objectives of `commonart train`: what noise is added, and what the model is asked for.

eps   PixArt-Sigma and CommonArt: linear betas 1e-4..0.02, T = 1000, squared error of the noise plus the
      variational bound on the learned variance (improved DDPM, arXiv 2102.09672; DiT).
flow  rectified flow with logit-normal times (arXiv 2403.03206): the velocity noise - data. Learns faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from commonart.core.errors import CommonArtError
from commonart.core.model import x_prediction
from commonart.core.model.times import TimeLaw

Objective = Literal["eps", "flow"]
OBJECTIVES: tuple[Objective, ...] = ("eps", "flow")
STEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02

Model = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def out_channels(objective: Objective, in_channels: int = 4) -> int:
    """Return the channels that the transformer must give: noise and variance for eps, velocity for flow."""
    return 2 * in_channels if check_objective(objective) == "eps" else in_channels


def objective_of(in_channels: int, out_channels: int) -> Objective:
    """Return the objective a transformer was built for: a learned variance doubles the channels."""
    return "eps" if out_channels == 2 * in_channels else "flow"


def check_objective(objective: str) -> Objective:
    """Return an objective by its name. Raises CommonArtError for a name that is none."""
    if objective not in OBJECTIVES:
        raise CommonArtError(f"{objective!r} is not an objective.", "Choose eps or flow.")
    return objective  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise schedule of eps, each (1000,) in float32 on one device; index t is timestep t."""

    signal: Tensor  # sqrt(alpha_bar): factor of the data in x_t
    noise: Tensor  # sqrt(1 - alpha_bar): factor of the noise in x_t
    mean_start: Tensor  # factor of x_0 in the mean of q(x_{t-1} | x_t, x_0), DDPM equation 7
    log_beta: Tensor  # the largest log-variance of a step
    log_posterior: Tensor  # the smallest: that of q(x_{t-1} | x_t, x_0)


@lru_cache(maxsize=8)
def schedule(device: torch.device) -> Schedule:
    """Return the linear schedule of 1000 steps (DDPM, section 4), computed in float64."""
    beta = torch.linspace(BETA_START, BETA_END, STEPS, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    variance = beta * (1 - before) / (1 - alpha_bar)
    variance[0] = variance[1]  # it is 0 at t = 0, where the bound is a likelihood and only the range is used
    mean_start = beta * before.sqrt() / (1 - alpha_bar)
    values = (alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), mean_start, beta.log(), variance.log())
    return Schedule(*(value.to(device, torch.float32) for value in values))


def loss(
    model: Model,
    latents_BCHW: Tensor,
    text_BLT: Tensor,
    mask_BL: Tensor | None,
    objective: Objective,
    generator: torch.Generator | None = None,
    *,
    noise_BCHW: Tensor | None = None,
    time_B: Tensor | None = None,
    shift: float = 1.0,
    prediction: str = "velocity",
    weight_B1HW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of every sample (B,) and the model's timestep of each (B,), float32 in 0..1000. Take the mean yourself.

    Noise and times come from `generator`, on its own device, unless given: `noise_BCHW`, and `time_B` as whole
    timesteps 0..999 (eps) or times in 0..1 (flow, before `shift`). `shift` > 1 moves flow's times towards noise,
    as larger images need (arXiv 2403.03206, equation 23). Fewer texts than latents: text i is that of latents i * n to
    i * n + n - 1. `prediction`: the model's own, "x" for one of `core.model.x_prediction`. The model may run under
    autocast; the loss is float32. `weight_B1HW`: what each latent counts (default: all alike).
    """
    check_objective(objective)
    latents = latents_BCHW.float()
    if noise_BCHW is None:
        source = latents.device if generator is None else generator.device
        noise_BCHW = torch.randn(latents.shape, generator=generator, device=source)
    if time_B is None:
        time_B = draw_times(len(latents), objective, generator)
    noise, time_B = noise_BCHW.to(latents), time_B.to(latents.device)
    if objective == "flow":
        time_B = shift_time(time_B.float(), shift)
    noisy = add_noise(latents, noise, time_B, objective)
    timestep_B = time_B * STEPS if objective == "flow" else time_B.float()
    output = model(noisy, timestep_B, text_BLT, mask_BL).float()
    expected = out_channels(objective, latents.shape[1])
    if output.shape[1] != expected:
        raise CommonArtError(
            f"The transformer gives {output.shape[1]} channels; the objective {objective} needs {expected}.",
            f"Set out_channels to {expected}, or choose the other objective.",
        )
    predicted = output[:, : latents.shape[1]]
    wanted = target(latents, noise, objective)
    if prediction == "x":
        wanted = x_prediction.clamped(wanted, time_B)
    loss_BCHW = (predicted - wanted).square()
    loss_B = (loss_BCHW if weight_B1HW is None else loss_BCHW * weight_B1HW).flatten(1).mean(1)
    if objective == "eps":
        # The bound teaches the variance alone: the noise prediction is held still (improved DDPM, section 3.1).
        range_part = output[:, latents.shape[1] :]
        loss_B = loss_B + bound(latents, noisy, predicted.detach(), range_part, time_B, weight_B1HW)
    return loss_B, timestep_B


def draw_times(
    count: int, objective: Objective, generator: torch.Generator | None = None, law: TimeLaw | None = None
) -> Tensor:
    """Draw times (count,): uniform 0..999 for eps, by `law` (default: logit-normal) for flow. On the generator's device."""
    device = torch.device("cpu") if generator is None else generator.device
    if objective == "eps":
        return torch.randint(STEPS, (count,), generator=generator, device=device)
    return (law or TimeLaw()).draw(count, generator)


def add_noise(data: Tensor, noise: Tensor, time_B: Tensor, objective: Objective) -> Tensor:
    """Return the latents on the way from data to noise. `time_B`: whole timesteps 0..999 (eps), or times in 0..1 (flow)."""
    if objective == "flow":
        return torch.lerp(data, noise, time_B.view(-1, 1, 1, 1))
    table = schedule(data.device)
    return _at(table.signal, time_B) * data + _at(table.noise, time_B) * noise


def target(data: Tensor, noise: Tensor, objective: Objective) -> Tensor:
    """Return what a perfect prediction is: the velocity (flow), or the noise (eps)."""
    return noise - data if objective == "flow" else noise


def shift_time(time: Tensor, shift: float) -> Tensor:
    """Move times in 0..1 towards 1 (noise) for shift > 1."""
    return time if shift == 1 else shift * time / (1 + (shift - 1) * time)


def bound(
    latents: Tensor,
    noisy: Tensor,
    predicted: Tensor,
    range_part: Tensor,
    time_B: Tensor,
    weight_B1HW: Tensor | None = None,
) -> Tensor:
    """Return the variational bound of one step, (B,) in bits per latent value, not rescaled by T.

    KL of the true step from the model's for t > 0, likelihood of the data for t = 0 (DDPM, equations 5 and 13).
    `range_part` in -1..1 runs from the smallest to the largest log-variance (improved DDPM, equation 15).
    """
    table = schedule(latents.device)
    weight = (range_part + 1) / 2
    low, high = _at(table.log_posterior, time_B), _at(table.log_beta, time_B)
    log_variance = weight * high + (1 - weight) * low
    start = (noisy - _at(table.noise, time_B) * predicted) / _at(table.signal, time_B)
    # The means differ only by their x_0: no subtraction of two large numbers.
    difference = _at(table.mean_start, time_B) * (latents - start)
    inverse = torch.exp(-log_variance)
    kl = 0.5 * (log_variance - low - 1 + torch.exp(low - log_variance) + difference.square() * inverse)
    # At t = 0 the mean is x_0 itself: weight 1 on the prediction, 0 on x_t.
    nll = -_log_likelihood(latents, latents - difference, 0.5 * log_variance)
    per_value = torch.where(time_B.view(-1, 1, 1, 1) == 0, nll, kl)
    return (per_value if weight_B1HW is None else per_value * weight_B1HW).flatten(1).mean(1) / math.log(2)


def _log_likelihood(value: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability of the 8-bit bin around `value`; the outermost bins of -1..1 are open (DDPM, section 3.3)."""
    centred, inverse = value - mean, torch.exp(-log_deviation)
    above = torch.special.ndtr((centred + 1 / 255) * inverse)
    below = torch.special.ndtr((centred - 1 / 255) * inverse)
    inside = torch.where(value > 0.999, 1 - below, above - below)
    return torch.where(value < -0.999, above, inside).clamp(min=1e-12).log()


def _at(values: Tensor, time_B: Tensor) -> Tensor:
    return values[time_B].view(-1, 1, 1, 1)
