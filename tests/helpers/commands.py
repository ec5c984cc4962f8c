"""Commands and stages as the tests call them: the real command in an empty folder, `fetch` and `license-filter` on records."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commonart.cli.main import run
from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import Limits
from commonart.core.data.download.prefetch import Prefetcher
from commonart.core.data.drops import Drop
from commonart.core.data.record import Record
from commonart.core.licenses.policies import load_policy
from commonart.stages import fetch as stage
from commonart.stages.license_filter import Criteria, Tally, license_filter

ROOT = Path(__file__).resolve().parents[2]  # of the repository
Command = Callable[..., subprocess.CompletedProcess[bytes]]
LOCAL = Limits(allow_private=True, seconds=3, attempts=2, pause=0.01)


def call(folder: Path, *arguments: str, stdin: bytes = b"") -> int:
    """The exit code of one command line in `folder`, run in this process: torch is imported once."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            return run(arguments)
        finally:
            signal.signal(signal.SIGTERM, handler)


def fetched(records: list[Record], limits: Limits = LOCAL, **options: Any) -> tuple[list[Any], Drop, list[Record]]:
    """What `fetch` makes of records: samples, counts, what was dropped."""
    refused: list[Record] = []
    drop = Drop(refused.append)
    with DownloadClient(limits) as client:
        pairs = map(Prefetcher(records, client, 1000, lambda number: False).pair, records)
        return list(stage.fetch(pairs, drop, **{"workers": 2, "limits": limits, **options})), drop, refused


def filtered(
    *records: Record, policy: str = "strict", tally: Tally | None = None, **options: Any
) -> tuple[list[Record], Drop, list[Record]]:
    refused: list[Record] = []
    drop = Drop(refused.append)
    numbered = [{"key": f"k{number}", **record} for number, record in enumerate(records)]
    return list(license_filter(numbered, drop, Criteria(load_policy(policy), **options), tally)), drop, refused
