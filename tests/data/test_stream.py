"""The plumbing of every command: sources, outputs, drops, exit codes, tasks, and what a second call does."""

from __future__ import annotations

import io
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
from PIL import Image

from commonart.core.data import files, jsonl, stream, tasks
from commonart.core.data.drops import Drop, Summary, Transform
from commonart.core.data.record import Record
from commonart.core.data.shards import reader as shards
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, SchemaError, TooManyFailures, UsageError


def keep_even(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
    for record in records:
        if record["n"] % 2:
            drop(record, "odd", str(record["n"]))
        else:
            yield record


def fail_on(*numbers: int) -> Transform:
    def stage(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
        for record in records:
            if record["n"] in numbers:
                drop.failure(record, "broken")
            else:
                yield record

    return stage


def make_jsonl(path: Path, count: int) -> str:
    (path.parent / "images").mkdir(exist_ok=True)
    with jsonl.JsonlWriter(str(path)) as writer:
        for i in range(count):
            image = path.parent / "images" / f"k{i}.jpg"
            image.write_bytes(b"pixels %d" % i)
            writer.write({"key": f"k{i}", "n": i, "image": str(image)})
    return str(path)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_jsonl_to_jsonl_counts_and_keeps_rejects(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 10)
    out, rejects = str(tmp_path / "out.jsonl"), str(tmp_path / "no.jsonl")
    summary = stream.run("even", keep_even, source=source, out=out, rejects=rejects)
    assert summary.as_json() | {"seconds": 0} == {
        "stage": "even", "in": 10, "out": 5, "dropped": {"odd": 5}, "seconds": 0,
    }  # fmt: skip
    assert [r["n"] for r in jsonl.read(out)] == [0, 2, 4, 6, 8]
    first = next(jsonl.read(rejects))
    assert (first["n"], first["reason"], first["reason_detail"]) == (1, "odd", "1")


def test_shards_out_then_shards_in(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 25)
    out = tmp_path / "shards"
    rejects = tmp_path / "deep" / "no.jsonl"
    first = stream.run("even", keep_even, source=source, out=str(out), shard_size=10, rejects=str(rejects))
    assert sorted(p.name for p in out.glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    assert (first.read, first.written) == (25, 13)
    assert [shards.read_bytes(r["image"]) for r in stream.read(str(out))] == [b"pixels %d" % i for i in range(0, 25, 2)]
    assert len(list(jsonl.read(str(rejects)))) == 12
    assert shards.read_bytes(next(jsonl.read(str(rejects)))["image"]) == b"pixels 1"
    again = tmp_path / "again"
    stream.run("all", lambda records, drop: (r for r in records), source=str(out), out=str(again))
    assert [p.name for p in sorted(again.glob("*.tar"))] == [p.name for p in sorted(out.glob("*.tar"))]


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


def test_an_empty_shard_is_a_finished_shard(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 4)
    out = tmp_path / "shards"
    summary = stream.run("none", fail_on(0, 1, 2, 3), source=source, out=str(out), shard_size=2, max_failures=1.0)
    assert summary.written == 0
    assert list(stream.read(str(out))) == []
    assert len(list(out.glob("*.tar"))) == 2


def test_failures_count_and_drops_by_rule_do_not(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 10)
    out = str(tmp_path / "out.jsonl")
    assert stream.run("s", fail_on(1, 2, 3, 4, 5), source=source, out=out).failures == 5
    with pytest.raises(TooManyFailures) as error:
        stream.run("s", fail_on(1, 2, 3, 4, 5, 6), source=source, out=out, overwrite=True)
    assert error.value.code == 3
    assert error.value.summary.dropped == {"broken": 6}
    assert len(list(jsonl.read(out))) == 4  # what did not fail was written
    dropped = stream.run("s", keep_even, source=source, out=out, max_failures=0.0, overwrite=True)
    assert dropped.dropped == {"odd": 5}


def test_sources_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for source, sentence in [
        ("nowhere", "does not exist"),
        ("a.txt", "is not a folder, a .tar or a .jsonl"),
        ("empty", "holds no shards"),
    ]:
        with pytest.raises(CommonArtError, match=sentence):
            list(stream.read(str(tmp_path / source)))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UsageError, match="no SOURCE was given"):
        list(stream.read(None))


def test_schema_errors_stop_the_stage_and_leave_no_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"key":"a","n":0}\n{"n":2}\n')
    with pytest.raises(SchemaError, match=r"in\.jsonl:2: field 'key' is missing"):
        stream.run("even", keep_even, source=str(tmp_path / "in.jsonl"), out=str(tmp_path / "out.jsonl"))
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl"]


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
    everything: Transform = lambda records, drop: (r for r in records)  # noqa: E731
    with pytest.raises(OSError, match="No space left"):
        stream.run("all", everything, source=source, out=str(out), shard_size=10)
    assert sorted(os.listdir(out)) == ["00000.idx", "00000.json", "00000.tar"]
    monkeypatch.undo()
    assert stream.run("all", everything, source=source, out=str(out), shard_size=10).written == 20


def test_a_device_or_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    """`--rejects /dev/null` must leave the machine its /dev/null: tried on a named pipe, which anybody may make."""
    source = make_jsonl(tmp_path / "in.jsonl", 6)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        stream.run("even", keep_even, source=source, out=str(tmp_path / "out.jsonl"), rejects=str(pipe))
        assert reader.stdout is not None
        assert len(reader.stdout.read().splitlines()) == 3
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        stream.run("even", keep_even, source=source, out=str(pipe))  # no .jsonl in its name, and no folder either
        assert reader.stdout is not None
        assert len(reader.stdout.read().splitlines()) == 3
    assert pipe.is_fifo()


@pytest.mark.parametrize(("out", "name"), [("out.jsonl", "out.jsonl"), ("shards", "shards/00000.tar")])
def test_a_disk_that_fills_up_is_named_with_its_file(tmp_path: Path, out: str, name: str) -> None:
    """A limit on the size of a file stands for a full disk: both come from `write`, which names no file."""
    fetch = [sys.executable, "-m", "commonart.cli.main", "fetch", "scenes", "--limit", "100", "-o", out]
    command = ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh", *fetch, *["--list"][: out.endswith(".jsonl")]]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.decode().startswith(f"Error: {name}: the file is larger than allowed here.")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_tasks_share_the_shards_without_loss(tmp_path: Path, count: int) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 55)
    alone, together = tmp_path / "alone", tmp_path / "together"
    stream.run("even", keep_even, source=source, out=str(alone), shard_size=10)
    for index in range(count):
        stream.run("even", keep_even, source=source, out=str(together), shard_size=10, task=tasks.Task(index, count))
    assert tree(alone) == tree(together)


def test_tasks_never_write_one_file(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 55)
    for index in range(3):
        stream.run(
            "even", keep_even, source=source, out=str(tmp_path / "even.jsonl"), rejects=str(tmp_path / "odd.jsonl.gz"),
            shard_size=10, task=tasks.Task(index, 3),
        )  # fmt: skip
    for name, rest, ending in (("even", 0, "jsonl"), ("odd", 1, "jsonl.gz")):
        files = [str(tmp_path / f"{name}-{index:05d}-of-00003.{ending}") for index in range(3)]
        assert sorted(r["n"] for file in files for r in jsonl.read(file)) == list(range(rest, 55, 2))
    assert not (tmp_path / "even.jsonl").exists()


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
    assert tree(out).keys() == {"00000.tar", "00000.idx", "00000.json", "00000.rejects.jsonl"}


def test_records_and_rejects_need_two_files(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 3)
    with pytest.raises(UsageError, match="-o and --rejects are both"):
        stream.run("even", keep_even, source=source, out=str(tmp_path / "a.jsonl"), rejects=str(tmp_path / "a.jsonl"))
    assert not (tmp_path / "a.jsonl").exists()


def test_tasks_come_from_slurm() -> None:
    with pytest.raises(UsageError, match="SLURM_PROCID=x"):
        tasks.this_task(environ={"SLURM_PROCID": "x", "SLURM_STEP_NUM_TASKS": "8"})
    assert tasks.this_task(environ={}) == tasks.Task(0, 1)
    array = {
        f"SLURM_ARRAY_TASK_{name}": value for name, value in (("ID", "3"), ("COUNT", "16"), ("MIN", "0"), ("MAX", "15"))
    }
    assert tasks.this_task(environ=array) == tasks.Task(3, 16)
    assert tasks.this_task(environ={**array, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == tasks.Task(3, 16)
    assert tasks.this_task(environ={**array, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}) == tasks.Task(7, 32)
    assert tasks.this_task(environ={"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}) == tasks.Task(3, 8)
    assert tasks.this_task(environ={"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == tasks.Task(
        0, 1
    )  # a batch script, no srun
    assert tasks.this_task(1, 2, environ=array) == tasks.Task(1, 2)
    with pytest.raises(UsageError):
        tasks.this_task(2, 2, environ={})
    with pytest.raises(UsageError):
        tasks.this_task(1, None, environ={})
    with pytest.raises(UsageError, match="go together"):
        tasks.this_task(None, 4, environ={})


@pytest.mark.parametrize(
    ("ids", "whole"),
    [(["3", "4"], 16), (["0", "2"], 4), (["15"], 16), (["0"], 16), (["1", "2", "3"], 4), (["0", "2", "4"], 6)],
)
def test_part_of_an_array_needs_the_number_of_the_whole(ids: list[str], whole: int) -> None:
    part = {"SLURM_ARRAY_TASK_COUNT": str(len(ids)), "SLURM_ARRAY_TASK_MIN": ids[0], "SLURM_ARRAY_TASK_MAX": ids[-1]}
    for name in ids:
        environ = {**part, "SLURM_ARRAY_TASK_ID": name, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
        with pytest.raises(UsageError, match="a part of another one") as error:
            tasks.this_task(environ=environ)
        assert "--num-tasks" in error.value.fix
        assert tasks.this_task(None, whole, environ=environ) == tasks.Task(int(name), whole)
    if ids[-1] == "0":
        assert tasks.this_task(None, 1, environ={**part, "SLURM_ARRAY_TASK_ID": "0"}) == tasks.Task(0, 1)
    else:
        with pytest.raises(UsageError, match=f"task {ids[-1]} of 1 does not exist"):
            tasks.this_task(None, 1, environ={**part, "SLURM_ARRAY_TASK_ID": ids[-1]})


def test_files_of_another_number_of_tasks_are_not_mixed_in(tmp_path: Path) -> None:
    path = str(tmp_path / "kept.jsonl")
    Path(tasks.Task(2, 16).own_file(path)).touch()
    assert tasks.Task(3, 16).own_file(path).endswith("kept-00003-of-00016.jsonl")
    assert tasks.Task(0, 5).own_file(str(tmp_path / "other.jsonl")).endswith("other-00000-of-00005.jsonl")
    with pytest.raises(UsageError, match="one of 16 tasks; this is one of 5"):  # --array=0-4 of a former 0-15
        tasks.Task(0, 5).own_file(path)
    with pytest.raises(UsageError, match="one of 16 tasks; this is one of 1"):
        tasks.Task(0, 1).own_file(path)
    Path(path).touch()
    with pytest.raises(UsageError, match="kept.jsonl was written by one task"):
        tasks.Task(2, 16).own_file(path)


def test_a_picture_is_named_by_what_it_is_where_its_file_is_not(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    folder = tmp_path / "sub.d"
    folder.mkdir()
    for name, data in (("pic", png.getvalue()), ("x.png (1)", png.getvalue()), ("text", b"no picture")):
        (folder / name).write_bytes(data)

    def passed(name: str, *pictures: str) -> str:
        with jsonl.JsonlWriter(str(tmp_path / f"{name}.jsonl")) as writer:
            for n, picture in enumerate(pictures):
                writer.write({"key": f"k{n}", "image": str(folder / picture)})
        stream.run("pass", lambda records, drop: records, source=f"{tmp_path}/{name}.jsonl", out=f"{tmp_path}/{name}")
        return f"{tmp_path}/{name}"

    found = list(stream.read(passed("good", "pic", "x.png (1)")))
    assert [record["image"].rpartition("#")[2] for record in found] == ["k0.png", "k1.png"]
    with pytest.raises(CommonArtError, match="text is not an image"):
        passed("bad", "text")


KILLED = """
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
            [sys.executable, "-c", KILLED, source, str(tmp_path / out), str(tmp_path / f"{out}.jsonl")]
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


def test_two_runs_to_one_name_at_one_moment(tmp_path: Path) -> None:
    """As a requeued task and the one that it replaces: each ends, and what stands there is whole."""
    source, out = make_jsonl(tmp_path / "in.jsonl", 200), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, source, str(out), str(tmp_path / "no.jsonl")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said
    assert subprocess.run([*command[:4], str(tmp_path / "alone"), command[5]], capture_output=True).returncode == 0
    assert tree(out) == tree(tmp_path / "alone")


def test_parts_of_dead_runs_go_and_those_of_others_stay(tmp_path: Path) -> None:
    final = tmp_path / "a.jsonl"
    own = files.temporary_path(final).name
    host, pid, _ = own.removeprefix(".a.jsonl.").split("-")
    with subprocess.Popen(["sleep", "60"]) as other:
        alive = f".a.jsonl.{host}-{other.pid}-7.part"
        afar, long_ago = f".a.jsonl.{'0' * 8}-1-7.part", f".a.jsonl.{'0' * 8}-2-7.part"
        names = {alive, afar, long_ago, f".b.jsonl.{host}-{pid}-7.part", ".a.jsonl.part", own.replace(pid, "999999999")}
        for name in names:
            (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / long_ago, (0, 0))
        files.write_bytes(final, b"whole")
        assert set(os.listdir(tmp_path)) == names - {long_ago, own.replace(pid, "999999999")} | {"a.jsonl"}
        other.kill()
        other.wait()
        files.write_bytes(final, b"whole")
        assert alive not in os.listdir(tmp_path)


def test_nothing_is_written_over_what_is_read(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 4)
    os.symlink(source, tmp_path / "link.jsonl")
    link = str(tmp_path / "link.jsonl")
    for options in ({"out": source}, {"out": str(tmp_path / "out"), "rejects": link}, {"out": link}):
        with pytest.raises(UsageError, match="are both"):
            stream.run("even", keep_even, source=source, overwrite=True, **options)
    assert len(list(jsonl.read(source))) == 4


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
    assert out.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["images", "in.jsonl", "out.jsonl"]
    assert run(everything, overwrite=True).written == 6
    assert [record["n"] for record in jsonl.read(str(out))] == list(range(6))


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_a_packed_file_is_confirmed_by_what_it_holds(tmp_path: Path, ending: str) -> None:
    source, out = make_jsonl(tmp_path / "in.jsonl", 10), str(tmp_path / f"out.{ending}")
    for _ in range(2):
        assert stream.run("even", keep_even, source=source, out=out).written == 5
    with pytest.raises(CommonArtError, match="already exists"):
        stream.run("all", lambda records, drop: iter(records), source=source, out=out)


def test_rejects_are_written_again_by_the_same_command(tmp_path: Path) -> None:
    source, rejects = make_jsonl(tmp_path / "in.jsonl", 10), tmp_path / "no.jsonl"
    rejects.write_bytes(b'{"key":"old"}\n')
    stream.run("even", keep_even, source=source, out=str(tmp_path / "out"), rejects=str(rejects))
    assert [record["n"] for record in jsonl.read(str(rejects))] == [1, 3, 5, 7, 9]


def test_an_empty_list_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").touch()
    assert stream.run("even", keep_even, source=str(tmp_path / "in.jsonl"), out=str(tmp_path / "out")).written == 0
    assert f"even: there are no records in {tmp_path}/in.jsonl." in capsys.readouterr().err
