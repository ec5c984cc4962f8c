"""A run with its shards, and what a report reads of them; a file that wants more beside the run overrides `made`."""

from __future__ import annotations

from pathlib import Path

import pytest
import reportable_run

from commonart.core.report.facts import Facts, gather


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    reportable_run.make(folder)
    return folder


@pytest.fixture(scope="module")
def facts(made: Path) -> Facts:
    return gather(made / "runs" / "tiny", made / "shards")
