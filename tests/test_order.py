"""The order of samples: a permutation in every epoch, and the same however the work is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonart.core.data import order


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 10**6))
def test_every_epoch_takes_every_sample_once(count: int, seed: int, epoch: int) -> None:
    places = order.permute(np.arange(count), count, seed, epoch)
    assert np.array_equal(np.sort(places), np.arange(count))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), step=st.integers(0, 10**7), count=st.integers(1, 5000),
    share=st.integers(1, 16), world=st.sampled_from([1, 2, 4, 8]),
)  # fmt: skip
def test_any_number_of_devices_takes_the_same_batch(seed: int, step: int, count: int, share: int, world: int) -> None:
    batch = share * world
    rows, epochs = order.batch_rows(seed, step, batch, count)
    parts = [order.batch_rows(seed, step, batch, count, rank * share, share) for rank in range(world)]
    assert np.array_equal(rows, np.concatenate([part[0] for part in parts]))
    assert np.array_equal(epochs, np.concatenate([part[1] for part in parts]))


def test_batches_run_through_the_ends_of_epochs_and_leave_nothing_out() -> None:
    taken = [order.batch_rows(3, step, 8, 13) for step in range(13)]
    rows, epochs = (np.concatenate(part) for part in zip(*taken, strict=True))
    assert list(np.unique(epochs)) == list(range(8))
    for epoch in range(8):
        assert sorted(rows[epochs == epoch]) == list(range(13))


def test_epochs_and_seeds_differ_and_places_are_spread() -> None:
    first, second, other = (order.permute(np.arange(10_000), 10_000, *name) for name in ((0, 0), (0, 1), (1, 0)))
    assert (first == second).mean() < 0.01 and (first == other).mean() < 0.01
    assert abs(np.corrcoef(first, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05


def test_one_place_of_a_set_that_no_memory_holds() -> None:
    count = 10**12
    places = order.permute(np.array([0, 1, count - 1]), count, 5, 2)
    assert len(set(places.tolist())) == 3 and (places >= 0).all() and (places < count).all()


def test_the_order_stays_what_it_was() -> None:
    """A run that was started with an older version goes on in the same order: these numbers never change."""
    assert order.batch_rows(7, 3, 6, 10)[0].tolist() == [3, 4, 6, 9, 0, 1]


def test_captions_are_chosen_by_weight() -> None:
    weights, offsets = np.array([1.0, 3.0, 1.0]), np.array([0, 2, 3])
    rows = np.zeros(20_000, dtype=np.int64)
    picks = order.choose(weights, offsets, rows, 0, np.arange(20_000))
    assert (picks == 1).mean() == pytest.approx(0.75, abs=0.01)
    assert set(order.choose(weights, offsets, rows + 1, 0, np.arange(20_000))) == {2}


def test_uniform_numbers_are_uniform() -> None:
    draws = order.uniform(1, np.arange(100_000))
    assert draws.min() >= 0 and draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.005) and draws.std() == pytest.approx(12**-0.5, abs=0.005)


def test_no_samples_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        order.permute(np.arange(1), 0, 0, 0)
