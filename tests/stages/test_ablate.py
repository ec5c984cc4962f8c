"""`commonart ablate`: trials of a grid, resumed and shared out, and their table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import Command
from tiny_runs import TINY, dataset, lines, refused, state

from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, Preempted, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.recipes import resolve
from commonart.core.settings import Settings
from commonart.core.training import ablation, ablation_table, cost
from commonart.core.training.ablation import Arm, Grid
from commonart.core.training.run import read
from commonart.stages import ablate as stage
from commonart.stages import train as train_stage

ALONE = Task(0, 1)
SHARED = {name: value for name, value in TINY.items() if name != "steps"}
ARMS = (Arm("slow", {**SHARED, "lr": 1e-5}), Arm("fast lr", {**SHARED, "lr": 3e-2}))
GRID = Grid("nano", ARMS, (0, 1), 0.0, 30, 0, "none")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("ablate") / "shards", heldout=(3, 4, 14, 15))


def settings(data: Path) -> Settings:
    return Settings("nano", data=str(data), device="cpu", precision="fp32", quiet=True)


def written(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((out / "ablation.json").read_bytes())
    return found


def test_the_better_recipe_has_the_lower_held_out_loss(shards: Path, tmp_path: Path) -> None:
    done = stage.run(GRID, str(tmp_path), settings(shards), ALONE)
    assert (done.read, done.written, done.finished_before) == (4, 4, 0)
    result = written(tmp_path)
    slow, fast = result["arms"]
    assert (slow["arm"], slow["seeds"], slow["steps"]) == ("slow", [0, 1], 30)
    assert fast["scores"]["heldout_loss"]["high"] < slow["scores"]["heldout_loss"]["low"]
    trial = fast["trials"][1]
    row = [line for line in lines(tmp_path / "fast-lr" / "seed-1") if "heldout_loss" in line][-1]
    assert (trial["seed"], row["step"], trial["heldout_loss"]) == (1, 30, row["heldout_loss"])
    assert trial["curve"][-1] == [trial["seconds"], trial["heldout_loss"]] and trial["seconds"] > 0
    assert fast["scores"]["gap"]["mean"] == pytest.approx(
        sum(each["training_loss"] - each["heldout_loss"] for each in fast["trials"]) / 2
    )
    text = ablation_table.table(stage.result(GRID, str(tmp_path))).splitlines()
    assert text[0].split("  ")[0] == "arm" and text[2].startswith("fast lr  2 of 2  30") and " ± " in text[2]
    markdown = (tmp_path / "ablation.md").read_text()
    assert "| fast lr | 2 of 2 | 30 |" in markdown and "30 steps a trial" in markdown
    assert (tmp_path / "ablation.svg").read_text().count("fast lr") == 1


def test_a_trial_is_the_run_that_train_makes(shards: Path, tmp_path: Path) -> None:
    stage.run(Grid("nano", ARMS[1:], (1,), 0.0, 6, 0, "none"), str(tmp_path / "out"), settings(shards), ALONE)
    train_stage.run(
        Settings("nano", data=str(shards), out=str(tmp_path / "run"), overrides={**ARMS[1].overrides, "steps": 6}, seed=1,
                 device="cpu", precision="fp32", quiet=True, log_every=1)
    )  # fmt: skip
    assert state(tmp_path / "out" / "fast-lr" / "seed-1") == state(tmp_path / "run")


def test_finished_trials_are_kept_and_an_interrupted_one_goes_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(GRID, str(tmp_path / "whole"), settings(shards), ALONE)
    real, started = train_stage.run, 0

    def preempted(own: Settings) -> Any:
        nonlocal started
        started += 1
        if started == 2:
            raise Preempted("a signal came.", "Start the same command again.")
        return real(own)

    with monkeypatch.context() as patch, pytest.raises(Preempted) as told:
        patch.setattr(train_stage, "run", preempted)
        stage.run(GRID, str(tmp_path / "parts"), settings(shards), ALONE)
    summary = told.value.summary
    assert (summary.read, summary.written, summary.dropped) == (4, 1, {})
    table = ablation_table.table(stage.result(GRID, str(tmp_path / "parts"))).splitlines()
    assert "1 of 2" in table[1] and "0 of 2" in table[2]
    before = (tmp_path / "parts" / "slow" / "seed-0" / "trial.json").read_bytes()
    done = stage.run(GRID, str(tmp_path / "parts"), settings(shards), ALONE)
    assert (done.read, done.written, done.finished_before) == (4, 4, 1)
    assert (tmp_path / "parts" / "slow" / "seed-0" / "trial.json").read_bytes() == before
    whole, parts = (
        [[arm["scores"], [t["heldout_loss"] for t in arm["trials"]]] for arm in written(tmp_path / name)["arms"]]
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_tasks_of_an_array_share_the_trials(shards: Path, tmp_path: Path) -> None:
    first = stage.run(GRID, str(tmp_path), settings(shards), Task(0, 2))
    assert first.read == 2 and written(tmp_path)["arms"][1]["seeds"] == []
    second = stage.run(GRID, str(tmp_path), settings(shards), Task(1, 2))
    assert second.read == 2 and [arm["seeds"] for arm in written(tmp_path)["arms"]] == [[0, 1], [0, 1]]


def test_seconds_become_steps_that_every_seed_takes(shards: Path, tmp_path: Path) -> None:
    grid = Grid("nano", ARMS[:1], (0, 1), 2.0, 0, 0, "none")
    stage.run(grid, str(tmp_path), settings(shards), ALONE)
    kept = orjson.loads((tmp_path / "slow" / "steps.json").read_bytes())
    assert kept["of"]["seconds"] == 2 and kept["steps"] > 10
    (row,) = written(tmp_path)["arms"]
    assert [trial["steps"] for trial in row["trials"]] == [kept["steps"]] * 2
    assert 0.3 < row["seconds"] < 12  # of a busy machine, too
    assert sorted(path.name for path in (tmp_path / "slow").iterdir()) == ["seed-0", "seed-1", "steps.json"]
    longer = Grid("nano", ARMS[:1], (0, 1), 3.0, 0, 0, "none")
    refused(
        CommonArtError, 1, "holds a trial with seconds 2.0, and the grid says 3.0", "Name another -o",
        lambda: stage.run(longer, str(tmp_path), settings(shards), ALONE),
    )  # fmt: skip


def test_a_probe_says_how_many_steps_fit(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its faster steps; and where tokens skip blocks until the last tenth of a run, that tenth is slower."""
    fields = {**SHARED, "layers": 4, "batch": 8, "tread": 0.5, "tread_before": 1, "tread_after": 1}
    train_stage.run(replace(settings(shards), out=str(tmp_path), overrides={**fields, "steps": 1}))
    rates = (None, 50.0, 10.0, 40.0, 20.0, 30.0)
    found = [{"step": n, "images_per_second": rate, "tokens": 3.0} for n, rate in enumerate(rates)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in found))
    plain, routed = (resolve("nano", {**fields, "tread": share}) for share in (0.0, 0.5))
    assert ablation.steps_in(100, tmp_path, plain) == 100 * 40 // 8
    assert not caplog.records
    config = PixArtConfig.from_dict(
        {name: value for name, value in read(tmp_path)["transformer"].items() if name != "parameters"}
    )
    start, end = (cost.forward_flops(config, routed, config.sample_size, 3.0, part) for part in (True, False))
    assert ablation.steps_in(100, tmp_path, routed) == int(500 * start / (0.9 * start + 0.1 * end)) < 500
    assert ablation.steps_in(100, tmp_path, resolve("nano", {**fields, "tread_off": 1})) == 500  # never routed


def test_steps_of_another_recipe_are_not_taken_over(shards: Path, tmp_path: Path) -> None:
    """As where an arm is mended after its probe, and before anything of it was trained."""
    one, other = (Grid("nano", (Arm("slow", {**SHARED, "lr": lr}),), (0,), 1.0, 0, 0, "none") for lr in (1e-5, 1e-4))
    stage.run(one, str(tmp_path), settings(shards), ALONE)
    (tmp_path / "slow" / "seed-0" / "trial.json").unlink()
    refused(
        CommonArtError, 1, "steps.json was measured with lr 1e-05, and the grid says 0.0001", "Name another -o, or remove",
        lambda: stage.run(other, str(tmp_path), settings(shards), ALONE),
    )  # fmt: skip
    (tmp_path / "slow" / "steps.json").write_text('{"steps": 3, "seconds": 1.0}')
    refused(
        CommonArtError, 1, "steps.json is damaged", "remove", lambda: stage.run(one, str(tmp_path), settings(shards), ALONE)
    )  # fmt: skip


def test_an_arm_may_be_renamed_as_long_as_it_has_the_same_folder(shards: Path, tmp_path: Path) -> None:
    grid = Grid("nano", ARMS[1:], (0,), 0.0, 4, 0, "none")
    stage.run(grid, str(tmp_path), settings(shards), ALONE)
    renamed = Grid("nano", (Arm("fast-lr", ARMS[1].overrides),), (0,), 0.0, 4, 0, "none")
    stage.run(renamed, str(tmp_path), settings(shards), ALONE)
    (row,) = written(tmp_path)["arms"]
    assert (row["arm"], row["seeds"], row["trials"][0]["arm"]) == ("fast-lr", [0], "fast-lr")


def test_another_grid_in_the_same_folder_is_refused_and_a_larger_one_goes_on(shards: Path, tmp_path: Path) -> None:
    small = Grid("nano", ARMS[:1], (0,), 0.0, 4, 0, "none")
    stage.run(small, str(tmp_path), settings(shards), ALONE)
    other = Grid("nano", (Arm("slow", {**SHARED, "lr": 1e-4}),), (0,), 0.0, 4, 0, "none")
    refused(
        CommonArtError, 1, "holds a trial with lr 1e-05, and the grid says 0.0001", "another name",
        lambda: stage.run(other, str(tmp_path), settings(shards), ALONE),
    )  # fmt: skip
    larger = Grid("nano", ARMS, (0, 1), 0.0, 4, 0, "none")
    assert stage.run(larger, str(tmp_path), settings(shards), ALONE).finished_before == 1


def test_trials_in_several_precisions_are_warned_of(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Grid("nano", ARMS[:1], (0, 1), 0.0, 2, 0, "none")
    stage.run(replace(grid, seeds=(0,)), str(tmp_path), settings(shards), ALONE)
    stage.run(grid, str(tmp_path), replace(settings(shards), precision="bf16"), ALONE)
    assert "not all trials were trained in the same precision" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", [None, 2])
def test_a_trial_that_diverges_is_counted_and_the_others_go_on(shards: Path, tmp_path: Path, gpus: int | None) -> None:
    arms = (Arm("wild", {**SHARED, "lr": 1e30, "warmup": 0}), ARMS[1])
    grid = Grid("nano", arms, (0,), 0.0, 20, 0, "none")
    done = stage.run(grid, str(tmp_path), replace(settings(shards), gpus=gpus), ALONE)
    assert (done.read, done.written, done.dropped) == (2, 1, {"diverged": 1})
    wild, fine = written(tmp_path)["arms"]
    assert "not finite" in wild["failed"]["0"] and wild["scores"] == {} and fine["seeds"] == [0]
    assert "0 of 1, 1 failed" in ablation_table.table(stage.result(grid, str(tmp_path)))
    again = stage.run(grid, str(tmp_path), settings(shards), ALONE)
    assert (again.read, again.written, again.dropped, again.finished_before) == (2, 1, {"diverged": 1}, 2)


def test_an_arm_whose_probe_diverges_is_counted_and_the_others_go_on(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = (Arm("wild", {**SHARED, "lr": 1e30, "warmup": 0}), ARMS[1])
    grid = Grid("nano", arms, (0, 1), 1.0, 0, 0, "none")
    done = stage.run(grid, str(tmp_path), settings(shards), ALONE)
    assert (done.read, done.written, done.dropped) == (4, 2, {"diverged": 2})
    wild, fine = written(tmp_path)["arms"]
    assert "not finite" in wild["failed"]["1"] and wild["scores"] == {} and fine["seeds"] == [0, 1]
    kept = orjson.loads((tmp_path / "wild" / "steps.json").read_bytes())
    assert kept["steps"] == 0 and kept["diverged"] == wild["failed"]["0"]  # probed once
    err = capsys.readouterr().err
    assert err.count("wild, seed") == 2 and "not all trials" not in err
    again = stage.run(grid, str(tmp_path), settings(shards), ALONE)
    assert (again.written, again.dropped, again.finished_before) == (2, {"diverged": 2}, 4)
    assert "0 of 2, 2 failed" in ablation_table.table(stage.result(grid, str(tmp_path)))


def test_processes_that_were_started_together_are_refused(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(
        UsageError, 2, "started as several processes", "--array",
        lambda: stage.run(GRID, str(tmp_path), settings(shards), ALONE),
    )  # fmt: skip


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "benchmarks").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_grids_that_the_recipes_rest_on_can_be_read(path: Path) -> None:
    grid = ablation.read_grid(path)
    assert len(grid.seeds) >= 3 and grid.arms[0].name == grid.recipe
    for arm in grid.arms:
        ablation.recipe_of(grid, arm, 1000)


def test_the_interval_is_students() -> None:
    mean, low, high = ablation_table.interval([1.0, 2.0, 4.0])
    # t(0.975, 2) = 4.302653, standard deviation 1.527525
    assert mean == pytest.approx(7 / 3) and high - mean == pytest.approx(4.302653 * 1.527525 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    assert math.isnan(ablation_table.interval([1.0])[1])


def test_the_command_prints_the_table_at_any_time(shards: Path, tmp_path: Path, in_process: Command) -> None:
    fields = ", ".join(f"{name} = {orjson.dumps(value).decode()}" for name, value in SHARED.items())
    text = f'recipe = "nano"\nsteps = 4\nseeds = 2\nscenes = 0\nset = {{ {fields} }}\n[[arm]]\nname = "a"\n'
    (tmp_path / "grid.toml").write_text(text + '[[arm]]\nname = "b"\nset = { lr = 1e-2 }\n')
    empty = in_process("ablate", "grid.toml", "--table")
    assert empty.returncode == 0 and b"0 of 2" in empty.stdout and not empty.stderr
    done = in_process("ablate", "grid.toml", "--data", str(shards), "-o", "out", "--device", "cpu", "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert [arm["seeds"] for arm in orjson.loads(done.stdout)["arms"]] == [[0, 1], [0, 1]]
    assert orjson.loads(done.stderr.splitlines()[-1])["out"] == 4
    assert in_process("ablate", "grid.toml", "-o", "out", "--table").stdout.count(b"2 of 2") == 2


RIGHT = 'recipe = "nano"\nseconds = 5\n'
ARM = '[[arm]]\nname = "a"\n'
WRONG = {
    "seconds = 5\n" + ARM: "recipe = '' is not a training stage",
    'recipe = "nanoo"\nseconds = 5\n' + ARM: "Did you mean nano",
    'recipe = ["nano"]\nseconds = 5\n' + ARM: "recipe = ['nano'] is not a training stage",
    'recipe = "captioner"\nseconds = 5\n' + ARM: "trains a captioner",
    'recipe = "nano"\n' + ARM: "must have one budget",
    RIGHT + "steps = 5\n" + ARM: "must have one budget",
    RIGHT: "names no arms",
    RIGHT + "seed = 3\n" + ARM: "Did you mean seeds",
    RIGHT + "seeds = [1, 1]\n" + ARM: "seeds must be different",
    RIGHT + "seeds = 0\n" + ARM: "seeds must be different",
    RIGHT + "scenes = 1.5\n" + ARM: "scenes = 1.5 is not",
    RIGHT + 'images = 1\nclip = "nano"\n' + ARM: "images = 1 is too few",
    RIGHT + "images = 3\n" + ARM: "images and clip go together",
    RIGHT + 'clip = "nano"\n' + ARM: "images and clip go together",
    RIGHT + 'images = 3\nclip = ["nano"]\n' + ARM: "images and clip go together",
    RIGHT + "[[arm]]\nset = {}\n": "arm 1 has no name",
    RIGHT + ARM + ARM: "two arms are named a",
    RIGHT + ARM + "set = { lrr = 1 }\n": "Did you mean lr",
    RIGHT + ARM + "set = { lr = -1 }\n": "arm a: lr=-1.0: lr must be above 0",
    RIGHT + ARM + 'set = { lr = "x" }\n': "arm a: lr=x",
    RIGHT + ARM + "set = { steps = 3 }\n": "steps is the budget",
    RIGHT + ARM + "sett = {}\n": "Did you mean set",
    RIGHT + ARM + "set = 3\n": "set is not a table",
    RIGHT + ARM + "set = { repa = 0.5, repa_block = 1 }\n": "arm a: repa aligns the transformer with a vision encoder",
    "recipe = nano\n": "is not TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_grid_that_cannot_be_meant_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as told:
        ablation.read_grid(path)
    assert WRONG[text] in str(told.value) and str(path) in told.value.what
