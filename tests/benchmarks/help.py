"""Time of `commonart --help` and of every subcommand's help, beside `hf --help`: `python tests/benchmarks/help.py`.

Each command line is started afresh, all in turns; the medians are reported. Seconds of the clock say what a user waits
for, and hold on a quiet machine only; CPU seconds are hardly stretched by other work.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from statistics import median

from machine import processor

from commonart.cli.main import COMMANDS


def timed(command: list[str]) -> tuple[float, float]:
    """Return the seconds of the clock and of the CPU that a command takes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    scripts = sysconfig.get_path("scripts")
    commonart, hf = (shutil.which(name, path=scripts) or name for name in ("commonart", "hf"))
    lines = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import typer": [sys.executable, "-c", "import typer"],
        "commonart --help": [commonart, "--help"],
        **{f"commonart {name} --help": [commonart, name, "--help"] for name in COMMANDS},
        "hf --help": [hf, "--help"],
        "hf download --help": [hf, "download", "--help"],
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(rounds):
        for name, command in lines.items():
            measured[name].append(timed(command))
    print(
        json.dumps(
            {
                "benchmark": "tests/benchmarks/help.py",
                "date": datetime.date.today().isoformat(),
                "hardware": processor(),
                "versions": {"python": platform.python_version()}
                | {name: version(name) for name in ("typer", "huggingface_hub")},
                "rounds": rounds,
                "seconds": {
                    name: {"clock": round(median(clock), 3), "cpu": round(median(cpu), 3)}
                    for name, values in measured.items()
                    for clock, cpu in [tuple(zip(*values, strict=True))]
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
