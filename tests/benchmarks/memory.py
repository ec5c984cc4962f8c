"""The memory that training takes, without a GPU: all tensors of the trainer's own step that live at the same time, added up.

    python tests/benchmarks/memory.py                                # the paper's stages on the paper's numbers of GPUs
    python tests/benchmarks/memory.py --stage 512 --gpus 32 --micro 2

The step runs on fake tensors (sizes without numbers), with what a GPU would take: fused attention, text padded to 120 tokens,
gradients of a micro batch before (several processes and accumulation keep them). Beside it the estimate of `train --dry-run`,
and CALM2-7B in 8 bits from its shape alone, for training that encodes on the fly. With `--device cuda` the same step runs there
and its allocator's peak is told. What allocators and libraries take beside the tensors is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

from live_tensors import account

from commonart.core import recipes
from commonart.core.model import layers
from commonart.core.model.config import PixArtConfig
from commonart.core.model.diffusion import out_channels
from commonart.core.model.transformer import PixArt
from commonart.core.settings import Settings
from commonart.core.training import batches, cost, trainer
from commonart.core.training.distributed import World

GPUS = {"256-early": 2, "256-mid": 8, "256-late": 32, "512": 32}  # of the paper
TEXT, WIDTH = 120, 4096  # tokens of a caption, channels of CALM2
CARD = 24e9  # bytes of an L4


class Here(World):
    """One process whose model is where it was made."""

    def wrap(self, model: Any) -> Any:
        return model


class Blank:
    """Batches without numbers."""

    def __init__(self, config: PixArtConfig, micro_batch: int) -> None:
        self.keys, self.config, self.micro_batch = ["k"] * micro_batch, config, micro_batch

    def batch(self, _: Any, device: torch.device) -> batches.Batch:
        latents = (self.micro_batch, self.config.in_channels, self.config.sample_size, self.config.sample_size)
        half = {"dtype": torch.bfloat16, "device": device}
        text, mask = (
            torch.empty(self.micro_batch, TEXT, WIDTH, **half),
            torch.ones(self.micro_batch, TEXT, dtype=torch.bool, device=device),
        )
        return batches.Batch(torch.empty(latents, **half), torch.empty(latents, **half), text, mask)


def steps(
    config: PixArtConfig, recipe: recipes.Recipe, checkpointing: bool, device: torch.device, world: World
) -> None:
    """Two steps: the second one has the optimizer's state."""
    with tempfile.TemporaryDirectory() as folder, torch.device(device):
        settings = Settings(recipe.name, out=folder, precision="bf16", checkpointing=checkpointing, quiet=True)
        made = trainer.Trainer(PixArt(config), Blank(config, recipe.micro_batch), recipe, settings, world)
        made.guard = types.SimpleNamespace(admit=lambda *_: True, norms=[])  # what has no numbers has no norm
        made.meter.step = lambda *_: None
        stream = iter([(["k"], None)] * 2 * made.grad_accum_steps)
        for _ in range(2):
            made.train_step(stream, recipe.lr)


def fake(config: PixArtConfig, recipe: recipes.Recipe, checkpointing: bool) -> int:
    """Bytes at the peak of the step."""
    import bitsandbytes.functional as bnb

    maps = {signed: bnb.create_dynamic_map(signed=signed) for signed in (True, False)}  # made of numbers
    kept = bnb.create_dynamic_map, layers._small_on_cpu, PixArt._project
    bnb.create_dynamic_map = lambda signed=True, **_: maps[signed]
    layers._small_on_cpu = lambda *_: False
    PixArt._project = lambda self, text, _: self.caption_projection(text)
    cpu = torch.device("cpu")
    try:
        with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
            return account(lambda: steps(config, recipe, checkpointing, cpu, Here(cpu)))
    finally:
        bnb.create_dynamic_map, layers._small_on_cpu, PixArt._project = kept


def real(config: PixArtConfig, recipe: recipes.Recipe, checkpointing: bool) -> int:
    """What the GPU's allocator held at most."""
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    steps(config, recipe, checkpointing, device, World(device))
    return torch.cuda.max_memory_allocated()


def language_model() -> int:
    """Bytes of CALM2-7B in 8 bits: linear layers with their scales; its table of tokens stays bf16. What it takes while it reads
    a few captions is less than a step's activations, which are not there then."""
    shape = {"vocab_size": 65024, "hidden_size": WIDTH, "intermediate_size": 11008, "num_hidden_layers": 32}
    config = {"model_type": "llama", **shape, "num_attention_heads": 32}
    return cost.text_encoder(config, "quanto-int8", TEXT).weights


def row(stage: str, gpus: int, micro_batch: int, layer: int, checkpointing: bool, device: str) -> dict[str, Any]:
    recipe = recipes.resolve(stage, {"layers": layer} if layer else {})
    most, _ = recipes.accumulation(recipe, gpus)
    micro_batch = micro_batch or most
    side = recipe.resolution // 8
    config = PixArtConfig(
        num_layers=recipe.layers, sample_size=side, interpolation_scale=recipe.interpolation, caption_channels=WIDTH,
        out_channels=out_channels(recipe.objective, 4),
    )  # fmt: skip
    here = dataclasses.replace(
        recipe, micro_batch=micro_batch, batch=2 * micro_batch
    )  # two micro batches: the gradients of the first stay
    need = cost.memory(config, recipe, micro_batch, cost.Sizes(side, TEXT, checkpointing))["total"]
    counted = fake(config, here, checkpointing)
    told: dict[str, Any] = {
        "stage": stage, "gpus": gpus, "micro": micro_batch, "layers": recipe.layers, "checkpointing": checkpointing,
        "counted_gb": round(counted / 1e9, 2), "estimated_gb": round(need / 1e9, 2), "ratio": round(need / counted, 3),
    }  # fmt: skip
    if device == "cuda":
        told["gpu_gb"] = round(real(config, here, checkpointing) / 1e9, 2)
    together = counted + language_model()
    return {**told, "with_calm2_int8_gb": round(together / 1e9, 2), "fits_24_gb": together < CARD}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="", help="default: the paper's four")
    parser.add_argument("--gpus", type=int, default=0, help="default: the paper's")
    parser.add_argument("--micro", type=int, default=0, help="images at once; default: the recipe's")
    parser.add_argument("--layers", type=int, default=0, help="blocks; default: the recipe's 28")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=("none", "cuda"), default="none")
    asked = parser.parse_args()
    rows = []
    for stage in [asked.stage] if asked.stage else GPUS:
        gpus = asked.gpus or GPUS[stage]
        rows.append(row(stage, gpus, asked.micro, asked.layers, asked.checkpointing, asked.device))
        print(rows[-1], file=sys.stderr)
    print(json.dumps({
        "benchmark": "tests/benchmarks/memory.py", "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "none: counted on tensors without numbers",
        "versions": {"torch": version("torch"), "transformers": version("transformers")}, "rows": rows,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
