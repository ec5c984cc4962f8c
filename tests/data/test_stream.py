"""The plumbing of every command: sources, outputs, drops and exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from jsonl_stages import keep_all, keep_even, make_jsonl
from PIL import Image

from commonart.core.data import jsonl, stream
from commonart.core.data.drops import Drop, Transform
from commonart.core.data.record import Record
from commonart.core.data.shards import reader as shards
from commonart.core.errors import CommonArtError, SchemaError, TooManyFailures, UsageError


def fail_on(*numbers: int) -> Transform:
    def stage(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
        for record in records:
            if record["n"] in numbers:
                drop.failure(record, "broken")
            else:
                yield record

    return stage


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
    stream.run("all", keep_all, source=str(out), out=str(again))
    assert [p.name for p in sorted(again.glob("*.tar"))] == [p.name for p in sorted(out.glob("*.tar"))]


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


def test_a_source_that_is_missing_or_of_no_known_kind_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_records_and_rejects_need_two_files(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 3)
    with pytest.raises(UsageError, match="-o and --rejects are both"):
        stream.run("even", keep_even, source=source, out=str(tmp_path / "a.jsonl"), rejects=str(tmp_path / "a.jsonl"))
    assert not (tmp_path / "a.jsonl").exists()


def test_an_image_without_a_usual_suffix_is_named_by_its_format(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    folder = tmp_path / "sub.d"
    folder.mkdir()
    for name, data in (("pic", png.getvalue()), ("x.png (1)", png.getvalue()), ("text", b"no picture")):
        (folder / name).write_bytes(data)

    def sharded(name: str, *pictures: str) -> str:
        with jsonl.JsonlWriter(str(tmp_path / f"{name}.jsonl")) as writer:
            for n, picture in enumerate(pictures):
                writer.write({"key": f"k{n}", "image": str(folder / picture)})
        stream.run("pass", keep_all, source=f"{tmp_path}/{name}.jsonl", out=f"{tmp_path}/{name}")
        return f"{tmp_path}/{name}"

    records = list(stream.read(sharded("good", "pic", "x.png (1)")))
    assert [record["image"].rpartition("#")[2] for record in records] == ["k0.png", "k1.png"]
    with pytest.raises(CommonArtError, match="text is not an image"):
        sharded("bad", "text")


def test_nothing_is_written_over_what_is_read(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 4)
    os.symlink(source, tmp_path / "link.jsonl")
    link = str(tmp_path / "link.jsonl")
    for options in ({"out": source}, {"out": str(tmp_path / "out"), "rejects": link}, {"out": link}):
        with pytest.raises(UsageError, match="are both"):
            stream.run("even", keep_even, source=source, overwrite=True, **options)
    assert len(list(jsonl.read(source))) == 4


def test_an_empty_list_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").touch()
    assert stream.run("even", keep_even, source=str(tmp_path / "in.jsonl"), out=str(tmp_path / "out")).written == 0
    assert f"even: there are no records in {tmp_path}/in.jsonl." in capsys.readouterr().err
