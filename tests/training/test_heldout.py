"""The held-out loss while training: its values, that it changes nothing else, and when it warns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import bright, dataset, lines, refused, start, state

from commonart.core.data.features.format import Features, unpack_latent, unpack_text
from commonart.core.data.record import Record, split_of_record
from commonart.core.data.training_index import read_heldout
from commonart.core.errors import UsageError
from commonart.core.model.transformer import PixArt, stack_text
from commonart.core.settings import Settings
from commonart.core.training import heldout

HELDOUT = (3, 4, 14, 15, 16)
MORE: dict[str, Any] = {"steps": 6, "micro_batch": 4, "ema": 0.5}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("heldout") / "shards", heldout=HELDOUT)


def rows(run: Path) -> list[dict[str, Any]]:
    return [line for line in lines(run) if "heldout_loss" in line]


def test_a_row_holds_the_loss_of_the_averaged_weights_on_held_out_images(shards: Path, tmp_path: Path) -> None:
    """Computed once more from the files: the keys, the flow, the means over images and times."""
    done = start(shards, tmp_path / "run", MORE, heldout_every=4)
    assert [row["step"] for row in rows(tmp_path / "run")] == [4, 6]  # and at the end
    index = read_heldout(shards, most=64)
    assert index is not None and list(index.keys) == [f"k{n}" for n in HELDOUT]
    assert done.checkpoint is not None
    model = PixArt.load(done.checkpoint / "ema")
    text, image = (Features.beside(shards, kind) for kind in ("text", "image"))
    assert text is not None and image is not None
    losses = np.zeros((len(HELDOUT), 10))
    order = heldout.order.permute(np.arange(5), 5, heldout.SEED, 0)
    picks = heldout.order.choose(np.ones(10), np.arange(6) * 2, order, heldout.SEED, np.zeros(5, np.int64))
    for n, (row, pick) in enumerate(zip(order, picks, strict=True)):
        name, key = index.path(int(row)).stem, index.keys[row]
        states, _ = unpack_text(text.read(name, text.spans(name)[key]))
        mean = torch.from_numpy(unpack_latent(image.read(name, image.spans(name)[key]))[0]).float()[None]
        states_BLT, mask = stack_text([torch.from_numpy(states[pick - 2 * row])])
        noise_TCHW = heldout._noise(n, (10, *mean.shape[1:]))
        for t in range(10):
            time, noise = (t + 0.5) / 10, noise_TCHW[t][None]
            with torch.no_grad():
                velocity = model((1 - time) * mean + time * noise, torch.tensor([1000 * time]), states_BLT, mask)
            losses[n, t] = (velocity - (noise - mean)).square().mean()
    row = rows(tmp_path / "run")[-1]
    assert row["weights"] == "ema"
    assert row["heldout_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert row["heldout_loss_by_t"] == pytest.approx(losses.mean(0), rel=1e-5)
    assert row["gap"] == pytest.approx(row["training_loss"] - row["heldout_loss"])
    assert row["gap_by_t"] == pytest.approx(
        [a - b for a, b in zip(row["training_loss_by_t"], row["heldout_loss_by_t"], strict=True)]
    )


@pytest.mark.parametrize("objective", ["flow", "eps"])
def test_training_is_the_same_with_and_without(shards: Path, tmp_path: Path, objective: str) -> None:
    more = {**MORE, "objective": objective}
    start(shards, tmp_path / "with", more, heldout_every=2)
    start(shards, tmp_path / "without", more, heldout_every=0)
    assert state(tmp_path / "with") == state(tmp_path / "without")
    assert [line for line in lines(tmp_path / "with") if "loss" in line] == lines(tmp_path / "without")
    assert [row["step"] for row in rows(tmp_path / "with")] == [2, 4, 6] and not rows(tmp_path / "without")


def test_a_stopped_run_goes_on_with_the_same_rows(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "whole", MORE, heldout_every=2)
    start(shards, tmp_path / "parts", {**MORE, "steps": 4}, heldout_every=2)
    start(shards, tmp_path / "parts", MORE, heldout_every=2)
    start(shards, tmp_path / "parts", MORE, heldout_every=2)  # it is over: no second row of step 6
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_two_processes_and_other_seeds_measure_the_same_images(shards: Path, tmp_path: Path) -> None:
    still = {**MORE, "steps": 1, "lr": 1e-30, "weight_decay": 0, "ema": 0}
    one = start(shards, tmp_path / "one", still, heldout_every=1)
    start(shards, tmp_path / "two", still, heldout_every=1, gpus=2)
    weights = str(one.checkpoint / "transformer")  # type: ignore[operator]
    start(shards, tmp_path / "other", {**still, "micro_batch": 1}, heldout_every=1, seed=7, init=weights)
    (first,), (second,), (third,) = (rows(tmp_path / name) for name in ("one", "two", "other"))
    assert first["weights"] == "trained"
    for row in (second, third):
        for name in ("heldout_loss_by_t", "training_loss_by_t", "gap", "gap_error"):
            assert row[name] == pytest.approx(first[name], rel=1e-5)


def test_tensorboard_has_them(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "run", MORE, heldout_every=3)
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    names = {"heldout_loss", "training_loss", "gap", "gap_error", "heldout_loss_by_t/0", "gap_by_t/9"}
    assert names < set(accumulator.Tags()["scalars"])
    assert [event.step for event in accumulator.Scalars("heldout_loss")] == [3, 6]


def test_a_model_that_knows_its_training_images_alone_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def latent(record: Record) -> np.ndarray:
        return -bright(record) if split_of_record(record) == "heldout" else bright(record)

    data = dataset(tmp_path / "shards", latent, HELDOUT)
    start(data, tmp_path / "run", {"steps": 60, "lr": 0.03, "ema": 0.5}, heldout_every=20)
    told = [line for line in capsys.readouterr().err.splitlines() if "by heart" in line]
    assert len(told) == 1 and "below that of held-out ones" in told[0]  # once
    assert rows(tmp_path / "run")[-1]["gap"] < -1
    start(dataset(tmp_path / "same", heldout=HELDOUT), tmp_path / "other", {"steps": 60, "lr": 0.03}, heldout_every=20)
    assert "by heart" not in capsys.readouterr().err


def test_data_without_held_out_records_are_trained_on_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(dataset(tmp_path / "shards"), tmp_path / "run", heldout_every=2, quiet=False)
    assert "warning: no held-out loss is measured:" in capsys.readouterr().err
    assert not rows(tmp_path / "run") and len(lines(tmp_path / "run")) == 3


def test_what_the_policy_refuses_is_not_measured_either(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shards", heldout=HELDOUT, more={4: {"license": "CC-BY-NC-4.0"}})
    index = read_heldout(data)
    assert index is not None and list(index.keys) == ["k3", "k14", "k15", "k16"]
    few = read_heldout(data, most=2)
    assert few is not None and list(few.keys) == ["k3", "k14"]


def test_a_captioner_has_none() -> None:
    captioner = Settings("captioner", heldout_every=5)
    refused(UsageError, 2, "--heldout-every 5 does not apply to stage captioner", "Leave it out", captioner.check)
    Settings("captioner").check()
