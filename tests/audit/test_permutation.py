"""The p-values: uniform where nothing is to be found, whatever the number of tests; small where something is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from commonart.core.audit import blind, set_test, thresholds
from commonart.core.audit.logistic import cross_fitted, fit
from commonart.core.audit.permutation import Family, areas, deal
from commonart.core.metrics import roc


def test_areas_are_those_of_the_roc_curve():
    rng = np.random.default_rng(0)
    labels, scores = deal(12, 7, 5, seed=1), rng.integers(0, 6, 19).astype(float)
    assert labels[:, 0].tolist() == [True] * 12 + [False] * 7 and (labels.sum(axis=0) == 12).all()
    expected = [roc.auc(roc.curve(scores[column], scores[~column])) for column in labels.T]
    np.testing.assert_allclose(areas(scores, labels), expected)
    np.testing.assert_allclose(areas(np.repeat(scores[:, None], 6, axis=1), labels), expected)


def test_without_a_leak_any_of_many_attacks_is_significant_as_often_as_the_level_says():
    """Four attacks with uncorrected intervals said "leaks" in 13 % of such audits; at a level of 5 % it has to be 5 %."""
    rng = np.random.default_rng(0)
    smallest = []
    for trial in range(400):
        common = rng.normal(size=76)  # attacks of one model are alike
        labels = deal(60, 16, 199, seed=trial)
        tests = {name: areas(common + rng.normal(size=76), labels) for name in "abcdef"}
        smallest.append(min(Family(tests).p_values().values()))
    assert np.mean(np.array(smallest) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert stats.kstest(smallest, "uniform").pvalue > 0.01


def test_an_area_far_below_one_half_is_found_too():
    rng = np.random.default_rng(1)
    labels = deal(60, 60, 499, seed=0)
    nothing, hidden = rng.normal(size=120), rng.normal(size=120)
    hidden[:60] -= 1
    found = Family({"nothing": areas(nothing, labels), "hidden": areas(hidden, labels)}).p_values()
    assert found["hidden"] == 1 / 500 and found["nothing"] > 0.05
    one_sided = Family({"hidden": areas(hidden, labels)}, frozenset({"hidden"})).p_values()
    assert one_sided["hidden"] > 0.95, "a learnt score knows its direction"


def test_the_smallest_leak_that_is_reported_would_have_been_found():
    """Four times in five, as it says."""
    rng = np.random.default_rng(2)
    least = Family({"a": areas(rng.normal(size=160), deal(80, 80, 999, seed=0))}).smallest(level=0.05)["a"]
    shift = stats.norm.ppf(least) * 2**0.5
    found = 0
    for trial in range(150):
        scores = np.r_[rng.normal(shift, size=80), rng.normal(size=80)]
        found += Family({"a": areas(scores, deal(80, 80, 199, seed=trial))}).p_values()["a"] <= 0.05
    assert found / 150 == pytest.approx(0.8, abs=0.1)


def test_the_fit_is_the_minimum_of_the_penalised_likelihood():
    from scipy.optimize import minimize

    from commonart.core.audit import logistic

    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 3))
    y = x[:, 0] + rng.normal(size=50) > 0
    penalty = np.array([logistic.RIDGE] * 3 + [1e-3])

    def objective(w):
        z = x @ w[:3] + w[3]
        return np.logaddexp(0, z).sum() - z[y].sum() + (penalty * w**2).sum() / 2

    expected = minimize(objective, np.zeros(4)).x
    found = fit(x, np.stack([y, ~y], axis=1))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], -expected, atol=1e-4)


def test_no_image_is_scored_by_a_model_that_saw_its_label():
    """With more features than images a model knows every label that it saw; the cross-fitted scores are chance."""
    rng = np.random.default_rng(4)
    features, labels = rng.normal(size=(60, 80)), deal(30, 30, 0, seed=0)
    fitted = features @ fit(features, labels)[:-1]
    assert areas(fitted, labels)[0] > 0.99
    scores = [areas(cross_fitted(rng.normal(size=(60, 80)), labels, seed=k), labels)[0] for k in range(20)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.07)
    features[:30] += 1
    assert areas(cross_fitted(features, labels, seed=0), labels)[0] > 0.9


def test_the_blind_judge_knows_groups_that_differ_and_no_others():
    rng = np.random.default_rng(5)
    labels = deal(60, 40, 499, seed=0)

    def judged(shift=0.0, bytes_more=0.0):
        single = {"file_bytes": rng.normal(1000, 50, 100), "caption_length": rng.normal(40, 5, 100)}
        single["file_bytes"][:60] += bytes_more
        features = rng.normal(size=(100, 32))
        features[:60, :4] += shift
        return blind.report(single, features, labels, seed=0)

    nothing, pictures, files = judged(), judged(shift=1.0), judged(bytes_more=60)
    assert not nothing["groups_differ"] and nothing["p_value"] > 0.01
    assert pictures["groups_differ"] and pictures["auc"]["low"] > 0.6
    assert files["groups_differ"] and files["single"]["file_bytes"]["p_value"] < 0.01


def test_the_p_value_of_a_set_is_uniform_without_a_leak_and_small_with_one():
    def p_value(seed, leak):
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=(140, 4))
        scores[:70] += leak
        labels = deal(70, 70, 199, seed)
        return set_test.report(cross_fitted(scores, labels, seed=seed), labels)["p_value"]

    assert stats.kstest([p_value(seed, 0.0) for seed in range(150)], "uniform").pvalue > 0.01
    assert [p_value(seed, 0.5) for seed in range(3)] == [1 / 200] * 3, "no single image of them stands out"
    labels = deal(69, 100, 199, 0)
    assert set_test.report(np.zeros((169, 200)), labels) is None, "below CDI's smallest set"


def test_welch_is_scipy_s():
    rng = np.random.default_rng(6)
    labels = deal(20, 30, 2, seed=0)
    scores = rng.normal(size=(50, 3))
    expected = [
        stats.ttest_ind(s[side], s[~side], equal_var=False).statistic
        for s, side in zip(scores.T, labels.T, strict=True)
    ]
    np.testing.assert_allclose(set_test.welch(scores, labels), expected)


def test_a_threshold_that_is_carried_over_keeps_its_false_positive_rate():
    rng = np.random.default_rng(7)
    found = [
        thresholds.carried_over(rng.normal(2, size=100), rng.normal(size=240), seed=k, splits=40) for k in range(40)
    ]
    assert found[0]["0.1%"] is None and found[0]["splits"] == 40, "120 images carry 1 %, not 0.1 %"
    assert np.mean([f["1%"]["fpr"]["mean"] for f in found]) == pytest.approx(1 / 121, abs=0.003)
    assert np.mean([f["10%"]["fpr"]["mean"] for f in found]) == pytest.approx(12 / 121, abs=0.01)
    assert np.mean([f["10%"]["tpr"]["mean"] for f in found]) == pytest.approx(0.766, abs=0.03)  # P(N(2, 1) > 1.28)
    assert thresholds.carried_over(rng.normal(size=9), rng.normal(size=4), seed=0, splits=3)["10%"] is None
