"""A function over many items on threads, with the results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

RESULTS_AHEAD = 4  # per worker: enough that one slow item does not stop the others


def cpu_count() -> int:
    """Return how many processors this process may use (under Slurm fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, in bounded memory (`Executor.map` would read all items at once).

    An exception is raised where its result would stand. Threads are enough where the work is in C (Pillow, zlib, sockets),
    which releases the interpreter's lock. `ahead` results may wait to be taken; default: RESULTS_AHEAD for each worker.
    """
    if workers <= 1 and ahead is None:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="commonart")
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= (ahead or workers * RESULTS_AHEAD):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Whoever stops early (Ctrl-C, SIGTERM) does not wait for what is under way, as a download from a slow host.
        executor.shutdown(wait=not pending, cancel_futures=True)
