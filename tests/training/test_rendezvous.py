"""Processes that are to train together and do not find each other: sentences, signals that are heard, waits that end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
import torch.distributed as dist
from tiny_runs import TINY, refused, shards

from commonart.core import launch, slurm
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.training import rendezvous

__all__ = ["shards"]  # the fixture
# What the shell of `salloc -n 4` sees where LaunchParameters=use_interactive_step: a step of one task.
SALLOC = {
    "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "localhost", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1",
}  # fmt: skip


def test_the_shell_of_salloc_is_no_task_of_four() -> None:
    environ = dict(SALLOC)
    slurm.adopt_step(environ)
    assert environ == SALLOC and launch.world_size(SALLOC) == 1
    assert launch.must_spawn(4, SALLOC)  # as in any other shell


def test_a_step_of_srun_in_it_counts_its_own_tasks() -> None:
    step = {**SALLOC, "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}
    last = {**step, "SLURM_PROCID": "2", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"}
    for environ in (step, last):
        slurm.adopt_step(environ)
    assert launch.world_size(step) == 3 and (step["LOCAL_WORLD_SIZE"], last["LOCAL_WORLD_SIZE"]) == ("2", "1")
    other = {**SALLOC, "SLURM_STEP_ID": "4", "SLURM_STEP_NUM_TASKS": "3"}
    slurm.adopt_step(other)
    assert not set(step[slurm.PORTS].split()) & set(other[slurm.PORTS].split())  # the next step has other ports
    given = {**SALLOC, "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "3", "MASTER_PORT": "29501"}
    slurm.adopt_step(given)
    assert slurm.PORTS not in given


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Three ports, of which somebody listens on the first."""
    taken = [socket.create_server(("0.0.0.0", 0)) for _ in range(3)]
    numbers = [each.getsockname()[1] for each in taken]
    for each in taken[1:]:
        each.close()
    yield numbers
    taken[0].close()


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*rendezvous.NEEDED, "MASTER_PORT", "WORLD_SIZE", launch.STORE, "TORCHELASTIC_RUN_ID", slurm.PORTS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_port_in_use_is_a_sentence(environ: pytest.MonkeyPatch, ports: list[int]) -> None:
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(ports[0]),
    }.items():
        environ.setenv(name, value)
    start = lambda: rendezvous.init_process_group("gloo", 2)  # noqa: E731
    refused(CommonArtError, 1, f"Port {ports[0]} of 127.0.0.1 is in use", "MASTER_PORT", start)


def test_under_srun_the_next_port_is_taken_and_found_behind_another_training(ports: list[int]) -> None:
    """Somebody who is no store listens on the first port, another training on the second."""
    other = dist.TCPStore("127.0.0.1", ports[1], 2, True, wait_for_workers=False, timeout=timedelta(seconds=5))
    other.set("commonart", "76.0 of 2")
    first = rendezvous._listen("127.0.0.1", ports, 2, b"77.0 of 2")
    first.set("whose", "ours")
    assert rendezvous._connect("127.0.0.1", ports[1:], 2, b"77.0 of 2").get("whose") == b"ours"


def test_variables_that_are_missing_or_wrong_are_sentences(environ: pytest.MonkeyPatch) -> None:
    start = lambda: rendezvous.init_process_group("gloo", 2)  # noqa: E731
    refused(UsageError, 2, "WORLD_SIZE is 2, but not set: RANK, LOCAL_RANK, MASTER_ADDR.", "unset WORLD_SIZE", start)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "no-such-host.invalid"}.items():
        environ.setenv(name, value)
    refused(CommonArtError, 1, "MASTER_ADDR=no-such-host.invalid cannot be resolved", "every machine", start)


def test_waits_have_an_end(environ: pytest.MonkeyPatch, ports: list[int]) -> None:
    environ.setattr(rendezvous, "JOIN_SECONDS", 0.5)
    values = {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[1])}
    for name, value in values.items():
        environ.setenv(name, value)
    for rank, says in (("1", "did not answer at 127.0.0.1"), ("0", "1 of 2 training processes came within")):
        environ.setenv("RANK", rank)
        refused(CommonArtError, 1, says, "See why", lambda: rendezvous.init_process_group("gloo", 2))


def command(data: Path, run: Path) -> list[str]:
    sets = (word for name, value in TINY.items() for word in ("--set", f"{name}={value}"))
    return [
        sys.executable, "-m", "commonart.cli.main", "train", "--stage", "nano", "--data", str(data), "-o", str(run),
        "--device", "cpu", "--precision", "fp32", *sets,
    ]  # fmt: skip


def rank_of(rank: int, port: int) -> dict[str, str]:
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def test_a_signal_is_heard_while_the_others_are_awaited(shards: Path, tmp_path: Path, ports: list[int]) -> None:
    with subprocess.Popen(
        command(shards, tmp_path / "run"), env=rank_of(0, ports[1]), stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:  # until it listens, and waits for the other
            try:
                socket.create_connection(("127.0.0.1", ports[1])).close()
                break
            except OSError:
                time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 75 and "a signal came before training began" in said and "Traceback" not in said


def test_one_run_has_one_summary(shards: Path, tmp_path: Path, ports: list[int]) -> None:
    """Of processes that srun or torchrun started, the first says what was done."""
    words = command(shards, tmp_path / "run")
    started = [subprocess.Popen(words, env=rank_of(rank, ports[1]), stderr=subprocess.PIPE) for rank in range(2)]
    first, second = (process.communicate(timeout=300)[1].decode() for process in started)
    assert [process.returncode for process in started] == [0, 0], first + second
    assert orjson.loads(first.splitlines()[-1])["step"] == TINY["steps"]
    assert not any(line.startswith("{") for line in second.splitlines())
