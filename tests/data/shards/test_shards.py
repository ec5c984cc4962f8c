"""Shards: the same bytes every time, read by member, damage found, kill -9 leaves nothing half."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonart.core.data.shards import reader
from commonart.core.data.shards.manifest import read_manifest
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, SchemaError


def make(path: Path, count: int = 5) -> Path:
    with ShardWriter(path) as writer:
        for i in range(count):
            writer.add_record({"key": f"k{i}", "n": i}, bytes([i]) * (700 * i + 1), "jpg")
    return path


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_round_trip_and_reproducible(tmp_path: Path) -> None:
    one, two = make(tmp_path / "00000.tar"), make(tmp_path / "other" / "00000.tar")
    assert one.read_bytes() == two.read_bytes()
    records = list(reader.read_shard(one))
    assert [r["n"] for r in records] == list(range(5))
    for i, record in enumerate(records):
        assert record["image"] == f"{one}#k{i}.jpg"
        assert reader.read_bytes(record["image"]) == bytes([i]) * (700 * i + 1)


def test_hash_is_that_of_the_file(tmp_path: Path) -> None:
    from commonart.core.data.files import sha256_file

    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.add("k", {"json": b"{}"})
    assert writer.sha256 == sha256_file(tmp_path / "a.tar")


def test_the_index_says_what_the_headers_say(tmp_path: Path) -> None:
    from commonart.core.data.shards.manifest import MadeFrom, manifest_path, write_manifest
    from commonart.core.data.shards.tar_index import index_path, read_index

    path = tmp_path / "00000.tar"
    long = "k" * 180  # its header takes three blocks
    with ShardWriter(path) as writer:
        for i, key in enumerate(("a", long, "b", "empty")):
            writer.add(key, {"json": b'{"key":"%s"}' % key.encode(), "text.safetensors": bytes([i]) * (512 * i)})
    assert read_index(path) is None  # nothing says yet that the shard is finished
    headers = reader.members(path)
    counts = {"read": 4, "written": 4, "dropped": {}, "failed": 0}
    write_manifest(path, MadeFrom("test", "", {}), **counts, sha256=writer.sha256)  # type: ignore[arg-type]
    assert read_index(path) == headers and list(headers) == list(read_index(path) or ())
    first, second, *_ = index_path(path).read_text().splitlines()
    assert first == f"v1.2 4 {writer.sha256}"
    assert second == f"json 512 11 a.json text.safetensors {headers['a.text.safetensors'][0]} 0 a.text.safetensors"
    write_manifest(path, MadeFrom("test", "", {}), **counts, sha256="0" * 64)  # type: ignore[arg-type]  # other bytes stand there now
    assert read_index(path) is None
    write_manifest(path, MadeFrom("test", "", {}), **counts, sha256=writer.sha256)  # type: ignore[arg-type]
    for damaged in ("", "v1.2 4", "v9 1 x", f"v1.2 4 {writer.sha256}\njson x 11 a.json\n\n\n\n", "\xff"):
        index_path(path).write_text(damaged, "latin-1")
        assert read_index(path) is None
    index_path(path).unlink()
    assert read_index(path) is None and reader.members(path) == headers
    manifest_path(path).unlink()


def test_one_sample_is_read_without_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from commonart.core.data import stream

    stream.run(
        "pass", lambda records, drop: iter(records), source=str(make(tmp_path / "in.tar")), out=str(tmp_path / "out")
    )
    monkeypatch.setattr(reader, "headers", lambda file: pytest.fail("the headers were read"))
    assert reader.read_bytes(f"{tmp_path}/out/in.tar#k3.jpg") == bytes([3]) * 2101
    assert [record["n"] for record in reader.read_shard(tmp_path / "out" / "in.tar")] == list(range(5))


def test_plain_tar_and_webdataset_read_it(tmp_path: Path) -> None:
    path = make(tmp_path / "00000.tar")
    with tarfile.open(path) as tar:
        assert tar.getnames()[:2] == ["k0.json", "k0.jpg"]
    code = f"""
import os; os.environ["WDS_SECURE"] = "1"
import webdataset
samples = webdataset.WebDataset({str(path)!r}, shardshuffle=False)
print([(s["__key__"], sorted(k for k in s if k[0] != "_")) for s in samples])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    assert said.strip() == str([(f"k{i}", ["jpg", "json"]) for i in range(5)])


@pytest.mark.parametrize("cut", [1, 100, 511, 512, 513, 1024, 2000, 3000])
def test_a_tar_cut_short_is_an_error(tmp_path: Path, cut: int) -> None:
    whole = make(tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    path = tmp_path / "b.tar"
    path.write_bytes(whole[:-cut] if cut < len(whole) else b"")
    with pytest.raises(CommonArtError, match=r"b.tar is not a complete tar"):
        list(reader.read_shard(path))


@pytest.mark.parametrize("garbage", [b"", b"no tar at all", b"\xff" * 2048])
def test_no_tar(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(garbage)
    with pytest.raises(CommonArtError, match=r"b.tar is not a complete tar"):
        list(reader.read_shard(tmp_path / "b.tar"))


def test_a_damaged_header_in_the_middle(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar")
    data = bytearray(path.read_bytes())
    data[1024 + 10] ^= 0xFF  # the name in the second member's header: its checksum fails
    path.write_bytes(data)
    with pytest.raises(CommonArtError, match="is not a complete tar"):
        list(reader.read_shard(path))


@given(st.binary(max_size=3000))
def test_random_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.tar"
    path.write_bytes(data)
    try:
        list(reader.read_shard(path))
    except CommonArtError:
        return
    assert not data.strip(b"\0") and len(data) >= 512


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"k.jpg": b"x"}, "#k: has no .json beside it"),
        ({"k.json": b"{"}, "#k.json: is not JSON"),
        ({"k.json": b'{"key":"j"}'}, "field 'key' is 'j', but the member is named 'k'"),
        ({"a.b.json": b'{"key":"a.b"}'}, "has no .json beside it"),
        ({"a/k.json": b'{"key":"k"}', "b/k.json": b'{"key":"k"}'}, "'k' stands in this shard twice"),
    ],
)
def test_samples_that_break_the_schema(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(SchemaError) as error:
        list(reader.read_shard(tar_of(tmp_path / "a.tar", files)))
    assert sentence in error.value.what


@pytest.mark.parametrize("command", ["-C src .", "src", "-C src --sort=name .", "--format=pax src"])
def test_tars_that_tar_makes(tmp_path: Path, command: str) -> None:
    """With entries for folders and links among the files, and the members of a sample in the order of the disk."""
    (tmp_path / "src").mkdir()
    for n in range(3):
        (tmp_path / "src" / f"k{n}.json").write_bytes(b'{"key":"k%d"}' % n)
        (tmp_path / "src" / f"k{n}.jpg").write_bytes(b"pixels %d" % n)
        (tmp_path / "src" / f"._k{n}.jpg").write_bytes(b"Mac OS X")
    (tmp_path / "src" / "linked").symlink_to("k0.jpg")
    subprocess.run(f"tar -cf x.tar {command}", shell=True, check=True, cwd=tmp_path)
    records = sorted(reader.read_shard(tmp_path / "x.tar"), key=lambda record: record["key"])
    assert [record["key"] for record in records] == ["k0", "k1", "k2"]
    assert [reader.read_bytes(record["image"]) for record in records] == [b"pixels %d" % n for n in range(3)]


def test_members_of_one_sample_may_stand_apart(tmp_path: Path) -> None:
    """As `tar` without --sort=name leaves them."""
    files = {"k.json": b'{"key":"k"}', "j.json": b'{"key":"j"}', "k.jpg": b"x", "j.jpg": b"y"}
    records = list(reader.read_shard(tar_of(tmp_path / "a.tar", files)))
    assert [reader.read_bytes(record["image"]) for record in records] == [b"x", b"y"]


def test_an_image_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"k.json": b'{"key":"k"}'})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("k.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert list(reader.read_shard(path)) == [{"key": "k"}]


def test_doubled_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    with pytest.raises(CommonArtError, match="two records have the key 'k'"), ShardWriter(path) as writer:
        writer.add("k", {"json": b"{}"})
        writer.add("k", {"json": b"{}"})


def test_missing_member_and_file(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar")
    with pytest.raises(CommonArtError, match="does not hold 'zebra.jpg'"):
        reader.read_bytes(f"{path}#zebra.jpg")
    with pytest.raises(CommonArtError, match="cannot be read: No such file"):
        reader.read_bytes(str(tmp_path / "gone.jpg"))


def test_folders_without_shards(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="does not exist"):
        reader.list_shards(tmp_path / "nowhere")
    with pytest.raises(CommonArtError, match="holds no shards"):
        reader.list_shards(tmp_path)


SLOW_WRITER = """
import sys, time
from commonart.core.data.shards.writer import ShardWriter
with ShardWriter(sys.argv[1]) as writer:
    for i in range(200):
        writer.add_record({"key": f"k{i}"}, bytes(5000), "jpg")
        print(i, flush=True)
        time.sleep(0.001)
"""


def test_kill_in_the_middle_of_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    for moment in (0, 3, 50, 150):
        process = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        while int(process.stdout.readline() or 999) < moment:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not path.exists()
        with pytest.raises(CommonArtError, match="holds no shards"):
            reader.list_shards(tmp_path)
    subprocess.run([sys.executable, "-c", SLOW_WRITER, str(path)], stdout=subprocess.DEVNULL, check=True)
    assert sorted(os.listdir(tmp_path)) == ["00000.idx", "00000.tar"]  # what the killed runs left was taken over
    assert len(list(reader.read_shard(path))) == 200


def test_reading_is_lazy_in_pixels(tmp_path: Path) -> None:
    """A shard's records come from headers and JSON alone: time does not grow with the images."""
    path = tmp_path / "a.tar"
    with ShardWriter(path) as writer:
        for i in range(20):
            writer.add_record({"key": f"k{i}"}, bytes(5_000_000), "jpg")
    started = time.perf_counter()
    assert len(list(reader.read_shard(path))) == 20
    assert time.perf_counter() - started < 0.5
    assert orjson.loads(b"{}") == {}


@pytest.mark.parametrize("text", ["[]", '"x"', "1", "null", "{"])
def test_a_manifest_of_another_kind_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "00000.json").write_text(text)
    assert read_manifest(tmp_path / "00000.tar") is None
