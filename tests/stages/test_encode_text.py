"""encode-text on a tiny random Llama and T5: what is stored is what the encoder says."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import tiny_encoders as tiny

from commonart.core.data.features import plan as feature_plan
from commonart.core.data.features.format import Features
from commonart.core.data.shards.manifest import MadeFrom, write_manifest
from commonart.core.data.shards.reader import read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.text_encoder import TextEncoder
from commonart.stages.encode_text import encode_text


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny.shards(tmp_path / "shards")


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny.llama(tmp_path / "llama")
    return str(tmp_path / "llama")


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("make", [tiny.llama, tiny.t5])
@pytest.mark.parametrize(("store", "error"), [("bf16", 0.01), ("fp16", 0.002), ("int8", 0.02)])
def test_every_caption_is_stored(tmp_path: Path, source: Path, make: object, store: str, error: float) -> None:
    make(tmp_path / "model")  # type: ignore[operator]
    summary = encode_text(str(source), model=str(tmp_path / "model"), store=store, precision="fp32", device="cpu")
    assert summary.as_json() | {"seconds": 0} == {
        "stage": "encode-text", "in": 12, "out": 12, "dropped": {}, "seconds": 0,
    }  # fmt: skip
    encoder = TextEncoder.load(tmp_path / "model", "fp32", device="cpu")
    read = Features(source / "text")
    read.check(source, full=True)
    assert (read.meta.kind, read.meta.width, read.meta.precision) == ("text", tiny.WIDTH, "float32")
    assert read.meta.revision.startswith("sha256:") and read.meta.store == store
    for path in sorted(source.glob("*.tar")):
        states = tiny.stored(read, path.stem)
        for record in read_shard(path):
            stored = states[record["key"]]
            expected = encoder.encode([c["text"] for c in record["captions"]])
            assert len(stored) == 2
            for a, b in zip(expected, stored, strict=True):
                assert b.shape == a.shape
                assert np.linalg.norm(a.numpy() - b) < error * np.linalg.norm(a.numpy())
    np.testing.assert_allclose(read.null(), encoder.null().numpy(), atol=1e-6)


def test_the_second_call_needs_no_model(source: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_text(str(source), model=model, device="cpu")
    before = content(source / "text")
    monkeypatch.setattr(TextEncoder, "load", None)
    assert encode_text(str(source), model=model, device="cpu").written == 12
    assert content(source / "text") == before


def test_tasks_and_an_interruption_give_the_same_bytes(source: Path, model: str) -> None:
    encode_text(str(source), model=model, device="cpu")
    expected = content(source / "text")
    shutil.rmtree(source / "text")
    encode_text(str(source), model=model, device="cpu", task=Task(1, 2))
    assert sorted(p.name for p in (source / "text").glob("*.tar")) == ["00001.tar"]
    encode_text(str(source), model=model, device="cpu")
    assert content(source / "text") == expected


def test_another_precision_is_not_mixed_in(source: Path, model: str) -> None:
    encode_text(str(source), model=model, precision="fp32", device="cpu", task=Task(0, 2))
    with pytest.raises(CommonArtError, match=r"other settings .precision.*--overwrite"):
        encode_text(str(source), model=model, precision="bf16", device="cpu")
    encode_text(str(source), model=model, precision="bf16", device="cpu", overwrite=True)
    assert Features(source / "text").meta.precision == "bfloat16"
    Features(source / "text").check(source)


def test_eight_bit_encoder_is_recorded_and_not_mixed_in(source: Path, model: str) -> None:
    encode_text(str(source), model=model, quantize="quanto-int8", precision="fp32", device="cpu", task=Task(0, 2))
    assert Features(source / "text").meta.precision == "quanto-int8/float32"
    with pytest.raises(CommonArtError, match=r"other settings .precision.*--overwrite"):
        encode_text(str(source), model=model, quantize="bnb-int8", precision="fp32", device="cpu")


def test_a_long_caption_is_cut_and_said(source: Path, model: str, capfd: pytest.CaptureFixture[str]) -> None:
    encode_text(str(source), model=model, max_tokens=12, device="cpu", quiet=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "captions were cut at 12 tokens" in err
    states = tiny.stored(Features(source / "text"), "00000")
    assert max(len(s) for values in states.values() for s in values) == 12


def test_records_without_captions_are_counted(tmp_path: Path, model: str) -> None:
    with ShardWriter(tmp_path / "shards" / "00000.tar") as writer:
        writer.add_record({"key": "none"}, tiny.jpeg(), "jpg")
        writer.add_record({"key": "one", "captions": [{"text": "a", "lang": "en"}]}, tiny.jpeg(), "jpg")
    rejects = tmp_path / "rejects.jsonl"
    summary = encode_text(str(tmp_path / "shards"), model=model, device="cpu", rejects=str(rejects))
    assert (summary.read, summary.written, summary.dropped) == (2, 1, {"no_captions": 1})
    assert orjson.loads(rejects.read_bytes())["key"] == "none"
    assert list(Features(tmp_path / "shards" / "text").spans("00000")) == ["one"]


def test_a_short_disk_is_refused_at_once(source: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CommonArtError, match=r"The text features of all shards would take about [0-9.]+ kB"):
        encode_text(str(source), model=model, device="cpu")
    assert not (source / "text").exists()


@pytest.mark.parametrize("store", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("notes", [True, False])
def test_the_size_is_known_beforehand(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, store: str, notes: bool
) -> None:
    """Within 10 %: shards of several lengths, captions of several lengths and numbers, more records than are sampled."""
    monkeypatch.setattr(feature_plan, "SAMPLED_SHARDS", 3)
    monkeypatch.setattr(feature_plan, "SAMPLED_RECORDS", 90)
    source, draw = tmp_path / "many", np.random.default_rng(0)
    for number, count in enumerate([60, 60, 60, 60, 60, 7]):
        path = source / f"{number:05d}.tar"
        with ShardWriter(path) as writer:
            for n in range(count):
                lengths = draw.integers(5, 120, draw.integers(0, 4))
                said = [{"text": "x" * int(length), "lang": "en"} for length in lengths]
                writer.add(f"k{number}-{n}", {"json": orjson.dumps({"key": f"k{number}-{n}", "captions": said})})
        if notes:
            write_manifest(
                path, MadeFrom("shard", "", {}), read=count, written=count, dropped={}, failed=0, sha256=writer.sha256
            )
    asked: list[int] = []
    monkeypatch.setattr(
        "commonart.core.model.feature_encoding.require_space", lambda folder, needed, what: asked.append(needed)
    )
    encode_text(str(source), model=model, store=store, device="cpu", task=Task(0, 2))
    encode_text(str(source), model=model, store=store, device="cpu")
    real = [p.stat().st_size for p in sorted((source / "text").glob("*.tar"))]
    assert asked[0] == pytest.approx(sum(real), rel=0.1)
    assert asked[1] == pytest.approx(sum(real[1::2]), rel=0.1)  # what the first call left


def test_the_seconds_hold_the_loading(source: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = TextEncoder.load

    def slow(*args: object, **settings: object) -> TextEncoder:
        time.sleep(0.5)
        return load(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(TextEncoder, "load", slow)
    assert encode_text(str(source), model=model, device="cpu").seconds > 0.5


def test_the_source_is_looked_at_before_a_model_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="absent does not exist"):
        encode_text(str(tmp_path / "absent"))  # calm2-7b, which is not here


def test_usage_errors(source: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--store int4"):
        encode_text(str(source), model=model, store="int4")
    with pytest.raises(
        UsageError, match=r"--quantize int3 is not a known method\. Use quanto-int8, bnb-int8, torchao-int8"
    ):
        encode_text(str(source), quantize="int3")  # before calm2-7b is looked for
    with pytest.raises(UsageError, match="not a text-encoder model"):
        encode_text(str(source), model="no-such-model")
    with pytest.raises(CommonArtError, match="does not exist"):
        encode_text(str(tmp_path / "absent"), model=model, device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommonArtError, match="holds no shards"):
        encode_text(str(tmp_path / "empty"), model=model, device="cpu")


def test_shards_without_captions_and_empty_captions_are_said(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("none", []), ("empty", [{"text": " ", "lang": "en"}, {"text": "a cat", "lang": "en"}])):
        with ShardWriter(tmp_path / name / "00000.tar") as writer:
            writer.add_record({"key": "k", "captions": said}, tiny.jpeg((32, 32), (1, 2, 3)), "jpg")
        encode_text(str(tmp_path / name), model=model, device="cpu", quiet=True)
    error = capsys.readouterr().err
    assert f"No record of {tmp_path}/none has a caption: commonart caption" in error
    assert "Empty captions, encoded as they are: 1." in error and error.count("No record") == 1


def test_a_lost_null_embedding_is_made_again_and_no_shard(source: Path, model: str) -> None:
    encode_text(str(source), model=model, device="cpu")
    before = content(source / "text")
    times = {path.name: path.stat().st_mtime_ns for path in (source / "text").glob("0*")}
    for name in ("null.safetensors", "features.json"):
        (source / "text" / name).unlink()
        assert encode_text(str(source), model=model, device="cpu").written == 12
        assert content(source / "text") == before
    assert {path.name: path.stat().st_mtime_ns for path in (source / "text").glob("0*")} == times
