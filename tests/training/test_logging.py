"""What training writes down: lines with speed and what is left, and the same for TensorBoard."""

from __future__ import annotations

import errno
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.recipes import resolve
from commonart.core.training import cost, logging
from commonart.core.training.distributed import World

LINE = {"step": 10, "loss": 0.5, "lr": 1e-4, "loss_by_t": [0.25, None], "images_per_second": None, "seconds": 2.0}


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """The (step, value) of `name` as TensorBoard reads a run."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_what_an_interrupted_run_wrote_beyond_its_checkpoint_is_dropped(tmp_path: Path) -> None:
    file = logging.MetricsFile(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        file.write({**LINE, "step": step, "loss": step / 4})
    file.cut(10)
    time.sleep(1.1)  # TensorBoard sorts its files by the second in their names, then by a counter as text: 10 before 9
    file.write({**LINE, "step": 20, "loss": 0.125})
    assert scalars(tmp_path / "tensorboard", "loss") == [(10, 2.5), (20, 0.125)]
    assert [line["loss"] for line in logging.read(tmp_path / "metrics.jsonl")] == [2.5, 0.125]


def test_lines_reach_both_files_and_the_first_process_alone_writes(tmp_path: Path) -> None:
    for name, active in (("first", True), ("second", False)):
        file = logging.MetricsFile(tmp_path / name / "metrics.jsonl", active)
        file.cut(0)
        file.write(LINE)
        assert file.last == LINE
    assert logging.read(tmp_path / "first" / "metrics.jsonl") == [LINE]
    assert not (tmp_path / "second").exists()
    accumulator = EventAccumulator(str(tmp_path / "first" / "tensorboard"))
    accumulator.Reload()
    assert set(accumulator.Tags()["scalars"]) == {"loss", "lr", "loss_by_t/0", "seconds"}  # and nothing that is null


@pytest.mark.parametrize(
    ("code", "fix"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "Make the folder writable")]
)
def test_a_line_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    def no(*_: Any) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr("builtins.open", no)
    with pytest.raises(CommonArtError, match="metrics.jsonl cannot be written") as told:
        logging.MetricsFile(tmp_path / "metrics.jsonl").write(LINE)
    assert told.value.fix.startswith(fix)


@pytest.mark.parametrize(("name", "more"), [("wandb", {"id": "512"}), ("trackio", {})])
def test_a_tracker_gets_the_numbers_of_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: dict[str, str]
) -> None:
    called: list[Any] = []
    module = types.ModuleType(name)
    module.init = lambda **given: called.append(given)  # type: ignore[attr-defined]
    module.log = lambda values, step: called.append((values, step))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    file = logging.MetricsFile(tmp_path / "m.jsonl", tracker=logging.tracker(name, Path("runs/512"), {"lr": 1}))
    file.write(LINE)
    assert called[0] == {"project": "commonart", "name": "512", "config": {"lr": 1}, "resume": "allow", **more}
    assert called[1] == ({"loss": 0.5, "lr": 1e-4, "loss_by_t/0": 0.25, "seconds": 2.0}, 10)


def test_a_tracker_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(CommonArtError, match="--track trackio: trackio is not installed"):
        logging.tracker("trackio", Path("run"), {})
    with pytest.raises(UsageError, match="--track mlflow is not a known tracker"):
        logging.tracker("mlflow", Path("run"), {})


def test_speed_is_a_share_of_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "matrix_rate", lambda device, dtype: 1e12)
    config = PixArtConfig(num_layers=6, attention_head_dim=32, caption_channels=192, sample_size=16)
    recipe = resolve("nano", {"batch": 8, "steps": 100})
    speed = logging.Speed(
        lambda text: 3 * cost.flops_per_image(config, 16, text), World(torch.device("cpu")), torch.float32, recipe
    )
    assert speed.of({**LINE, "tokens": 5.0}, 0.1) == {"mfu": None, "seconds_left": None}
    told = speed.of({**LINE, "tokens": 5.0, "images_per_second": 40.0}, 0.1)
    assert told["mfu"] == pytest.approx(40 * 3 * cost.flops_per_image(config, 16, 5) / 1e12, abs=1e-4)
    assert told["seconds_left"] == 18.0  # 90 steps of 8 at 40 a second, or 9 times the 2 s so far
    budget = speed.of({**LINE, "tokens": 5.0, "images_per_second": 1.0}, 0.5)
    assert budget["seconds_left"] == 2.0  # the clock is ahead of the steps


def test_the_matrix_rate_is_a_rate() -> None:
    assert 1e8 < logging.matrix_rate(torch.device("cpu"), torch.float32) < 1e15
