"""core.audit.extraction: one image again and again is a clique; different ones are none."""

from __future__ import annotations

import numpy as np
import pytest

from commonart.core.audit import extraction


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 64, 64, 3))


def test_distance_is_that_of_the_worst_tile():
    one = np.zeros((64, 64, 3))
    other = one.copy()
    other[:16, 16:32] = 0.5  # one of 16 tiles: over the whole image the difference is a quarter of that
    assert extraction.distances(np.stack([one, other])) == pytest.approx(np.array([[0, 0.5], [0.5, 0]]))
    some = images(5)
    brute = np.array([
        [
            max(
                np.sqrt(np.mean((a[y : y + 16, x : x + 16] - b[y : y + 16, x : x + 16]) ** 2))
                for y in range(0, 64, 16)
                for x in range(0, 64, 16)
            )
            for b in some
        ]
        for a in some
    ])  # fmt: skip
    np.testing.assert_allclose(extraction.distances(some), brute, atol=1e-6)


def test_a_clique_is_found_among_others():
    memory = images(1, seed=1)[0]
    noise = np.random.default_rng(2).normal(0, 0.05, (6, 64, 64, 3))
    mixed = np.concatenate([images(5), memory + noise, images(5, seed=3)])
    assert extraction.largest_clique(mixed, 6) == [5, 6, 7, 8, 9, 10]
    assert extraction.largest_clique(mixed, 7) == []
    assert extraction.largest_clique(images(20), 2) == []


def test_a_chain_is_no_clique():
    """Each is near the next, and the ends are far apart."""
    chain = np.stack([np.full((64, 64, 3), value) for value in np.linspace(0, 0.9, 10)])
    assert len(extraction.largest_clique(chain, 2)) == 2
    assert extraction.largest_clique(chain, 3) == []


def test_five_hundred_equal_images_take_no_age():
    assert len(extraction.largest_clique(np.zeros((500, 64, 64, 3)), 10)) == 500


def test_an_image_that_came_back_is_named_however_uncertain_the_rate():
    """Three named images stood below "too few to tell"."""
    told = {counts: extraction.concluded(*counts)["verdict"] for counts in [
        ((3, 4), (0, 4)), ((0, 4), (0, 4)), ((3, 4), (1, 4)), ((1, 60), (0, 60)), ((1, 60), (1, 60)), ((9, 60), (0, 60)),
    ]}  # fmt: skip
    assert list(told.values()) == [
        "extracted, rate uncertain", "too few to tell", "too few to tell", "extracted, rate uncertain", "nothing extracted",
        "extracted",
    ]  # fmt: skip
