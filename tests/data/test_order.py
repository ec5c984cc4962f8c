"""The order of samples: a permutation in every epoch, and the same however the work is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonart.core.data import order


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 10**6))
def test_every_epoch_takes_every_sample_once(count: int, seed: int, epoch: int) -> None:
    places = order.permute(np.arange(count), count, seed, epoch)
    assert np.array_equal(np.sort(places), np.arange(count))


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


@given(
    seed=st.integers(0, 2**31), first=st.integers(0, 10**9), size=st.integers(1, 300),
    rates=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=40), cut=st.integers(0, 300),
)  # fmt: skip
def test_turns_are_the_same_however_they_are_asked_for(
    seed: int, first: int, size: int, rates: list[float], cut: int
) -> None:
    cut = min(cut, size)
    who, nth = order.turns(seed, rates, first, size)
    parts = [order.turns(seed, rates, first, cut), order.turns(seed, rates, first + cut, size - cut)]
    assert np.array_equal(who, np.concatenate([part[0] for part in parts]))
    assert np.array_equal(nth, np.concatenate([part[1] for part in parts]))


def test_turns_follow_the_rates_and_leave_none_out() -> None:
    rates = np.array([1, 10, 300, 0.5])
    who, nth = order.turns(3, list(rates), 0, 20_000)
    for one, share in enumerate(rates / rates.sum()):
        assert np.array_equal(nth[who == one], np.arange((who == one).sum()))  # its first turn, its second, ...
        taken = np.cumsum(who == one)
        assert np.abs(taken - share * np.arange(1, 20_001)).max() < len(rates) + 1
    assert not np.array_equal(who, order.turns(4, list(rates), 0, 20_000)[0])


def buckets() -> list[list[order.SampleGroup]]:
    """Rows 0..99 in three buckets of 7, 30 and 63, the last of two data sets of 13 and 50, which one weighs double."""
    rows = np.split(np.random.default_rng(0).permutation(100), [7, 37, 50])
    return [[order.SampleGroup(7, 1.0, rows[0])], [order.SampleGroup(30, 1.0, rows[1])],
            [order.SampleGroup(13, 2.0, rows[2]), order.SampleGroup(50, 1.0, rows[3])]]  # fmt: skip


def test_a_batch_is_of_one_bucket_and_no_remainder_is_dropped() -> None:
    groups = buckets()
    owner = {int(row): n for n, parts in enumerate(groups) for part in parts for row in part.rows}  # type: ignore[union-attr]
    taken, batches = np.zeros(100, dtype=int), np.zeros(3)
    for step in range(1130):
        rows, epochs = order.batch_rows(5, step, 8, groups)
        assert len({owner[int(row)] for row in rows}) == 1
        batches[owner[int(rows[0])]] += 1
        for row, epoch in zip(rows, epochs, strict=True):
            assert taken[row] == epoch  # every epoch of a part takes each of its samples once
            taken[row] += 1
    # 1130 batches of 8 over a total weight of 113: each sample of weight 1 is seen 80 times.
    assert np.abs(batches - 10 * np.array([7, 30, 76])).max() <= 3
    for parts in groups:
        for part in parts:
            assert np.abs(taken[part.rows] - 80 * part.weight).max() <= 8


@given(
    seed=st.integers(0, 2**31), step=st.integers(0, 10**6), share=st.integers(1, 8), world=st.sampled_from([1, 2, 4, 8])
)
def test_buckets_and_weights_for_any_number_of_devices(seed: int, step: int, share: int, world: int) -> None:
    batch = share * world
    rows, epochs = order.batch_rows(seed, step, batch, buckets())
    parts = [order.batch_rows(seed, step, batch, buckets(), rank * share, share) for rank in range(world)]
    assert np.array_equal(rows, np.concatenate([part[0] for part in parts]))
    assert np.array_equal(epochs, np.concatenate([part[1] for part in parts]))
