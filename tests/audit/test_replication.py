"""core.audit.replication: copies are found, and likeness that the training set has anyway is not counted."""

from __future__ import annotations

import numpy as np
import pytest

from commonart.core.audit import neighbours, replication


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def near(rows: np.ndarray, cosine: float, seed: int = 5) -> np.ndarray:
    """Unit vectors at exactly this cosine from unit rows."""
    other = np.random.default_rng(seed).normal(size=rows.shape)
    other = unit(other - (other * rows).sum(1, keepdims=True) * rows)
    return cosine * rows + np.sqrt(1 - cosine**2) * other


@pytest.fixture
def training() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(1500, 32)))


def test_copies_stand_out_from_the_background(training):
    found = replication.compare(training[[3, 1200]], training, [3, 7])
    assert found.nearest.tolist() == [3, 1200]
    assert found.similarity == pytest.approx([1, 1])
    assert found.to_source == pytest.approx([1, training[1200] @ training[7]])
    summary = found.report()
    # Two of two is no certainty: Clopper and Pearson's interval starts at 0.025 ** (1 / 2).
    assert summary["above_background"] == pytest.approx({"value": 1.0, "low": 0.025**0.5, "high": 1.0})
    assert (summary["generated"], summary["training_images"], summary["copies"]) == (2, 1500, 2)
    assert summary["background"]["p50"] < summary["limit"] < summary["background"]["max"] < 1
    assert summary["background"]["with_twins"] == 0 and summary["background"]["images"] == 1500


def test_the_background_is_each_picture_against_the_others(training):
    """In parts of 1,024 rows, and never against itself."""
    everything = training @ training.T
    np.fill_diagonal(everything, -1)
    found = replication.compare(training[:1], training, [0])
    np.testing.assert_allclose(found.baseline, everything.max(axis=1))


def test_new_pictures_of_the_same_kind_are_not_counted(training):
    drawn = unit(np.random.default_rng(1).normal(size=(400, 32)))
    summary = replication.compare(drawn, training, [0] * 400).report()
    assert summary["above_background"]["value"] == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("twins", [0, 75, 300])
@pytest.mark.parametrize("cosine", [1.0, 0.9988])
def test_twins_in_the_training_set_hide_no_copy(training, twins, cosine):
    """None of 50 copies of cosine 0.9988 was found once 5 % of the training set had twins: the limit was then 1.0."""
    doubled = np.concatenate([training, near(training[:twins], cosine, seed=2)])
    copies = near(doubled[-50:], 0.9988)  # where there are twins, copies of a twin
    sources = list(range(twins - 50, twins)) if twins else list(range(1450, 1500))
    summary = (found := replication.compare(copies, doubled, sources)).report()
    assert summary["copies"] == 50 and summary["above_background"]["value"] == 1.0
    assert summary["background"]["with_twins"] == 2 * twins and summary["limit"] < 0.8
    assert found.to_source.min() > 0.99, "a copy of a picture's twin is a copy of that picture"
    new = unit(np.random.default_rng(1).normal(size=(400, 32)))
    share = replication.compare(new, doubled, [0] * 400).report()["above_background"]["value"]
    assert share == pytest.approx(0.05, abs=0.03), "and the limit is no lower for the twins"


def test_the_control_are_pictures_from_captions_that_the_model_never_saw(training):
    rng = np.random.default_rng(3)
    heldout, new, other = (unit(rng.normal(size=(n, 32))) for n in (200, 50, 200))
    nothing = replication.compare(new, training, range(50), (other, heldout)).report()
    assert nothing["verdict"] == "no near copies found" and nothing["control"]["generated"] == 200
    assert nothing["control"]["above_background"]["value"] == pytest.approx(0.05, abs=0.04)
    mixed = replication.compare(
        np.concatenate([new[:30], near(training[:20], 0.9)]), training, range(50), (other, heldout)
    ).report()
    assert mixed["verdict"] == "near copies" and mixed["p_value"] < 1e-4 and mixed["copies"] >= 20
    # A model that follows every caption closely, seen or not, copies nothing.
    follows = replication.compare(near(training[:50], 0.9), training, range(50), (near(heldout, 0.9), heldout)).report()
    assert follows["copies"] == 50 and follows["p_value"] == 1.0 and follows["verdict"] == "no near copies found"


def test_a_set_of_nothing_but_doubles_still_has_a_limit():
    rows = unit(np.random.default_rng(0).normal(size=(20, 8)))
    found = replication.compare(rows[:4], np.repeat(rows, 2, axis=0), [0, 2, 4, 6])
    assert found.twins == 40 and found.report()["copies"] == 4


def test_the_background_of_a_large_set_is_that_of_a_part(monkeypatch, training):
    monkeypatch.setattr(replication, "BACKGROUND", 300)
    part, whole = (replication.compare(training[:9], training, range(9), seed=seed).report() for seed in (1, 1))
    assert part == whole and part["background"]["images"] == 300 and part["training_images"] == 1500


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_equal_brute_force(monkeypatch, dtype):
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "BASE", 11)
    base = unit(np.random.default_rng(0).normal(size=(50, 6))).astype(dtype)
    whole = base @ base.T
    similarity, rows = neighbours.nearest(base, base)
    assert rows.tolist() == list(range(50)) and similarity == pytest.approx(np.ones(50), abs=1e-6)
    np.fill_diagonal(whole, -np.inf)
    similarity, rows = neighbours.nearest(base, base, np.arange(50))
    assert np.array_equal(rows, whole.argmax(axis=1)) and similarity == pytest.approx(whole.max(axis=1), abs=1e-6)
    below = np.where(whole < 0.5, whole, -np.inf)
    similarity, rows = neighbours.nearest(base, base, np.arange(50), below=0.5)
    assert np.array_equal(rows, below.argmax(axis=1)) and similarity.max() < 0.5
    assert neighbours.nearest(base, base, below=-2.0)[1].tolist() == [-1] * 50


def test_too_few_pictures_are_no_acquittal():
    few = replication.tested((3, 3), (0, 3), "copies", "none")
    assert few == {"p_value": pytest.approx(0.05), "verdict": "too few to tell", "smallest_share_found": None}
    assert replication.tested((5, 5), (0, 5), "copies", "none") == {
        "p_value": pytest.approx(1 / 252),
        "verdict": "copies",
        "smallest_share_found": 1.0,
    }
    assert replication.tested((2, 5), (0, 5), "copies", "none")["verdict"] == "none"


@pytest.mark.parametrize(("outside", "least"), [((0, 12), 6), ((0, 40), 7), ((16, 40), 28), ((12, 12), None)])
def test_the_smallest_share_that_would_be_a_finding(outside, least):
    """0 of 12 against 0 of 12: nobody said how many would have been one."""
    of = outside[1]
    found = replication.tested((0, of), outside, "copies", "none")["smallest_share_found"]
    assert found is None if least is None else found == least / of
    if least is not None:
        assert replication.tested((least, of), outside, "copies", "none")["verdict"] == "copies"
        assert replication.tested((least - 1, of), outside, "copies", "none")["verdict"] == "none"
