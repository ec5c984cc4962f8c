"""Training under a real Slurm: srun as README writes it, the sbatch file as it is printed, preemption and requeue."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster as slurm
import pytest
import tiny_runs as toy

from commonart.core.training import logging

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "Slurm is here"),
]
STEPS, EVERY = 400, 20
ARGUMENTS = [
    "train", "--stage", "nano", "--data", "shards/", "--gpus", "2", "--device", "cpu", "--precision", "fp32",
    "--log-every", str(EVERY), "--quiet",
    *(word for name, value in {**toy.TINY, "steps": STEPS}.items() for word in ("--set", f"{name}={value}")),
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as made:
        made.environ["PATH"] = f"{Path(sys.executable).parent}:{made.environ['PATH']}"  # where `commonart` is
        yield made


@pytest.fixture(scope="module")
def whole(cluster: slurm.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and runs/whole, trained by two tasks of srun without an interruption."""
    home = tmp_path_factory.mktemp("work")
    toy.dataset(home / "shards")
    done = cluster.run("srun", "-n2", "commonart", *ARGUMENTS, "-o", "runs/whole", cwd=home, check=False)
    assert done.returncode == 0, done.stderr + cluster.logs()
    return home


def curve(run: Path) -> list[dict[str, Any]]:
    return toy.lines(run)


def submitted(cluster: slurm.Cluster, home: Path, run: str) -> tuple[str, Path]:
    """The number of a job that trains `run` with the sbatch file that --slurm-script prints, once it has written a line."""
    script = cluster.run("commonart", *ARGUMENTS, "-o", run, "--slurm-script", cwd=home).stdout
    (home / "job.sbatch").write_text(script)
    job = cluster.run("sbatch", "--parsable", "job.sbatch", cwd=home).stdout.strip()
    until = time.monotonic() + 900
    while not logging.read(home / run / "metrics.jsonl"):
        assert time.monotonic() < until, (home / f"commonart-nano-{job}.log").read_text() + cluster.logs()
        time.sleep(0.05)
    return job, home / run


def test_two_tasks_of_srun_train_together(whole: Path) -> None:
    lines = curve(whole / "runs" / "whole")
    assert [line["step"] for line in lines] == list(range(EVERY, STEPS + 1, EVERY))
    assert toy.state(whole / "runs" / "whole")["step"] == STEPS


def test_srun_with_another_number_is_a_sentence(cluster: slurm.Cluster, whole: Path) -> None:
    done = cluster.run("srun", "-n1", "commonart", *ARGUMENTS, "-o", "runs/wrong", cwd=whole, check=False)
    assert done.returncode == 2
    assert "--gpus 2, but srun started 1 process" in done.stderr


def test_a_warning_signal_saves_requeues_and_the_curve_is_the_uninterrupted_one(
    cluster: slurm.Cluster, whole: Path
) -> None:
    job, run = submitted(cluster, whole, "runs/signalled")
    cluster.run("scancel", "--signal=USR1", job, cwd=whole)  # to the tasks, as --signal=USR1@120 sends it
    found = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    log = (whole / f"commonart-nano-{job}.log").read_text()
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), log
    assert "a signal asked training to stop" in log
    assert curve(run) == curve(whole / "runs" / "whole")
    assert toy.state(run) == toy.state(whole / "runs" / "whole")


def test_a_more_important_job_preempts_and_training_goes_on_after_it(cluster: slurm.Cluster, whole: Path) -> None:
    job, run = submitted(cluster, whole, "runs/preempted")
    cluster.run("srun", "-p", "high", "-n1", "--cpus-per-task=16", "true", cwd=whole)
    found = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    log = (whole / f"commonart-nano-{job}.log").read_text()
    assert found["JobState"] == "COMPLETED" and int(found["Restarts"]) >= 1, log
    assert curve(run) == curve(whole / "runs" / "whole")
    assert toy.state(run) == toy.state(whole / "runs" / "whole")
