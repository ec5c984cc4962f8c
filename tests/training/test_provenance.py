"""What run.json says of code, machines and cost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from tiny_runs import shards, start

from commonart.core.model.config import PixArtConfig
from commonart.core.training import cost, logging, provenance
from commonart.core.training.distributed import World
from commonart.core.training.run import read

__all__ = ["shards"]  # the fixture


def flops_of(run: Path) -> float:
    """The operations of a run that wrote a line every two steps of 8 images, forward and twice that backward."""
    about = read(run)["transformer"]
    config = PixArtConfig(**{k: v for k, v in about.items() if k in PixArtConfig.__dataclass_fields__})
    tokens = [line["tokens"] for line in logging.read(run / "metrics.jsonl")]
    return sum(16 * 3 * cost.flops_per_image(config, config.sample_size, each) for each in tokens)


def test_a_run_says_what_it_cost_however_often_it_was_interrupted(shards: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = start(shards, whole)
    found = read(whole)["compute"]
    assert (found["step"], found["images"], found["seconds"]) == (6, 48, pytest.approx(done.seconds, abs=1e-3))
    assert found["flops"] == pytest.approx(flops_of(whole)) and found["flops"] > 1e6
    assert [(d["device"], d["count"], d["watts"]) for d in found["devices"]] == [("cpu", 1, None)]
    assert found["devices"][0]["name"] and found["energy_kwh"] is None and "not known" in found["energy_is"]
    for steps in (3, 5, 6):  # between two lines, too
        start(shards, parts, {"steps": steps})
        assert read(parts)["compute"]["step"] == steps
    again = read(parts)["compute"]
    assert again["flops"] == pytest.approx(found["flops"]) and again["images"] == 48 and len(again["devices"]) == 1
    start(shards, parts)  # nothing is left to do
    assert read(parts)["compute"]["flops"] == again["flops"]


def test_energy_needs_the_power_of_every_device() -> None:
    gpu = {"device": "cuda", "name": "H", "count": 4, "watts": 700.0}
    done: dict[str, Any] = {"step": 1, "images": 8, "flops": 1.0}
    one = provenance.compute([], gpu, seconds=3600.0, **done)
    assert one["energy_kwh"] == pytest.approx(2.8) and "default power limit" in one["energy_is"]
    on = provenance.compute(one["devices"], gpu, seconds=5400.0, **done)
    assert on["energy_kwh"] == pytest.approx(4.2) and len(on["devices"]) == 1
    moved = provenance.compute(on["devices"], {**gpu, "count": 1, "watts": 300.0}, seconds=9000.0, **done)
    assert [d["seconds"] for d in moved["devices"]] == [5400, 3600] and moved["energy_kwh"] == pytest.approx(4.5)
    unknown = provenance.compute(moved["devices"], {**gpu, "watts": None}, seconds=9001.0, **done)
    assert unknown["energy_kwh"] is None and [d["seconds"] for d in unknown["devices"]] == [5400, 3600, 1]


@pytest.mark.parametrize(("says", "watts"), [("700.00", 700.0), ("[N/A]", None), ("", None)])
def test_watts_are_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, watts: float | None
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\n[ "$1" = --id=GPU-u1 ] && echo "{says}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    provenance.board_watts.cache_clear()
    assert provenance.board_watts("u1") == watts and provenance.board_watts("u2") is None
    provenance.board_watts.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert provenance.board_watts("u1") is None


def test_the_code_is_a_version_and_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.code()["version"]
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code()["commit"] is None  # installed without one
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert provenance.code() | {"version": ""} == {"version": "", "commit": commit, "modified": False}
    (tmp_path / "file").write_text("2")
    assert provenance.code()["modified"] is True


def test_a_trainer_without_a_run_writes_none(tmp_path: Path) -> None:
    provenance.save(tmp_path, {"watts": None}, step=0, images=0, seconds=0.0, flops=0.0)
    assert not (tmp_path / "run.json").exists()
    (tmp_path / "run.json").write_bytes(orjson.dumps({"stage": "nano"}))
    import torch

    provenance.save(tmp_path, provenance.devices(World(torch.device("cpu"))), step=1, images=2, seconds=3.0, flops=4.0)
    about = orjson.loads((tmp_path / "run.json").read_bytes())
    assert about["stage"] == "nano" and about["compute"]["flops"] == 4.0
