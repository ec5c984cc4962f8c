"""shard: pixels of one size, provenance kept, every odd picture accounted for, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pytest
from conftest import Command
from PIL import Image

from commonart.core.data import shards, stream
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError
from commonart.stages import shard as stage

WIDE = (96, 64)


def picture(seed: int, size: tuple[int, int] = WIDE) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def written(folder: Path, images: dict[str, bytes], **fields: object) -> str:
    """A JSONL of records that point at image files."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "list.jsonl", "wb") as file:
        for key, data in images.items():
            (folder / f"{key}.jpg").write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            file.write(orjson.dumps({"key": key, "image": f"{key}.jpg", "sha256": sha256, **fields}) + b"\n")
    return str(folder / "list.jsonl")


def test_pixels_and_provenance(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {"a": picture(1)}, title="kept", split="heldout")
    summary = stage.run(source, str(tmp_path / "out"), size=32, quiet=True)
    assert (summary.read, summary.written) == (1, 1)
    (record,) = stream.read(str(tmp_path / "out"))
    data = shards.read_bytes(record["image"])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")
    assert (record["width"], record["height"], record["mime"]) == (32, 32, "image/png")
    assert record["sha256"] == hashlib.sha256(picture(1)).hexdigest()  # of the original
    assert record["shard_sha256"] == hashlib.sha256(data).hexdigest()
    assert record["original"] == {"width": 96, "height": 64, "mime": "image/jpeg"}
    assert (record["title"], record["split"], len(record["phash"])) == ("kept", "heldout", 16)


@pytest.mark.parametrize(("format", "size", "kind"), [("auto", 32, "PNG"), ("jpg", 32, "JPEG"), ("webp", 32, "WEBP")])
def test_formats(tmp_path: Path, format: str, size: int, kind: str) -> None:
    stage.run(written(tmp_path / "in", {"a": picture(1)}), str(tmp_path / "out"), size=size, format=format, quiet=True)
    (record,) = stream.read(str(tmp_path / "out"))
    with Image.open(io.BytesIO(shards.read_bytes(record["image"]))) as image:
        assert image.format == kind


def test_the_split_is_decided_by_the_original_bytes_and_sharding_again_keeps_it(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {"a": picture(1, (256, 256))})
    stage.run(source, str(tmp_path / "one"), size=128, quiet=True)
    stage.run(str(tmp_path / "one"), str(tmp_path / "two"), size=32, quiet=True)
    (one,), (two,) = (list(stream.read(str(tmp_path / name))) for name in ("one", "two"))
    for field in ("sha256", "split", "original", "phash"):
        assert one[field] == two[field]
    assert one["shard_sha256"] != two["shard_sha256"] and two["width"] == 32


def test_every_odd_picture_has_its_reason(tmp_path: Path) -> None:
    whole = picture(1, (256, 256))
    images = {
        "good": picture(2),
        "cut": whole[: len(whole) // 2],
        "text": b"no image",
        "empty": b"",
        "small": picture(3, (20, 90)),
    }
    source = written(tmp_path / "in", images)
    lines = Path(source).read_bytes()
    lost = [{"key": "lost", "image": "nowhere.jpg"}, {"key": "bare"}]
    changed = {"key": "changed", "image": "good.jpg", "sha256": "0" * 64}
    Path(source).write_bytes(lines + b"".join(orjson.dumps(record) + b"\n" for record in [*lost, changed]))
    rejects = tmp_path / "no.jsonl"
    with pytest.raises(TooManyFailures) as caught:
        stage.run(source, str(tmp_path / "out"), size=32, quiet=True, rejects=str(rejects))
    assert caught.value.code == 3
    assert dict(caught.value.summary.dropped) == {
        "truncated": 1, "not_an_image": 1, "empty": 1, "too_small": 1, "unreadable": 1, "no_image": 1, "changed": 1,
    }  # fmt: skip
    assert [record["key"] for record in stream.read(str(tmp_path / "out"))] == ["good"]
    reasons = {record["key"]: record["reason"] for record in map(orjson.loads, rejects.read_bytes().splitlines())}
    assert reasons["cut"] == "truncated" and reasons["small"] == "too_small" and len(reasons) == 7
    stage.run(source, str(tmp_path / "out"), size=32, quiet=True, max_failures=0.9)  # finished shards are not redone


def test_too_small_is_a_rule_and_can_be_lifted(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {"a": picture(1, (20, 20))})
    assert stage.run(source, str(tmp_path / "no"), size=32, quiet=True).failures == 0
    stage.run(source, str(tmp_path / "yes"), size=32, min_size=0, quiet=True)
    (record,) = stream.read(str(tmp_path / "yes"))
    assert record["width"] == 32


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_same_bytes_for_any_number_of_workers(tmp_path: Path, format: str) -> None:
    source = written(tmp_path / "in", {f"k{number:02d}": picture(number) for number in range(25)})
    found = []
    for workers in (1, 4, 16):
        out = tmp_path / f"out{workers}"
        stage.run(source, str(out), size=32, format=format, workers=workers, shard_size=10, quiet=True)
        found.append(bytes_of(out))
    assert list(found[0]) == ["00000.tar", "00001.tar", "00002.tar"]
    assert found[0] == found[1] == found[2]
    with tarfile.open(tmp_path / "out4" / "00001.tar") as tar:
        assert tar.getnames()[:2] == ["k10.json", f"k10.{format}"]


def test_a_lost_shard_is_made_again_to_the_byte_with_duplicates_left_out(tmp_path: Path) -> None:
    images = {f"k{number:02d}": picture(number % 12) for number in range(20)}
    source, out = written(tmp_path / "in", images), tmp_path / "out"
    summary = stage.run(source, str(out), size=32, dedup=True, shard_size=5, quiet=True)
    assert summary.written == 12 and dict(summary.dropped) == {"duplicate": 8}
    before = bytes_of(out)
    (out / "00002.tar").unlink()
    stage.run(source, str(out), size=32, dedup=True, shard_size=5, quiet=True)
    assert bytes_of(out) == before


def test_duplicates_on_stdin(commonart: Command, tmp_path: Path) -> None:
    source = written(tmp_path, {"a": picture(1), "b": picture(1), "c": picture(2)})
    done = commonart("shard", "-", "--size", "32", "--dedup", "-o", "out", input=Path(source).read_bytes())
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stderr.splitlines()[-1])["dropped"] == {"duplicate": 1}
    assert [record["key"] for record in stream.read(str(tmp_path / "out"))] == ["a", "c"]


def test_other_settings_never_mix_with_what_is_there(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {"a": picture(1)})
    stage.run(source, str(tmp_path / "out"), size=32, quiet=True)
    with pytest.raises(CommonArtError, match="other settings"):
        stage.run(source, str(tmp_path / "out"), size=48, quiet=True)


def test_blocklist(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {key: picture(ord(key)) for key in "abcd"})
    sha256 = hashlib.sha256(picture(ord("b"))).hexdigest()
    blocklist = tmp_path / "block.txt"
    blocklist.write_text(f"# asked to go on 2026-11-01\na\n\n{sha256}\n")
    summary = stage.run(source, str(tmp_path / "out"), size=32, blocklist=str(blocklist), quiet=True)
    assert dict(summary.dropped) == {"blocklisted": 2} and summary.failures == 0
    assert [record["key"] for record in stream.read(str(tmp_path / "out"))] == ["c", "d"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 4}, "--size 4"),
        ({"format": "bmp"}, "--format bmp"),
        ({"quality": 0}, "--quality 0"),
        ({"blocklist": "nowhere.txt"}, "--blocklist nowhere.txt"),
    ],
)
def test_usage(tmp_path: Path, options: dict, says: str) -> None:
    source = written(tmp_path / "in", {"a": picture(1)})
    with pytest.raises((UsageError, CommonArtError), match=says):
        stage.run(source, str(tmp_path / "out"), quiet=True, **options)
    assert not list(tmp_path.glob("out/*.tar"))
