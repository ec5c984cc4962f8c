"""`commonart train` on data of which some may not be trained on, and on captions that changed under their features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_runs import dataset, refused, start

from commonart.core.data.files import sha256_file
from commonart.core.data.shards.manifest import MadeFrom, write_manifest
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.training.run import read

NC = {"license": "CC-BY-NC-4.0"}
BY_GPT = [{"text": "aaa", "lang": "en", "model": "gpt-4o"}, {"text": "bb", "lang": "ja"}]


def test_records_without_an_allowed_licence(tmp_path: Path) -> None:
    data, run = dataset(tmp_path / "shards", more={3: NC, 4: NC, 5: {"license": "CC-PDM-1.0"}}), tmp_path / "run"
    what = "2 records that may not be trained on: license_not_allowed:CC-BY-NC-4.0 2 (the first: "
    refused(CommonArtError, 1, what, "--skip-unlicensed", lambda: start(data, run))
    refused(UsageError, 2, "--policy lax", "strict", lambda: start(data, run, policy="lax"))
    assert not run.exists()
    some: dict[str, Any] = {"skip_unlicensed": True}
    done = start(data, run, {"steps": 2}, **some)
    assert done.as_json()["dropped"] == {"license_not_allowed:CC-BY-NC-4.0": 2}
    about = read(run)["data"]
    assert about["images"] == 18 and about["licenses"] == {"CC0-1.0": 17, "CC-PDM-1.0": 1}
    assert about["policy"]["name"] == "paper" and about["missing"]["author"] == 18
    assert start(data, run, {"steps": 3}, **some).step == 3
    strict = {**some, "policy": "strict"}
    refused(CommonArtError, 1, "other records of the shards", "-o OTHER", lambda: start(data, run, **strict))
    (tmp_path / "removed.txt").write_text("key: k9\n")
    blocked = {**some, "blocklist": str(tmp_path / "removed.txt")}
    refused(CommonArtError, 1, "other records of the shards", "-o OTHER", lambda: start(data, run, **blocked))
    assert start(data, tmp_path / "blocked", {"steps": 1}, **blocked).left_out["blocklisted"] == 1


def test_captions_of_refused_models(tmp_path: Path) -> None:
    data, run = (
        dataset(tmp_path / "shards", more={3: {"captions": BY_GPT}, 7: {"captions": BY_GPT[:1]}}),
        tmp_path / "run",
    )
    what = "captions that may not be trained on: caption_of_refused_model:gpt-4o 2"
    refused(CommonArtError, 1, what, "--accept-terms", lambda: start(data, run))
    done = start(data, run, {"steps": 2}, skip_unlicensed=True)
    assert done.left_out == {"no_usable_caption": 1}
    assert done.as_json()["captions_left_out"] == {"caption_of_refused_model:gpt-4o": 2}
    assert read(run)["data"]["used"] == 37
    accepted: dict[str, Any] = {"skip_unlicensed": True, "accept_terms": ["gpt-4o"]}
    refused(CommonArtError, 1, "other records", "-o OTHER", lambda: start(data, run, **accepted))
    start(data, tmp_path / "accepted", {"steps": 1}, **accepted)
    assert read(tmp_path / "accepted")["data"]["accepted"] == ["gpt-4o"]
    # In a language that nobody asked for it stands in nobody's way.
    assert start(data, tmp_path / "ja", {"steps": 1}, languages={"ja": 1.0}).left_out == {"no_caption_in_language": 1}


def test_a_caption_that_was_changed_in_place_is_noticed(tmp_path: Path) -> None:
    """A manifest that still fits by its size hides the change from the hash of the shard."""
    data = dataset(tmp_path / "shards")
    tar = data / "00001.tar"
    made_from = MadeFrom.of("shard", "", {})
    write_manifest(tar, made_from, read=10, written=10, dropped={}, failed=0, sha256=sha256_file(tar))
    start(data, tmp_path / "before", {"steps": 1})
    before = tar.read_bytes()
    tar.write_bytes(before.replace(b'"text":"bbbbb"', b'"text":"bbbcb"'))
    assert tar.read_bytes() != before
    what = "has other captions than its text features were made of"
    refused(CommonArtError, 1, what, "encode-text", lambda: start(data, tmp_path / "after"))
