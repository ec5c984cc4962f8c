"""KID, CMMD, precision and recall against their definitions, and intervals that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from cleanfid import fid as clean_fid

from commonart.core.metrics import fid, kernel_distance


def features(seed: int, n: int = 60, d: int = 8, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_kid_of_one_block_is_clean_fids():
    a, b = features(0, 40), features(1, 40, shift=0.3)
    # A subset of all images is the set itself, in whatever order.
    assert kernel_distance.polynomial_mmd(a, b) == pytest.approx(clean_fid.kernel_distance(a, b, 1, 1000), rel=1e-9)


def test_kid_is_unbiased_and_its_interval_holds_it():
    inside = 0
    values = []
    for seed in range(200):
        value, low, high = kernel_distance.kid(features(2 * seed), features(2 * seed + 1))
        assert low is not None and high is not None
        values.append(value)
        inside += low <= 0 <= high
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert inside >= 160, "five blocks: a little less than the 190 that 95 % would be"
    assert kernel_distance.kid(features(0, 10), features(1, 10))[1:] == (None, None)


def test_cmmd_is_the_papers_formula():
    a, b = features(0, 7, 5), features(1, 9, 5, shift=2)
    kernel = lambda x, y: np.mean([[np.exp(-np.sum((p - q) ** 2) / 200) for q in y] for p in x])  # noqa: E731
    wanted = 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    found = kernel_distance.cmmd(a, b)
    assert found[0] == pytest.approx(wanted) and found == pytest.approx(kernel_distance.cmmd(a, b, block=3))
    assert kernel_distance.cmmd(a, a)[0] == pytest.approx(0, abs=1e-9)
    # The jackknife by its definition: one image left out, of either set.
    one, other = (
        [1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)) for x, y in pairs]
        for pairs in (
            [(np.delete(a, i, axis=0), b) for i in range(7)],
            [(a, np.delete(b, i, axis=0)) for i in range(9)],
        )
    )
    margin = 1.959964 * np.sqrt(6 * np.var(one) + 8 * np.var(other))
    assert found[1:] == pytest.approx((max(0, wanted - margin), wanted + margin))


def test_the_interval_of_cmmd_holds_the_distance_of_the_populations():
    def drawn(seed: int, n: int, shift: float) -> np.ndarray:
        return features(seed, n, 4, shift)

    truth = kernel_distance.cmmd(drawn(1000, 4000, 0.0), drawn(1001, 4000, 3.0))[0]
    inside = 0
    for seed in range(100):
        _, low, high = kernel_distance.cmmd(drawn(2 * seed, 60, 0.0), drawn(2 * seed + 1, 80, 3.0))
        inside += low <= truth <= high
    assert inside >= 88


def test_precision_and_recall_tell_a_set_that_is_too_narrow_from_one_that_is_off():
    real = features(0, 200, 2)
    narrow, off = 0.1 * features(1, 200, 2), features(2, 200, 2, shift=20)
    precision, recall = (values.mean() for values in kernel_distance.precision_recall(narrow, real))
    assert precision == 1 and recall < 0.2
    assert [values.mean() for values in kernel_distance.precision_recall(off, real)] == [0, 0]
    # By the definition, one point at a time.
    radii = [np.sort(np.linalg.norm(real - point, axis=1))[3] for point in real]
    by_hand = [any(np.linalg.norm(point - real, axis=1) <= radii) for point in narrow[:20] + 2]
    assert kernel_distance.precision_recall(narrow[:20] + 2, real)[0].tolist() == [float(value) for value in by_hand]
    with pytest.raises(ValueError, match="more than 3"):
        kernel_distance.precision_recall(real[:3], real)


def test_the_jackknife_of_a_frechet_distance_is_as_wide_as_it_varies():
    reference = fid.fit(features(0, 5000, 4, shift=0.5))
    spread = np.std([fid.frechet(reference, fid.fit(features(seed, 300, 4))) for seed in range(1, 201)])
    widths = []
    for seed in range(1, 61):
        low, high = fid.jackknife(features(seed, 300, 4), reference)
        widths.append((high - low) / 2 / fid.Z)
    assert np.mean(widths) == pytest.approx(spread, rel=0.2)
    rows = features(3, 60, 4)
    low, high = fid.jackknife(rows, reference)
    assert low < fid.frechet(reference, fid.fit(rows)) < high
    assert fid.jackknife(rows[:2], reference) == (0.0, float("inf"))
