"""How training processes find each other, without torch: under srun, under torchrun, and as an sbatch file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tiny_runs import refused

from commonart.core import launch, slurm
from commonart.core.errors import EXIT_PREEMPTED, CommonArtError, Preempted, UsageError

STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_JOB_ID": "77"}  # fmt: skip


def test_a_task_of_srun_becomes_a_rank() -> None:
    environ = {**STEP, "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    slurm.adopt_step(environ)
    assert {name: environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")} == {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu07",
    }  # fmt: skip
    other = {**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "gpu[07-08]"}
    slurm.adopt_step(other)
    assert other[slurm.PORTS] == environ[slurm.PORTS]


def test_what_torchrun_set_stays_and_a_batch_script_is_no_task() -> None:
    for environ in ({**STEP, "WORLD_SIZE": "2"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, {}):
        before = dict(environ)
        slurm.adopt_step(environ)
        assert environ == before
    assert launch.world_size({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == 1
    assert launch.world_size(STEP) == 4 and launch.world_size({**STEP, "WORLD_SIZE": "2"}) == 2


def test_srun_must_have_started_as_many_as_were_asked_for() -> None:
    assert not launch.must_spawn(4, STEP) and not launch.must_spawn(None, {})
    with pytest.raises(UsageError, match="--gpus 8, but srun started 4 processes.*--ntasks"):
        launch.must_spawn(8, STEP)


def test_no_host_is_refused() -> None:
    with pytest.raises(UsageError, match="names no host"):
        slurm.first_host("")


def test_the_sbatch_file_word_by_word() -> None:
    text = slurm.sbatch_script(["--stage", "512", "--data", "my shards/"], name="512", gpus=8)
    assert text == GOLDEN
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)


GOLDEN = """#!/bin/bash
#SBATCH --job-name=512
#SBATCH --nodes=1   # times the next line are the GPUs: change both to what your nodes have
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120        # to the tasks, 120 s before the time is over: they save and end with 75
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

srun --kill-on-bad-exit=0 commonart train --stage 512 --data 'my shards/' --gpus 8
code=$?
if [ "$code" -eq 75 ]; then   # preempted: the same job goes on from its checkpoint
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
"""


def test_a_script_queues_the_training_that_was_tried() -> None:
    tried = [
        "--stage",
        "512",
        "--gpus",
        "4",
        "--dry-run",
        "--calibrate",
        "30",
        "--gpus=8",
        "--slurm-script",
        "-o",
        "runs/a b",
    ]
    assert "commonart train --stage 512 -o 'runs/a b' --gpus 8\n" in slurm.sbatch_script(tried, name="512", gpus=8)


SLOW_TO_SAVE = """
import time
from commonart.core import launch, slurm
with launch.stoppable("run") as stop:
    stop.loop_saves = True
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        print(stop.exit_code, flush=True)
"""


def test_a_second_ctrl_c_ends_at_once_and_an_echo_is_no_second_one() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_SAVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        while process.stdout.readline() != "130\n":
            pass
        process.send_signal(signal.SIGINT)  # the same one, passed on by a launcher
        time.sleep(launch.ECHO + 0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode and said.count("Ctrl-C once more ends at once") == 1 and "KeyboardInterrupt" in said


@pytest.fixture
def terminal() -> Iterator[None]:
    """Ctrl-C is what it is in a terminal: it is ignored under nohup, and in CI."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_ctrl_c_that_came_when_all_was_done_still_ends_the_caller(terminal: None) -> None:
    with pytest.raises(KeyboardInterrupt), launch.stoppable("run") as stop:
        stop.loop_saves = True
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), launch.stoppable("run"):
        signal.raise_signal(signal.SIGINT)  # nothing to save yet
        raise AssertionError
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with launch.stoppable("run"):
        signal.raise_signal(signal.SIGINT)  # under nohup nobody hears it


def test_neither_launching_nor_the_recipes_import_torch() -> None:
    code = "import sys, commonart.core.launch, commonart.core.recipes, commonart.core.data.order; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


CHILD = """
import os, signal, sys
from commonart.core import errors, launch
rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
assert size == "2" and os.environ["COMMONART_STORE"]
what = sys.argv[1]
if what == "refused" and rank == "1":
    launch.report(errors.UsageError("That is wrong.", "Mend it."))
    sys.exit(2)
if what == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "preempted":
    from commonart.core.data.drops import Summary
    error = errors.Preempted("Step 3 is saved.", "Again.")
    error.summary = Summary("train", 24, 24)
    launch.report(error)
    sys.exit(75)
"""


@pytest.mark.parametrize(
    ("what", "error", "code", "says"),
    [
        ("refused", CommonArtError, 2, "That is wrong."),
        ("killed", CommonArtError, 1, "Training process 1 of 2 was killed by SIGKILL."),
        ("preempted", Preempted, EXIT_PREEMPTED, "Step 3 is saved."),
    ],
)
def test_what_started_processes_end_with(what: str, error: type[CommonArtError], code: int, says: str) -> None:
    refused(error, code, says, "", lambda: launch.spawn([sys.executable, "-c", CHILD, what], 2))


def test_the_error_of_started_processes_says_what_they_had_done() -> None:
    with pytest.raises(Preempted) as told:
        launch.spawn([sys.executable, "-c", CHILD, "preempted"], 2)
    said = told.value.summary.as_json()
    assert (said["stage"], said["in"], said["out"]) == ("train", 24, 24)


def test_started_processes_that_end_well_and_numbers_that_disagree() -> None:
    launch.spawn([sys.executable, "-c", CHILD, "nothing"], 2)
    torchrun = {"WORLD_SIZE": "4"}
    assert not launch.must_spawn(4, torchrun) and not launch.must_spawn(1, {}) and launch.must_spawn(2, {})
    refused(UsageError, 2, "--gpus 2, but torchrun started 4", "equal", lambda: launch.must_spawn(2, torchrun))
    refused(UsageError, 2, "--gpus 0 must be at least 1", "1 or more", lambda: launch.must_spawn(0, {}))


def test_the_sbatch_file_requeues_what_was_preempted() -> None:
    text = slurm.sbatch_script(["--stage", "512"], name="run", gpus=16)
    assert "#SBATCH --nodes=2" in text and "#SBATCH --ntasks-per-node=8" in text
    assert "commonart train --stage 512 --gpus 16" in text and "-eq 75" in text and "scontrol requeue" in text
    text = slurm.sbatch_script([], name="run", gpus=12)
    assert "#SBATCH --nodes=3" in text and "#SBATCH --ntasks-per-node=4" in text
    assert [slurm.first_host(nodes) for nodes in ("gpu[03-05,9],cpu1", "a1,a2", "n[1-2]-x")] == ["gpu03", "a1", "n1-x"]


def test_the_process_that_was_killed_is_named_not_the_one_that_aborted_without_it() -> None:
    codes = [-signal.SIGABRT, -signal.SIGKILL]
    with pytest.raises(CommonArtError, match=r"Training process 1 of 2 was killed by SIGKILL\."):
        launch._raise_first(codes, [], launch.StopRequest())
    with pytest.raises(CommonArtError, match=r"Training process 0 of 2 was killed by SIGABRT\."):
        launch._raise_first([-signal.SIGABRT, 0], [], launch.StopRequest())
