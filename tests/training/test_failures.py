"""What can go wrong with a run from outside: each time a sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import call
from safetensors import SafetensorError
from tiny_runs import TINY, bright, dataset, lines, refused, shards, start, state

from commonart.core import launch, recipes
from commonart.core.data import training_index as data_index
from commonart.core.data.record import Record
from commonart.core.errors import CommonArtError, Preempted, UsageError
from commonart.core.model import device, memory
from commonart.core.model.config import PixArtConfig
from commonart.core.training import checkpoint, cost, encoders, gradient_guard, logging, trainer
from commonart.core.training.distributed import World
from commonart.core.training.gradient_guard import GradientGuard

__all__ = ["shards"]  # the fixture


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_the_data_is_read_ends_with_75(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before, real = signal.getsignal(number), data_index.read_index

    def interrupted(folder: str | Path, kind: Any = None) -> data_index.Index:
        signal.raise_signal(number)
        return real(folder, kind)

    monkeypatch.setattr(encoders, "read_index", interrupted)
    with pytest.raises(Preempted, match="a signal came before training began") as told:
        start(shards, tmp_path / "run")
    assert told.value.code == 75 and signal.getsignal(number) == before and not (tmp_path / "run").exists()


EARLY = """
import os, signal, sys
if sys.argv[1] == "early" or os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGTERM)     # before it could listen
from commonart.core import errors, launch
launch.report(errors.Preempted("Step 3 is saved.", "Again."))
sys.exit(75)
"""


def test_started_processes_that_were_told_before_they_listened(monkeypatch: pytest.MonkeyPatch) -> None:
    real = launch._wait

    def told(processes: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(processes)

    monkeypatch.setattr(launch, "_wait", told)
    with pytest.raises(Preempted, match="before training began"):
        launch.spawn([sys.executable, "-c", EARLY, "early"], 2)
    with pytest.raises(Preempted, match=r"Step 3 is saved|before training began"):
        launch.spawn([sys.executable, "-c", EARLY, "one"], 2)


LOST = """
import os, signal, sys
from commonart.core import launch
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
launch.report(launch.PeerGone("Another training process has gone.", "Again."))
sys.exit(1)
"""


def test_the_process_that_died_is_named_not_the_one_that_missed_it() -> None:
    with pytest.raises(CommonArtError, match=r"Training process 1 of 2 was killed by SIGKILL\. Start the same command"):
        launch.spawn([sys.executable, "-c", LOST], 2)


def test_a_disk_that_fills_in_the_middle_of_a_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors hides the operating system's error in one of its own: this is its text on a full tmpfs."""
    start(shards, tmp_path / "whole", checkpoint_every=3)
    real, written = safetensors.torch.save_file, []

    def full(tensors: Any, path: Path, **more: Any) -> None:
        written.append(path)
        if len(written) == 5:  # the second file of the second checkpoint
            Path(path).write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        again = lambda: start(shards, tmp_path / "run", checkpoint_every=3)  # noqa: E731
        refused(CommonArtError, 1, "No space left on device); older ones are kept", "Free some space", again)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000003"]
    start(shards, tmp_path / "run", checkpoint_every=3)
    assert state(tmp_path / "run") == state(tmp_path / "whole")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_more_readers_than_shards(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(shards, tmp_path / "memory")
    monkeypatch.setattr("commonart.core.training.dataset._budget", lambda: 0)
    start(shards, tmp_path / "disk", workers=8)  # two shards
    assert state(tmp_path / "disk") == state(tmp_path / "memory")


# --- guards ----------------------------------------------------------------------------------------------------


def test_a_spike_is_measured_by_what_is_usual() -> None:
    guard = GradientGuard(spike=20, patience=3)
    assert all(guard.admit(1.0 + 0.01 * n, ["a"], n) for n in range(gradient_guard.ENOUGH))
    assert not guard.admit(30.0, ["b1"], 50) and not guard.admit(math.nan, ["b2"], 51)
    assert guard.admit(15.0, ["c"], 52)  # in between all is well, and the count starts anew
    assert len(guard.norms) == gradient_guard.ENOUGH + 1
    assert not guard.admit(30.0, ["k1", "k2"], 53) and not guard.admit(31.0, ["k3"], 54)
    with pytest.raises(
        CommonArtError, match=r"was 32, where 1\.\d+ is usual, in 3 steps .* images k1, k2, k3, k4"
    ) as e:
        guard.admit(32.0, ["k4"], 55)
    assert "--set spike=0" in e.value.fix
    takes_all = GradientGuard(spike=0, patience=3, norms=[1.0] * gradient_guard.ENOUGH)
    assert takes_all.admit(1e9, [], 0) and not takes_all.admit(math.inf, [], 1)
    young = GradientGuard(spike=20, patience=3)
    assert young.admit(1.0, [], 0) and young.admit(1e6, [], 1)  # nothing is usual yet


def test_spikes_are_skipped_counted_and_the_same_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wild(record: Record) -> np.ndarray:
        return bright(record) * (1e4 if record["key"] == "k7" else 1)

    monkeypatch.setattr(gradient_guard, "ENOUGH", 5)
    data, more = dataset(tmp_path / "shards", wild), {"batch": 4, "lr": 1e-5}
    whole = start(data, tmp_path / "whole", {**more, "steps": 20})  # four epochs; nothing is usual in the first
    assert whole.skipped == 3 and sum(line["skipped"] for line in lines(tmp_path / "whole")) == 3
    start(data, tmp_path / "parts", {**more, "steps": 7})
    start(data, tmp_path / "parts", {**more, "steps": 20})
    assert state(tmp_path / "parts") == state(tmp_path / "whole")


def test_a_full_device_names_what_to_lower(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer.Trainer, "train_step", full)
    again = lambda **more: start(shards, tmp_path / "run", **more)  # noqa: E731
    refused(CommonArtError, 1, "Tried to allocate 2.00 GiB", "--set micro_batch=4 or --checkpointing", again)
    smallest = lambda: again(more={"micro_batch": 1}, checkpointing=True)  # noqa: E731
    refused(CommonArtError, 1, "memory is full", "larger device", smallest)


def test_what_cannot_fit_is_refused_before_the_first_step(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 100_000)
    again = lambda: start(shards, tmp_path / "run")  # noqa: E731
    refused(CommonArtError, 1, "GiB free", "Use a larger device", again)
    assert not (tmp_path / "run").exists()


def test_the_papers_stages_fit_their_hardware_and_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, l4 = torch.device("cpu"), 24 * 10**9 - 2**30
    monkeypatch.setattr(memory, "free", lambda device: l4)
    recipe, config, sizes = recipes.resolve("512"), PixArtConfig(sample_size=64), cost.Sizes(64, 77)
    cost.check_fits(config, recipe, recipe.micro_batch, cpu, sizes)
    with pytest.raises(CommonArtError, match="512 needs about") as told:
        cost.check_fits(config, recipe, 64, cpu, sizes)
    most = int(re.findall(r"micro_batch=(\d+)", told.value.fix)[0])
    assert recipe.micro_batch <= most < 64
    cost.check_fits(config, recipe, most, cpu, sizes)
    small = cost.memory(config, recipe, 64, cost.Sizes(64, 77, checkpointing=True))
    assert small["total"] < cost.memory(config, recipe, 64, sizes)["total"]


def test_a_gpu_takes_as_many_images_at_once_as_fit_and_the_language_model_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, config = recipes.resolve("512"), PixArtConfig(sample_size=64)
    gpu = World(torch.device("cuda"))

    def micro_batch(free: float, world: World = gpu, checkpointing: bool = False) -> int:
        monkeypatch.setattr(memory, "free", lambda device: free)
        return cost.fit_micro_batch(config, recipe, world, cost.Sizes(64, 77, checkpointing)).micro_batch

    calm2 = 7.2e9  # in 8 bits
    assert micro_batch(140e9) == recipe.micro_batch == 8
    assert micro_batch(23e9 - calm2) == 2 and micro_batch(23e9 - calm2, checkpointing=True) == 8
    assert micro_batch(1e9) == 1  # which is then refused
    assert micro_batch(1e9, World(torch.device("cpu"))) == recipe.micro_batch  # there a run is repeated bit for bit


# --- real processes --------------------------------------------------------------------------------------------


def command(data: Path, run: Path, steps: int, **more: Any) -> list[str]:
    sets = {**TINY, "steps": steps, **more}
    return [
        sys.executable, "-m", "commonart.cli.main", "train", "--stage", "nano", "--data", str(data), "-o", str(run),
        "--gpus", "2", "--device", "cpu", "--precision", "fp32", "--log-every", "10", "--checkpoint-every", "20",
        *(word for name, value in sets.items() for word in ("--set", f"{name}={value}")),
    ]  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until_trained(run: Path, process: subprocess.Popen[bytes]) -> None:
    while not logging.read(run / "metrics.jsonl"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_rank_that_dies_is_named_and_the_same_command_goes_on(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(command(shards, run, 100_000), stderr=subprocess.PIPE) as process:
        until_trained(run, process)
        os.kill(children(process.pid)[1], signal.SIGKILL)
        said = process.communicate()[1].decode()
    assert process.returncode == 1
    assert "Error: Training process 1 of 2 was killed by SIGKILL." in said and "Start the same command again" in said
    assert "Traceback" not in said
    found = checkpoint.newest(run)
    step = found.step if found else 0
    again = subprocess.run(command(shards, run, step + 30), capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    steps = [line["step"] for line in logging.read(run / "metrics.jsonl")]
    assert steps == list(range(10, step + 31, 10))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_processes_whose_starter_was_killed_save_and_end(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(command(shards, run, 100_000), stderr=subprocess.DEVNULL) as process:
        until_trained(run, process)
        left = children(process.pid)
        process.kill()
    late = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/task").exists() for pid in left) and time.monotonic() < late:
        time.sleep(0.1)
    assert len(left) == 2 and not any(Path(f"/proc/{pid}/task").exists() for pid in left)
    found = checkpoint.newest(run)
    assert found is not None and found.step >= 10


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_signal_to_the_one_that_started_them_saves_and_ends_with_75(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(command(shards, run, 100_000), stderr=subprocess.PIPE) as process:
        until_trained(run, process)
        process.send_signal(signal.SIGUSR1)
        said = process.communicate()[1].decode()
    assert process.returncode == 75, said
    step = int(re.findall(r"step (\d+) is saved", said)[0])
    found = checkpoint.newest(run)
    assert found is not None and found.step == step


@pytest.mark.slow
def test_two_processes_report_their_loss_without_a_line_of_metrics(shards: Path, tmp_path: Path) -> None:
    one = start(shards, tmp_path / "one", log_every=100)
    two = start(shards, tmp_path / "two", log_every=100, gpus=2)
    assert math.isfinite(one.loss) and two.loss == pytest.approx(one.loss, rel=1e-4)
    assert (two.step, two.images, two.stopped) == (one.step, one.images, "done")
    assert two.images_per_second > 0 and two.checkpoint == tmp_path / "two" / "checkpoints" / "step-0000006"


def interruptible() -> None:
    """In a new process: Ctrl-C is what it is in a terminal (it is ignored under nohup and in CI)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def alone(data: Path, run: Path, steps: int, **more: Any) -> list[str]:
    words = command(data, run, steps, **more)
    at = words.index("--gpus")
    return words[:at] + words[at + 2 :]


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(alone(shards, run, 100_000), stderr=subprocess.PIPE, preexec_fn=interruptible) as process:
        until_trained(run, process)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, said
    assert "Start the same command again to continue." in said and "Traceback" not in said
    step = int(re.findall(r"step (\d+) is saved", said)[0])
    found = checkpoint.newest(run)
    assert found is not None and found.step == step
    assert call(tmp_path, *alone(shards, run, step + 10)[3:]) == 0
    assert [line["step"] for line in logging.read(run / "metrics.jsonl")] == list(range(10, step + 11, 10))


LONG_STEP = """
import sys, time
from commonart.cli import main
from commonart.core.training import trainer
def step(self, *_):
    print("step", file=sys.stderr, flush=True)
    time.sleep(60)
trainer.Trainer.train_step = step
sys.exit(main.run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_step(shards: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", LONG_STEP, *alone(shards, tmp_path / "run", 10)[3:]]
    with subprocess.Popen(words, stderr=subprocess.PIPE, preexec_fn=interruptible) as process:
        assert process.stderr is not None
        while process.stderr.readline() != b"step\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(launch.ECHO + 0.2)
        assert process.poll() is None  # it waits for the step's end
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130 and "Traceback" not in said
    assert checkpoint.newest(tmp_path / "run") is None


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_of_two_processes_saves_once_and_ends_with_130(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        command(shards, run, 100_000), stderr=subprocess.PIPE, preexec_fn=interruptible, start_new_session=True
    ) as process:
        until_trained(run, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all three processes
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, said
    found = checkpoint.newest(run)
    assert found is not None and f"step {found.step} is saved" in said and "Traceback" not in said


def test_a_device_that_is_not_there_and_more_processes_than_devices(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = lambda **more: start(shards, tmp_path / "run", **more)  # noqa: E731
    nowhere = lambda: start(tmp_path / "nowhere", tmp_path / "run", gpus=-1)  # noqa: E731
    refused(UsageError, 2, "--gpus -1 must be at least 1", "1 or more", nowhere)
    monkeypatch.setattr(device, "cpu_count", lambda: 2)
    refused(UsageError, 2, "--gpus 8, but this machine has 2 cores", "srun --ntasks 8", lambda: again(gpus=8))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(UsageError, 2, "--device cuda is not available", "--device cpu", lambda: again(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("auto", "cuda"):
        refused(UsageError, 2, "but this machine has 1 GPU.", "Use --gpus 1", lambda: again(gpus=2, device=name))  # noqa: B023
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    device.check_count(4, "cuda")
    refused(UsageError, 2, "but cuda:1 is one device", "--gpus 1", lambda: again(gpus=2, device="cuda:1"))
    assert not (tmp_path / "run").exists()
