"""license-filter: what is kept, what is written into it, and why the rest went."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from commands import Command, filtered

from commonart.core.data.blocklist import read_blocklist
from commonart.core.data.drops import Drop
from commonart.core.data.record import Record, split_of
from commonart.core.errors import CommonArtError
from commonart.core.licenses.policies import load_policy
from commonart.stages.license_filter import OTHERS, Criteria, Tally, license_filter

BY2 = "http://creativecommons.org/licenses/by/2.0/"


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
    once, _, _ = filtered(
        {"license_raw": "CC BY 2.1 JP"},
        {"license_url": BY2},
        {"license": "CC0-1.0"},
        {"license_raw": "MIT OR CC-BY-4.0", "sha256": "a" * 64},
        {"license": "CC0-1.0 AND (MIT OR CC-BY-4.0)"},
        {"license_raw": "{{self|GFDL|cc-by-4.0}}"},
    )
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


FOUR = "One of: No known copyright restrictions; United States Government Work; CC0; Public Domain Mark"
SET = {"license_basis": "set", "license_url": "https://huggingface.co/datasets/madebyollin/megalith-10m"}


def test_what_a_set_states_is_not_promoted_to_the_works_own() -> None:
    tally = Tally()
    records = [
        {**SET, "license_raw": FOUR},
        {**SET, "license_raw": "CC0"},
        {"license_raw": "CC0"},
        {**SET, "license_raw": "CC BY-NC"},
    ]
    kept, drop, _ = filtered(*records, policy="paper", tally=tally)
    assert [(record["license_basis"], record["license_url"]) for record in kept[:2]] == [
        ("set", SET["license_url"])
    ] * 2
    assert kept[0]["license"].startswith("LicenseRef-OneOf..") and kept[1]["license"] == "CC0-1.0"
    assert kept[2]["license_basis"] == "dedication" and drop.reasons == {"license_not_allowed:LicenseRef-CC-BY-NC": 1}
    assert {row[1]: row[2:] for row in tally.rows()} == {
        f"{kept[0]['license']} (set)": (1, 1), "CC0-1.0 (set)": (1, 1), "CC0-1.0": (1, 1), "LicenseRef-CC-BY-NC (set)": (1, 0),
    }  # fmt: skip
    again, _, _ = filtered(*kept, policy="paper")
    assert again == kept
    assert [record["license"] for record in filtered(*kept)[0]] == ["CC0-1.0", "CC0-1.0"]  # strict


@pytest.mark.parametrize("order", [("CC BY 4.0", "CC BY-NC 4.0"), ("CC BY-NC 4.0", "CC BY 4.0")])
def test_one_records_verdict_is_not_anothers(order: tuple[str, str]) -> None:
    kept, _, _ = filtered(*({"license_raw": raw} for raw in order * 3))
    assert [record["license"] for record in kept] == ["CC-BY-4.0"] * 3


def test_many_different_texts_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonart.stages.license_filter.CACHED_VERDICTS", 3)
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
    assert done.returncode == 2
    assert b"--policy loose" in done.stderr and b"Traceback" not in done.stderr


def test_a_choice_is_written_as_the_branch_that_was_taken() -> None:
    kept, _, _ = filtered({"license_raw": "MIT OR CC-BY-4.0"}, {"license": "CC0-1.0 AND CC-BY-4.0"})
    assert kept[0]["license"] == "CC-BY-4.0" and kept[0]["license_raw"] == "MIT OR CC-BY-4.0"
    assert kept[0]["license_url"] == "https://creativecommons.org/licenses/by/4.0/"
    assert kept[1]["license"] == "CC0-1.0 AND CC-BY-4.0"


# --- the held-out split


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_every_image_with_a_hash_gets_its_split_and_a_list_without_pixels_does_not() -> None:
    hashes = digests(400)
    kept, _, _ = filtered(*({"license": "CC0-1.0", "sha256": sha256} for sha256 in hashes))
    assert [record["split"] for record in kept] == [split_of(sha256) for sha256 in hashes]
    assert 5 < sum(record["split"] == "heldout" for record in kept) < 40
    assert "split" not in filtered({"license": "CC0-1.0"})[0][0]


def test_all_records_of_one_image_are_on_one_side() -> None:
    """Whatever their keys, sources, licences, order or the spelling of the hash, and whatever they said before."""
    for sha256 in digests(60):
        kept, drop, _ = filtered(
            {"license": "CC0-1.0", "sha256": sha256, "source": "a"},
            {"license": "CC-BY-4.0", "sha256": sha256.upper(), "source": "b", "split": split_of(sha256)},
            {"license": "CC-BY-4.0", "sha256": sha256, "split": "train"},
            {"license": "CC-BY-4.0", "sha256": sha256, "split": "heldout"},
        )
        assert {record["split"] for record in kept} == {split_of(sha256)} and len(kept) == 3
        assert drop.reasons == {"split_conflict": 1} and drop.failures == 0


def test_a_hash_that_is_none_is_a_failure() -> None:
    _, drop, _ = filtered({"license": "CC0-1.0", "sha256": "z" * 64})
    assert drop.reasons == {"sha256_malformed": 1} and drop.failures == 1


# --- --observed-after


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        ("2026-11-22T00:00:00Z", None),
        ("2026-06-01", None),  # that very moment
        ("2026-06-01T09:00:00+09:00", None),  # the same moment in Tokyo
        ("2026-06-01T00:00:00", None),
        ("2026-06-01T08:59:59+09:00", "observed_before"),
        ("2026-05-31T23:59:59Z", "observed_before"),
        ("2020-01-01", "observed_before"),
        ("", "observed_never"),
        (None, "observed_never"),
        ("yesterday", "observed_never"),
        ("2026-13-01", "observed_never"),
    ],
)
def test_observed_after(observed: str | None, reason: str | None) -> None:
    record = {"license": "CC0-1.0"} | ({} if observed is None else {"license_observed_at": observed})
    kept, drop, _ = filtered(record, observed_after=datetime(2026, 6, 1, tzinfo=UTC))
    assert list(drop.reasons) == ([reason] if reason else []) and len(kept) == (reason is None)


# --- --blocklist

RECORD = {
    "key": "flickr_1", "license": "CC0-1.0", "sha256": "a" * 64, "image_url": "https://live.staticflickr.com/1/a%20b.jpg",
    "source_url": "https://www.flickr.com/photos/jane/1/", "author": "<a href='//x'>Jane  DOE</a>",
    "author_url": "https://www.flickr.com/people/jane/",
}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "by"),
    [
        ("flickr_1", "key"),
        ("key: flickr_1", "key"),
        ("author: flickr_1", ""),
        ("flickr_", ""),
        ("FLICKR_1", ""),  # keys are exact
        ("a" * 64, "sha256"),
        ("A" * 64, "sha256"),
        ("sha256:" + "a" * 64, "sha256"),
        ("b" * 64, ""),
        ("https://live.staticflickr.com/1/a%20b.jpg", "url"),
        ("http://LIVE.staticflickr.com/1/a%20b.jpg#top", "url"),
        ("url: https://live.staticflickr.com/1/a%20b.jpg", "url"),
        ("https://live.staticflickr.com/1/A%20b.jpg", ""),
        ("http://flickr.com/photos/jane/1", "url"),
        ("flickr.com/photos/jane/1", "url"),
        ("https://flickr.com:443/people/jane", "url"),
        ("https://www.flickr.com/photos/jane/12", ""),
        ("https://www.flickr.com/", ""),
        ("Jane Doe", "author"),
        ("ＪＡＮＥ　doe", "author"),
        ("author: jane doe", "author"),
        ("key: Jane Doe", ""),
        ("Jane", ""),
        ("# Jane Doe", ""),
        ("", ""),
    ],
)
def test_blocklist(tmp_path: Path, entry: str, by: str) -> None:
    (tmp_path / "list.txt").write_text(f"# removed on request\n\nnobody\n  {entry}  \n", "utf-8")
    refused: list[Record] = []
    drop = Drop(refused.append)
    blocklist = read_blocklist(str(tmp_path / "list.txt"))
    record = {**RECORD, "split": split_of("a" * 64)}
    kept = list(license_filter([record], drop, Criteria(load_policy("strict"), blocklist=blocklist)))
    assert len(kept) == (not by) and drop.reasons == ({"blocklisted": 1} if by else {})
    assert not by or refused[0]["reason_detail"].startswith(by)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"sha256: abc\n", "list.txt:1: 'abc' is not a SHA-256."),
        (b"J\xffane\n", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_blocklist_that_cannot_be_understood_is_an_error(tmp_path: Path, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(CommonArtError, match=says) as caught:
        read_blocklist(str(tmp_path / "list.txt"))
    assert "list.txt" in caught.value.what and caught.value.fix


def test_a_long_blocklist_takes_eight_bytes_an_entry_and_finds_every_one(tmp_path: Path) -> None:
    urls = [f"https://example.org/photos/{number}/large.jpg" for number in range(30_000)]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    blocklist = read_blocklist(str(tmp_path / "list.txt"))
    assert blocklist.hashes.itemsize * len(blocklist.hashes) == 8 * 30_000
    assert all(blocklist.entry_of({"key": "k", "image_url": url}) for url in urls)
    assert not any(blocklist.entry_of({"key": "k", "image_url": url.replace("org", "net")}) for url in urls)


# --- the summary, by source and licence


def test_the_tally_counts_by_source_and_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonart.stages.license_filter.CACHED_VERDICTS", 2)  # what is forgotten is counted too
    tally = Tally()
    kept, _, _ = filtered(
        *(
            {"source": source, "license_raw": raw}
            for source, raw in [
                ("a", "CC0"),
                ("a", "cc0"),
                ("b", "CC0"),
                ("a", "CC BY-NC 2.0"),
                ("", "?"),
                ("a", "CC0"),
            ]
            * 3
        ),
        {"source": "b", "license": "CC0-1.0", "sha256": next(h for h in digests(99) if split_of(h) == "heldout")},
        tally=tally,
    )
    assert tally.rows() == [
        ("", "license_unknown", 3, 0), ("a", "CC0-1.0", 9, 9), ("a", "CC-BY-NC-2.0", 3, 0), ("b", "CC0-1.0", 4, 4),
    ]  # fmt: skip
    assert len(kept) == 13 and tally.heldout == 1


def test_what_has_more_sources_than_a_table_can_show_is_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonart.stages.license_filter.MAX_ROWS", 3)
    tally = Tally()
    filtered(*({"source": f"s{number}", "license": "CC0-1.0"} for number in range(10)), tally=tally)
    assert (OTHERS, "CC0-1.0", 7, 7) in tally.rows() and len(tally.rows()) == 4


LINES = b"".join(
    orjson.dumps({"key": f"k{number}", "source": "flickr", "license": license}) + b"\n"
    for number, license in enumerate(["CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-4.0"])
)


def test_the_summary_is_json_where_stderr_is_no_terminal(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("k1\n")
    done = commonart("license-filter", "--blocklist", "list.txt", input=LINES)
    said = orjson.loads(done.stderr.splitlines()[-1])
    assert said["dropped"] == {"blocklisted": 1, "license_not_allowed:CC-BY-NC-4.0": 1}
    assert said["sources"] == {
        "flickr": {
            "CC-BY-4.0": {"in": 2, "out": 1},
            "CC-BY-NC-4.0": {"in": 1, "out": 0},
            "CC0-1.0": {"in": 1, "out": 1},
        }
    }
    assert said["heldout"] == 0


def test_the_summary_is_a_table_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINES)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "commonart.cli.main", "license-filter", "in.jsonl", "-o", "out.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, stderr=theirs, check=True, stdout=subprocess.PIPE)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    os.close(ours)
    assert done.stdout == b""
    assert "  source  licence       in  out\n  flickr  CC-BY-4.0      2    2\n  flickr  CC-BY-NC-4.0   1    0\n" in said
    assert "license-filter: 3 of 4" in said and "{" not in said


def test_shards_that_were_finished_before_are_told_apart(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"pixels are not looked at")
    for number in range(3):
        record = {"key": f"k{number}", "source": "s", "image": "a.jpg", "license": "CC0-1.0"}
        with open(tmp_path / "in.jsonl", "ab") as file:
            file.write(orjson.dumps(record) + b"\n")
    arguments = ("license-filter", "in.jsonl", "-o", "kept", "--shard-size", "2")
    first = orjson.loads(commonart(*arguments).stderr.splitlines()[-1])
    assert first["sources"] == {"s": {"CC0-1.0": {"in": 3, "out": 3}}}
    (tmp_path / "kept" / "00001.json").unlink()
    again = orjson.loads(commonart(*arguments).stderr.splitlines()[-1])
    assert (again["in"], again["out"]) == (3, 3) and again["sources"] == {"s": {"CC0-1.0": {"in": 1, "out": 1}}}
    other = commonart(*arguments, "--observed-after", "2020-01-01")
    assert other.returncode == 1 and b"with other settings (observed_after)" in other.stderr


# --- --explain


def test_explain_needs_no_source_and_answers_for_every_policy(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[allow]\nCC-BY-SA = "ours is shared alike too"\n')
    done = commonart("license-filter", "--explain", "CC BY-SA 2.0", "--policy", "mine.toml")
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        "strict: refused. 'CC BY-SA 2.0' is CC-BY-SA-2.0 (licence), and it does not name CC-BY-SA-2.0.",
        "paper: refused. 'CC BY-SA 2.0' is CC-BY-SA-2.0 (licence), and it does not name CC-BY-SA-2.0.",
        "mine: allowed. 'CC BY-SA 2.0' is CC-BY-SA-2.0 (licence): ours is shared alike too.",
    ]


def test_options_that_are_wrong_are_one_sentence(commonart: Command) -> None:
    done = commonart("license-filter", "-", "--observed-after", "last year")
    assert done.returncode == 2 and b"--observed-after last year is not a date." in done.stderr
    done = commonart("license-filter", "-", "--blocklist", "nowhere.txt")
    assert done.returncode == 1 and b"--blocklist nowhere.txt cannot be read" in done.stderr
