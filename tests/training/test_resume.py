"""SIGKILL at random moments: no partial checkpoint is ever loaded, and the curve is the uninterrupted one, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import dataset, lines, start, state

from commonart.core.training import checkpoint

# Width 32: matrices of 4096 weights, which AdamW8bit really keeps in 8 bits.
RECIPES: dict[str, dict[str, Any]] = {
    "CAME": {"optimizer": "CAME", "objective": "eps", "lr": 1e-3},
    "AdamW8bit": {"optimizer": "AdamW8bit", "lr": 1e-3},
    "AdamW": {},
}
SETTINGS: dict[str, Any] = {"log_every": 2, "checkpoint_every": 5}


def more_of(name: str, steps: int) -> dict[str, Any]:
    return {**RECIPES[name], "head_dim": 32, "micro_batch": 4, "caption_dropout": 0.3, "steps": steps}


def kill_often(tmp_path: Path, name: str, steps: int, kills: int) -> None:
    """Trains the run in processes of which `kills` are killed, and compares it with the one that nobody killed."""
    data, dice = dataset(tmp_path / "shards"), random.Random(name)
    start(data, tmp_path / "whole", more_of(name, steps), **SETTINGS)
    whole = state(tmp_path / "whole"), lines(tmp_path / "whole")
    forks = multiprocessing.get_context("forkserver")  # imports torch once
    forks.set_forkserver_preload(["tiny_runs"])
    killed, turn, seconds = 0, 0, 1.0
    while killed < kills:
        run, turn = tmp_path / f"run{turn}", turn + 1
        reached, began = -1, time.monotonic()
        while reached < steps:
            process = forks.Process(target=start, args=(data, run, more_of(name, steps)), kwargs=SETTINGS)
            process.start()
            assert process.pid is not None
            if killed < kills:
                process.join(dice.uniform(0, seconds))
            else:
                process.join()
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
            warned: list[str] = []
            found = checkpoint.newest(run, warned.append)
            assert not warned and (found.step if found else 0) >= max(reached, 0)
            reached = found.step if found else 0
        seconds = max(0.3, time.monotonic() - began)
        assert (state(run), lines(run)) == whole


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kill_often(tmp_path, "CAME", steps=40, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_killed_a_hundred_times_in_all(tmp_path: Path, name: str) -> None:
    kill_often(tmp_path, name, steps=60, kills=34)
