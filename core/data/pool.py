"""Work on many things at once, with the results in the order of the input."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # results waiting per worker: enough that one slow item does not stop the others


def cpus() -> int:
    """How many processors this process may use (under Slurm fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map(function, items)` on threads, in bounded memory. An exception is raised where its result would stand.

    Threads are enough where the work is in C (Pillow, zlib, sockets), which lets go of the interpreter's lock.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="commonart")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Whoever stops early (Ctrl-C, SIGTERM) does not wait for what is under way, as a download from a slow host.
        pool.shutdown(wait=not waiting, cancel_futures=True)
