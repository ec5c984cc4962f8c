"""Seconds until a checkpoint of the 0.61 B model is durable, and until it is read again: `python tests/benchmarks/checkpoint.py`.

Weights, average and 8-bit AdamW's state of stage 512: written, synced, hashed, renamed, as training does when it is told to stop
(after the step that runs, which is not in it); then checked against the hashes and loaded. Takes 15 GB of memory and 8 GB of
disk in the folder for temporary files (TMPDIR). Beside it, the same bytes written and synced by a plain loop: what the disk gives.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from machine import processor

from commonart.core import recipes
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt
from commonart.core.settings import Settings
from commonart.core.training import checkpoint, trainer
from commonart.core.training.distributed import World
from commonart.core.training.dry_run import made_up

AT_ONCE = 1 << 24  # bytes that the plain loop writes


def seconds(work: Any) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return round(time.monotonic() - began, 1), result


def plain(path: Path, size: int) -> None:
    block = os.urandom(AT_ONCE)
    with open(path, "wb") as file:
        for _ in range(size // AT_ONCE):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    recipe = recipes.resolve("512", {"layers": asked.layers, "batch": 1, "micro_batch": 1})
    config = PixArtConfig(num_layers=recipe.layers, sample_size=64, out_channels=8)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        source = made_up(config, 1, 8)
        settings = Settings("512", out=folder, keep=1, precision="fp32")
        made = trainer.Trainer(PixArt(config), source, recipe, settings, World(torch.device("cpu")))
        for param in made.params:
            param.grad = torch.zeros_like(param)
        made.optimizer.step()  # which makes its state
        made.optimizer.zero_grad()
        rounds = []
        for _ in range(asked.rounds):
            made.state.step += 1
            saved, where = seconds(made.save)
            size = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
            written, _ = seconds(lambda size=size: plain(run / "plain", size))
            (run / "plain").unlink()
            read, found = seconds(lambda: checkpoint.newest(run))
            restored, _ = seconds(lambda found=found: made.restore(found))
            rounds.append({"saved_s": saved, "plain_write_s": written, "checked_s": read, "restored_s": restored})
            print(rounds[-1], file=sys.stderr)
    print(json.dumps({
        "benchmark": "tests/benchmarks/checkpoint.py", "date": time.strftime("%Y-%m-%d"), "gigabytes": round(size / 1e9, 2),
        "parameters": made.model.parameters_count, "hardware": f"{processor()}, {os.cpu_count()} cores",
        "versions": {"torch": version("torch"), "bitsandbytes": version("bitsandbytes")}, "rounds": rounds,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
