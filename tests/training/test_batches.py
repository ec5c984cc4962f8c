"""The order of samples is a function of seed and step alone: whatever the processes, micro batches, readers and restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from commonart.core.data.order import SampleGroup
from commonart.core.training import batches


class Rows:
    """A source of `count` rows with one to three captions each; what it fetches are the numbers it was asked for."""

    def __init__(self, count: int, seed: int) -> None:
        counts = np.random.default_rng(seed).integers(1, 4, count)
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.weights = np.random.default_rng(seed + 1).random(int(counts.sum())) + 0.1
        self.null, self.keys = torch.zeros(1, 1), [str(n) for n in range(count)]
        self.buckets = [[SampleGroup(count)]]

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> Any:
        return list(zip(rows.tolist(), captions.tolist(), strict=True))

    def batch(self, fetched: Any, device: torch.device) -> Any:
        return fetched


@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 200), first=st.integers(0, 1000), steps=st.integers(1, 3),
    world=st.sampled_from([1, 2, 4, 8]), grad_accum_steps=st.integers(1, 3), micro_batch=st.integers(1, 3),
    workers=st.integers(0, 8), dropout=st.sampled_from([0.0, 0.1, 0.9]),
)  # fmt: skip
def test_any_number_of_processes_and_readers_takes_the_same_samples(
    seed: int,
    count: int,
    first: int,
    steps: int,
    world: int,
    grad_accum_steps: int,
    micro_batch: int,
    workers: int,
    dropout: float,
) -> None:
    source, batch = Rows(count, seed % 1000), world * grad_accum_steps * micro_batch
    sampler = batches.BatchSampler(seed, batch, dropout)

    def taken(rank: int) -> list[Any]:
        def fetch(step: int, part: int) -> Any:
            rows, captions = sampler.indices(source, step, (rank * grad_accum_steps + part) * micro_batch, micro_batch)
            return source.fetch(rows, captions)

        return list(batches.stream(fetch, first, first + steps, grad_accum_steps, workers if rank == world - 1 else 0))

    every = [taken(rank) for rank in range(world)]
    for step in range(steps):
        together = [
            sample
            for rank in every
            for part in rank[step * grad_accum_steps : (step + 1) * grad_accum_steps]
            for sample in part
        ]
        assert together == source.fetch(*sampler.indices(source, first + step, 0, batch))


def test_a_reader_that_fails_says_so_in_its_turn() -> None:
    def fetch(step: int, part: int) -> int:
        if step == 3:
            raise OSError("gone")
        return step

    stream, seen = batches.stream(fetch, 0, 10, 1, 4), []
    try:
        for value in stream:
            seen.append(value)
    except OSError as error:
        assert str(error) == "gone"
    assert seen == [0, 1, 2]
