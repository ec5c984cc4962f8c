"""The nano autoencoder: diffusers' AutoencoderKL, 64 px to 16 x 16 x 4 latents, trained on scenes.

    commonart nano build --only autoencoder

L1 + MSE. In place of a KL term three of the four channels are held near a thumbnail, the average colour of each
4 x 4 pixels, and the fourth is free. With a KL term alone one channel came to say everything as a single number: 33 dB,
but a small error of the diffusion model turned one colour into another.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from commonart.core.nano.training import Log, Pictures, images, optimize, stderr, unseen

SPREAD = 0.05  # standard deviation of the posterior, and of the noise that the decoder has to stand


def new(channels: tuple[int, ...] = (16, 32, 64)) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train(seed: int = 0, steps: int = 1800, batch: int = 8, scenes: int = 12000, say: Log = stderr) -> AutoencoderKL:
    torch.manual_seed(seed)
    source = Pictures(scenes, seed).batches(batch)
    judged = images(unseen(64, seed + 10_000).pixels)
    model: Any = new()
    model.to(memory_format=torch.channels_last)

    def loss() -> Tensor:
        _, x = next(source)
        x = x.contiguous(memory_format=torch.channels_last)
        posterior = model.encode(x).latent_dist
        z, log_variance = posterior.mean.float(), posterior.logvar.float()
        anchor = (z[:, :3] - F.avg_pool2d(x, 4)).square().mean()
        free = z[:, 3].mean().square() + (z[:, 3].std() - 0.5).square()
        spread = (log_variance - 2 * math.log(SPREAD)).square().mean()
        error = model.decode(z + SPREAD * torch.randn_like(z)).sample.float() - x
        return error.abs().mean() + 4.0 * error.square().mean() + anchor + 0.1 * free + 0.01 * spread

    mean: Any = optimize(
        model,
        loss,
        steps=steps,
        lr=2e-3,
        decay=0.0,
        ema=0.998,
        name="autoencoder",
        say=say,
        check=lambda m: f"PSNR {psnr(m, judged):.2f} dB",
        check_every=250,
    )
    with torch.no_grad():
        std = mean.encode(images(Pictures(500, seed + 1).pixels)).latent_dist.mean.std().item()
    mean.register_to_config(scaling_factor=round(1.0 / std, 5))
    assert isinstance(mean, AutoencoderKL)
    return mean


@torch.no_grad()
def psnr(model: Any, x: Tensor) -> float:
    """Mean over the images of 10 log10(4 / MSE) in dB, x B x 3 x H x W in -1..1, decoded from the latents' mean."""
    model.eval()
    scores = []
    for part in x.split(50):
        y = model.decode(model.encode(part).latent_dist.mean).sample.float().clamp(-1, 1)
        # Pixels are bytes in the end: round as a PNG would.
        y = ((y + 1) * 127.5).round() / 127.5 - 1
        scores += (4.0 / (y - part).square().mean(dim=(1, 2, 3))).log10().mul(10).tolist()
    return sum(scores) / len(scores)


def save(model: Any, folder: Path) -> None:
    model.half().save_pretrained(folder)
