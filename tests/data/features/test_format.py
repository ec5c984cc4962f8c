"""Feature shards: exact and small on disk, never stale, never half written."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import tiny_encoders as tiny
import torch
from safetensors.torch import save as save_safetensors

from commonart.core.data.drops import Drop
from commonart.core.data.features import format, plan, tensors
from commonart.core.data.features.format import Features, Meta
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import manifest_path
from commonart.core.data.shards.reader import read_shard
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError

SETTINGS = {"revision": "r1", "precision": "float32", "store": "bf16"}
WHOLE = Task(0, 1)


def of_key(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
    """An encoder whose states depend on the key alone."""
    for one in records:
        values = [np.full((2, 4), sum(one["key"].encode()), np.float32) for _ in one["captions"]]
        yield one["key"], format.pack_text(values, one, "bf16")


def encode(
    source: Path,
    *,
    settings: dict[str, str] | None = None,
    model: str = "m",
    task: Task = WHOLE,
    overwrite: bool = False,
) -> Path:
    settings = settings or SETTINGS
    work = plan.plan_features("encode-text", "text", str(source), None, settings, task, overwrite)
    if work.todo or not work.described:
        meta = Meta("text", model, settings["revision"], "float32", "bf16", 4)
        plan.write_meta(work.out, meta, np.ones((1, 4), np.float32), overwrite)
    plan.write_features(work, of_key)
    return work.out


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_features_are_aligned_with_their_shards(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards")
    encode(source)
    read = Features.beside(source, "text")
    assert read is not None
    read.check(source)
    read.check(source, full=True)
    for shard in ("00000", "00001", "00002"):
        rows = list(read_shard(source / f"{shard}.tar"))
        states = tiny.stored(read, shard)
        assert list(states) == [r["key"] for r in rows]
        assert all(len(states[row["key"]]) == 2 for row in rows)
    assert np.array_equal(read.null(), np.ones((1, 4)))
    assert Features.beside(source, "image") is None


def test_finished_shards_are_skipped(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards")
    out = encode(source)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    work = plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, False)
    assert not work.todo and not work.unfinished
    summary = plan.write_features(work, None)
    assert (summary.read, summary.written) == (12, 12)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


@pytest.mark.parametrize("after", [0, 3, 5, 11])
def test_interrupted_runs_end_with_the_same_bytes(tmp_path: Path, after: int) -> None:
    """Stopped at any record, between shards or in the middle of one."""
    source = tiny.shards(tmp_path / "shards")
    expected = content(encode(source))
    shutil.rmtree(source / "text")
    work = plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, False)
    meta = Meta("text", "m", "r1", "float32", "bf16", 4)
    plan.write_meta(work.out, meta, np.ones((1, 4), np.float32), False)
    seen = 0

    def killed(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
        nonlocal seen
        for item in of_key(records, drop):
            if seen == after:
                raise KeyboardInterrupt
            seen += 1
            yield item

    with pytest.raises(KeyboardInterrupt):
        plan.write_features(work, killed)
    assert len(list((source / "text").glob("*.tar"))) == after // 4
    with pytest.raises(CommonArtError, match=r"has no features"):
        Features(source / "text").check(source)
    assert content(encode(source)) == expected


SLOW = """
import sys, time
from tests.data.features import test_format as t
from commonart.core.data.features import plan as w
def slow(records, drop):
    for item in t.of_key(records, drop):
        time.sleep(0.02)
        yield item
w.write_features(w.plan_features("encode-text", "text", sys.argv[1], None, t.SETTINGS, t.WHOLE, False), slow)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 6)
    expected = content(encode(source))
    for path in (source / "text").glob("0*"):
        path.unlink()
    kills = 0
    for attempt in range(40):
        command = [sys.executable, "-c", SLOW, str(source)]
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        # Wait until this attempt has begun to write, then a little: another moment each time.
        before = len(list((source / "text").iterdir()))
        while child.poll() is None and len(list((source / "text").iterdir())) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(0.017 * (attempt % 9))
        if child.poll() is not None:
            break
        child.kill()
        child.wait()
        kills += 1
        for tar in (source / "text").glob("*.tar"):
            assert tar.read_bytes() == expected[tar.name]  # never half under its final name
    encode(source)
    assert kills >= 2
    assert {k: v for k, v in content(source / "text").items() if not k.endswith(".part")} == expected
    Features(source / "text").check(source)


def test_a_shard_without_its_note_is_made_again(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    expected = content(encode(source))
    manifest_path(source / "text" / "00001.tar").unlink()  # killed after the rename of the tar
    (source / "text" / "00001.tar").write_bytes(b"other")
    assert content(encode(source)) == expected


def test_tasks_share_the_shards(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 5)
    expected = content(encode(source))
    shutil.rmtree(source / "text")
    for index in (2, 0, 1):
        encode(source, task=Task(index, 3))
        done = {p.stem for p in (source / "text").glob("*.tar")}
        assert {f"{n:05d}" for n in range(5) if n % 3 == index} <= done
    assert content(source / "text") == expected


def flip(path: Path, at: int = -3) -> None:
    """One bit, and everything else as it was: a disk that forgot."""
    data = bytearray(path.read_bytes())
    data[at] ^= 64
    path.write_bytes(data)


def test_a_stale_shard_is_an_error_and_it_alone_can_be_made_again(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    out = encode(source)
    untouched = (out / "00000.tar").stat().st_mtime_ns
    tiny.shards(tmp_path / "other", 2, each=3)
    shutil.copy(tmp_path / "other" / "00001.tar", source / "00001.tar")
    with pytest.raises(CommonArtError, match=r"00001\.tar was made from another .*00001\.tar") as told:
        Features(out).check(source)
    assert f"Remove {out}/00001.* and run" in told.value.fix
    with pytest.raises(CommonArtError, match=r"00001\.tar was made from other input.*--overwrite") as told:
        encode(source)
    assert f"remove {out}/00001.*" in told.value.fix
    for path in out.glob("00001.*"):
        path.unlink()
    encode(source)
    Features(out).check(source, full=True)
    assert (out / "00000.tar").stat().st_mtime_ns == untouched


def test_overwrite_makes_again_what_is_there(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 3)
    expected = content(encode(source))
    out = source / "text"
    flip(out / "00001.tar", 700)
    flip(out / "null.safetensors")
    assert content(encode(source, overwrite=True)) == expected


def test_an_interrupted_overwrite_is_finished_without_it(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 3)
    encode(source)
    other = {**SETTINGS, "revision": "r2"}
    work = plan.plan_features("encode-text", "text", str(source), None, other, WHOLE, True)
    plan.write_meta(work.out, Meta("text", "m", "r2", "float32", "bf16", 4), np.ones((1, 4)), True)

    def killed(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
        for item in of_key(records, drop):
            if item[0] == "k1_2":
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        plan.write_features(work, killed)
    done = (work.out / "00000.tar").stat().st_mtime_ns
    with pytest.raises(CommonArtError, match=r"00001\.tar has no features"):
        Features(work.out).check(source)
    encode(source, settings=other)
    Features(work.out).check(source, full=True)
    assert (work.out / "00000.tar").stat().st_mtime_ns == done


def test_what_is_replaced_counts_as_free(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 3)
    work = plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, False)
    fresh = work.estimate(lambda records: [500] * len(records))
    encode(source)
    again = plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, True)
    assert len(again.todo) == 3 and again.estimate(lambda records: [500] * len(records)) == fresh // 3  # one beside it


@pytest.mark.parametrize("loss", ["flipped", "cut", "gone", "of another model"])
def test_a_lost_null_embedding_is_made_again(tmp_path: Path, loss: str) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    expected = content(encode(source))
    out = source / "text"
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("0*")}
    null = out / "null.safetensors"
    if loss == "flipped":
        flip(null)
    elif loss == "cut":
        null.write_bytes(null.read_bytes()[:-2])
    elif loss == "gone":
        null.unlink()
    else:
        null.write_bytes(tensors.pack({"null": np.full((1, 4), 2, np.float32)}))
    with pytest.raises(CommonArtError, match=r"null\.safetensors is missing or damaged") as told:
        Features(out).check(source)
    assert told.value.fix.startswith("Run the same commonart encode-text again")
    with pytest.raises(CommonArtError):
        Features(out).null()
    assert content(encode(source)) == expected
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("0*")} == times
    Features(out).check(source)


def test_a_cache_from_before_checksums_is_read(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 1)
    out = encode(source)
    about = orjson.loads((out / "features.json").read_bytes())
    del about["null_sha256"]
    (out / "features.json").write_bytes(orjson.dumps(about))
    (out / "null.safetensors").write_bytes(save_safetensors({"null": torch.full((1, 4), 3.0)}))
    Features(out).check(source)
    assert np.array_equal(Features(out).null(), np.full((1, 4), 3))
    assert plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, False).described


@pytest.mark.parametrize("spoil", [None, b"{", b"[]", b"{}"])
def test_a_lost_description_is_an_error_and_written_again(tmp_path: Path, spoil: bytes | None) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    expected = content(encode(source))
    out = source / "text"
    (out / "features.json").unlink()
    if spoil is not None:
        (out / "features.json").write_bytes(spoil)
    with pytest.raises(CommonArtError, match=r"features\.json is (missing|damaged)") as told:
        Features.beside(source, "text")
    assert "again: it writes that file" in told.value.fix
    with pytest.raises(CommonArtError, match="other settings .revision"):
        encode(source, settings={**SETTINGS, "revision": "r2"})
    assert content(encode(source)) == expected


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 1)
    out = encode(source)
    read = Features(out)
    offset, size = read.spans("00000")["k0_2"]
    flip(out / "00000.tar", offset + size - 1)
    read.check(source)  # reads no values
    assert len(format.unpack_text(read.read("00000", read.spans("00000")["k0_1"]))[0]) == 2
    with pytest.raises(ValueError, match="its checksum does not fit"):
        tiny.stored(read, "00000")
    assert read.mean_caption_tokens() == 2  # of the others


def test_another_model_never_mixes_in(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    encode(source)
    other = {**SETTINGS, "revision": "r2"}
    with pytest.raises(CommonArtError, match=r"other settings .revision.*--overwrite"):
        encode(source, settings=other)
    (source / "text" / "00000.json").unlink()
    (source / "text" / "00001.json").unlink()
    with pytest.raises(CommonArtError, match=r"made with another revision \(m, float32, bf16\)"):
        encode(source, settings=other)
    encode(source, settings=other, task=Task(0, 2), overwrite=True)
    with pytest.raises(CommonArtError, match=r"00001\.tar has no features"):
        Features(source / "text").check(source)
    encode(source, settings=other, task=Task(1, 2), overwrite=True)
    Features(source / "text").check(source)


def test_the_same_model_under_another_name_is_the_same_model(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 1)
    before = content(encode(source))
    assert content(encode(source, model="./m")) == before


def test_half_replaced_features_are_noticed(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    encode(source)
    encode(source, settings={**SETTINGS, "revision": "r2"}, task=Task(0, 2), overwrite=True)
    with pytest.raises(CommonArtError, match=r"00001\.tar was made with another revision"):
        Features(source / "text").check(source)


def test_features_of_a_shard_that_is_gone_are_noticed(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 2)
    encode(source)
    (source / "00001.tar").unlink()
    with pytest.raises(CommonArtError, match=r"00001\.tar belongs to no shard") as told:
        Features(source / "text").check(source)
    assert told.value.fix.startswith(f"Remove {source}/text/00001.*,")


@pytest.mark.parametrize("spoil", [b"{", b"[]", b"{}", b'{"version": 99}'])
def test_damaged_meta_is_a_sentence(tmp_path: Path, spoil: bytes) -> None:
    (tmp_path / "features.json").write_bytes(spoil)
    with pytest.raises(CommonArtError, match=r"features\.json is"):
        Features(tmp_path)
    with pytest.raises(CommonArtError, match="cannot be read"):
        Features(tmp_path / "absent")


def test_a_short_disk_is_refused_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    plan.require_space(tmp_path / "new" / "text", 10**9, "Features")
    with pytest.raises(CommonArtError, match=r"Features would take about 2\.0 GB, .* has 1\.0 GB free"):
        plan.require_space(tmp_path / "new" / "text", 2 * 10**9, "Features")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.shards(tmp_path / "shards", 2)

    def full(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
        for n, item in enumerate(of_key(records, drop)):
            if n == 2:
                raise OSError(28, "No space left on device")
            yield item

    work = plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, False)
    with pytest.raises(OSError, match="No space left"):
        plan.write_features(work, full)
    assert not list(work.out.iterdir())


def test_failures_are_counted_and_kept(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 2)

    def failing(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
        for one in records:
            drop.failure(one, "not_finite", "overflow")
        yield from ()

    work = plan.plan_features("encode-text", "text", str(source), None, SETTINGS, WHOLE, False)
    with pytest.raises(TooManyFailures, match="8 of 8") as error:
        plan.write_features(work, failing, rejects=str(tmp_path / "rejects.jsonl"))
    assert error.value.summary.dropped == {"not_finite": 8}
    lines = [orjson.loads(line) for line in (tmp_path / "rejects.jsonl").read_bytes().splitlines()]
    assert [r["reason"] for r in lines] == ["not_finite"] * 8 and lines[0]["image"].endswith("00000.tar#k0_0.jpg")


@pytest.mark.parametrize("source", ["-", "a.jsonl"])
def test_only_folders_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="needs a folder of shards"):
        plan.plan_features("encode-text", "text", source, None, SETTINGS, WHOLE, False)


def test_out_is_not_the_source(tmp_path: Path) -> None:
    source = tiny.shards(tmp_path / "shards", 1)
    with pytest.raises(UsageError, match="is the SOURCE itself"):
        plan.plan_features("encode-text", "text", str(source), str(source), SETTINGS, WHOLE, False)
