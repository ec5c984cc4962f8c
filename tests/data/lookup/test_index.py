"""The index: what it finds against what reading everything finds, and what becomes of it when shards or the file change."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lookup_shards
import pytest

from commonart.core.data.images.phash import NEAR
from commonart.core.data.lookup import index as lookup
from commonart.core.data.lookup.index import LookupIndex, fingerprint_of
from commonart.core.data.shards.reader import read_shard
from commonart.core.errors import CommonArtError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lookup_shards.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "shards")
    return tmp_path / "shards"


def images(index: LookupIndex, kind: str, *values: str) -> list[tuple[str, int]]:
    return [row for row in index.candidates(kind, values) if "/" not in row[0]]


def test_every_value_of_every_record_is_found_where_it_is(shards: Path) -> None:
    with LookupIndex(shards) as index:
        assert index.count() == (12, 0)
        for tar in sorted(shards.glob("*.tar")):
            for number, record in enumerate(read_shard(tar)):
                row = (tar.name, number)
                for kind, field in (
                    ("key", "key"),
                    ("sha256", "sha256"),
                    ("sha256", "shard_sha256"),
                    ("url", "image_url"),
                ):
                    assert images(index, kind, record[field]) == [row]
                ((_, read),) = index.records([row])
                assert read == record
                assert [near.bits for near in index.near([fingerprint_of(record)]) if near.row == row] == [0]
                assert len(index.features(*row[:1], record["key"])) == 2
        assert images(index, "key", "k99") == [] and list(index.near([0x0123456789ABCDEF])) == []
        assert len(images(index, "key", "k00", "k05", "k11")) == 3


def test_spellings_of_addresses_and_names(shards: Path) -> None:
    with LookupIndex(shards) as index:
        (row,) = images(index, "url", "https://example.org/works/3")
        for url in ("http://www.EXAMPLE.org/works/3/", "example.org/works/3#top", "https://example.org:443/works/%33"):
            assert images(index, "url", url) == [row]
        assert images(index, "url", "https://example.org/Works/3") == []
        for name in ("JANE doe", " Jane  Doe ", "Ｊａｎｅ　Ｄｏｅ"):
            assert len(images(index, "author", name)) == 3
        assert len(images(index, "url", "https://example.org/by/1")) == 3


def test_near_is_as_near_as_dedup_says(shards: Path) -> None:
    with LookupIndex(shards) as index:
        ((_, record),) = index.records([("00001.tar", 2)])
        value = fingerprint_of(record)
        for bits in range(7):
            changed = value ^ ((1 << bits) - 1)
            found = [near for near in index.near([changed]) if near.row == ("00001.tar", 2)]
            assert [near.bits for near in found] == ([bits] if bits <= NEAR else [])


def test_shards_that_change_come_and_go_are_read_again_and_no_others(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()
    original = lookup.read_shard
    monkeypatch.setattr(lookup, "read_shard", lambda path: read.append(path.name) or original(path))
    with LookupIndex(shards) as index:
        assert index.count()[0] == 12
    with LookupIndex(shards):
        assert read == ["00000.tar", "00001.tar", "00002.tar"]
    os.utime(shards / "00001.tar", (1, 1))
    for path in shards.glob("00002.*"):
        path.unlink()
    with LookupIndex(shards) as index:
        assert read[3:] == ["00001.tar"] and index.count()[0] == 8 and images(index, "key", "k11") == []
    shutil.copy(shards / "00000.tar", shards / "00005.tar")
    with LookupIndex(shards) as index:
        assert read[4:] == ["00005.tar"] and len(images(index, "key", "k00")) == 2
        assert list(index.identities()) == ["00000.tar", "00001.tar", "00005.tar"]


def test_a_damaged_index_and_one_of_another_version_are_made_again(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LookupIndex(shards).__exit__()
    (shards / lookup.NAME).write_bytes(b"not a database, but long enough to be one" * 100)
    with LookupIndex(shards) as index:
        assert len(images(index, "key", "k07")) == 1 and "is damaged" in capsys.readouterr().err
    with sqlite3.connect(shards / lookup.NAME) as db:
        db.execute("PRAGMA user_version = 77")
        db.execute("DELETE FROM key")
    db.close()
    with LookupIndex(shards) as index:
        assert len(images(index, "key", "k07")) == 1


KILLED = """
import os, signal, sys
from commonart.core.data.lookup import index
index.COMMIT = 1
original, read = index.read_shard, []
def slow(path):
    read.append(path.name)
    if len(read) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(path)
index.read_shard = slow
index.LookupIndex(sys.argv[1])
"""


def test_a_build_that_was_killed_goes_on(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(shards)], check=False).returncode == -9
    read = list[str]()
    original = lookup.read_shard
    monkeypatch.setattr(lookup, "read_shard", lambda path: read.append(path.name) or original(path))
    with LookupIndex(shards) as index:
        assert read == ["00002.tar"] and index.count()[0] == 12 and len(images(index, "key", "k00")) == 1


def test_two_that_build_at_once_do_not_mix(shards: Path) -> None:
    with lookup.lock(shards, f"{lookup.NAME}.lock"), pytest.raises(CommonArtError, match="in use by process"):
        LookupIndex(shards)


def test_folders_that_cannot_be_indexed(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="does not exist"):
        LookupIndex(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommonArtError, match="holds no shards"):
        LookupIndex(tmp_path / "empty")
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:3000])
    with pytest.raises(CommonArtError, match=r"00001\.tar"):
        LookupIndex(shards)


def test_an_index_of_a_folder_that_may_not_be_written_is_in_the_cache(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LookupIndex(shards).__exit__()
    lock, refused = lookup.lock, [shards]

    def refusing(folder: Path, *names: str, **options: bool) -> Any:
        if folder in refused:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        return lock(folder, *names, **options)

    monkeypatch.setattr(lookup, "lock", refusing)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with LookupIndex(shards) as index:
        assert index.count()[0] == 12 and index.path.parent == shards, "it is there, and need not be written"
    os.utime(shards / "00001.tar", (1, 1))
    with LookupIndex(shards) as index:
        assert index.count()[0] == 12 and index.path.parent == tmp_path / "cache" / "commonart" / "lookup"
        assert images(index, "key", "k05") == [("00001.tar", 1)]
    monkeypatch.setattr(LookupIndex, "add_shard", None)
    shards.rename(tmp_path / "elsewhere")
    refused.append(tmp_path / "elsewhere")
    LookupIndex(tmp_path / "elsewhere").__exit__()  # the same shards: nothing is read again
    refused.append(tmp_path / "other" / "commonart" / "lookup")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    with pytest.raises(
        CommonArtError, match=r"other/commonart/lookup/\w+\.sqlite cannot be written: Read-only"
    ) as error:
        LookupIndex(tmp_path / "elsewhere")
    assert error.value.fix.startswith(f"Make {tmp_path / 'elsewhere'} writable, or set XDG_CACHE_HOME")


def test_a_full_disk_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def full(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(lookup.sqlite3, "connect", full)
    with pytest.raises(CommonArtError, match=r"\.lookup\.sqlite cannot be written: the disk is full") as error:
        LookupIndex(shards)
    assert error.value.fix == "Free some space on it."


def test_records_without_hashes(tmp_path: Path) -> None:
    assert fingerprint_of({}) == 0 and fingerprint_of({"phash": "0" * 16}) == 0
    assert fingerprint_of({"phash": "ff00ff00ff00ff00"}) == 0xFF00FF00FF00FF00
    assert fingerprint_of({"sha256": "12" * 32}) == 0x1212121212121212
    raw = tmp_path / "raw"
    raw.mkdir()
    from commonart.core.data.shards.writer import ShardWriter

    with ShardWriter(raw / "00000.tar") as writer:
        writer.add_record({"key": "a", "shard_sha256": 7}, b"x", "jpg")
        writer.add_record({"key": "b"}, b"y", "jpg")
    with LookupIndex(raw) as index:
        assert index.count() == (2, 2) and images(index, "key", "b") == [("00000.tar", 1)]
        assert list(index.near([0])) == []


@pytest.mark.slow
def test_a_hundred_thousand_records_take_seconds(tmp_path: Path) -> None:
    """What tests/benchmarks/lookup.py measures at 25 million, at a size for a test."""
    lookup_shards.make(tmp_path, features=False)
    index = LookupIndex(tmp_path / "shards")
    index._db.close()
    index._db = sqlite3.connect(index.path, isolation_level=None)
    index._db.execute("BEGIN")
    for shard in range(10, 110):
        records = (
            {"key": f"s{shard * 1000 + n}", "phash": f"{(shard * 1000 + n) * 2654435761:016x}"} for n in range(1000)
        )
        index.add_shard(f"{shard:05d}.tar", (0, 0), "", records)
    index._db.execute("COMMIT")
    began = time.process_time()
    assert list(index.candidates("key", ["s54321"])) == [("00054.tar", 321)]
    assert time.process_time() - began < 0.5
