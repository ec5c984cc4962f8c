"""Training data as batches of tensors: which rows, which caption of each, and the null embedding where a caption is dropped.

The order, the captions and the drops are the same for any number of devices, workers and restarts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from commonart.core.data import order

NULL = -1  # in place of a caption's number: the null embedding
_DROP = 0xD209  # names the stream of random numbers that drops captions


class Batch(NamedTuple):
    """B samples on one device. `mask_BL` is None where every text has the same length."""

    mean_BCHW: Tensor  # scaled latents: the posterior's mean
    std_BCHW: Tensor | None  # and its standard deviation, where it is known
    text_BLT: Tensor
    mask_BL: Tensor | None
    vision_BPO: Tensor | None = None  # by the vision encoder of REPA

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(*(None if tensor is None else change(tensor) for tensor in self))  # type: ignore[arg-type]


class Samples(Protocol):
    """Images with captions. Caption c of row r: offsets[r] <= c < offsets[r + 1]; `weights` are relative odds within a row."""

    offsets: np.ndarray  # int64, (rows + 1,)
    weights: np.ndarray  # (captions,)
    buckets: order.Buckets  # the rows whose latents are of one size, by data set

    @property
    def keys(self) -> Sequence[str]:
        """The rows' keys."""

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> Any:
        """Return what the loss needs of these rows and captions (NULL: none). Runs in a reading thread, touches no device."""


class Source(Samples, Protocol):
    """Images as latents, captions as text states."""

    null: Tensor  # (L, T), the null embedding
    vision_width: int  # channels of REPA's vision encoder; 0: there is none

    def batch(self, fetched: Any, device: torch.device) -> Batch:
        """Return the batch on `device`. Runs in the training thread."""


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """Which rows and captions every step takes, as a function of seed and step alone."""

    seed: int
    batch: int  # global
    caption_dropout: float

    def indices(self, source: Samples, step: int, first: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, captions) of samples first .. first + size - 1 of the batch of `step`; each int64, (size,)."""
        rows, epochs = order.batch_rows(self.seed, step, self.batch, source.buckets, first, size)
        captions = order.choose(source.weights, source.offsets, rows, self.seed, epochs)
        captions[order.uniform(self.seed, epochs, rows, _DROP) < self.caption_dropout] = NULL
        return rows, captions

    def generator(self, step: int, device: torch.device) -> torch.Generator:
        """Return the random numbers of one step: noise, times, posterior. Nothing else in training is random."""
        return torch.Generator(device).manual_seed(int(order.mix(self.seed, step, 0x6E01) >> np.uint64(1)))


def stream(
    fetch: Callable[[int, int], Any], start: int, stop: int, grad_accum_steps: int, workers: int
) -> Generator[Any, None, None]:
    """Yield fetch(step, n) for every micro batch n of every step from `start` on, in order; `workers` threads read ahead."""
    jobs = ((step, n) for step in range(start, stop) for n in range(grad_accum_steps))
    if workers < 1:
        yield from (fetch(step, n) for step, n in jobs)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        pending: deque[Future[Any]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(fetch, *job))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class ResidentDataset:
    """A source whose latents and text states lie in memory, ready to be gathered: no reading, no decoding, no padding.

    `means`, `stds`: (N, C, H, W), or one of them for each bucket; row r is then `position[r]` of bucket `bucket[r]`. `texts`: the
    states of all captions, row after row, each (L, T); `counts`: captions per row. `replacement`: the row taken for each.
    """

    vision_width = 0

    def __init__(
        self,
        keys: Sequence[str],
        means: Tensor | Sequence[Tensor],
        stds: Tensor | Sequence[Tensor] | None,
        texts: Sequence[Tensor],
        counts: Sequence[int],
        weights: np.ndarray,
        null: Tensor,
        *,
        buckets: order.Buckets | None = None,
        bucket: np.ndarray | None = None,
        position: np.ndarray | None = None,
        replacement: np.ndarray | None = None,
    ) -> None:
        self.keys, self.weights, self.null = keys, weights, null
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.buckets = buckets or [[order.SampleGroup(len(keys))]]
        self._means = [means] if isinstance(means, Tensor) else means
        self._stds = [stds] if isinstance(stds, Tensor) else stds
        self._bucket, self._position, self._replacement = bucket, position, replacement
        self._tokens = torch.cat([*texts, null.to(texts[0].dtype)])
        # The null embedding is the last text, so that NULL = -1 finds it.
        lengths = torch.tensor([*(len(text) for text in texts), len(null)])
        self._lengths, self._starts = lengths, torch.cumsum(lengths, 0) - lengths

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> Batch:
        if self._replacement is not None:
            loaded_rows = self._replacement[rows]
            first = self.offsets[loaded_rows]  # caption that may be taken of each
            last = self.offsets[loaded_rows + 1]
            first = first + [np.argmax(self.weights[a:b] > 0) for a, b in zip(first, last, strict=True)]
            captions = np.where((loaded_rows == rows) | (captions == NULL), captions, first)
            rows = loaded_rows
        caption_B = torch.from_numpy(captions)
        length_B, start_B = self._lengths[caption_B], self._starts[caption_B]
        position_L = torch.arange(int(length_B.max()))
        mask_BL = position_L < length_B[:, None]
        # Padding repeats the last token: an index that exists, behind the mask.
        index_BL = start_B[:, None] + torch.minimum(position_L, length_B[:, None] - 1)
        text_BLT = self._tokens[index_BL].mul_(mask_BL[:, :, None])
        bucket = 0 if self._bucket is None else int(self._bucket[rows[0]])
        row_B = torch.from_numpy(rows if self._position is None else self._position[rows])
        stds = None if self._stds is None else self._stds[bucket][row_B]
        batch = Batch(self._means[bucket][row_B], stds, text_BLT, None if bool(mask_BL.all()) else mask_BL)
        # Pinned, so that the copy to the device runs beside the step before.
        return batch.map(Tensor.pin_memory) if torch.cuda.is_available() else batch

    def batch(self, fetched: Batch, device: torch.device) -> Batch:
        return fetched.map(lambda tensor: tensor.to(device, non_blocking=True))
