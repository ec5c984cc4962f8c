"""The benchmark of training runs anywhere: with diffusers beside it, and in a clone with torch and numpy alone. That of its
memory holds the estimate of a dry run against all tensors of a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "benchmarks" / "train.py"
SMALL = [
    "--layers",
    "1",
    "--heads",
    "2",
    "--side",
    "4",
    "--micro",
    "2",
    "--text",
    "16",
    "--rounds",
    "1",
    "--device",
    "cpu",
]
# What `pip install torch numpy` brings.
TORCH = (
    "torch", "torchgen", "functorch", "numpy", "numpy.libs", "nvidia", "triton", "cuda", "sympy", "isympy.py", "mpmath",
    "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions.py", "setuptools",
)  # fmt: skip


pytestmark = pytest.mark.slow


def said(command: list[str], **environ: str) -> dict:
    done = subprocess.run(command, capture_output=True, cwd="/", env={**os.environ, **environ}, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_both_sides_in_one_run() -> None:
    result = said([sys.executable, str(SCRIPT), *SMALL])
    assert set(result["images_per_second"]) == {"ours", "diffusers"} and result["ratio_of_medians"] > 0
    assert result["versions"]["diffusers"] != "not installed" and result["date"] and result["device"]


def test_in_a_clone_with_torch_alone_the_other_side_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    installed = Path(torch.__file__).parents[1]
    for name in TORCH:
        if (installed / name).exists():
            (tmp_path / name).symlink_to(installed / name)
    result = said([sys.executable, "-S", str(SCRIPT), *SMALL], PYTHONPATH=str(tmp_path))
    assert set(result["images_per_second"]) == {"ours"} and "left out" in result["ratio_of_medians"]


@pytest.mark.parametrize("more", [[], ["--checkpointing"]])
def test_the_memory_of_a_step_is_what_a_dry_run_says(more: list[str]) -> None:
    command = [sys.executable, str(SCRIPT.with_name("memory.py")), "--stage", "512", "--layers", "3", "--micro", "4"]
    (row,) = said([*command, *more])["rows"]
    assert row["ratio"] == pytest.approx(1, abs=0.1) and row["counted_gb"] > 1
