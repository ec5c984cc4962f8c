"""core.audit.replication: copies are found, and likeness that the training set has anyway is not counted."""

from __future__ import annotations

import numpy as np
import pytest

from commonart.core.audit import replication


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def training() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(1500, 32)))


def test_copies_stand_out_from_the_background(training):
    found = replication.compare(training[[3, 1200]], training, [3, 7])
    assert found.nearest.tolist() == [3, 1200]
    assert found.similarity == pytest.approx([1, 1])
    assert found.to_source == pytest.approx([1, training[1200] @ training[7]])
    summary = found.report(seed=0)
    assert summary["above_background"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert (summary["drawn"], summary["training_pictures"]) == (2, 1500)
    assert summary["background"]["p50"] < summary["limit"] < summary["background"]["max"] < 1


def test_the_background_is_each_picture_against_the_others(training):
    """In parts of 1,024 rows, and never against itself."""
    everything = training @ training.T
    np.fill_diagonal(everything, -1)
    found = replication.compare(training[:1], training, [0])
    np.testing.assert_allclose(found.baseline, everything.max(axis=1))


def test_new_pictures_of_the_same_kind_are_not_counted(training):
    drawn = unit(np.random.default_rng(1).normal(size=(400, 32)))
    summary = replication.compare(drawn, training, [0] * 400).report(seed=0)
    assert summary["above_background"]["value"] == pytest.approx(0.05, abs=0.03)
