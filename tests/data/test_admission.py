"""What may be trained on: the rules of license-filter, applied where training opens its data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from commonart.core.data.admission import CACHED, Judge, Rules
from commonart.core.data.drops import Drop
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.training_index import read_index
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.policies import POLICIES
from commonart.stages.license_filter import Criteria, license_filter

BY_NC, NO_KNOWN = "https://creativecommons.org/licenses/by-nc/2.0/", "LicenseRef-Flickr-No-Known-Restrictions"


def said(model: str = "florence2", license: str = "MIT", **more: Any) -> dict[str, Any]:
    return {"text": "x", "lang": "en", "model": model, "license": license, "revision": "r1", "synthetic": True, **more}


def shards(folder: Path, records: Sequence[dict[str, Any]]) -> Path:
    with ShardWriter(folder / "00000.tar") as writer:
        for number, record in enumerate(records):
            writer.add_record({"key": f"k{number}", "captions": [said()], "license": "CC0-1.0", **record}, b"x", "jpg")
    return folder


def test_records_without_an_allowed_licence_are_refused_or_left_out(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {}, {"license_url": BY_NC, "license": "CC-BY-NC-2.0"}, {"license": "all rights reserved"}, {"license": ""},
        {"license": NO_KNOWN}, {"license": "CC-BY-4.0", "license_url": BY_NC}, {"license_url": BY_NC, "license": ""},
    ]  # fmt: skip
    folder = shards(tmp_path / "shards", records)
    with pytest.raises(CommonArtError) as told:
        read_index(folder)
    assert "holds 5 records that may not be trained on: license_not_allowed:CC-BY-NC-2.0 2," in told.value.what
    assert f"(the first: {folder}/00000.tar#k1)" in told.value.what and "--skip-unlicensed" in told.value.fix
    index = read_index(folder, Rules(skip=True))
    reasons = {
        "license_not_allowed:CC-BY-NC-2.0": 2, "license_not_allowed:LicenseRef-All-Rights-Reserved": 1,
        "license_unknown": 1, "license_conflict": 1,
    }  # fmt: skip
    assert list(index.keys) == ["k0", "k4"] and index.left_out == reasons
    strict = read_index(folder, Rules(POLICIES["strict"], skip=True))
    assert list(strict.keys) == ["k0"] and strict.left_out == {**reasons, f"license_not_allowed:{NO_KNOWN}": 1}
    with pytest.raises(CommonArtError, match="nothing that may be trained on: license_unknown 1"):
        read_index(shards(tmp_path / "none", [{"license": ""}]), Rules(skip=True))


def test_a_blocklist_is_obeyed_and_counted(tmp_path: Path) -> None:
    (tmp_path / "removed.txt").write_text(f"k1\nauthor: Jane  DOE\n{'ab' * 32}\n")
    rules = Rules.load("strict", str(tmp_path / "removed.txt"), ["x"])
    records = [{}, {"license": BY_NC}, {"author": "jane doe"}, {"sha256": "ab" * 32, "license": "CC-BY-4.0"}]
    index = read_index(shards(tmp_path / "shards", records), rules)
    assert list(index.keys) == ["k0"] and index.left_out == {"blocklisted": 3}
    about = index.describe(index.caption_odds())["policy"]
    digest = hashlib.sha256((tmp_path / "removed.txt").read_bytes()).hexdigest()
    assert (about["name"], about["blocklist"], about["accepted"]) == ("strict", digest, ["x"])
    with pytest.raises(CommonArtError, match="records on the blocklist: 1"):
        read_index(shards(tmp_path / "none", [{"key": "k1"}]), rules)
    with pytest.raises(UsageError, match="--policy lax"):
        Rules.load("lax")


MAKERS = [
    [said(), said("gpt-4o", "")], [said("theirs", "MIT")], [said("", "CC-BY-NC-4.0", synthetic=False)], [said()],
    [said("gpt-4o", ""), said("cat-translate", "MIT", translated_from="gpt-4o")],
    [said("cat-translate", "MIT", translated_from="gone"), said()],
    [said("blip2-opt", terms_accepted=True)], [said(["a", "list"])], [said("a", "MIT", revision="sha256:0")],
    [said("cat-translate", "MIT", translated_from="qwen2-vl#2"), said("qwen2-vl")],
    [said(endpoint_model="gpt-4o"), said("cat-translate", "MIT", translated_from="florence2")],
]  # fmt: skip


def test_captions_are_judged_by_the_rule_of_license_filter(tmp_path: Path) -> None:
    records = [{"key": f"k{n}", "license": "CC0-1.0", "captions": captions} for n, captions in enumerate(MAKERS)]
    filtered = {
        r["key"]: len(r["captions"]) for r in license_filter(map(dict, records), Drop(), Criteria(POLICIES["paper"]))
    }
    index = read_index(shards(tmp_path / "shards", records))
    fine = {
        key: int(index.fine[a:b].sum())
        for key, a, b in zip(index.keys, index.offsets[:-1], index.offsets[1:], strict=True)
    }
    assert (
        fine
        == filtered
        == {"k0": 1, "k1": 0, "k2": 0, "k3": 1, "k4": 0, "k5": 1, "k6": 1, "k7": 0, "k8": 1, "k9": 2, "k10": 0}
    )
    index.keep_usable()
    assert list(index.keys) == ["k0", "k3", "k5", "k6", "k8", "k9"] and index.left_out == {"no_usable_caption": 5}
    assert index.captions_left_out == {
        "caption_of_refused_model:gpt-4o": 5, "caption_of_unknown_model:theirs": 1, "caption_of_unknown_model:gone": 1,
        "caption_license_not_allowed:CC-BY-NC-4.0": 1, "caption_of_unknown_model:['a', 'list']": 1,
    }  # fmt: skip
    assert index.caption_odds().tolist() == [1, 0, 1, 0, 1, 1, 1, 1, 1]
    assert index.caption_odds({"en": 2}).tolist() == [2, 0, 2, 0, 2, 2, 2, 1, 1]


def test_what_run_json_says_of_the_data(tmp_path: Path) -> None:
    a = {
        "source": "coco",
        "license_url": "https://creativecommons.org/licenses/by/2.0/",
        "license": "",
        "sha256": "ab" * 32,
    }
    b = {"source": "museum", "author": "Jane", "source_url": "https://example.org/1"}
    translated = said("cat-translate", "MIT", translated_from="florence2", lang="ja")
    folder = shards(tmp_path / "shards", [a, {**b, "captions": [said(), translated]}, {**b, "license": BY_NC}])
    index = read_index(folder, Rules(skip=True))
    index.keep_usable()
    about = index.describe(index.caption_odds({"ja": 1.0, "en": 0.0}))
    assert about["licenses"] == {"CC-BY-2.0": 1, "CC0-1.0": 1} and about["sources"] == {"coco": 1, "museum": 1}
    assert about["missing"] == {"source": 0, "author": 1, "address": 1, "sha256": 1}
    ja: dict[str, Any] = {"model": "cat-translate of florence2", "revision": "r1", "license": "MIT"}
    ja |= {"terms": "free of free", "lang": "ja", "captions": 1}
    assert about["makers"] == [ja] and (about["images"], about["captions"], about["used"]) == (2, 3, 1)
    lines = f"k0 {'ab' * 8}\nk1 {'0' * 16}\n"
    assert about["digest"] == hashlib.sha256(lines.encode()).hexdigest()
    assert about["policy"]["sha256"] == POLICIES["paper"].sha256 != POLICIES["strict"].sha256


def test_the_cache_of_verdicts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonart.core.data.admission.CACHED", 2)
    judge = Judge(Rules())
    for n in range(5):
        judge.captions([said(revision=str(n % 3))])
        judge.work({"license": "CC0-1.0", "source": str(n % 3)})
    assert CACHED > 2 and len(judge._captions) <= 2 and len(judge._works) <= 2
    assert len(judge.kinds) == 3 and len(judge.works) == 3
