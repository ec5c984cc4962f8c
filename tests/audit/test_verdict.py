"""What is said of which scores: leaks, no leak found with the smallest that would have been, or groups that differ."""

from __future__ import annotations

import numpy as np
import pytest

from commonart.core.audit import verdict
from commonart.core.audit.permutation import deal

M, N = 120, 100
LABELS = deal(M, N, 299, seed=0)
ALIKE, UNLIKE = {"groups_differ": False, "p_value": 0.6}, {"groups_differ": True, "p_value": 0.002}


def noise(seed: int, shift: float = 0.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=M + N)
    scores[:M] += shift
    return scores


def test_a_leak_is_named_with_the_attack_that_found_it():
    found = verdict.judge({"loss": noise(0, 1.5), "pia": noise(1)}, None, ALIKE, LABELS, seed=0)
    assert found["verdict"] == "leaks" and found["reason"].startswith("told apart by loss (p 0.003), combined")
    assert found["attacks"]["loss"]["verdict"] == "leaks" and found["attacks"]["pia"]["verdict"] == "no leak found"
    assert found["combined"]["auc"]["low"] > 0.7 and found["set_test"]["in_training_set"]
    assert found["attacks"]["loss"]["tpr@1%fpr"]["value"] > 0.02 and found["attacks"]["loss"]["tpr@0.1%fpr"] is None
    assert found["attacks"]["loss"]["carried_over"]["10%"]["fpr"]["mean"] < 0.15


def test_an_area_far_below_one_half_is_a_finding():
    """CLiD at 0.315 was called "no leak found"."""
    found = verdict.judge({"clid": noise(0, -0.7)}, None, ALIKE, LABELS, seed=0)
    assert found["attacks"]["clid"]["auc"]["value"] < 0.35 and found["verdict"] == "leaks"


def test_where_nothing_is_found_the_smallest_leak_that_would_have_been_is_said():
    found = verdict.judge({"loss": noise(2), "pia": noise(3)}, None, ALIKE, LABELS, seed=0)
    assert found["verdict"] == "no leak found"
    least = min(row["smallest_auc_found"] for row in [*found["attacks"].values(), found["combined"]])
    assert 0.6 < least < 0.7 and f"an AUC of {least:.3f} would have been found" in found["reason"]


def test_groups_that_anybody_can_tell_apart_say_nothing_about_the_model():
    found = verdict.judge({"loss": noise(0, 1.5)}, None, UNLIKE, LABELS, seed=0)
    assert found["verdict"] == found["attacks"]["loss"]["verdict"] == "groups differ"
    assert "never saw the model tells the groups apart (p 0.002)" in found["reason"]


def test_with_a_reference_the_difference_counts():
    """Hard images hide a leak; the same difficulty on the reference falls out."""
    difficulty, leak = 5 * noise(4), noise(5, 1.0)
    alone = verdict.judge({"loss": difficulty + leak}, None, ALIKE, LABELS, seed=0)
    assert alone["verdict"] == "no leak found" and alone["reference_p_value"] is None
    found = verdict.judge({"loss": difficulty + leak}, {"loss": difficulty}, ALIKE, LABELS, seed=0)
    assert found["verdict"] == "leaks" and found["attacks"]["loss"]["auc"]["low"] > 0.6
    assert found["attacks"]["loss"]["target"]["auc"]["value"] < 0.65
    assert found["attacks"]["loss"]["reference"]["auc"]["low"] < 0.5


def test_a_reference_that_tells_the_groups_apart_is_no_leak():
    biased = noise(6, 1.0)
    found = verdict.judge({"loss": biased + 0.1 * noise(7)}, {"loss": biased}, ALIKE, LABELS, seed=0)
    assert found["verdict"] == "groups differ" and "the reference model" in found["reason"]
    assert found["reference_p_value"] < 0.01


def test_so_few_images_that_no_leak_could_be_found():
    labels = deal(4, 4, 299, seed=0)
    scores = np.r_[np.arange(4.0) + 10, np.arange(4.0)]
    found = verdict.judge({"loss": scores}, None, ALIKE, labels, seed=0)
    assert found["verdict"] == "no leak found" and "so few images would show no leak at all" in found["reason"]


def test_complexity_explains_the_loss_of_busy_images():
    rng = np.random.default_rng(8)
    size = rng.uniform(1000, 9000, M + N)
    loss = 3 * np.log1p(size) + 0.1 * noise(9, 1.0)
    left = verdict.unexplained(-loss, size)
    assert abs(np.corrcoef(left, np.log1p(size))[0, 1]) < 1e-6
    measures = {"loss": np.stack([loss, loss], axis=1), "null": np.stack([loss, loss], axis=1)}
    flow = verdict.scores_of(["loss", "clid"], measures, size, flow=True)
    np.testing.assert_allclose(flow["complexity"], left)
    assert list(verdict.scores_of(["loss"], measures, size, flow=False)) == ["loss"]
    assert list(verdict.scores_of(["clid"], measures, size, flow=True)) == ["clid"]
    assert verdict.unexplained(noise(0), np.full(M + N, 7.0)) == pytest.approx(noise(0) - noise(0).mean())


def test_the_curve_shows_where_along_t_the_model_leaks():
    losses = np.stack([-noise(0), -noise(1, 2.0), -noise(2)], axis=1)
    rows = verdict.curve({"loss": losses, "null": np.zeros_like(losses)}, [166, 500, 833], M)
    assert [row["t"] for row in rows] == [166, 500, 833]
    assert rows[1]["loss"]["low"] > 0.8 and rows[1]["clid"] == rows[1]["loss"]
    assert all(row["loss"]["low"] < 0.5 < row["loss"]["high"] for row in (rows[0], rows[2]))
