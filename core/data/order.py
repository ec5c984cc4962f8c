"""The order of the samples: a function of seed, epoch and step alone, whatever the number of GPUs, workers or restarts.

Position p of the run (p = step * batch + i) belongs to epoch p // count and is sample `permute(p % count)` of it, so that
batches run through the ends of epochs. So do buckets of images of one size, each at its own pace, and data sets with weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 6
_M1, _M2, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)


def mix(*words: int | np.ndarray) -> np.ndarray:
    """Hash integers (broadcast together) to uint64: the finaliser of splitmix64 (Steele et al. 2014), chained."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = (state ^ np.asarray(word).astype(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * _M1
            state = (state ^ (state >> np.uint64(27))) * _M2
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*words: int | np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1), float64, one per broadcast element: a function of the words alone."""
    return (mix(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, count: int, seed: int, epoch: int | np.ndarray) -> np.ndarray:
    """Return the places of `index` (0 <= index < count) in the permutation of `count` of this seed and epoch; int64, same shape.

    A Feistel network on the smallest even number of bits that holds `count`, walked until it lands inside (cycle walking):
    a bijection on 0..count-1 for every (seed, epoch), and any position is found without memory.
    """
    if count < 1:
        raise ValueError("count must be at least 1")
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    value = np.asarray(index, dtype=np.uint64).copy()
    epoch = np.broadcast_to(np.asarray(epoch, dtype=np.uint64), value.shape)
    keys = [mix(seed, epoch, 0x5EED, turn) for turn in range(_ROUNDS)]
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right = value[outside] >> half, value[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix(key[outside], right) & mask)
        value[outside] = (left << half) | right
        outside = value >= np.uint64(count)
    return value.astype(np.int64)


def turns(seed: int, rates: Sequence[float], first: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (who, nth), both int64, shape (size,): whose turn it is at positions first .. first + size - 1, where several
    take turns at the given rates (any positive numbers), and the how-manieth turn of theirs that is.

    Turn k of one with share p of the rates falls at a random moment of its k-th interval of length 1 / p: random, and yet
    never more than one turn away from its share. Found for any position without history.
    """
    if len(rates) == 1:
        return np.zeros(size, dtype=np.int64), np.arange(first, first + size, dtype=np.int64)
    share = np.asarray(rates, dtype=np.float64) / np.sum(rates, dtype=np.float64)
    # The turns before moment t are t of them, give or take one for each who takes part.
    low, high = max(0, first - len(share)), first + size + len(share)
    moments, who, nth, before = [], [], [], 0
    for one, part in enumerate(share):
        turn = np.arange(max(0, int(low * part) - 2), int(high * part) + 2, dtype=np.int64)
        moment = (turn + uniform(seed, one, turn, 0x7012)) / part
        before += int(turn[0]) + int((moment < low).sum())
        here = (moment >= low) & (moment < high)
        moments.append(moment[here])
        who.append(np.full(int(here.sum()), one, dtype=np.int64))
        nth.append(turn[here])
    whose, number = np.concatenate(who), np.concatenate(nth)
    order = np.lexsort((whose, np.concatenate(moments)))[first - before : first - before + size]
    return whose[order], number[order]


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """Samples that are drawn alike: one data set's images of one size."""

    count: int
    weight: float = 1.0  # how often each is taken, beside the samples of other parts
    rows: np.ndarray | None = None  # int64, (count,); None: 0 .. count - 1


Buckets = Sequence[Sequence[SampleGroup]]  # the samples of one bucket may share a batch


def batch_rows(
    seed: int, step: int, batch: int, buckets: Buckets | int, first: int = 0, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, epochs) of step `step`: which samples it takes, and in which epoch of its part each of them is.

    A step's whole batch is of one bucket; buckets take turns by their sizes, and inside one its parts do, by weight. Each
    part runs through all of its samples before it begins again. A whole number as `buckets` is one bucket of that many.
    `first` and `size` cut one device's micro batch out of the global `batch`. Both results: int64, shape (size,).
    """
    size = batch - first if size is None else size
    if isinstance(buckets, int):
        buckets = [[SampleGroup(buckets)]]
    bucket, turn = turns(seed, [sum(part.count * part.weight for part in parts) for parts in buckets], step, 1)
    parts = buckets[int(bucket[0])]
    who, nth = turns(seed, [part.count * part.weight for part in parts], int(turn[0]) * batch + first, size)
    rows, epochs = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    for number, part in enumerate(parts):
        here = who == number
        epochs[here], positions = np.divmod(nth[here], part.count)
        positions = permute(positions, part.count, seed, epochs[here])
        rows[here] = positions if part.rows is None else part.rows[positions]
    return rows, epochs


def choose(weights: np.ndarray, offsets: np.ndarray, rows: np.ndarray, seed: int, epochs: np.ndarray) -> np.ndarray:
    """Choose one of each row's items, at random by weight: indices into `weights`, int64, shape (len(rows),).

    Row r owns items offsets[r] .. offsets[r + 1] - 1. The choice depends on (seed, epoch, row) alone.
    """
    draws = uniform(seed, epochs, rows, 0xCA97)
    picks = np.empty(len(rows), dtype=np.int64)
    for i, (row, draw) in enumerate(zip(rows, draws, strict=True)):
        start, stop = int(offsets[row]), int(offsets[row + 1])
        cumulative = np.cumsum(weights[start:stop], dtype=np.float64)
        picks[i] = start + min(int(np.searchsorted(cumulative, draw * cumulative[-1], side="right")), stop - start - 1)
    return picks
