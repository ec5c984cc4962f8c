"""What a command does where it, another one or one that was killed has written before, or writes at the same time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import pytest
from jsonl_stages import keep_all, keep_even, make_jsonl, tree

from commonart.core.data import files, jsonl, stream
from commonart.core.data.drops import Drop, Summary, Transform
from commonart.core.data.record import Record
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError


def test_a_second_call_skips_what_is_finished_and_counts_it(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 25)
    out = tmp_path / "shards"

    def run(stage: Transform = keep_even) -> Summary:
        return stream.run("even", stage, source=source, out=str(out), shard_size=10)

    first = run()
    before = tree(out)
    calls = []

    def counting(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
        calls.append(1)
        yield from keep_even(records, drop)

    second = run(counting)
    assert not calls
    assert (second.read, second.written, second.dropped) == (first.read, first.written, first.dropped)
    (out / "00001.tar").unlink()
    (out / "00002.json").unlink()
    run(counting)
    assert len(calls) == 2
    assert tree(out) == before


def test_other_input_or_settings_are_never_mixed(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 5)
    out = str(tmp_path / "shards")
    stream.run("even", keep_even, source=source, out=out, settings={"size": 64})
    with pytest.raises(CommonArtError, match=r"with other settings \(size\)"):
        stream.run("even", keep_even, source=source, out=out, settings={"size": 128})
    make_jsonl(tmp_path / "in.jsonl", 6)
    with pytest.raises(CommonArtError, match="from other input"):
        stream.run("even", keep_even, source=source, out=out, settings={"size": 64})
    assert stream.run("even", keep_even, source=source, out=out, settings={"size": 128}, overwrite=True).written == 3


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_an_image_that_was_replaced_is_other_input(tmp_path: Path, sha256: str) -> None:
    """Unless its record says which bytes are meant."""
    image, source, out = tmp_path / "a.jpg", tmp_path / "in.jsonl", str(tmp_path / "shards")
    record = {"key": "a", "image": str(image), **({"sha256": sha256} if sha256 else {})}
    source.write_bytes(orjson.dumps({**record, "n": 0}))
    for data in (b"one", b"one", b"two"):
        image.write_bytes(data)
        if data == b"two" and not sha256:
            with pytest.raises(CommonArtError, match="from other input"):
                stream.run("even", keep_even, source=str(source), out=out)
        else:
            assert stream.run("even", keep_even, source=str(source), out=out).written == 1


def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second shard meets a full disk; the first stays, nothing half stands, and the next call finishes."""
    source = make_jsonl(tmp_path / "in.jsonl", 20)
    out = tmp_path / "shards"
    real = ShardWriter.add_record

    def full(self: ShardWriter, record: Record, data: bytes, extension: str) -> None:
        if record["n"] == 15:
            raise OSError(28, "No space left on device")
        real(self, record, data, extension)

    monkeypatch.setattr(ShardWriter, "add_record", full)
    with pytest.raises(OSError, match="No space left"):
        stream.run("all", keep_all, source=source, out=str(out), shard_size=10)
    assert sorted(os.listdir(out)) == ["00000.idx", "00000.json", "00000.tar"]
    monkeypatch.undo()
    assert stream.run("all", keep_all, source=source, out=str(out), shard_size=10).written == 20


def test_shards_of_a_longer_run_are_not_mixed_in(tmp_path: Path) -> None:
    long, short = make_jsonl(tmp_path / "long.jsonl", 30), make_jsonl(tmp_path / "short.jsonl", 10)
    out = tmp_path / "out"
    stream.run("even", keep_even, source=long, out=str(out), shard_size=10)
    with pytest.raises(CommonArtError, match="also holds 00001.tar and 1 more"):
        stream.run("even", keep_even, source=short, out=str(out), shard_size=10)
    assert len(list(stream.read(str(out)))) == 15
    (out / "mine.tar").write_bytes(b"")  # no shard of this stage: not its to remove
    stream.run("even", keep_even, source=short, out=str(out), shard_size=10, overwrite=True)
    (out / "mine.tar").unlink()
    assert [r["n"] for r in stream.read(str(out))] == [0, 2, 4, 6, 8]
    assert tree(out).keys() == {"00000.tar", "00000.idx", "00000.json", "00000.rejects.jsonl", "note.json"}


SLOW_RUN = """
import sys, time
from commonart.core.data import stream
def slow(records, drop):
    for record in records:
        time.sleep(0.001)
        if record["n"] % 7 == 0:
            drop(record, "seven")
        else:
            yield record
stream.run("slow", slow, source=sys.argv[1], out=sys.argv[2], shard_size=20, rejects=sys.argv[3])
"""


def test_kill_at_random_moments_then_the_same_bytes(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 200)

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SLOW_RUN, source, str(tmp_path / out), str(tmp_path / f"{out}.jsonl")]
        )

    assert start("whole").wait() == 0
    random.seed(7)
    for _ in range(6):
        process = start("killed")
        time.sleep(random.uniform(0.1, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("killed").wait() == 0
    assert tree(tmp_path / "whole") == tree(tmp_path / "killed")
    rejected = [(tmp_path / f"{name}.jsonl").read_bytes() for name in ("whole", "killed")]
    assert rejected[0] == rejected[1]
    assert len(rejected[0].splitlines()) == 29
    assert all(orjson.loads(line)["reason"] == "seven" for line in rejected[0].splitlines())


def test_several_runs_to_one_folder_at_once_leave_it_whole(tmp_path: Path) -> None:
    """As a requeued task and the one that it replaces: each ends, and what stands there is whole."""
    source, out = make_jsonl(tmp_path / "in.jsonl", 200), tmp_path / "out"
    command = [sys.executable, "-c", SLOW_RUN, source, str(out), str(tmp_path / "no.jsonl")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert subprocess.run([*command[:4], str(tmp_path / "alone"), command[5]], capture_output=True).returncode == 0
    assert tree(out) == tree(tmp_path / "alone")


def test_parts_of_dead_runs_go_and_those_of_others_stay(tmp_path: Path) -> None:
    final = tmp_path / "a.jsonl"
    part = files.temporary_path(final).name
    host, pid, _ = part.removeprefix(".a.jsonl.").split("-")
    dead = part.replace(pid, "999999999")
    with subprocess.Popen(["sleep", "60"]) as other:
        alive = f".a.jsonl.{host}-{other.pid}-7.part"
        elsewhere, long_ago = f".a.jsonl.{'0' * 8}-1-7.part", f".a.jsonl.{'0' * 8}-2-7.part"
        names = {alive, dead, elsewhere, long_ago, f".b.jsonl.{host}-{pid}-7.part", ".a.jsonl.part"}
        for name in names:
            (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / long_ago, (0, 0))
        files.write_bytes(final, b"whole")
        assert set(os.listdir(tmp_path)) == names - {long_ago, dead} | {"a.jsonl"}
        other.kill()
        other.wait()
        files.write_bytes(final, b"whole")
        assert alive not in os.listdir(tmp_path)


def test_a_file_is_not_replaced_without_overwrite(tmp_path: Path) -> None:
    """The same command again finds its own work; another one stops at the first record that differs."""
    source, out = make_jsonl(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"

    def run(stage: Transform = keep_even, **options: bool) -> Summary:
        return stream.run("even", stage, source=source, out=str(out), **options)

    out.touch()  # as mktemp leaves it
    run()
    before = out.read_bytes()
    assert run().written == 5 and out.read_bytes() == before
    seen: list[Record] = []

    def everything(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
        for record in records:
            seen.append(record)
            yield record

    with pytest.raises(CommonArtError, match=r"out\.jsonl already exists, and holds other records.*--overwrite"):
        run(everything)
    assert len(seen) == 2 and out.read_bytes() == before  # k0 is the same, k1 is not
    make_jsonl(tmp_path / "in.jsonl", 6)
    with pytest.raises(CommonArtError, match="already exists"):
        run()  # fewer than there were
    assert out.read_bytes() == before and sorted(os.listdir(tmp_path)) == [
        "images", "in.jsonl", "out.jsonl", "out.jsonl.note.json",
    ]  # fmt: skip
    assert run(everything, overwrite=True).written == 6
    assert [record["n"] for record in jsonl.read(str(out))] == list(range(6))


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_a_packed_file_is_confirmed_by_what_it_holds(tmp_path: Path, ending: str) -> None:
    source, out = make_jsonl(tmp_path / "in.jsonl", 10), str(tmp_path / f"out.{ending}")
    for _ in range(2):
        assert stream.run("even", keep_even, source=source, out=out).written == 5
    with pytest.raises(CommonArtError, match="already exists"):
        stream.run("all", keep_all, source=source, out=out)


def test_rejects_are_written_again_by_the_same_command(tmp_path: Path) -> None:
    source, rejects = make_jsonl(tmp_path / "in.jsonl", 10), tmp_path / "no.jsonl"
    rejects.write_bytes(b'{"key":"old"}\n')
    stream.run("even", keep_even, source=source, out=str(tmp_path / "out"), rejects=str(rejects))
    assert [record["n"] for record in jsonl.read(str(rejects))] == [1, 3, 5, 7, 9]
