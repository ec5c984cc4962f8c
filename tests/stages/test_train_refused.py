"""What no training begins with: each is refused with a sentence and the right exit code, and leaves no run behind."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from tiny_runs import TINY, dataset, refused, sha256, shards, start, train

from commonart.core.data.files import lock
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.registry.catalogue import LENGTHS
from commonart.core.settings import CAPTION_LENGTHS
from commonart.core.training.run import is_origin

__all__ = ["shards"]  # the fixture


def test_data_that_cannot_be_trained_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused(CommonArtError, 1, "nowhere does not exist", "commonart shard", lambda: start(tmp_path / "nowhere", run))
    (tmp_path / "empty").mkdir()
    refused(CommonArtError, 1, "empty", "", lambda: start(tmp_path / "empty", run))
    mute, far = dataset(tmp_path / "mute", caption=False), "calm2-7b"  # not fetched for nothing
    refused(CommonArtError, 1, "records without: 20", "commonart caption", lambda: start(mute, run, text_encoder=far))
    kept = dataset(tmp_path / "kept", heldout=range(20))
    refused(CommonArtError, 1, "records held out: 20, all of them", "more images", lambda: start(kept, run))
    assert not run.exists()


def test_settings_that_do_not_fit(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    other: dict[str, Any] = {"text_encoder": "calm2-7b"}
    refused(
        CommonArtError, 1, "features of m, but --text-encoder is", "encode-text", lambda: start(shards, run, **other)
    )
    refused(UsageError, 2, "--gpus 3 does not divide the global batch 8", "2 or 4", lambda: start(shards, run, gpus=3))
    refused(UsageError, 2, "--stage 128 is not a training stage", "nano", lambda: train("128", data=str(shards)))
    refused(UsageError, 2, "--quantize nope is not a known", "quanto", lambda: start(shards, run, quantize="nope"))
    refused(UsageError, 2, "no setting 'rate'", "lr", lambda: start(shards, run, {"rate": 1}))
    refused(UsageError, 2, "--clip nano needs a sample grid", "--sample-every", lambda: start(shards, run, clip="nano"))
    refused(UsageError, 2, "--keep -1 must be at least 0", "0", lambda: start(shards, run, keep=-1))
    larger = {"resolution": 32}
    refused(
        CommonArtError, 1, "16x16 pixels; stage nano trains on 32x32", "--size 32", lambda: start(shards, run, larger)
    )
    early = {"data": str(shards), "out": str(run), "device": "cpu", "overrides": {**TINY, "optimizer": "AdamW"}}
    refused(CommonArtError, 1, "256-early has no checkpoint", "--init none", lambda: train("256-mid", **early))
    assert not run.exists()


def test_features_that_do_not_belong_to_the_shards(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shards")
    with ShardWriter(data / "00001.tar") as writer:
        record = {
            "key": "k99",
            "captions": [{"text": "a", "lang": "en"}],
            "sha256": sha256("train"),
            "license": "CC0-1.0",
        }
        writer.add_record(record, b"", "jpg")
    refused(CommonArtError, 1, "made from another", "--overwrite", lambda: start(data, tmp_path / "run"))


def test_a_run_goes_on_only_as_what_it_was(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(shards, run, {"steps": 2})
    refused(
        CommonArtError,
        1,
        "num_layers 1; stage and data ask for 2",
        "layers=1",
        lambda: start(shards, run, {"layers": 2}),
    )
    changed = {"lr": 0.01}
    refused(CommonArtError, 1, "with lr=0.0015, and now it is 0.01", "lr=0.0015", lambda: start(shards, run, changed))
    refused(CommonArtError, 1, "started with seed 0, and now it is 1", "-o", lambda: start(shards, run, seed=1))
    other = dataset(tmp_path / "other", heldout=[2])
    refused(CommonArtError, 1, "the shards changed", f"--init {run}", lambda: start(other, run))
    elsewhere = str(tmp_path / "elsewhere")
    refused(
        CommonArtError, 1, "was started from nothing", "Leave --init out", lambda: start(shards, run, init=elsewhere)
    )
    path = run / "run.json"
    written = path.read_bytes()
    for part, before in (("store", "int8"), ("cached", False)):
        known = orjson.loads(written)
        known["text_encoder"][part] = before
        path.write_bytes(orjson.dumps(known))
        refused(CommonArtError, 1, f"text_encoder.{part} was {before}", "Put them back", lambda: start(shards, run))
    path.write_text("{}")
    refused(CommonArtError, 1, "run.json is damaged", "another run", lambda: start(shards, run))


def test_a_run_is_trained_by_one_process_at_a_time(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(shards, run, {"steps": 2})
    with lock(run):
        refused(CommonArtError, 1, f"in use by process {os.getpid()} on", "goes on", lambda: start(shards, run))
    assert start(shards, run).step == 6


def test_what_a_run_started_from_may_be_written_in_several_ways(tmp_path: Path) -> None:
    commit = "0" * 40
    hub = {"from": "commonart-beta", "revision": commit}
    assert is_origin("aipicasso/commonart-beta", hub) and is_origin("commonart-beta", hub)
    assert is_origin(f"commonart-beta@{commit}", hub) and not is_origin(f"commonart-beta@{'1' * 40}", hub)
    assert not is_origin("pixart-sigma", hub) and not is_origin("no such thing", hub) and not is_origin("none", hub)
    folder = {"from": "runs/256-late", "step": 5}
    assert is_origin("runs/../runs/256-late/", folder) and is_origin(str(Path("runs/256-late").resolve()), folder)
    assert is_origin("none", {"from": "nothing"}) and not is_origin("runs/256-late", {"from": "nothing"})


def test_weights_of_another_text_encoder(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "256-mid", tmp_path / "256-late"
    stage = {"data": str(shards), "device": "cpu", "precision": "fp32", "quiet": True}
    settings = {**TINY, "optimizer": "AdamW", "interpolation": 1.0}
    train("256-mid", out=str(before), init="none", overrides=settings, **stage)
    known = orjson.loads((before / "run.json").read_bytes())
    known["text_encoder"]["revision"] = "r0"
    (before / "run.json").write_bytes(orjson.dumps(known))
    says = "256-mid was trained with text_encoder m (revision r0), and this run has m (r1)"
    again = lambda **more: train("256-late", out=str(after), overrides=settings, **stage, **more)  # noqa: E731
    refused(CommonArtError, 1, says, f"--init {before}", again)
    assert not after.exists()
    assert again(init=str(before)).step == TINY["steps"] and says in capsys.readouterr().err


@pytest.mark.parametrize("mix", [{"ja": 0.0}, {"ja": -1.0, "en": 1.0}, {"ja": math.inf}, {"ja": math.nan}])
def test_weights_of_lengths_that_mean_nothing(shards: Path, tmp_path: Path, mix: dict[str, float]) -> None:
    lengths = {{"ja": "long", "en": "short"}[name]: weight for name, weight in mix.items()}
    refused(
        UsageError, 2, "weights must be at least 0", "long=3,short=1", lambda: start(shards, tmp_path, lengths=lengths)
    )


def test_lengths_that_nobody_wrote(shards: Path, tmp_path: Path) -> None:
    assert CAPTION_LENGTHS == LENGTHS
    refused(
        UsageError,
        2,
        "--caption-length medium is not a length",
        "long",
        lambda: start(shards, tmp_path, lengths={"medium": 1}),
    )
    refused(
        CommonArtError,
        1,
        "says that it is long",
        "commonart caption",
        lambda: start(shards, tmp_path, lengths={"long": 1}),
    )


@pytest.mark.parametrize("mix", [{"ja": 0.0}, {"ja": -1.0, "en": 1.0}, {"ja": math.inf}, {"ja": math.nan}])
def test_weights_of_languages_that_mean_nothing(shards: Path, tmp_path: Path, mix: dict[str, float]) -> None:
    refused(UsageError, 2, "weights must be at least 0", "--language", lambda: start(shards, tmp_path, languages=mix))
