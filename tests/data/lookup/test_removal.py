"""Removal: nothing of a record stays, everything else does, byte for byte, and a removal that was killed is finished."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import lookup_shards
import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file

from commonart.core.data.features.format import Features
from commonart.core.data.files import lock
from commonart.core.data.lookup import removal
from commonart.core.data.lookup.index import LookupIndex
from commonart.core.data.lookup.runs import data_fingerprint, read_run, removed_since
from commonart.core.data.shards.manifest import finished, read_manifest
from commonart.core.data.shards.reader import members, read_bytes, read_shard, read_span
from commonart.core.data.shards.runner import read_rejects, write_rejects
from commonart.core.data.training_index import read_index
from commonart.core.errors import CommonArtError
from commonart.stages import shard as stage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lookup_shards.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "shards"


def contents(folder: Path) -> dict[str, bytes]:
    """Every member of every tar below a folder, without the records' place among others."""
    return {
        f"{tar.relative_to(folder)}#{name}": read_span(tar, span)
        for tar in sorted(folder.rglob("*.tar")) for name, span in members(tar).items()
    }  # fmt: skip


def take_out(shards: Path, *keys: str) -> list[Path]:
    records: dict[str, list[dict[str, str]]] = {}
    for tar in sorted(shards.glob("*.tar")):
        for each in read_shard(tar):
            if each["key"] in keys:
                records.setdefault(tar.name, []).append(each)
    return removal.remove(shards, records, [f"key: {key}" for key in keys])


def test_nothing_of_it_stays_and_all_else_does(shards: Path) -> None:
    before = contents(shards)
    files = take_out(shards, "k05", "k06")
    assert [path.relative_to(shards).as_posix() for path in files] == ["text/00001.tar", "image/00001.tar", "00001.tar"]
    after = contents(shards)
    assert after == {name: data for name, data in before.items() if "k05" not in name and "k06" not in name}
    assert len(before) - len(after) == 8, "records, images, states and latents of two"
    for path in shards.rglob("*"):
        if path.is_file() and path.name != removal.LOG:
            assert b"k05" not in path.read_bytes(), path
    manifest = finished(shards / "00001.tar")
    assert manifest is not None
    assert (manifest.read, manifest.written, manifest.dropped, manifest.stage) == (4, 2, {"blocklisted": 2}, "shard")
    for kind in ("text", "image"):
        found = Features.beside(shards, kind)
        assert found is not None
        found.check(shards, full=True)
    assert [record["key"] for record in read_shard(shards / "00001.tar")] == ["k04", "k07"]
    assert not list(shards.rglob(removal.WORK)) and not (shards / ".lock").exists()
    hashes = load_file(shards / "hashes" / "00001.safetensors")
    assert (
        hashes["keys"].tobytes() == b"k04\nk07"
        and hashes["fingerprint"].dtype == np.uint64
        and len(hashes["fingerprint"]) == 2
    )


def test_what_the_manifest_counts_of_captions_stays(shards: Path) -> None:
    path = shards / "00001.json"
    counted = {"missing": {"empty": 2}, "captions_removed": {"caption_of_closed_service": 3}}
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **counted}))
    take_out(shards, "k05")
    after = orjson.loads(path.read_bytes())
    assert {name: after.get(name) for name in counted} == counted


def test_the_stages_go_on_as_if_it_had_never_been_there(made: Path, shards: Path) -> None:
    take_out(shards, "k05")
    before = {path: path.read_bytes() for path in shards.glob("0*.tar")}
    source = str(made.parent / "raw" / "list.jsonl")
    summary = stage.run(source, str(shards), size=64, format="jpg", shard_size=4, dedup=True, quiet=True)
    assert (summary.written, dict(summary.dropped)) == (11, {"blocklisted": 1})
    assert {path: path.read_bytes() for path in shards.glob("0*.tar")} == before, "finished shards are not made again"
    assert len(read_index(shards).keys) == 10


def test_a_shard_of_which_nothing_is_left(shards: Path) -> None:
    take_out(shards, "k04", "k05", "k06", "k07")
    assert list(read_shard(shards / "00001.tar")) == []
    with LookupIndex(shards) as index:
        assert index.count()[0] == 8 and index.counts()[1] == ("00001.tar", 0)
    assert len(read_index(shards).keys) == 7


def test_stale_features_stay_stale(shards: Path) -> None:
    manifest = shards / "text" / "00001.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"input": "', b'"input": "0'))
    old = read_manifest(shards / "text" / "00001.tar")
    take_out(shards, "k05")
    new = read_manifest(shards / "text" / "00001.tar")
    assert old is not None and new is not None and old.input == new.input
    with pytest.raises(CommonArtError, match="was made from another"):
        Features(shards / "text").check(shards)


KILLED = """
import os, signal, sys
from pathlib import Path
from commonart.core.data.lookup import removal
left = int(sys.argv[2])
original = os.replace
def replace(old, new):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(old, new)
os.replace = replace
removal.remove(Path(sys.argv[1]), {"00001.tar": [{"key": "k05"}]}, ["key: k05"])
"""


def test_a_removal_that_was_killed_at_any_rename_is_finished_by_the_same_command(made: Path, tmp_path: Path) -> None:
    """The record is found until its shard is written, and the end is the same wherever it was killed."""
    ends = set[str]()
    for number in range(40):
        folder = tmp_path / str(number)
        shutil.copytree(made.parent, folder)
        shards = folder / "shards"
        run = [sys.executable, "-c", KILLED, str(shards), str(number)]
        killed = subprocess.run(run, check=False).returncode == -9
        with LookupIndex(shards) as index:
            rows = [row for row in index.candidates("key", ["k05"]) if "/" not in row[0]]
            assert rows or finished(shards / "00001.tar"), "it is found, or nothing of its shard is left to do"
        if rows:
            take_out(shards, "k05")
        assert not [name for name in contents(shards) if "k05" in name]
        for kind in ("text", "image"):
            Features(shards / kind).check(shards, full=True)
        manifest = read_manifest(shards / "00001.tar")
        assert manifest is not None and (manifest.written, manifest.dropped) == (3, {"blocklisted": 1})
        assert read_manifest(shards / "text" / "00001.tar").written == 3  # type: ignore[union-attr]
        ends.add("".join(f"{path.name}{path.read_bytes()!r}" for path in sorted(shards.rglob("*.tar"))))
        if not killed:
            break
    assert len(ends) == 1 and number > 10


def test_the_log_tells_of_runs_what_the_shards_were_before(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards.parent)
    first = read_run(lookup_shards.run(shards.parent / "runs" / "first"))

    def since(run: object) -> list[str] | None:
        with LookupIndex("shards") as index:
            key = shards.resolve()
            found = removed_since(run, {key: index.identities()}, {key: removal.read_log(shards)})  # type: ignore[arg-type]
        return None if found is None else [each.records[0]["key"] for each in found]

    assert since(first) == []
    take_out(shards, "k05")
    second = read_run(lookup_shards.run(shards.parent / "runs" / "second"))
    take_out(shards, "k01")
    take_out(shards, "k06")
    assert since(first) == ["k06", "k01", "k05"] and since(second) == ["k06", "k01"]
    assert since(read_run(lookup_shards.run(shards.parent / "runs" / "third"))) == []
    (shards / "00002.tar").unlink()
    assert since(first) is None


def test_the_fingerprint_is_that_of_training(shards: Path) -> None:
    other = shards.parent / "other"
    shutil.copytree(shards, other)
    for path in other.glob("0000[01].*"):
        path.unlink()
    for folder in (shards, other):
        for tar in (*folder.glob("text/*"), *folder.glob("image/*")):
            tar.unlink()
    with LookupIndex(shards) as one, LookupIndex(other) as two:
        identities = {shards.resolve(): one.identities(), other.resolve(): two.identities()}
    for path in other.glob("*.tar"):  # keys may stand once
        path.rename(path.with_name("00007.tar"))
        path.with_suffix(".json").rename(path.with_name("00007.json"))
    identities[other.resolve()] = {"00007.tar": identities[other.resolve()]["00002.tar"]}
    for path in shards.glob("00002.*"):
        path.unlink()
    del identities[shards.resolve()]["00002.tar"]
    for weights in ((1.0, 1.0), (1.0, 0.5), (2.0, 1.0)):
        text = f"{shards}:{weights[0]:g},{other}:{weights[1]:g}"
        assert data_fingerprint([(shards, weights[0]), (other, weights[1])], identities) == read_index(text).fingerprint


def test_rows_that_fetch_counts_keep_their_places(shards: Path) -> None:
    tar = shards / "00000.tar"
    path = tar.with_suffix(".json")
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "stage": "fetch", "in": 6}))
    write_rejects(tar, [{"key": "x", "row": 1, "reason": "timeout"}, {"key": "y", "row": 4, "reason": "http_404"}])
    take_out(shards, "k01", "k03")  # rows 2 and 5, for rows 1 and 4 were rejected
    places = [(record["row"], record["reason"]) for record in read_rejects(tar)]
    assert places == [(1, "timeout"), (2, "blocklisted"), (4, "http_404"), (5, "blocklisted")]
    assert not any(record["key"] in ("k01", "k03") for record in read_rejects(tar))


def test_what_stops_a_removal(shards: Path) -> None:
    with lock(shards), pytest.raises(CommonArtError, match="in use by process"):
        take_out(shards, "k05")
    (shards / removal.LOG).write_text('{"at": 3}\n')
    with pytest.raises(CommonArtError, match=r"removed\.jsonl is damaged"):
        removal.read_log(shards)
    assert read_bytes(next(iter(read_shard(shards / "00001.tar")))["image"])
