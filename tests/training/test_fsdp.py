"""Training cut over processes: the steps of one process, from and to the checkpoints of any mode, in a part of the memory."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from tiny_runs import TINY, dataset, dry_run, lines, refused, settings_of, start, state, train

from commonart.core import launch
from commonart.core.errors import UsageError
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import resolve
from commonart.core.settings import Settings
from commonart.core.training import checkpoint, distributed, trainer
from commonart.core.training import fsdp as fsdp2
from commonart.core.training.dry_run import made_up
from commonart.stages import train as stage

STEPS = 6
RUNS = {  # (steps, cut over the processes?) of each call
    "cut": [(STEPS, True)],
    "cut, then whole": [(3, True), (STEPS, False)],
    "whole, then cut": [(3, False), (STEPS, True)],
    "routed and aligned": [(3, True), (STEPS, False)],
}
SWITCHED: dict[str, Any] = {"tread": 0.5, "tread_before": 0, "tread_off": 0, "sra": 1.0, "sra_block": 1}
MORE: dict[str, Any] = {"layers": 2, "head_dim": 32, "micro_batch": 2}
LAST = f"checkpoints/step-{STEPS:07d}"


def trained(data: Path, home: Path) -> None:
    """What each of the two processes runs: all of it in one world, for a process cannot make a second."""
    both = distributed.join("cpu")
    cut, leave = dataclasses.replace(both, fsdp=True), distributed.World.shutdown
    distributed.World.shutdown = lambda self: None  # type: ignore[method-assign]
    distributed.join = lambda device, fsdp: cut if fsdp else both  # type: ignore[assignment]
    for name, calls in RUNS.items():
        for steps, fsdp in calls:
            again = {"fsdp": fsdp, "checkpointing": name == "whole, then cut", "log_every": 1}
            more = {**MORE, **(SWITCHED if name == "routed and aligned" else {}), "steps": steps}
            stage.run(settings_of(data, home / name, more, **again))

    found = checkpoint.newest(home / "cut, then whole")
    assert found is not None
    held = {}
    for name, one in {"again whole": both, "again cut": cut}.items():
        model = PixArt.load(found.transformer)
        source, recipe = made_up(model.config, 8, 3), resolve("nano", {**TINY, **MORE})
        made = trainer.Trainer(model, source, recipe, Settings("nano", out=str(home / name)), one)
        made.restore(found)
        made.save()
        states = [value for entries in made.optimizer.state.values() for value in entries.values()]
        parts = [fsdp2.local_shard(each) for each in (*made.params, *made.ema.state_dict().values(), *states)]  # type: ignore[union-attr]
        held[name] = sum(part.nbytes for part in parts)
        with made.averaged() as mean:
            if one.is_main:
                mean.save(home / name / "drawn with")
    (home / f"held-{both.rank}.json").write_bytes(orjson.dumps(held))
    leave(both)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("fsdp")
    data = dataset(home / "shards")
    start(data, home / "one", {**MORE, "steps": STEPS}, log_every=1)
    start(data, home / "one, routed and aligned", {**MORE, **SWITCHED, "steps": STEPS}, log_every=1)
    launch.spawn([sys.executable, __file__, str(data), str(home)], 2)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_it_computes_the_steps_of_one_process(runs: Path, name: str) -> None:
    alone = "one, routed and aligned" if name == "routed and aligned" else "one"
    one, two = lines(runs / alone), lines(runs / name)
    assert [line["step"] for line in two] == list(range(1, STEPS + 1))
    for value in ("loss", "grad_norm"):
        np.testing.assert_allclose([line[value] for line in two], [line[value] for line in one], rtol=1e-5)
    for which in ("transformer", "ema"):
        a, b = (PixArt.load(runs / run / LAST / which).state_dict() for run in (alone, name))
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_checkpoint_goes_through_it_bit_for_bit(runs: Path) -> None:
    before = state(runs / "cut, then whole")
    for name in ("again whole", "again cut"):
        assert state(runs / name) == before
        drawn, mean = (
            PixArt.load(folder).state_dict() for folder in (runs / name / "drawn with", runs / name / LAST / "ema")
        )
        assert drawn.keys() == mean.keys() and all(torch.equal(drawn[key], mean[key]) for key in mean)


@pytest.mark.slow
def test_each_process_holds_its_part(runs: Path) -> None:
    for rank in range(2):
        held = orjson.loads((runs / f"held-{rank}.json").read_bytes())
        assert 0.45 < held["again cut"] / held["again whole"] < 0.55


@pytest.mark.parametrize("optimizer", ["CAME", "AdamW8bit"])
def test_states_that_cannot_be_cut(tmp_path: Path, optimizer: str) -> None:
    wanted: dict[str, Any] = {"data": str(tmp_path), "fsdp": True, "overrides": {"optimizer": optimizer}}
    refused(UsageError, 2, f"cannot cut the state of {optimizer}", "optimizer=AdamW", lambda: train("nano", **wanted))


def test_a_plan_counts_the_parts() -> None:
    wanted: dict[str, Any] = {"data": "nowhere/", "gpus": 8, "overrides": {"optimizer": "AdamW"}}
    whole, cut = (dry_run("512", fsdp=fsdp, **wanted)["memory_bytes_per_device"] for fsdp in (False, True))
    assert cut["weights"] * 8 == pytest.approx(whole["weights"]) and cut["activations"] == whole["activations"]


if __name__ == "__main__":
    trained(Path(sys.argv[1]), Path(sys.argv[2]))
