"""What is left out: counted by reason, by rule or as a failure, before there is a record as well as after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from commonart.core.data import jsonl
from commonart.core.data.drops import PassedOver
from commonart.core.data.record import Record
from commonart.core.errors import TooManyFailures
from commonart.stages import fetch


def listed(*_: object, **__: object) -> Iterator[Record]:
    yield {"key": "a", "source": "set", "license": "CC0-1.0"}
    yield PassedOver.named("set", "photo.heic", "other_format", ".heic")
    yield PassedOver.named("set", "row 7", "row_damaged", "9 cells, the header has 8", rule=False)


def test_what_a_source_passes_over_is_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "listing", listed)
    out, rejects = str(tmp_path / "out.jsonl"), str(tmp_path / "no.jsonl")
    summary = fetch.run("set", out, list_only=True, rejects=rejects, quiet=True)
    assert (summary.read, summary.written, summary.failures) == (3, 1, 1)
    assert summary.dropped == {"other_format": 1, "row_damaged": 1}
    assert [record["key"] for record in jsonl.read(out)] == ["a"]
    first, second = map(orjson.loads, Path(rejects).read_bytes().splitlines())
    assert (first["source_id"], first["reason"], first["reason_detail"]) == ("photo.heic", "other_format", ".heic")
    assert (second["source_id"], second["reason"]) == ("row 7", "row_damaged")


def test_rows_that_fail_count_against_max_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "listing", listed)
    with pytest.raises(TooManyFailures):
        fetch.run("set", str(tmp_path / "out.jsonl"), list_only=True, max_failures=0.3, quiet=True)
