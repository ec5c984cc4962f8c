"""How near `train --dry-run --calibrate` comes to the time that the training then takes, on this machine.

    python tests/benchmarks/estimate.py                           # generated scenes, the nano recipe
    python tests/benchmarks/estimate.py --stage 512 --data shards/ --steps 200

Each round times the estimate first and then the same training, so that a machine that others use is as slow for both; the
median of the rounds' ratios is the answer (aim: 0.8 to 1.2).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import processor


def commonart(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commonart.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"commonart {' '.join(words)}: {done.stderr}")
    return done


def scenes(folder: Path) -> str:
    """Shards of scenes with features beside them."""
    raw, kept, shards = str(folder / "raw"), str(folder / "kept"), str(folder / "shards")
    commonart("fetch", "scenes", "--limit", "256", "-o", raw)
    commonart("license-filter", raw, "-o", kept)
    commonart("shard", kept, "-o", shards, "--size", "64")
    for kind in ("encode-text", "encode-image"):
        commonart(kind, shards, "--model", "nano")
    return shards


def round_of(words: list[str], run: str, calibrate: float) -> dict[str, Any]:
    told = json.loads(commonart(*words, "-o", run, "--dry-run", "--calibrate", str(calibrate)).stdout)
    done = json.loads(commonart(*words, "-o", run, "--quiet").stderr.splitlines()[-1])
    estimated = told["hours"] * 3600
    return {
        "estimated_s": round(estimated, 1),
        "took_s": done["seconds"],
        "ratio": round(estimated / done["seconds"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="nano")
    parser.add_argument("--data", default="", help="shards; default: generated scenes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--calibrate", type=float, default=15.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="commonart-") as place:
        data = asked.data or scenes(Path(place))
        words = ["train", "--stage", asked.stage, "--data", data, "--init", "none", "--set", f"steps={asked.steps}"]
        rounds = []
        for n in range(asked.rounds):
            rounds.append(round_of(words, f"{place}/run{n}", asked.calibrate))
            print(rounds[-1], file=sys.stderr)
    print(json.dumps({
        "benchmark": "tests/benchmarks/estimate.py", "date": time.strftime("%Y-%m-%d"), "stage": asked.stage,
        "steps": asked.steps, "hardware": f"{processor()}, {os.cpu_count()} cores", "versions": {"torch": version("torch")},
        "rounds": rounds, "median_ratio": statistics.median(each["ratio"] for each in rounds),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
