"""Downloads from a server of this machine by one client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from commands import LOCAL
from web_server import Site

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import Download, DownloadError, Limits


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server on this machine."""
    with Site() as running:
        yield running


def get(*urls: str, limits: Limits = LOCAL) -> list[Download | str]:
    """What came, or the reason why not, of each URL, by one client."""
    found: list[Download | str] = []
    with DownloadClient(limits) as client:
        for pending in [client.submit(url) for url in urls]:
            try:
                found.append(pending.result())
            except DownloadError as error:
                found.append(error.reason)
    return found
