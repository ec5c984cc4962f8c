"""license-filter: what is kept, what is written into it, and why the rest went."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from conftest import Command

from commonart.core.data.record import Record
from commonart.core.data.stream import Drop
from commonart.core.licenses import load_policy
from commonart.stages.license_filter import license_filter

BY2 = "http://creativecommons.org/licenses/by/2.0/"


def filtered(*records: Record, policy: str = "strict") -> tuple[list[Record], Drop, list[Record]]:
    refused: list[Record] = []
    drop = Drop(refused.append)
    numbered = [{"key": f"k{number}", **record} for number, record in enumerate(records)]
    return list(license_filter(numbered, drop, policy=load_policy(policy))), drop, refused


def test_what_the_source_said_stays_beside_what_it_means() -> None:
    kept, _, _ = filtered(
        {"license_url": BY2, "license_raw": "Attribution License"},
        {"license": "cc-by-4.0", "unknown": {"survives": 1}},
        {"license_raw": "CC0"},
    )
    assert kept[0] == {
        "key": "k0",
        "license": "CC-BY-2.0",
        "license_url": BY2,
        "license_raw": "Attribution License",
        "license_basis": "licence",
    }
    assert kept[1]["license"] == "CC-BY-4.0" and kept[1]["license_raw"] == "cc-by-4.0"
    assert kept[1]["license_url"] == "https://creativecommons.org/licenses/by/4.0/"
    assert kept[1]["unknown"] == {"survives": 1}
    assert kept[2]["license_basis"] == "dedication"


def test_filtering_again_changes_nothing() -> None:
    once, _, _ = filtered({"license_raw": "CC BY 2.1 JP"}, {"license_url": BY2}, {"license": "CC0-1.0"})
    before = orjson.dumps(once)
    again, drop, _ = filtered(*once)
    assert orjson.dumps(again) == before and not drop.reasons


def test_every_drop_names_its_licence_and_none_is_a_failure() -> None:
    kept, drop, refused = filtered(
        {"license_raw": "CC BY-NC 2.0"},
        {"license_raw": "CC BY-NC 2.0"},
        {"license_raw": "U.S. Government Work"},
        {"license_raw": "ask me"},
        {},
        {"license_url": BY2, "license_raw": "CC BY-ND 2.0"},
    )
    assert kept == []
    assert drop.reasons == {
        "license_not_allowed:CC-BY-NC-2.0": 2,
        "license_not_allowed:LicenseRef-US-Government-Work": 1,
        "license_unknown": 2,
        "license_conflict": 1,
    }
    assert drop.failures == 0
    assert refused[3]["reason_detail"] == "ask me"


def test_paper_allows_what_megalith_needs() -> None:
    raws = [
        "Public Domain Mark",
        "No known copyright restrictions",
        "United States Government Work",
        "CC0",
        "CC BY-SA 4.0",
    ]
    kept, drop, _ = filtered(*({"license_raw": raw} for raw in raws), policy="paper")
    assert [record["license_basis"] for record in kept] == ["mark", "statement", "statute", "dedication"]
    assert dict(drop.reasons) == {"license_not_allowed:CC-BY-SA-4.0": 1}


@pytest.mark.parametrize("order", [("CC BY 4.0", "CC BY-NC 4.0"), ("CC BY-NC 4.0", "CC BY 4.0")])
def test_one_records_verdict_is_not_anothers(order: tuple[str, str]) -> None:
    kept, _, _ = filtered(*({"license_raw": raw} for raw in order * 3))
    assert [record["license"] for record in kept] == ["CC-BY-4.0"] * 3


def test_many_different_texts_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonart.stages.license_filter.REMEMBERED", 3)
    kept, drop, _ = filtered(*({"license_raw": text} for text in ["CC0", "a", "b", "c", "CC0", "d", "e", "CC BY 4.0"]))
    assert [record["license"] for record in kept] == ["CC0-1.0", "CC0-1.0", "CC-BY-4.0"]
    assert drop.reasons["license_unknown"] == 5


def test_command_and_policy_file(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('allow = ["CC-BY-SA"]\n')
    lines = b"".join(
        orjson.dumps({"key": key, "license": license}) + b"\n"
        for key, license in (("a", "CC-BY-SA-3.0"), ("b", "CC0-1.0"))
    )
    done = commonart("license-filter", "-", "--policy", "mine.toml", input=lines)
    assert done.returncode == 0, done.stderr
    assert [orjson.loads(line)["key"] for line in done.stdout.splitlines()] == ["a"]
    assert orjson.loads(done.stderr.splitlines()[-1])["dropped"] == {"license_not_allowed:CC0-1.0": 1}


def test_unknown_policy_is_one_sentence(commonart: Command) -> None:
    done = commonart("license-filter", "-", "--policy", "loose")
    assert done.returncode == 1
    assert b"--policy loose" in done.stderr and b"Traceback" not in done.stderr
