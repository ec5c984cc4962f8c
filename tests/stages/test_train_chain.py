"""The paper's four stages at toy size, each from the one before: its optimizers, batches, rates and objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from tiny_runs import FACTOR, SIDE, dataset, dry_run, train

from commonart.core import recipes
from commonart.core.data.record import Record
from commonart.core.model.transformer import PixArt
from commonart.core.training import checkpoint

STAGES = ("256-early", "256-mid", "256-late", "512")
TOY = {"layers": 1, "heads": 2, "head_dim": 16, "steps": 2, "warmup": 1, "micro_batch": 64}


def large(record: Record) -> np.ndarray:
    values = np.random.default_rng(sum(record["key"].encode())).normal(2, 0.3, (4, 2 * SIDE, 2 * SIDE))
    return values.astype(np.float32)


def test_each_stage_starts_from_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import PixArtTransformer2DModel

    monkeypatch.chdir(tmp_path)
    small, big = dataset(tmp_path / "small"), dataset(tmp_path / "big", large)
    before: dict[str, torch.Tensor] = {}
    for stage in STAGES:
        data, side = (big, 2 * SIDE) if stage == "512" else (small, SIDE)
        overrides: dict[str, Any] = {**TOY, "resolution": side * FACTOR}
        settings: dict[str, Any] = {"data": str(data), "overrides": overrides, "device": "cpu", "precision": "fp32"}
        told = dry_run(stage, **settings)
        assert told["init"] == (f"newest checkpoint of runs/{recipes.RECIPES[stage].init_from}" if before else "none")
        done = train(stage, **settings, quiet=True)
        recipe = recipes.RECIPES[stage]
        assert (done.step, done.images) == (2, 2 * recipe.batch)
        about = orjson.loads((tmp_path / "runs" / stage / "run.json").read_bytes())
        assert about["init"] == ({"from": f"runs/{recipe.init_from}", "step": 2} if before else {"from": "nothing"})
        assert (about["recipe"]["optimizer"], about["recipe"]["lr"]) == (recipe.optimizer, 2e-5)
        found = checkpoint.newest(tmp_path / "runs" / stage)
        assert found is not None
        model = PixArt.load(found.weights)
        assert model.config.interpolation_scale == (1.0 if stage == "512" else 0.5)
        assert model.config.sample_size == side
        if before:  # two steps at 2e-5 are near what they started from, and no weight changed its shape
            moved = {name: (value - before[name]).abs().max().item() for name, value in model.state_dict().items()}
            assert 0 < max(moved.values()) < 1e-3
        before = model.state_dict()
    theirs: Any = PixArtTransformer2DModel.from_pretrained(found.weights)
    torch.manual_seed(0)
    latents, text = torch.randn(2, 4, 2 * SIDE, 2 * SIDE), torch.randn(2, 5, model.config.caption_channels)
    timestep = torch.tensor([3.0, 700.0])
    with torch.no_grad():
        theirs_said = theirs(latents, encoder_hidden_states=text, timestep=timestep).sample
        torch.testing.assert_close(model(latents, timestep, text), theirs_said, atol=1e-5, rtol=0)


def test_a_calibrated_estimate_says_that_it_was_measured(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shards")
    settings: dict[str, Any] = {"data": str(data), "device": "cpu", "precision": "fp32"}
    told = dry_run("256-early", calibrate=0.01, overrides={**TOY, "resolution": SIDE * FACTOR}, **settings)
    assert isinstance(told["hours"], float) and "measured on this device" in told["hours_are"]
    assert not Path("runs/256-early").exists()
