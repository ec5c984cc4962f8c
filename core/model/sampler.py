"""Pictures from noise with DPM-Solver++ 2M (arXiv 2211.01095): what `commonart sample` and `commonart eval` run.

It draws what diffusers' DPMSolverMultistepScheduler draws with `scheduler_config(objective)`, for both objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commonart.core.errors import CommonArtError
from commonart.core.model.diffusion import BETA_END, BETA_START, STEPS, Objective, check_objective
from commonart.core.model.transformer import PixArt, stack_text

ModelFn = Callable[[Tensor, Tensor], Tensor]  # (latents (B, C, H, W), timestep ()) -> noise or velocity, same shape
Callback = Callable[[int, Tensor], None]  # after step i (from 0): the latents


def scheduler_config(objective: Objective, shift: float = 1.0) -> dict[str, Any]:
    """scheduler_config.json with which diffusers draws the same pictures."""
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
    """Timesteps (steps,) int64, from noise to data, and sigmas (steps + 1,) float32, the last one 0.

    eps: sigma = noise / signal, timesteps evenly spaced. flow: sigma = time, timesteps cut to whole numbers as
    diffusers cuts them.
    """
    if not 1 <= steps < STEPS:
        raise CommonArtError(f"--steps {steps} is not possible.", f"Take 1 to {STEPS - 1} steps; 20 is usual.")
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
    callback: Callback | None = None,
) -> Tensor:
    """Latents (B, C, H, W) in float32 from unit normal noise, with `steps` calls of `model_fn`.

    Second order by the last two predictions of the data; first order at the first and the last step.
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
        if data_before is not None and i < steps - 1:
            ratio = float(h / (half_log_snr[i] - half_log_snr[i - 1]))
            direction = data + 0.5 * ratio * (data - data_before)
        x = float(deviations[i + 1] / deviations[i]) * x - float(alphas[i + 1] * torch.expm1(-h)) * direction
        data_before = data
        if callback is not None:
            callback(i, x)
    return x


def noise_for(seeds: Sequence[int], shape: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """Unit normal noise (len(seeds), *shape): each image from its own seed, drawn on CPU.

    So a picture depends on its seed alone, not on the batch it is in or on the device.
    """
    drawn = [torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(device)


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
    callback: Callback | None = None,
) -> Tensor:
    """Latents (B, C, H, W), float32, for B texts of (L_i, T); `null` (L_0, T) is the text of no text.

    guidance 1 draws without the null text, at half the cost; above 1, both run as one batch of 2 B
    (arXiv 2207.12598: null + guidance * (text - null)). Raises CommonArtError when the counts differ.
    """
    count, channels = noise_BCHW.shape[:2]
    if len(text) != count:
        raise CommonArtError(f"{len(text)} texts do not fit {count} images.", "Give one text for each image.")
    weight = next(model.parameters())
    guided = guidance != 1
    texts = [*text, *([null] * count if guided else [])]
    text_BLT, mask_BL = stack_text([states.to(weight.device, weight.dtype) for states in texts])

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        doubled = torch.cat([x, x]) if guided else x
        output = model(doubled.to(weight.dtype), timestep.expand(len(doubled)), text_BLT, mask_BL)[:, :channels]
        if not guided:
            return output
        wanted, unwanted = output.float().chunk(2)
        return unwanted + guidance * (wanted - unwanted)

    return dpmpp_2m(predict, noise_BCHW.to(weight.device), steps, objective, shift=shift, callback=callback)
