"""The benchmark of training runs anywhere: with diffusers beside it, and in a clone with torch and numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
BARE = """
import runpy, sys
class Block:
    blocked = {blocked}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ModuleNotFoundError("No module named " + name)
sys.meta_path.insert(0, Block())
sys.path = [part for part in sys.path if part]
sys.argv = {argv}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NOT_THERE = ("diffusers", "transformers", "accelerate", "safetensors", "bitsandbytes", "tqdm", "PIL", "webdataset")


def said(command: list[str]) -> dict:
    return json.loads(subprocess.run(command, capture_output=True, check=True, cwd="/").stdout)


def test_both_sides_in_one_run() -> None:
    result = said([sys.executable, str(SCRIPT), *SMALL])
    assert set(result["images_per_second"]) == {"ours", "diffusers"} and result["ratio_of_medians"] > 0
    assert result["versions"]["diffusers"] != "not installed" and result["date"] and result["device"]


def test_without_diffusers_its_side_is_left_out_and_that_is_said() -> None:
    code = BARE.format(blocked=set(NOT_THERE), argv=[str(SCRIPT), *SMALL])
    result = said([sys.executable, "-c", code])
    assert set(result["images_per_second"]) == {"ours"} and "left out" in result["ratio_of_medians"]
