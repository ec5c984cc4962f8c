"""shard: pixels of one size, provenance kept, every odd picture accounted for, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from commands import Command
from PIL import Image

from commonart.core.data import jsonl, stream
from commonart.core.data.record import split_of
from commonart.core.data.shards import reader
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError
from commonart.stages import shard as stage

if TYPE_CHECKING:
    import torch

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
    source = written(tmp_path / "in", {"a": picture(1)}, title="kept", split="train")
    summary = stage.run(source, str(tmp_path / "out"), size=32, quiet=True)
    assert (summary.read, summary.written) == (1, 1)
    (record,) = stream.read(str(tmp_path / "out"))
    data = reader.read_bytes(record["image"])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")
    assert (record["width"], record["height"], record["mime"]) == (32, 32, "image/png")
    assert record["sha256"] == hashlib.sha256(picture(1)).hexdigest()  # of the original
    assert record["shard_sha256"] == hashlib.sha256(data).hexdigest()
    assert record["original"] == {"width": 96, "height": 64, "mime": "image/jpeg"}
    assert (record["title"], record["split"], len(record["phash"])) == ("kept", "train", 16)


@pytest.mark.parametrize(("format", "size", "kind"), [("auto", 32, "PNG"), ("jpg", 32, "JPEG"), ("webp", 32, "WEBP")])
def test_formats(tmp_path: Path, format: str, size: int, kind: str) -> None:
    stage.run(written(tmp_path / "in", {"a": picture(1)}), str(tmp_path / "out"), size=size, format=format, quiet=True)
    (record,) = stream.read(str(tmp_path / "out"))
    with Image.open(io.BytesIO(reader.read_bytes(record["image"]))) as image:
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
    """With 1, 4 and 16."""
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


def saved_again(data: bytes, quality: int, size: tuple[int, int] = WIDE) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    return out.getvalue()


def test_near_duplicates_are_found_over_all_shards_and_named(tmp_path: Path) -> None:
    """The first that can be used stays: neither a damaged nor a small one takes the place of its copies."""
    images = {f"k{number:02d}": picture(number) for number in range(12)}
    images["k00"] = picture(50)[:700]  # the same as k12, but cut short
    images["k01"] = saved_again(picture(51), 90, (30, 20))  # the same as k13, but small
    images |= {"k12": picture(50), "k13": picture(51), "k14": saved_again(picture(5), 40)}
    images |= {"k15": saved_again(picture(6), 80, (192, 128)), "k16": picture(50)}
    source, out = written(tmp_path / "in", images), tmp_path / "out"
    summary = stage.run(
        source, str(out), size=32, dedup=True, shard_size=3, rejects=str(tmp_path / "no.jsonl"), quiet=True
    )
    assert dict(summary.dropped) == {"duplicate": 3, "too_small": 1, "truncated": 1} and summary.failures == 1
    refused = {record["key"]: record for record in map(orjson.loads, (tmp_path / "no.jsonl").read_bytes().splitlines())}
    assert {key: refused[key]["reason_detail"] for key in ("k14", "k15", "k16")} == {
        "k14": "of k05", "k15": "of k06", "k16": "of k12",
    }  # fmt: skip
    kept = {record["key"]: record["phash"] for record in stream.read(str(out))}
    assert set(kept) == {*images} - {*refused}
    # Sharded again, the hashes in the records are used as they are, and nothing more is found.
    more = stage.run(str(out), str(tmp_path / "more"), size=32, dedup=True, quiet=True)
    assert more.written == len(kept) and not more.dropped


@pytest.mark.parametrize("tasks", [1, 3, 5])
def test_tasks_make_the_same_shards_without_copies(tmp_path: Path, tasks: int) -> None:
    images = {f"k{number:02d}": picture(number % 9) for number in range(24)}
    source, whole, parts = written(tmp_path / "in", images), tmp_path / "whole", tmp_path / "parts"
    stage.run(source, str(whole), size=32, dedup=True, shard_size=4, quiet=True)
    counts = [
        stage.run(source, str(parts), size=32, dedup=True, shard_size=4, task=Task(index, tasks), quiet=True).written
        for index in reversed(range(tasks))
    ]
    assert sum(counts) == 9 and bytes_of(parts) == bytes_of(whole)


def test_buckets(tmp_path: Path) -> None:
    """Wide, upright and square pictures keep their shapes, stand bucket by bucket, and none is enlarged."""
    sizes = {"a": (640, 480), "b": (300, 600), "c": (500, 500), "d": (640, 480), "e": (256, 60), "f": (128, 130)}
    images = {key: picture(ord(key), size) for key, size in sizes.items()}
    source, out = written(tmp_path / "in", images), tmp_path / "out"
    summary = stage.run(source, str(out), size=128, buckets=True, quiet=True)
    assert dict(summary.dropped) == {"too_small": 1} and summary.failures == 0  # e would need 232 x 64
    records = list(stream.read(str(out)))
    assert [(r["key"], r["width"], r["height"]) for r in records] == [
        ("b", 88, 176), ("c", 128, 128), ("f", 128, 128), ("a", 144, 112), ("d", 144, 112),
    ]  # fmt: skip
    for record in records:
        with Image.open(io.BytesIO(reader.read_bytes(record["image"]))) as image:
            assert image.size == (record["width"], record["height"])
    assert set(r["width"] * r["height"] for r in records) <= {88 * 176, 128 * 128, 144 * 112}
    enlarged = stage.run(source, str(tmp_path / "all"), size=128, buckets=True, min_size=1, quiet=True)
    assert enlarged.written == 6


def test_encode_image_takes_buckets_in_batches_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 pictures of two shapes, in turn: no batch is cut short by a picture of the other shape."""
    import tiny_encoders as tiny

    from commonart.core.data.features.format import Features
    from commonart.core.model.autoencoder import Autoencoder
    from commonart.stages.encode_image import encode_image

    images = {f"k{n:02d}": picture(n, (256, 192) if n % 2 else (192, 256)) for n in range(16)}
    out = tmp_path / "out"
    stage.run(written(tmp_path / "in", images), str(out), size=128, buckets=True, quiet=True)
    seen, real = [], Autoencoder.encode

    def encode(self: Autoencoder, pixels: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(tuple(pixels.shape))
        return real(self, pixels, batch)

    monkeypatch.setattr(Autoencoder, "encode", encode)
    encode_image(str(out), model="nano", batch=2, quiet=True)
    assert sorted(seen) == [(2, 3, 112, 144)] * 4 + [(2, 3, 144, 112)] * 4
    shapes = {mean.shape for mean, _ in tiny.stored(Features(out / "image"), "00000").values()}
    assert shapes == {(4, 28, 36), (4, 36, 28)}


def test_what_is_as_asked_for_is_not_coded_again(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {key: picture(ord(key), (256, 200)) for key in "ab"})
    stage.run(source, str(tmp_path / "one"), size=160, quality=80, quiet=True)
    stage.run(str(tmp_path / "one"), str(tmp_path / "same"), size=160, quality=80, quiet=True)
    stage.run(str(tmp_path / "one"), str(tmp_path / "other"), size=160, quality=60, quiet=True)
    one, same, other = (list(stream.read(str(tmp_path / name))) for name in ("one", "same", "other"))
    assert [reader.read_bytes(r["image"]) for r in same] == [reader.read_bytes(r["image"]) for r in one]
    assert {r["quality"] for r in one} == {80} and {r["quality"] for r in other} == {60}
    assert all(a["shard_sha256"] != b["shard_sha256"] for a, b in zip(one, other, strict=True))


def test_quality_trades_bytes_for_likeness(tmp_path: Path) -> None:
    """Against Pillow's own Lanczos of the whole picture, though the JPEG is decoded at half its size: above 40 dB."""
    source = written(tmp_path / "in", {"a": picture(1, (2400, 1800))})
    whole = Image.open(io.BytesIO(picture(1, (2400, 1800))))
    reference = np.asarray(whole.resize((256, 256), Image.Resampling.LANCZOS, box=(300, 0, 2100, 1800)), float)
    found = {}
    for format, quality in (("jpg", 95), ("jpg", 50), ("webp", 95), ("png", 95)):
        out = tmp_path / f"{format}{quality}"
        stage.run(source, str(out), size=256, format=format, quality=quality, quiet=True)
        (record,) = stream.read(str(out))
        data = reader.read_bytes(record["image"])
        error = np.mean((np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) - reference) ** 2)
        found[format, quality] = (10 * np.log10(255**2 / error), len(data))
    assert found["jpg", 95][0] > 40 and found["webp", 95][0] > 40 and found["png", 95][0] > 45
    assert found["jpg", 50][0] < found["jpg", 95][0] and found["jpg", 50][1] < found["jpg", 95][1]


def test_tar_webdataset_and_datasets_read_buckets(tmp_path: Path) -> None:
    """The plain tools, in processes of their own, without this package."""
    images = {f"k{n}": picture(n, (256, 192)) for n in range(5)}
    out = tmp_path / "out"
    stage.run(
        written(tmp_path / "in", images, captions=[{"text": "a hill", "lang": "en"}]),
        str(out),
        size=128,
        buckets=True,
        quiet=True,
    )
    listed = (
        subprocess.run(["tar", "tf", str(out / "00000.tar")], capture_output=True, check=True).stdout.decode().split()
    )
    assert listed[:4] == ["k0.json", "k0.png", "k1.json", "k1.png"] and len(listed) == 10
    code = f"""
import os
os.environ.update(WDS_SECURE="1", HF_HUB_OFFLINE="1", HF_HOME={str(tmp_path / "hf")!r})
import datasets, webdataset
wds = [(s["__key__"], s["png"].size, s["json"]["captions"][0]["text"])
       for s in webdataset.WebDataset({str(out / "00000.tar")!r}, shardshuffle=False).decode("pil")]
rows = datasets.load_dataset("webdataset", data_files={{"train": {str(out / "*.tar")!r}}}, split="train", streaming=True)
hf = [(r["__key__"], r["png"].size, r["json"]["captions"][0]["text"]) for r in rows]
print(wds == hf, *wds[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=tmp_path)
    assert done.stdout.decode().strip() == "True k0 (144, 112) a hill", done.stderr.decode()[-2000:]


def test_one_image_is_on_one_side_whatever_its_records_say(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {key: picture(ord(key)) for key in "abcdef"}, split="train")
    held = {record["key"] for record in stream.read(source) if split_of(record["sha256"]) == "heldout"}
    other = written(tmp_path / "other", {key: picture(ord(key)) for key in "abcdef"}, split="heldout")
    for given, dropped in ((source, len(held)), (other, 6 - len(held))):
        summary = stage.run(given, f"{given}-out", size=32, quiet=True)
        assert dict(summary.dropped) == ({"split_conflict": dropped} if dropped else {}) and summary.failures == 0


def test_what_was_sharded_before_is_on_its_side_too(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {key: picture(ord(key)) for key in "abcdefghijklmnopqrstuvwxyz"})
    assert stage.run(source, str(tmp_path / "once"), size=32, quiet=True).written == 26
    records = list(stream.read(str(tmp_path / "once")))
    held = {record["key"] for record in records if record["split"] == "heldout"}
    assert held
    with jsonl.JsonlWriter(str(tmp_path / "bad.jsonl")) as writer:
        for record in records:
            writer.write({**record, "split": "train"})
            writer.write({**record, "key": record["key"] + "2"})  # the same picture, whose split is right
    for dedup in (False, True):
        out = tmp_path / f"twice-{dedup}"
        summary = stage.run(str(tmp_path / "bad.jsonl"), str(out), size=32, dedup=dedup, quiet=True)
        assert summary.dropped["split_conflict"] == len(held)
        sides = {record["key"]: record["split"] for record in stream.read(str(out))}
        assert len(sides) == (26 if dedup else 52 - len(held)), dedup
        assert {key.rstrip("2") for key, side in sides.items() if side == "heldout"} == held


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    source = written(tmp_path / "in", {key: picture(ord(key)) for key in "abc"})
    stream.run("fetch", lambda records, drop: records, source=source, out=str(raw))
    before = (raw / "00000.tar").read_bytes()
    with jsonl.JsonlWriter(str(tmp_path / "list.jsonl")) as writer:
        for record in stream.read(str(raw)):
            writer.write(record)
    with pytest.raises(UsageError, match="SOURCE and -o are both"):
        stage.run(str(raw / "00000.tar"), str(raw), size=32, overwrite=True, quiet=True)
    with pytest.raises(CommonArtError, match="was made by 'fetch', not by 'shard'"):
        stage.run(str(tmp_path / "list.jsonl"), str(raw), size=32, overwrite=True, quiet=True)
    assert (raw / "00000.tar").read_bytes() == before
    own = tmp_path / "k-00001-of-00002.jsonl"
    (tmp_path / "list.jsonl").rename(own)
    with pytest.raises(UsageError, match="SOURCE and -o are both"):
        stream.run("pass", lambda r, d: r, source=str(own), out=str(tmp_path / "k.jsonl"), task=Task(1, 2))
    assert len(list(stream.read(str(own)))) == 3


def test_a_blocklist_means_the_same_as_in_license_filter(tmp_path: Path) -> None:
    pictures = {key: picture(ord(key)) for key in "abcde"}
    source = written(tmp_path / "in", pictures, image_url="https://www.example.org/1.jpg", author="Jane Doe")
    sha256 = hashlib.sha256(pictures["a"]).hexdigest()
    entries = {
        "key:a": 1,
        f"sha256:{sha256.upper()}": 1,
        "http://example.org/1.jpg/": 5,
        "author: JANE  doe": 5,
        "\ufeffa": 1,
    }
    for number, (entry, count) in enumerate(entries.items()):
        (tmp_path / "block.txt").write_text(entry + "\n", "utf-8")
        options = {"size": 32, "blocklist": str(tmp_path / "block.txt"), "quiet": True}
        assert stage.run(source, str(tmp_path / f"out{number}"), **options).dropped["blocklisted"] == count


def test_other_settings_never_mix_with_what_is_there(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {"a": picture(1)})
    stage.run(source, str(tmp_path / "out"), size=32, quiet=True)
    with pytest.raises(CommonArtError, match=r"with other settings \(size\)"):
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
        ({"size": 200, "buckets": True}, "--buckets cannot be made of --size 200"),
        ({"format": "bmp"}, "--format bmp"),
        ({"quality": 0}, "--quality 0"),
        ({"resample": "nearest"}, "--resample nearest"),
        ({"blocklist": "nowhere.txt"}, "--blocklist nowhere.txt"),
    ],
)
def test_usage(tmp_path: Path, options: dict, says: str) -> None:
    source = written(tmp_path / "in", {"a": picture(1)})
    with pytest.raises((UsageError, CommonArtError), match=says):
        stage.run(source, str(tmp_path / "out"), quiet=True, **options)
    assert not list(tmp_path.glob("out/*.tar"))


@pytest.mark.parametrize("options", [{"dedup": True}, {"buckets": True, "size": 128}, {"blocklist": "block.txt"}])
def test_records_that_lack_or_lie_are_dropped_and_never_a_traceback(tmp_path: Path, options: dict) -> None:
    odd: list[dict[str, object]] = [
        {"key": "a"},
        {"key": "b", "shard_sha256": "no hash", "phash": "ff", "width": 200, "height": 200},
        {"key": "c", "image": "c.jpg", "shard_sha256": ["x"], "phash": "zz", "width": 200, "height": 200},
        {"key": "e", "image": "x\0.jpg"},
        {"key": "f", "image": "pipe"},
        {"key": "g", "image": "/dev/zero"},
        {"key": "d", "image": "nowhere.jpg", "sha256": "0" * 64, "shard_sha256": 3},
    ]
    source = written(tmp_path, {"good": picture(1, (200, 200))})
    with open(source, "ab") as file:
        file.writelines(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in odd)
    (tmp_path / "c.jpg").write_bytes(picture(2, (200, 200)))
    (tmp_path / "block.txt").write_text(f"url: x\nsha256: {'1' * 64}\n")
    os.mkfifo(tmp_path / "pipe")
    options = {"size": 64, **options}
    if "blocklist" in options:
        options["blocklist"] = str(tmp_path / "block.txt")
    summary = stage.run(source, str(tmp_path / "out"), quiet=True, max_failures=1.0, **options)
    assert (summary.read, summary.written) == (8, 1)
    assert dict(summary.dropped) == {"no_image": 2, "changed": 1, "unreadable": 4}
