"""A page of this package in a thread of the test's own process, ended with the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def server_thread(serve: Callable[..., object], *args: Any, **options: Any) -> Iterator[None]:
    """Run `serve(*args, **options, started=...)`; return when it answers, and end it."""
    servers: list[Any] = []
    thread = threading.Thread(target=serve, args=args, kwargs={**options, "started": servers.append}, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not (servers and servers[0].started):
        assert thread.is_alive() and time.monotonic() < end
        time.sleep(0.05)
    try:
        yield
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()
