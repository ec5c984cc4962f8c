"""A transformer that gives the clean latents x, trained and sampled by the velocity that follows (arXiv 2605.27102; 2511.13720).

    z = (1 - t) x + t noise,   v = noise - x = (z - x) / t

so that the loss on v is that on x divided by t^2, and t is at least CLAMP in both (their 1 - t, whose t runs the other way).
"""

from __future__ import annotations

from torch import Tensor

CLAMP = 0.05


def velocity(noisy_BCHW: Tensor, x_BCHW: Tensor, time_B: Tensor) -> Tensor:
    """Return the velocity (B, C, H, W), float32, of predicted clean latents at times (B,) in 0..1."""
    return (noisy_BCHW.float() - x_BCHW.float()) / time_B.float().clamp(min=CLAMP).view(-1, 1, 1, 1)


def clamped(velocity_BCHW: Tensor, time_B: Tensor) -> Tensor:
    """Return what `velocity` is for a perfect prediction, whose own velocity is given: smaller where t < CLAMP."""
    return velocity_BCHW * (time_B / time_B.clamp(min=CLAMP)).view(-1, 1, 1, 1)
