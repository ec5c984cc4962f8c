"""The ROC curve against its definition, by brute force over every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonart.core.metrics import roc

# Few distinct values make many ties, where curves usually go wrong.
scores = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 3.0]) | st.floats(-5, 5), min_size=1, max_size=30)


def brute_tpr_at(members, others, limit):
    best = 0.0
    for threshold in [*members, *others, np.inf]:
        if np.mean([s >= threshold for s in others]) <= limit + 1e-12:
            best = max(best, float(np.mean([s >= threshold for s in members])))
    return best


@given(scores, scores)
@settings(max_examples=200, deadline=None)
def test_area_is_the_probability_that_a_member_scores_higher(members, others):
    wins = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert roc.auc(roc.curve(members, others)) == pytest.approx(np.mean(wins))


@given(scores, scores, st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 1.0]))
@settings(max_examples=200, deadline=None)
def test_tpr_at_a_limit_is_the_best_threshold_under_it(members, others, limit):
    assert roc.tpr_at(roc.curve(members, others), limit) == pytest.approx(brute_tpr_at(members, others, limit))


@given(scores, scores)
@settings(max_examples=200, deadline=None)
def test_accuracy_is_the_best_of_all_thresholds(members, others):
    thresholds = [*members, *others, np.inf]
    best = max((np.mean(np.array(members) >= t) + np.mean(np.array(others) < t)) / 2 for t in thresholds)
    assert roc.best_accuracy(roc.curve(members, others)) == pytest.approx(best)


@given(scores, scores)
@settings(max_examples=100, deadline=None)
def test_curve_rises_from_corner_to_corner(members, others):
    found = roc.curve(members, others)
    assert (found.fpr[0], found.tpr[0], found.fpr[-1], found.tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(found.fpr) >= 0).all() and (np.diff(found.tpr) >= 0).all()
    assert (np.diff(found.thresholds) < 0).all()


@given(scores, scores)
@settings(max_examples=100, deadline=None)
def test_swapping_the_groups_mirrors_the_area(members, others):
    there = roc.auc(roc.curve(members, others))
    back = roc.auc(roc.curve(others, members))
    assert there + back == pytest.approx(1)


def test_all_scores_equal_is_chance():
    found = roc.curve(np.ones(50), np.ones(70))
    assert roc.summary(found) == {"auc": 0.5, "accuracy": 0.5, "tpr@1%fpr": 0.0, "tpr@0.1%fpr": 0.0}


def test_a_perfect_attack():
    assert roc.summary(roc.curve(np.arange(10, 20), np.arange(10))) == {
        "auc": 1.0,
        "accuracy": 1.0,
        "tpr@1%fpr": 1.0,
        "tpr@0.1%fpr": 1.0,
    }


def test_one_percent_of_a_hundred_is_one_false_positive():
    others = np.arange(100.0)
    members = np.array([99.5, 98.5, 97.5, 0.0])  # above all, above all but one, above all but two
    assert roc.tpr_at(roc.curve(members, others), 0.01) == 0.5
    assert roc.tpr_at(roc.curve(members, others), 0.001) == 0.25


def test_intervals_hold_the_value():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 200), rng.normal(0, 1, 150)
    found = roc.report(members, others)
    for name in ("auc", "accuracy", "tpr@1%fpr"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert found["tpr@0.1%fpr"] is None, "150 non-members carry no rate of 0.1 %"
    assert found["auc"]["low"] > 0.5 and found["auc"]["high"] - found["auc"]["low"] < 0.15
    assert (found["members"], found["others"], found["smallest_fpr"]) == (200, 150, 1 / 151)


@pytest.mark.parametrize(("others", "rank"), [(98, None), (99, 1), (198, 1), (199, 2), (999, 10)])
def test_a_limit_needs_so_many_non_members(others, rank):
    """The threshold is the rank-th largest score: above it a new non-member lies with a probability of rank / (N + 1)."""
    scores = np.arange(float(others))
    assert roc.carried_threshold(scores, 0.01) == (None if rank is None else others - rank)


def test_the_false_positive_rate_on_new_images_is_the_limit():
    """The best threshold of 16 non-members has an FPR of 5.9 % on new ones; that of 99 for 1 % has 1 %."""
    rng = np.random.default_rng(0)
    exceeded = [(rng.normal(size=50) > roc.carried_threshold(rng.normal(size=99), 0.01)).mean() for _ in range(4000)]
    assert np.mean(exceeded) == pytest.approx(0.01, abs=0.001)


SHAPES = {  # members, others, the area: P(member > other)
    "nothing": (lambda rng, n: rng.normal(size=n), 0.5),
    "shifted": (lambda rng, n: rng.normal(1, size=n), 0.7602),
    "nearly all": (lambda rng, n: rng.normal(2.5, size=n), 0.9615),
    "wider": (lambda rng, n: 3 * rng.normal(size=n), 0.5),
    "a few": (lambda rng, n: np.where(rng.random(n) < 0.05, 10.0, rng.normal(size=n)), 0.525),
}


@pytest.mark.parametrize("sizes", [(60, 16), (12, 6), (16, 60)])
@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_of_the_area_cover_the_truth_as_often_as_they_say(sizes, shape):
    rng = np.random.default_rng(2)
    draw, truth = SHAPES[shape]
    found = [roc.auc_interval(draw(rng, sizes[0]), rng.normal(size=sizes[1])) for _ in range(400)]
    covered = sum(low <= truth <= high for low, high in found)
    assert covered >= 367  # 95 % of 400 is 380; P(fewer than 367) is below 0.3 %


@pytest.mark.parametrize("sizes", [(60, 16), (200, 120), (500, 500)])
def test_intervals_of_the_other_rates_cover_the_truth(sizes):
    rng = np.random.default_rng(3)
    accuracy, rate, told = 0, 0, 0
    for _ in range(300):
        found = roc.report(rng.normal(1, size=sizes[0]), rng.normal(size=sizes[1]))
        accuracy += found["accuracy"]["low"] <= 0.69146 <= found["accuracy"]["high"]  # the best of two normals 1 apart
        if found["tpr@1%fpr"]:
            told += 1
            rate += found["tpr@1%fpr"]["low"] <= 0.092361 <= found["tpr@1%fpr"]["high"]  # P(N(1, 1) > 2.3263)
    assert accuracy >= 285 and rate >= 0.95 * told and told == (300 if sizes[1] >= 99 else 0)


def test_bootstrap_of_a_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = roc.bootstrap(values, lambda v: float(np.mean(v)), seed=0, resamples=300)
    assert low < 3 < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.25)


@pytest.mark.parametrize("bad", [[], [float("nan")]])
def test_nothing_and_nan_are_refused(bad):
    with pytest.raises(ValueError):
        roc.curve(np.array(bad), np.array([1.0]))
    with pytest.raises(ValueError):
        roc.report(np.array([1.0]), np.array(bad))
