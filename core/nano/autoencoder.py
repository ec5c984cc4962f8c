"""The nano autoencoder: diffusers' AutoencoderKL, 64 px to 16 x 16 x 4 latents, trained on scenes.

The loss is L1 + MSE. In place of a KL term, three of the four channels are kept close to a thumbnail, the average color
of each 4 x 4 pixels, and the fourth is free. With a KL term alone, one channel encoded everything as a single number:
33 dB, but a small error of the diffusion model turned one color into another.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from commonart.core.nano.training import Log, SceneImages, images, optimize, require, unseen

SPREAD = 0.05  # standard deviation of the posterior, and of the noise that the decoder has to tolerate


def new() -> AutoencoderKL:
    """Make an untrained autoencoder."""
    channels = (16, 32, 64)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train(seed: int, say: Log, steps: int = 1800, scenes: int = 12_000) -> AutoencoderKL:
    """Train on `scenes` scenes; the PSNR of unseen ones goes to `say`."""
    torch.manual_seed(seed)
    source = SceneImages(scenes, seed).batches(8)
    test_images = images(unseen(64, seed + 10_000).pixels)
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

    def check(average: Any) -> str:
        return f"PSNR {psnr(average, test_images):.2f} dB"

    average = optimize(
        "autoencoder", model, loss, check, say, steps=steps, lr=2e-3, check_every=250, decay=0.0, ema=0.998
    )
    with torch.no_grad():
        std = average.encode(images(SceneImages(500, seed + 1).pixels)).latent_dist.mean.std().item()
    average.register_to_config(scaling_factor=round(1.0 / std, 5))
    return average


@torch.no_grad()
def psnr(model: Any, x: Tensor) -> float:
    """Return the mean of 10 log10(4 / MSE) in dB over images [B, 3, H, W] in -1..1, decoded from the latents' mean."""
    model.eval()
    scores = []
    for part in x.split(50):
        y = model.decode(model.encode(part).latent_dist.mean).sample.float().clamp(-1, 1)
        y = ((y + 1) * 127.5).round() / 127.5 - 1  # rounded to bytes, as in a PNG
        scores += (4.0 / (y - part).square().mean(dim=(1, 2, 3))).log10().mul(10).tolist()
    return sum(scores) / len(scores)


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the autoencoder and write it to `folder`; `short`: a few steps, to test the code."""
    model: Any = train(seed, say, **({"steps": 5, "scenes": 200} if short else {}))
    model.half().save_pretrained(folder / "vae")


def measure(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the PSNR on `n` unseen scenes, in dB."""
    model = AutoencoderKL.from_pretrained(require(folder, "vae", "autoencoder"), torch_dtype=torch.float32)
    return {"autoencoder": {"psnr": psnr(model, images(unseen(n, seed).pixels))}}
