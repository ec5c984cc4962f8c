"""Images per second of our training step against a plain loop around diffusers' model, in one run.

    python tests/benchmarks/train.py                                # this machine's GPU, else its CPU
    python tests/benchmarks/train.py --side 64 --micro 8 --compile --fp8  # 512 px
    python tests/benchmarks/train.py --json tests/benchmarks/results/train-cpu.json

Same weights' shapes, batch, latents, captions, optimizer, precision. The plain loop pads text to 300 tokens, as PixArt-Sigma's
pipeline does, and masks it; ours takes a batch's true lengths. Rounds alternate, and medians are compared, because machines
are noisy. On a CPU the seconds are those of this process's threads (other work does not count). Runs from a clone with torch and
numpy alone; without diffusers its side is left out, and that is said.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import processor

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("commonart") is None:  # a clone that is not installed: its folders are the package's
    package = types.ModuleType("commonart")
    package.__path__ = [str(ROOT)]
    sys.modules["commonart"] = package
if importlib.util.find_spec("orjson") is None:  # of checkpoints and metrics.jsonl, which nothing here writes
    sys.modules["orjson"] = types.ModuleType("orjson")

from commonart.core import recipes  # noqa: E402
from commonart.core.model import diffusion  # noqa: E402
from commonart.core.model.config import PixArtConfig  # noqa: E402
from commonart.core.model.device import autocast, dtype_name, pick_device, pick_matmul_dtype  # noqa: E402
from commonart.core.model.transformer import PixArt  # noqa: E402
from commonart.core.settings import Settings  # noqa: E402
from commonart.core.training import batches, cost, trainer  # noqa: E402
from commonart.core.training.distributed import World  # noqa: E402
from commonart.core.training.logging import matrix_rate  # noqa: E402

PADDED = 300  # PixArt-Sigma's text length
LENGTHS = (20, 120)  # tokens of a caption: from, to


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=0, help="blocks; default 28 on a GPU, 4 on a CPU")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--side", type=int, default=32, help="latents on a side: 32 at 256 px, 64 at 512 px")
    parser.add_argument("--micro", type=int, default=0, help="images of a step; default 64 on a GPU, 4 on a CPU")
    parser.add_argument("--text", type=int, default=4096, help="channels of the text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of a round; default 10 on a GPU, 1 on a CPU")
    parser.add_argument("--optimizer", default="AdamW", choices=recipes.OPTIMIZERS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--fp8", action="store_true", help="ours with --precision fp8 too")
    parser.add_argument("--compile", action="store_true", help="both sides through torch.compile")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write the result there too")
    asked = parser.parse_args()
    big = pick_device(asked.device).type == "cuda"
    asked.layers = asked.layers or (28 if big else 4)
    asked.micro = asked.micro or (64 if big else 4)
    asked.steps = asked.steps or (10 if big else 1)
    return asked


def captions(count: int, channels: int) -> list[torch.Tensor]:
    """States of `count` captions, of lengths that are spread as captions' are."""
    lengths = np.random.default_rng(0).integers(LENGTHS[0], LENGTHS[1] + 1, count)
    made = torch.Generator().manual_seed(0)
    return [torch.randn(int(length), channels, generator=made).bfloat16() for length in lengths]


def ours(asked: argparse.Namespace, config: PixArtConfig, data: tuple[Any, ...], world: World, precision: str) -> Any:
    """One step of the real trainer: its order, captions, noise, posterior, clip, update."""
    means, texts = data
    keys = [str(n) for n in range(len(means))]
    null = torch.zeros(1, asked.text)
    source = batches.ResidentDataset(keys, means, None, texts, [1] * len(means), np.ones(len(means)), null)
    overrides = {"batch": asked.micro, "micro_batch": asked.micro, "optimizer": asked.optimizer, "ema": 0, "spike": 0}
    recipe = recipes.resolve("256-early", overrides)
    settings = Settings(
        recipe.name, out=".", precision=precision, compile=asked.compile, checkpointing=asked.checkpointing
    )
    made = trainer.Trainer(PixArt(config), source, recipe, settings, world)
    stream = batches.stream(made.fetch, 0, 1_000_000, 1, 2 if world.device.type == "cuda" else 0)
    return lambda: made.train_step(stream, recipe.lr)


def plain(
    asked: argparse.Namespace, config: PixArtConfig, data: tuple[Any, ...], world: World, dtype: torch.dtype
) -> Any:
    """The loop that one writes around diffusers' model: padded text, its mask, autocast, clip, update."""
    from diffusers import PixArtTransformer2DModel

    from commonart.core.training import optimizers

    means, texts = data
    device = world.device
    model: Any = PixArtTransformer2DModel.from_config(config.to_dict()).to(device).train()
    if asked.checkpointing:
        model.enable_gradient_checkpointing()
    recipe = recipes.resolve("256-early", {"optimizer": asked.optimizer})
    optimizer = optimizers.make(list(model.named_parameters()), recipe)
    params = list(model.parameters())
    forward = torch.compile(model) if asked.compile else model
    text = torch.stack([F.pad(states, (0, 0, 0, PADDED - len(states))) for states in texts])
    mask = torch.stack([torch.arange(PADDED) < len(states) for states in texts])

    def predict(noisy: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, real: Any) -> torch.Tensor:
        return forward(noisy, encoder_hidden_states=states, timestep=timestep, encoder_attention_mask=real).sample

    def step() -> None:
        rows = torch.randint(len(means), (asked.micro,))
        with autocast(device, dtype):
            loss_B, _ = diffusion.loss(
                predict, means[rows].to(device), text[rows].to(device).float(), mask[rows].to(device), "eps",
                torch.Generator(device).manual_seed(0),
            )  # fmt: skip
        loss_B.mean().backward()
        torch.nn.utils.clip_grad_norm_(params, recipe.max_grad_norm).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def clock(device: torch.device) -> float:
    """Seconds: of the wall on a GPU, of this process's threads on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def measure(
    asked: argparse.Namespace, sides: dict[str, Callable[[], None]], device: torch.device
) -> dict[str, list[float]]:
    """Images per second of every side and round, in turn."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked.rounds + 1):
        for name, step in sides.items():
            began = clock(device)
            for _ in range(asked.steps):
                step()
            if number:  # the first round warms up
                found[name].append(asked.micro * asked.steps / (clock(device) - began))
    return found


def main() -> None:
    """Print one JSON object."""
    asked = options()
    device = pick_device(asked.device)
    dtype, world = pick_matmul_dtype(asked.precision, device), World(device)
    config = PixArtConfig(
        num_layers=asked.layers, num_attention_heads=asked.heads, sample_size=asked.side, caption_channels=asked.text
    )
    torch.manual_seed(0)
    data = torch.randn(256, 4, asked.side, asked.side), captions(256, asked.text)
    sides: dict[str, Callable[[], None]] = {"ours": ours(asked, config, data, world, dtype_name(dtype))}
    if asked.fp8:
        sides["ours in fp8"] = ours(asked, config, data, world, "fp8")
    left_out = ""
    try:
        sides["diffusers"] = plain(asked, config, data, world, dtype)
    except ImportError as error:
        left_out = f"diffusers is not installed ({error}): its side is left out"
    found = measure(asked, sides, device)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    length = statistics.mean(len(states) for states in data[1])
    flops = 3 * cost.flops_per_image(config, asked.side, length)
    peak = matrix_rate(device, dtype) if device.type == "cuda" else 0.0
    said = {
        "images_per_second": {name: round(rate, 3) for name, rate in medians.items()},
        "rounds": {name: [round(rate, 3) for rate in rates] for name, rates in found.items()},
        "ratio_of_medians": round(medians["ours"] / medians["diffusers"], 3) if "diffusers" in medians else left_out,
        # On a CPU that others use, the one is in CPU time and the other would be in wall time.
        "mfu_of_ours": round(medians["ours"] * flops / peak, 3) if peak else None,
        "measured_matrix_rate": f"{peak:.3g} FLOP/s" if peak else None,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
        "seconds_are": "wall" if device.type == "cuda" else "CPU time of this process",
        "parameters": cost.parameters(config),
        "caption_tokens": {"mean": round(length, 1), "padded": PADDED},
        "settings": {name: value for name, value in vars(asked).items() if name != "json"},
        "precision": str(dtype),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(said, indent=1)
    print(text)
    if asked.json:
        Path(asked.json).write_text(text + "\n")


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
