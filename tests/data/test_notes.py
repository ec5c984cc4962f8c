"""Notes: the stages before an output, through files, folders, pipes and array tasks, and what is lost on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from commonart.core.data import jsonl, notes, stream
from commonart.core.data.drops import Drop
from commonart.core.data.record import Record
from commonart.core.data.sources.listing import notes_of
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError
from commonart.stages import fetch

COMMONART = f"{sys.executable} -m commonart.cli.main"


def sh(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; commonart() {{ {COMMONART} \"$@\"; }}; {command}"],
        cwd=folder, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode in (0, 141), done.stderr
    return done.stdout


def flat(note: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    """(stage, in, out, dropped) of a note and those before it, the first stage first."""
    before = [row for each in note["inputs"] for row in flat(each)]
    return [*before, (note["stage"], note["in"], note["out"], sum(note["dropped"].values()))]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 scenes in three shards."""
    folder = tmp_path_factory.mktemp("raw")
    sh("commonart fetch scenes --limit 300 --shard-size 100 -q -o raw", folder)
    return folder / "raw"


def test_the_funnel_survives_files_folders_and_pipes(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    sh("commonart license-filter raw -o kept.jsonl", tmp_path)
    sh("commonart shard kept.jsonl -o a --size 32 --shard-size 100", tmp_path)
    sh("commonart license-filter raw --policy paper | commonart shard -o b --size 32 --shard-size 100", tmp_path)
    sh("commonart license-filter raw > piped.jsonl && commonart shard piped.jsonl -o c --size 32 --dedup", tmp_path)
    funnel = [("fetch", 300, 300, 0), ("license-filter", 300, 283, 17), ("shard", 283, 283, 0)]
    for name in "abc":
        (note,) = notes.read_beside(tmp_path / name)
        assert flat(note)[:2] == funnel[:2] and flat(note)[2][:2] == ("shard", 283)
        assert note["settings"]["size"] == 32 and note["version"]
        policy = note["inputs"][0]["settings"]["policy"]
        assert policy == ("paper" if name == "b" else "strict")
        records = list(stream.read(str(tmp_path / name)))
        assert not any(notes.FIELD in record for record in records)
    beside = json.loads((tmp_path / "kept.jsonl.note.json").read_text())
    assert beside["dropped"]["license_not_allowed:CC-BY-SA-4.0"] == 6 and beside["in"] == 300
    assert orjson.loads((tmp_path / "b" / "note.json").read_bytes()).keys() == {"stage", "version", "inputs"}


def test_fetch_carries_the_notes_of_the_list_that_it_reads(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    sh("commonart license-filter raw -o kept.jsonl && commonart license-filter raw > piped.jsonl", tmp_path)
    for name, source in (("a", "kept.jsonl"), ("b", "piped.jsonl"), ("c", "raw"), ("d", "raw/00000.tar")):
        sh(f"commonart fetch {source} -q -o {name}", tmp_path)
        (note,) = notes.read_beside(tmp_path / name)
        kept = [("fetch", 300, 300, 0), ("license-filter", 300, 283, 17), ("fetch", 283, 283, 0)]
        again = {"c": (300, 300), "d": (100, 100)}
        assert flat(note) == (kept if name in "ab" else [("fetch", *again[name], 0)] * 2)
        assert not any(notes.FIELD in record for record in stream.read(str(tmp_path / name)))
    sh("commonart fetch piped.jsonl --list -o again.jsonl && commonart fetch scenes --limit 3 -q -o scenes", tmp_path)
    assert [row[0] for row in flat(notes.read_beside(tmp_path / "again.jsonl")[0])] == [
        "fetch",
        "license-filter",
        "fetch",
    ]
    sh("commonart fetch scenes --limit 3 -q -o more", tmp_path)  # the source of that name, not the folder
    assert [row[0] for row in flat(notes.read_beside(tmp_path / "more")[0])] == ["fetch"]


def test_fetch_carries_the_notes_of_a_folder_of_lists(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, first in (("a", 0), ("b", 5)):
        rows = [
            {"key": f"k{first + n}", "source": "museum", "image_url": f"https://example.org/{first + n}"}
            for n in range(5)
        ]
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        notes.write_beside(
            str(folder / f"{name}.jsonl"), notes.make("license-filter", {}, 6, 5, {"dropped": {"x": 1}}, [], "1")
        )
    fetch.run(str(folder), str(tmp_path / "listed.jsonl"), list_only=True, quiet=True)
    (note,) = notes.read_beside(tmp_path / "listed.jsonl")
    assert [row[:3] for row in flat(note)] == [("license-filter", 6, 5)] * 2 + [("fetch", 10, 10)]
    (folder / "other.csv").write_text("url\n")
    notes.write_beside(str(folder / "other.csv"), notes.make("caption", {}, 9, 9, {}, [], "1"))
    assert [each["stage"] for each in notes_of(str(folder))] == ["caption"], "of the tables of one kind, which are read"
    (folder / "photo.jpg").write_bytes(b"")
    assert notes_of(str(folder)) == [], "of a folder of images no list is read"


@pytest.mark.parametrize(
    ("between", "known"),
    [
        ("cat", ["fetch", "license-filter"]), ("jq -c .", ["fetch", "license-filter"]), ("sort -r", ["fetch", "license-filter"]),
        ("gzip | gunzip", ["fetch", "license-filter"]), ("tail -n 5", ["fetch", "license-filter"]), ("head -n 5", []),
    ],
)  # fmt: skip
def test_what_survives_other_tools(raw: Path, tmp_path: Path, between: str, known: list[str]) -> None:
    if between.startswith("jq") and shutil.which("jq") is None:
        pytest.skip("no jq here")
    sh(f"commonart license-filter {raw} | {between} | commonart license-filter - -o out.jsonl", tmp_path)
    (note,) = notes.read_beside(tmp_path / "out.jsonl")
    rows = flat(note)
    assert [row[0] for row in rows] == [*known, "license-filter"]
    if "-n 5" in between and known:  # what another tool took shows as a gap
        assert (rows[-2][2], rows[-1][1]) == (283, 5)


def test_a_file_that_was_changed_says_so(raw: Path, tmp_path: Path) -> None:
    sh(f"commonart license-filter {raw} -o kept.jsonl", tmp_path)
    lines = (tmp_path / "kept.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "kept.jsonl").write_bytes(b"".join(lines[:9]))
    (note,) = notes.read_beside(tmp_path / "kept.jsonl")
    assert note["changed"] is True and note["out"] == 283
    (tmp_path / "kept.jsonl.note.json").write_text("[]")
    assert notes.read_beside(tmp_path / "kept.jsonl") == notes.read_beside(tmp_path / "nowhere.jsonl") == []


def dropping(records: Iterator[Record], drop: Drop) -> Iterator[Record]:
    for record in records:
        if record["n"] % 3:
            yield record
        else:
            drop(record, "third")


def lines_of(path: Path, count: int) -> Path:
    image = path.with_name("x.jpg")
    image.write_bytes(b"\xff\xd8\xff")
    lines = [orjson.dumps({"key": f"k{n}", "n": n, "image": "x.jpg"}) for n in range(count)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_counts_are_right_after_tasks_and_again(tmp_path: Path) -> None:
    source, out = lines_of(tmp_path / "in.jsonl", 10), str(tmp_path / "out")
    for index in (0, 1, 1, 0):
        stream.run("test", dropping, source=str(source), out=out, shard_size=2, task=Task(index, 2), quiet=True)
    stream.run("test", dropping, source=str(source), out=out, shard_size=2, quiet=True)
    (note,) = notes.read_beside(out)
    assert flat(note) == [("test", 10, 6, 4)] and note["dropped"] == {"third": 4}
    (one,) = notes.read_beside(tmp_path / "out" / "00001.tar")
    assert flat(one) == [("test", 2, 1, 1)]
    (tmp_path / "out" / "foreign.tar").write_bytes(b"\0" * 1024)
    assert notes.read_beside(out)[0]["shards_without_manifest"] == 1
    before = (tmp_path / "out" / "note.json").stat().st_mtime_ns
    (tmp_path / "out" / "foreign.tar").unlink()
    stream.run("test", dropping, source=str(source), out=out, shard_size=2, quiet=True)
    assert (tmp_path / "out" / "note.json").stat().st_mtime_ns == before


def test_a_stage_that_fails_leaves_no_note(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def breaks(records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        yield from dropping((record for record in records if record["n"] < 5), drop)
        raise CommonArtError("broken", "")

    source = str(lines_of(tmp_path / "in.jsonl", 10))
    with pytest.raises(CommonArtError, match="broken"):
        stream.run("test", breaks, source=source, quiet=True)
    printed = [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [record["key"] for record in printed] == ["k1", "k2", "k4"] and notes.FIELD not in printed[-1]
    with pytest.raises(CommonArtError, match="broken"):
        stream.run("test", breaks, source=source, out=str(tmp_path / "out.jsonl"), quiet=True)
    assert not (tmp_path / "out.jsonl.note.json").exists()


def test_somebody_elses_field_of_that_name_stays(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b'{"key":"a","_history":"1990"}\n{"key":"b","_history":{"stage":"x","in":1,"out":1,"inputs":[]}}\n'
    )
    found: list[notes.Note] = []
    assert [record.get("_history") for record in jsonl.read(str(path), found)] == ["1990", None]
    assert [note["stage"] for note in found] == ["x"]
    path.write_bytes(b'{"key":"b","_history":{"stage":"x","in":1,"out":1,"inputs":[]}}\n')
    assert list(jsonl.read(str(path))) == [{"key": "b"}]
