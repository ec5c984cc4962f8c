"""The one JSONL reader and writer: compression, damage, doubled keys, constant memory."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import zstandard

from commonart.core.data import jsonl
from commonart.core.errors import CommonArtError, SchemaError

LINES = b"".join(orjson.dumps({"key": f"k{i}", "title": "象" * 20}) + b"\n" for i in range(5000))


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("suffix", jsonl.SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"a{suffix}")
    records = [{"key": f"k{i}", "title": "縞馬\n\u2028", "n": [i, None, 0.5]} for i in range(3000)]
    with jsonl.JsonlWriter(path) as writer:
        for record in records:
            writer.write(record)
    assert list(jsonl.read(path)) == records
    again = Path(path).read_bytes()
    with jsonl.JsonlWriter(path) as writer:
        for record in records:
            writer.write(record)
    assert Path(path).read_bytes() == again  # no time stamp inside


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_compression_is_said(tmp_path: Path, suffix: str, pack, damage: str) -> None:
    data = pack(LINES)
    half = len(data) // 2
    data = data[:half] if damage == "cut" else data[:half] + bytes([data[half] ^ 255]) + data[half + 1 :]
    path = write(tmp_path / f"a.jsonl{suffix}", data)
    # A flipped bit may also surface as a line that is not JSON, before the checksum is reached.
    with pytest.raises(CommonArtError, match=r"damaged after line|is not JSON"):
        list(jsonl.read(path))


def test_a_cut_zst_is_no_shorter_file(tmp_path: Path) -> None:
    """A zstd stream that ends early must not read as a file that ends there."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as packer:
        for start in range(0, len(LINES), 1000):
            packer.write(LINES[start : start + 1000])
            packer.flush()
    path = write(tmp_path / "a.jsonl.zst", out.getvalue()[: len(out.getvalue()) // 2])
    with pytest.raises(CommonArtError):
        list(jsonl.read(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_byte_order_mark_is_skipped_at_the_start_alone(tmp_path: Path, suffix: str) -> None:
    bom, pack = b"\xef\xbb\xbf", gzip.compress if suffix.endswith("gz") else bytes
    path = write(tmp_path / f"a{suffix}", pack(bom + b'{"key":"a"}\r\n{"key":"b"}\r\n'))
    assert [record["key"] for record in jsonl.read(path)] == ["a", "b"]
    assert list(jsonl.read(write(tmp_path / f"b{suffix}", pack(bom)))) == []
    with pytest.raises(SchemaError, match="c.jsonl.*:2: is not JSON"):
        list(jsonl.read(write(tmp_path / f"c{suffix}", pack(b'{"key":"a"}\n' + bom + b'{"key":"b"}\n'))))


def test_no_json_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"key":"a"}\n\n{"key":\n')
    with pytest.raises(SchemaError, match=r"a\.jsonl:3: is not JSON"):
        list(jsonl.read(path))


def test_a_last_line_cut_short_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES[:-10])
    with pytest.raises(SchemaError, match=r":5000: is not JSON"):
        list(jsonl.read(path))


def test_two_records_with_one_key(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"key":"a"}\n{"key":"b"}\n{"key":"a"}\n')
    with pytest.raises(SchemaError, match="a.jsonl:3: field 'key' 'a' stands on line 1 too"):
        list(jsonl.read(path))


def test_a_doubled_key_is_found_across_generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "WINDOW", 10)
    lines = [b'{"key":"k%d"}' % i for i in range(15)] + [b'{"key":"k9"}']
    with pytest.raises(SchemaError, match="stands on line 10"):
        list(jsonl.read(write(tmp_path / "a.jsonl", b"\n".join(lines))))


def test_image_counts_from_the_file_that_holds_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.makedirs("lists/deep")
    record = {"key": "a", "image": "raw/0.tar#a.jpg"}
    with jsonl.JsonlWriter("lists/deep/a.jsonl") as writer:
        writer.write(record)
    assert orjson.loads(Path("lists/deep/a.jsonl").read_bytes())["image"] == "../../raw/0.tar#a.jpg"
    assert list(jsonl.read("lists/deep/a.jsonl")) == [record]


def test_a_file_name_that_looks_like_a_member_stays_where_it_is(tmp_path: Path) -> None:
    names = ["#1.jpg", "a.tar#b.jpg", "#2.jpg", "a.tar#c.jpg", "c#d.jpg"]
    path = tmp_path / "list.jsonl"
    path.write_bytes(b"".join(orjson.dumps({"key": f"k{n}", "image": name}) + b"\n" for n, name in enumerate(names)))
    assert [record["image"] for record in jsonl.read(str(path))] == [str(tmp_path / name) for name in names]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), jsonl.JsonlWriter(str(path)) as writer:
        writer.write({"key": "a"})
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_missing_file() -> None:
    with pytest.raises(CommonArtError, match="nowhere.jsonl cannot be read: No such file"):
        list(jsonl.read("nowhere.jsonl"))


MEMORY = """
import resource, sys
from commonart.core.data import stream
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
stream.run("pass", lambda records, drop: (r for r in records), source="-", out="-")
print(peak(), file=sys.stderr)
"""


def _peak_megabytes(records: int) -> float:
    """Peak memory of a pass-through over generated records of 1 kB each, piped through stdin to nowhere."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEMORY], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stderr is not None
    pad = b"x" * 960
    for start in range(0, records, 1000):
        process.stdin.write(b"".join(b'{"key":"k%09d","title":"%s"}\n' % (i, pad) for i in range(start, start + 1000)))
    process.stdin.close()
    said = process.stderr.read().decode()
    assert process.wait() == 0, said
    return float(said.split()[-1])


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """A stream 20 times as long costs the bounded window of keys (about 100 MB) and nothing more."""
    short, medium, long = (_peak_megabytes(n) for n in (50_000, 600_000, 1_200_000))
    assert medium - short < 160
    assert long - medium < 20


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9, 0.999])
def test_a_zst_that_was_cut_is_damaged_wherever_it_was_cut(tmp_path: Path, part: float) -> None:
    import zstandard

    path = tmp_path / "a.jsonl.zst"
    frames = [
        zstandard.ZstdCompressor().compress(b"".join(b'{"key":"k%d-%d"}\n' % (f, n) for n in range(500)))
        for f in (0, 1)
    ]
    path.write_bytes(b"".join(frames))
    assert sum(1 for _ in jsonl.read(str(path))) == 1000
    path.write_bytes(b"".join(frames)[: int(len(frames[0]) + len(frames[1]) * part)])
    with pytest.raises(CommonArtError, match="damaged"):
        list(jsonl.read(str(path)))


def test_what_could_not_be_written_again_is_no_record(tmp_path: Path) -> None:
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"key":"a","x":' + "[" * 400 + "]" * 400 + "}\n")
    with pytest.raises(SchemaError, match="deep.jsonl:1: is nested too deeply"):
        list(jsonl.read(str(deep)))


def test_what_python_writes_is_read(tmp_path: Path) -> None:
    """NaN becomes null, half an emoji U+FFFD; the records behind such a line are read, too."""
    lines = (b'{"key":"a","similarity":NaN}', b'{"key":"b","title":"cut \\ud83d"}', b'{"key":"c"}')
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert list(jsonl.read(str(tmp_path / "a.jsonl"))) == [
        {"key": "a", "similarity": None}, {"key": "b", "title": "cut \ufffd"}, {"key": "c"},
    ]  # fmt: skip


@pytest.mark.parametrize("line", [b'{"key":"a\xff"}', b'{"key":"a","title":"\xe9t\xe9"}', b'{"key":"a"', b"\xff\xfe{"])
def test_bytes_that_are_not_utf_8_are_an_error_that_names_the_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"key":"x"}\n' + line + b"\n")
    with pytest.raises(SchemaError, match=r"a\.jsonl:2: "):
        list(jsonl.read(str(tmp_path / "a.jsonl")))


def test_a_name_twice_in_one_object_is_not_guessed(tmp_path: Path) -> None:
    """Where the line needs the careful reading anyhow: which licence holds is not known."""
    line = b'{"key":"a","license":"CC0-1.0","license":"CC-BY-NC-4.0","similarity":NaN}'
    (tmp_path / "a.jsonl").write_bytes(line)
    with pytest.raises(SchemaError, match="'license' twice"):
        list(jsonl.read(str(tmp_path / "a.jsonl")))
