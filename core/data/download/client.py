"""Many images over http(s) at a time: one thread, few connections that are kept, bounded memory, polite to each host.

with DownloadClient(Limits()) as client:
    pending = [client.submit(url) for url in urls]
    data = pending[0].result().data
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from commonart.core.data.download.limits import Limits
from commonart.core.data.download.request import Request

if TYPE_CHECKING:
    from commonart.core.data.download.scheduler import Scheduler


class DownloadClient:
    """Use as a context manager; `submit` from any thread. Leaving the block ends what is still on its way.

    Nothing is started, and libcurl is not even loaded, before the first `submit`.
    """

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.limits = limits
        self._lock = threading.Lock()
        self._scheduler: Scheduler | None = None

    def __enter__(self) -> DownloadClient:
        return self

    def __exit__(self, *error: object) -> None:
        if self._scheduler is not None:
            self._scheduler.stop()

    def submit(self, url: str, byte_range: str = "") -> Request:
        """Ask for `url`, or for a range of its bytes ("0-99"); answers come in about the order of submission."""
        with self._lock:
            if self._scheduler is None:
                from commonart.core.data.download.scheduler import Scheduler

                self._scheduler = Scheduler(self.limits)
        return self._scheduler.submit(url, byte_range)

    def forget_errors(self) -> None:
        """Ask hosts again that did not answer a while ago, instead of repeating their error."""
        if self._scheduler is not None:
            self._scheduler.forget_errors()
