"""lookup --remove: what was removed is gone, stays away and is told; what was not named stays."""

from __future__ import annotations

import hashlib
import shutil
from io import BytesIO
from pathlib import Path

import lookup_shards
import orjson
from commands import Command
from lookup_shards import AUTHORS, encoded, here, lines, made, pictures, record
from PIL import Image

from commonart.core.data.blocklist import append_entries, read_blocklist
from commonart.core.data.files import lock
from commonart.core.data.shards.reader import read_shard

__all__ = ["here", "made"]  # the fixtures


def test_what_was_removed_is_gone_and_stays_away(here: Path, in_process: Command) -> None:
    (here / "blocklist.txt").write_text("# mine\nkey: other", "utf-8")
    done = in_process("lookup", "--url", "https://example.org/works/5", "--remove")
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "Removed 1 record, features included; 3 shards were written again." in text
    assert (
        "What a model has learned stays in it: runs/one had this in the training data. Train anew without it." in text
    )
    sha256 = hashlib.sha256((here / "raw" / "5.jpg").read_bytes()).hexdigest()
    blocked = (here / "blocklist.txt").read_text().splitlines()
    assert blocked[:2] == ["# mine", "key: other"] and blocked[2].startswith("# commonart lookup --remove, 20")
    assert blocked[3:] == ["url: https://example.org/works/5", f"sha256: {sha256}"]
    done = in_process("lookup", "--url", "https://example.org/works/5")
    assert done.returncode == 1
    removed, missing = done.stdout.decode().splitlines()
    assert removed.startswith("removed from shards on 20") and "was in the training data of runs/one" in removed
    assert missing == "Not found in shards, 11 records."
    for arguments in (["--key", "k05"], ["--sha256", sha256], ["--image", "raw/5.jpg"]):
        (answer,) = lines(in_process("lookup", *arguments, "--json"))
        assert (answer["match"], answer["keys"], answer["runs"]) == ("removed", ["k05"], ["runs/one"]), arguments
    (found,) = lines(in_process("lookup", "--key", "k04", "--json"))
    assert found["runs"][0]["trained"] is True, "of the others it is known as before"
    again = in_process("shard", "raw/list.jsonl", "-o", "again", "--size", "64", "--blocklist", "blocklist.txt", "-q")
    assert orjson.loads(again.stderr)["dropped"] == {"blocklisted": 1}
    assert in_process("lookup", "--key", "k05", "again").returncode == 1
    assert in_process("lookup", "--url", "https://example.org/works/5", "--remove").returncode == 1, (
        "nothing is left to do"
    )
    assert (here / "blocklist.txt").read_text().splitlines() == blocked


def test_an_author_is_removed_with_all_works_and_an_image_with_its_copies(here: Path, in_process: Command) -> None:
    done = in_process("lookup", "--author", AUTHORS[1], "--remove", "--json")
    *found, summary = lines(done)
    assert [each["key"] for each in found] == ["k01", "k05", "k09"] and summary["removed"] == 3
    assert summary["entries"] == 1 and len(summary["files"]) == 9 and summary["runs"] == ["runs/one"]
    assert (here / "blocklist.txt").read_text().splitlines()[1:] == [f"author: {AUTHORS[1]}"]
    assert in_process("lookup", "--author", AUTHORS[1]).returncode == 1
    (here / "copy.png").write_bytes(encoded(Image.open(here / "raw" / "6.jpg").resize((70, 70)), "PNG"))
    *found, summary = lines(in_process("lookup", "--image", "copy.png", "--remove", "--json"))
    assert [(each["key"], each["match"]) for each in found] == [("k06", "near")] and summary["removed"] == 1
    assert in_process("lookup", "--key", "k06").returncode == 1
    blocked = read_blocklist(str(here / "blocklist.txt"))
    assert blocked.entry_of({"sha256": hashlib.sha256((here / "copy.png").read_bytes()).hexdigest()})
    assert blocked.entry_of({"sha256": hashlib.sha256((here / "raw" / "6.jpg").read_bytes()).hexdigest()})


def test_a_copy_that_came_back_is_found_by_the_key_that_was_removed(tmp_path: Path, in_process: Command) -> None:
    """As after a removal that was killed between two shards: the same command finishes it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    data, *others = pictures(3)
    records = [record(n, each, raw) for n, each in enumerate([data, *others, data])]
    shards = tmp_path / "shards"
    lookup_shards.stage.run(lookup_shards.written(raw, records), str(shards), size=64, shard_size=2, quiet=True)
    shutil.copytree(shards, tmp_path / "before")
    assert in_process("lookup", "--key", "k00", "--remove").returncode == 0
    for path in (tmp_path / "before").glob("00001.*"):
        shutil.copy(path, shards)
    (found, removed) = lines(in_process("lookup", "--key", "k00", "--json"))
    assert (found["key"], found["match"], found["by"], removed["match"]) == ("k03", "exact", "sha256", "removed")
    assert [each["match"] for each in lines(in_process("lookup", "--key", "k01", "--json"))] == ["exact"]
    assert in_process("lookup", "--key", "k00", "--remove").returncode == 0
    assert in_process("lookup", "--sha256", records[0]["sha256"]).returncode == 1


def test_near_copies_stay_where_an_address_is_removed(tmp_path: Path, in_process: Command) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    data, other = pictures(2)
    copy = encoded(Image.open(BytesIO(data)), quality=60)
    records = [record(n, each, raw) for n, each in enumerate([data, other, copy])]
    lookup_shards.stage.run(lookup_shards.written(raw, records), str(tmp_path / "shards"), size=64, quiet=True)
    assert records[2]["sha256"] != records[0]["sha256"]
    kept = [each["key"] for tar in (tmp_path / "shards").glob("*.tar") for each in read_shard(tar)]
    assert "k02" in kept, "sharded without --dedup"
    done = in_process("lookup", "--key", "k00", "--remove")
    assert b"Near copies that were kept: 1. Remove those by --key or --image." in done.stdout
    assert in_process("lookup", "--key", "k02").returncode == 0


def test_nothing_is_removed_from_the_shards_of_a_run_that_trains(here: Path, in_process: Command) -> None:
    with lock(here / "runs" / "one"):
        done = in_process("lookup", "--key", "k05", "--remove")
    assert done.returncode == 2 and b"runs/one is in use by process" in done.stderr
    assert in_process("lookup", "--key", "k05").returncode == 0
    assert in_process("lookup", "--key", "k05", "--remove").returncode == 0


def test_entries_are_added_to_a_blocklist_once(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    assert append_entries(path, ["key: a", "key: a", "url: b"], "first") == 2
    assert append_entries(path, ["url: b", "author: c"], "second") == 1
    assert append_entries(path, ["author: c"], "third") == 0
    assert path.read_text() == "# first\nkey: a\nurl: b\n# second\nauthor: c\n"
    assert read_blocklist(str(path)).entry_of({"key": "x", "author": "C"}) == "author C"
