"""The recipe table is the paper's where the paper says something, and every value can be overridden and is checked."""

from __future__ import annotations

import pytest

from commonart.core import recipes
from commonart.core.errors import UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.training import cost


def test_the_stages_are_the_papers() -> None:
    """CommonArt beta, doi 10.51094/jxiv.936: optimizer, global batch, learning rate; the chain from 256 to 512."""
    rows = [recipes.RECIPES[name] for name in ("256-early", "256-mid", "256-late", "512")]
    assert [row.optimizer for row in rows] == ["CAME", "AdamW8bit", "AdamW8bit", "AdamW8bit"]
    assert [row.batch for row in rows] == [64, 1024, 256, 128]
    assert [row.init_from for row in rows] == ["", "256-early", "256-mid", "256-late"]
    assert [(row.resolution, row.interpolation) for row in rows] == [(256, 0.5)] * 3 + [(512, 1.0)]
    assert {(row.lr, row.epsilon, row.objective, row.max_grad_norm, row.caption_dropout) for row in rows} == {
        (2e-5, 1e-8, "eps", 0.01, 0.1)
    }
    assert {(row.layers, row.width, row.warmup) for row in rows} == {(28, 1152, 1000)}
    assert sum(row.steps for row in rows) == 2_000_000


def test_the_fast_stages_fit_into_300_hours_of_an_h100() -> None:
    """At 40 % of its bf16 rate, with two captions of 120 tokens for each of 25 million images read once by a 7 B encoder."""
    seconds = 25e6 * 2 * 120 * 2 * 6.6e9 / (cost.RATES["H100"] * cost.REACHED)
    for name in ("fast-256", "fast-512"):
        recipe = recipes.RECIPES[name]
        config = PixArtConfig(sample_size=recipe.resolution // 8, interpolation_scale=recipe.interpolation)
        sizes = cost.Sizes(recipe.resolution // 8, 120)
        account = cost.account(config, recipe, sizes, world_size=1, micro_batch=recipe.micro_batch)
        seconds += account["hours"]["H100"] * 3600
        assert account["parameters"] == 610_856_096 and recipe.objective == "flow"
    assert 250 < seconds / 3600 < 300
    assert recipes.RECIPES["fast-512"].init_from == "fast-256"


def test_overrides_are_read_as_typed_text() -> None:
    recipe = recipes.resolve("512", {"lr": "1e-4", "steps": "2e3", "optimizer": "AdamW", "ema": 0})
    assert (recipe.lr, recipe.steps, recipe.optimizer, recipe.ema) == (1e-4, 2000, "AdamW", 0.0)
    assert recipes.RECIPES["512"].lr == 2e-5


@pytest.mark.parametrize(
    ("stage", "overrides", "says"),
    [
        ("513", {}, "--stage 513 is not a training stage"),
        ("512", {"lrr": 1}, "no setting 'lrr'"),
        ("512", {"name": "x"}, "no setting 'name'"),
        ("512", {"lr": "fast"}, "'fast' is not a number"),
        ("512", {"steps": "1.5"}, "'1.5' is not a whole number"),
        ("512", {"steps": "inf"}, "'inf' is not a whole number"),
        ("512", {"lr": -1}, "lr must be above 0"),
        ("512", {"lr": "nan"}, "lr must be above 0"),
        ("512", {"batch": 0}, "batch must be at least 1"),
        ("512", {"ema": 1}, "ema must be at least 0 and below 1"),
        ("512", {"caption_dropout": 2}, "caption_dropout must be between 0 and 1"),
        ("512", {"optimizer": "SGD"}, "optimizer must be one of CAME"),
        ("512", {"objective": "v"}, "objective must be one of eps, flow"),
        ("512", {"heads": 1, "head_dim": 6}, "multiple of 4"),
    ],
)
def test_a_wrong_value_is_named(stage: str, overrides: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipes.resolve(stage, overrides)
    assert says in caught.value.what and caught.value.fix and caught.value.code == 2


@pytest.mark.parametrize(
    ("stage", "world", "expected"),
    [
        ("256-early", 1, (32, 2)), ("256-early", 2, (32, 1)), ("256-early", 64, (1, 1)), ("256-mid", 8, (32, 4)),
        ("256-late", 32, (8, 1)), ("512", 1, (8, 16)), ("512", 32, (4, 1)), ("nano", 1, (128, 1)),
    ],
)  # fmt: skip
def test_accumulation_keeps_the_global_batch(stage: str, world: int, expected: tuple[int, int]) -> None:
    recipe = recipes.resolve(stage)
    micro_batch, parts = recipes.accumulation(recipe, world)
    assert (micro_batch, parts) == expected and micro_batch * parts * world == recipe.batch


def test_a_number_of_gpus_that_does_not_divide_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--gpus 3 .* 128 of stage 512\. Use 2 or 4 GPUs"):
        recipes.accumulation(recipes.resolve("512"), 3)
    with pytest.raises(UsageError, match=r"Use 128 GPUs.*batch=200"):
        recipes.accumulation(recipes.resolve("512"), 200)


def test_the_rate_warms_up_stays_and_cools_down() -> None:
    recipe = recipes.resolve("nano", {"lr": 1.0, "warmup": 10, "cooldown": 0.2, "steps": 100})
    rates = [recipes.learning_rate(recipe, step / 100, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[50] == 1.0
    assert rates[90] == pytest.approx(0.5) and rates[100] == 0.0
    assert recipes.learning_rate(recipes.resolve("512"), 0.999, 499_999) == 2e-5


def test_the_table_has_a_row_per_stage() -> None:
    lines = recipes.table().splitlines()
    assert [line.split()[0] for line in lines] == ["name", *recipes.STAGES]
    assert len({len(line.split()) for line in lines}) == 1
