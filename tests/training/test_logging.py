"""What training writes down: lines with speed and what is left, and the same for TensorBoard."""

from __future__ import annotations

import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.training import cost, logging
from commonart.core.training.distributed import World
from commonart.core.training.tensorboard import Scalars, crc32c

LINE = {"step": 10, "loss": 0.5, "lr": 1e-4, "loss_by_t": [0.25, None], "images_per_second": None, "seconds": 2.0}


def test_crc32c_is_that_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43


def records(path: Path) -> list[bytes]:
    """The messages of a TFRecord file, its checksums checked."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        for part, stored in ((data[:8], data[8:12]), (body, data[12 + length : 16 + length])):
            crc = crc32c(part)
            assert struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF) == stored
        found.append(body)
        data = data[16 + length :]
    return found


def test_an_event_file_byte_by_byte(tmp_path: Path) -> None:
    Scalars(tmp_path, 0).add(300, {"loss": 0.5})
    head, start, event = records(next(tmp_path.iterdir()))
    assert head[9:] == b"\x1a\x0dbrain.Event:2" and start[9:] == b"\x10\x01\x3a\x02\x08\x01"
    assert event[0] == 9  # wall_time, a double
    assert event[9:] == b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15" + struct.pack("<f", 0.5)


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Scalars(tmp_path, 0).add(10, {"loss": 0.5})
    Scalars(tmp_path, 10).add(20, {"loss": 0.25})
    read = loader.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(10, 0.5), (20, 0.25)]


def test_lines_reach_both_files_and_the_first_process_alone_writes(tmp_path: Path) -> None:
    for name, active in (("first", True), ("second", False)):
        file = logging.MetricsFile(tmp_path / name / "metrics.jsonl", active)
        file.cut(0)
        file.write(LINE)
        assert file.last == LINE
    assert logging.read(tmp_path / "first" / "metrics.jsonl") == [LINE]
    assert not (tmp_path / "second").exists()
    event = records(next((tmp_path / "first" / "tensorboard").iterdir()))[-1]
    assert all(name in event for name in (b"loss", b"lr", b"loss_by_t/0", b"seconds"))
    assert b"loss_by_t/1" not in event and b"images_per_second" not in event  # null


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
    with pytest.raises(UsageError, match="--track mlflow is no tracker"):
        logging.tracker("mlflow", Path("run"), {})


def test_speed_is_a_share_of_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "matrix_rate", lambda device, dtype: 1e12)
    config = PixArtConfig(num_layers=6, attention_head_dim=32, caption_channels=192, sample_size=16)
    speed = logging.Speed(config, 16, World(torch.device("cpu")), torch.float32, batch=8, steps=100)
    assert speed.of({**LINE, "tokens": 5.0}, 0.1) == {"mfu": None, "seconds_left": None}
    told = speed.of({**LINE, "tokens": 5.0, "images_per_second": 40.0}, 0.1)
    assert told["mfu"] == pytest.approx(40 * 3 * cost.flops_per_image(config, 16, 5) / 1e12, abs=1e-4)
    assert told["seconds_left"] == 18.0  # 90 steps of 8 at 40 a second, or 9 times the 2 s so far
    budget = speed.of({**LINE, "tokens": 5.0, "images_per_second": 1.0}, 0.5)
    assert budget["seconds_left"] == 2.0  # the clock is ahead of the steps


def test_the_matrix_rate_is_a_rate() -> None:
    assert 1e8 < logging.matrix_rate(torch.device("cpu"), torch.float32) < 1e15
