"""What `commonart ablate` scores its trials by: scenes, and images of held-out captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import tiny_clip
from commands import Command
from tiny_runs import TINY, dataset, refused

from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics.scores import encoders_of
from commonart.core.settings import Settings
from commonart.core.training import ablation, ablation_table
from commonart.core.training.ablation import Arm, Grid
from commonart.stages import ablate as stage
from commonart.stages import evaluate
from commonart.stages import train as train_stage

ALONE = Task(0, 1)
SMALL = {"layers": 1, "heads": 1, "head_dim": 16, "batch": 8, "micro_batch": 8, "patch": 4, "resolution": 64}
GRID = Grid("nano", (Arm("tiny", SMALL),), (0,), 0.0, 2, 0, "none")


@pytest.fixture
def scenes(tmp_path: Path, in_process: Command) -> Path:
    """Shards of 60 scenes with captions in both languages."""
    assert in_process("fetch", "scenes", "--limit", "60", "-o", "raw").returncode == 0
    assert in_process("shard", "raw", "-o", "shards", "--size", "64").returncode == 0
    return tmp_path / "shards"


def settings(data: Path) -> Settings:
    return Settings("nano", data=str(data), device="cpu", precision="fp32", quiet=True, skip_unlicensed=True)


def scores(out: Path) -> dict[str, Any]:
    (row,) = orjson.loads((out / "ablation.json").read_bytes())["arms"]
    return dict(row["scores"])


@pytest.mark.parametrize("recipe", ["nano", "fast-256"])
def test_runs_of_the_nano_models_are_scored_by_what_their_images_show(
    scenes: Path, tmp_path: Path, in_process: Command, recipe: str
) -> None:
    if recipe == "fast-256":  # which names other encoders: those of the cached features count
        assert in_process("encode-text", "shards", "--model", "nano").returncode == 0
        assert in_process("encode-image", "shards", "--model", "nano").returncode == 0
    grid, out = replace(GRID, recipe=recipe, scenes=2), tmp_path / "out"
    stage.run(grid, str(out), settings(scenes), ALONE)
    names = {f"{fact}_{lang}" for fact in ("color", "shape", "background", "place") for lang in ("en", "ja")}
    assert names <= set(scores(out)) and all(0 <= scores(out)[name]["mean"] <= 1 for name in names)
    assert len(list((out / "tiny" / "seed-0" / "pictures").rglob("*.png"))) == 8
    text = ablation_table.table(stage.result(grid, str(out)))
    assert "color en" in text and "shape ja" in text and " %" in text


def test_runs_of_other_models_are_not(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "shards", heldout=(3, 4, 14, 15))
    fields = {name: value for name, value in TINY.items() if name != "steps"}
    stage.run(replace(GRID, arms=(Arm("tiny", fields),), scenes=2), str(tmp_path / "out"), settings(shards), ALONE)
    assert set(scores(tmp_path / "out")) == {"heldout_loss", "training_loss", "gap"}


def test_images_of_held_out_captions_are_scored_as_eval_does(scenes: Path, tmp_path: Path) -> None:
    grid, out = replace(GRID, images=3, clip="nano"), tmp_path / "out"
    stage.run(grid, str(out), settings(scenes), ALONE)
    found, run = scores(out), out / "tiny" / "seed-0"
    assert "color_en" not in found and 0 <= found["clip_en"]["mean"] <= 100
    again = evaluate.run(
        model=str(run), reference=str(scenes), split="heldout", n=3, seed=0, out=None, pictures=str(run / "pictures"),
        device="cpu", quiet=True,
    )["scores"]  # fmt: skip
    names = {"CLIP": "clip", "FD-nano-clip": "fd"}
    expected = {
        f"{names[score['metric']]}_{score['lang']}": score["value"] for score in again if score["metric"] in names
    }
    assert set(expected) == {"clip_en", "clip_ja", "fd_en", "fd_ja"}
    assert expected == {name: found[name]["mean"] for name in expected}
    text = ablation_table.table(stage.result(grid, str(out)))
    assert "CLIP en" in text and "FD ja" in text
    assert "CLIP score and Fréchet distance of 3 images by nano" in (out / "ablation.md").read_text()


def test_an_encoder_of_one_language_takes_nothing_from_the_scenes(scenes: Path, tmp_path: Path) -> None:
    judge = str(tiny_clip.open_clip_folder(tmp_path / "judge"))
    stage.run(replace(GRID, scenes=1, images=2, clip=judge), str(tmp_path / "out"), settings(scenes), ALONE)
    assert {"color_en", "color_ja", "clip_en", "fd_en"} <= set(scores(tmp_path / "out"))
    assert "clip_ja" not in scores(tmp_path / "out")


def test_a_trial_is_scored_anew_without_training(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, first = tmp_path / "out", tmp_path / "out" / "tiny" / "seed-0"
    stage.run(GRID, str(out), settings(scenes), ALONE)
    before = ablation.read_trial(first)
    grid = replace(GRID, images=2, clip="nano")
    assert "0 of 1" in ablation_table.table(stage.result(grid, str(out)))
    monkeypatch.setattr("commonart.core.training.criterion.DiffusionLoss.__call__", None)
    assert stage.run(grid, str(out), settings(scenes), ALONE).written == 1
    after = ablation.read_trial(first)
    assert before is not None and after is not None and after.following.keys() >= {"clip_en", "fd_ja"}
    assert (before.heldout_loss, before.steps) == (after.heldout_loss, after.steps)
    assert stage.run(grid, str(out), settings(scenes), ALONE).finished_before == 1


def test_a_trial_of_before_there_were_images_is_finished(scenes: Path, tmp_path: Path) -> None:
    stage.run(GRID, str(tmp_path / "out"), settings(scenes), ALONE)
    path = tmp_path / "out" / "tiny" / "seed-0" / ablation.TRIAL
    values = orjson.loads(path.read_bytes())
    path.write_bytes(orjson.dumps({name: value for name, value in values.items() if name not in ("images", "clip")}))
    assert stage.run(GRID, str(tmp_path / "out"), settings(scenes), ALONE).finished_before == 1


def test_what_cannot_be_scored_is_said_before_anything_is_trained(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stage, "run", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = str(tmp_path / "out")
    for clip, kind, what in (
        ("clop", UsageError, "clip = clop is not"),
        ("nano, clop", UsageError, "clip = clop is not"),
        (",nano", UsageError, 'clip = ",nano" lacks a name'),
        ("nano,", UsageError, 'clip = "nano," lacks a name'),
        ("clip-vit-b32", CommonArtError, "timm/vit_base_patch32_clip_224.openai"),
    ):
        with pytest.raises(kind) as told:
            stage.run(replace(GRID, images=2, clip=clip), out, settings(scenes), ALONE)
        assert what in str(told.value)
    grid, few = replace(GRID, images=500, clip="nano"), "and the grid asks for images = 500"
    refused(CommonArtError, 1, few, "Write images = ", lambda: stage.run(grid, out, settings(scenes), ALONE))


def test_a_mean_of_fewer_seeds_than_its_row_says_so(scenes: Path, tmp_path: Path) -> None:
    grid, out = replace(GRID, seeds=(0, 1), images=2, clip="nano"), tmp_path / "out"
    stage.run(grid, str(out), settings(scenes), ALONE)
    path = out / "tiny" / "seed-1" / ablation.TRIAL
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "following": {}}))
    line = ablation_table.table(stage.result(grid, str(out))).splitlines()[1]
    assert "2 of 2" in line and line.count("(of 1)") == 4


def test_the_encoder_of_each_language() -> None:
    assert encoders_of("nano") == {"en": "nano", "ja": "nano"}
    assert encoders_of("clip-vit-b32") == {"en": "clip-vit-b32"}
    both = {"en": "clip-vit-b32", "ja": "clip-japanese-base"}
    assert encoders_of("clip-vit-b32, clip-japanese-base") == both
