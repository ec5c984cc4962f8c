"""Latents from noise with DPM-Solver++ (arXiv 2211.01095): what `commonart sample` and `commonart eval` run.

It computes what diffusers' DPMSolverMultistepScheduler computes with `scheduler_config(objective)`, for both objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.diffusion import BETA_END, BETA_START, STEPS, Objective, check_objective
from commonart.core.model.transformer import PixArt, stack_text

ModelFn = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> noise or velocity, same shape
SAMPLERS = {"dpm++": 2, "ddim": 1}  # name -> order of the solver; the first order of DPM-Solver++ is DDIM
Callback = Callable[[int, Tensor], None]  # after step i (from 0): the latents


def scheduler_config(objective: Objective, shift: float = 1.0) -> dict[str, Any]:
    """Return the scheduler_config.json with which diffusers makes the same images."""
    flow = check_objective(objective) == "flow"
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "beta_end": BETA_END,
        "beta_schedule": "linear",
        "beta_start": BETA_START,
        "final_sigmas_type": "zero",
        "flow_shift": float(shift),
        "lower_order_final": True,
        "num_train_timesteps": STEPS,
        "prediction_type": "flow_prediction" if flow else "epsilon",
        "solver_order": 2,
        "solver_type": "midpoint",
        "timestep_spacing": "linspace",
        "use_flow_sigmas": flow,
    }


def timesteps_and_sigmas(objective: Objective, steps: int, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return timesteps (steps,) int64, from noise to data, and sigmas (steps + 1,) float32, the last one 0.

    eps: sigma = noise / signal, timesteps evenly spaced. flow: sigma = time, timesteps cut to whole numbers as in diffusers.
    """
    if not 1 <= steps < STEPS:
        raise CommonArtError(f"--steps {steps} must be from 1 to {STEPS - 1}.", "20 is usual.")
    if check_objective(objective) == "flow":
        time = 1.0 - np.linspace(1, 1 / STEPS, steps + 1)
        sigmas = np.flip(shift * time / (1 + (shift - 1) * time))[:-1]
        timesteps = sigmas * STEPS
    else:
        alpha_bar = torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, STEPS, dtype=torch.float32), 0)
        timesteps = np.linspace(0, STEPS - 1, steps + 1).round()[::-1][:-1]
        table = (((1 - alpha_bar) / alpha_bar) ** 0.5).numpy()
        sigmas = np.interp(timesteps, np.arange(STEPS), table)
    with_end = np.concatenate([sigmas, [0.0]]).astype(np.float32)
    return torch.from_numpy(timesteps.astype(np.int64)), torch.from_numpy(with_end)


def dpmpp_2m(
    model_fn: ModelFn,
    noise_BCHW: Tensor,
    steps: int,
    objective: Objective,
    *,
    shift: float = 1.0,
    order: int = 2,
    callback: Callback | None = None,
) -> Tensor:
    """Return latents (B, C, H, W) in float32 from unit normal noise, with `steps` calls of `model_fn`.

    Second order by the last two predictions of the data; first order at the first and last step, or everywhere (`order` 1).
    """
    timesteps, sigmas = timesteps_and_sigmas(objective, steps, shift)
    flow = objective == "flow"
    alphas = 1 - sigmas if flow else 1 / (sigmas**2 + 1) ** 0.5
    deviations = sigmas if flow else sigmas * alphas
    half_log_snr = torch.log(alphas) - torch.log(deviations)  # infinite at the end, where no noise is left
    x = noise_BCHW.float()
    timesteps = timesteps.to(x.device)  # once: no copy to the device between the steps
    data_before: Tensor | None = None
    for i in range(steps):
        alpha, deviation = float(alphas[i]), float(deviations[i])
        output = model_fn(x, timesteps[i]).float()
        data = x - deviation * output if flow else (x - deviation * output) / alpha
        h = half_log_snr[i + 1] - half_log_snr[i]
        direction = data
        if order > 1 and data_before is not None and i < steps - 1:
            ratio = float(h / (half_log_snr[i] - half_log_snr[i - 1]))
            direction = data + 0.5 * ratio * (data - data_before)
        x = float(deviations[i + 1] / deviations[i]) * x - float(alphas[i + 1] * torch.expm1(-h)) * direction
        data_before = data
        if callback is not None:
            callback(i, x)
    return x


def noise_for(seeds: Sequence[int], shape: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """Return unit normal noise (len(seeds), *shape) that depends on an image's seed alone, not on its batch or the device."""
    noises = [torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(noises).to(device)


@torch.inference_mode()
def sample(
    model: PixArt,
    noise_BCHW: Tensor,
    text: Sequence[Tensor],
    null: Tensor,
    steps: int = 20,
    guidance: float = 4.5,
    objective: Objective = "eps",
    *,
    shift: float = 1.0,
    sampler: str = "dpm++",
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Return latents (B, C, H, W), float32, for B texts of (L_i, T). Raises CommonArtError for another number of texts.

    Args:
        null: the text of no text, or of a negative prompt (L_0, T).
        guidance: of null + guidance * (text - null) (arXiv 2207.12598), both as one batch of 2 B; 1 costs half.
        sampler: one of SAMPLERS.
        interval: the share of the timesteps, 0 (data) to 1 (noise), that is guided; the others cost half (arXiv 2404.07724).
        rescale: 0..1, how far the spread of a guided prediction is drawn back to that of the unguided one, against
            images that are too bright (arXiv 2305.08891, section 3.4).
    """
    count, channels = noise_BCHW.shape[:2]
    if len(text) != count:
        raise CommonArtError(f"{len(text)} texts do not fit {count} images.", "Give one text for each image.")
    weight = next(model.parameters())
    first, last = interval[0] * STEPS, interval[1] * STEPS
    # Decided beforehand: to read a timestep from a GPU is to wait for it.
    times = timesteps_and_sigmas(objective, steps, shift)[0].tolist()
    guided_at = iter([guidance != 1 and first <= time <= last for time in times])
    texts = [*text, *([null] * count if guidance != 1 else [])]
    text_BLT, mask_BL = stack_text([states.to(weight.device, weight.dtype) for states in texts])
    read = model.read_text(text_BLT)
    read_plain = [(key[:count], value[:count]) for key, value in read]
    mask_plain = None if mask_BL is None else mask_BL[:count]

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        guided = next(guided_at)
        latents = (torch.cat([x, x]) if guided else x).to(weight.dtype)
        known, mask = (read, mask_BL) if guided else (read_plain, mask_plain)
        output = model(latents, timestep.expand(len(latents)), known, mask)[:, :channels]
        if not guided:
            return output
        conditional, unconditional = output.float().chunk(2)
        mixed = unconditional + guidance * (conditional - unconditional)
        if rescale:
            spread = conditional.std(dim=(1, 2, 3), keepdim=True) / mixed.std(dim=(1, 2, 3), keepdim=True)
            mixed = mixed * (rescale * spread + 1 - rescale)
        return mixed

    noise = noise_BCHW.to(weight.device)
    return dpmpp_2m(predict, noise, steps, objective, shift=shift, order=order_of(sampler), callback=callback)


def order_of(sampler: str) -> int:
    """Return the order of a sampler by its name. Raises UsageError for an unknown one."""
    if sampler not in SAMPLERS:
        raise UsageError(f"--sampler {sampler} is unknown.", f"Choose from {', '.join(SAMPLERS)}.")
    return SAMPLERS[sampler]
