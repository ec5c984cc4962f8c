"""The facts of a report: counted from the records as the run took them, and refused where they are not those of the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lookup_shards
import numpy as np
import orjson
import pytest
import reportable_run
import tiny_runs
from commands import call
from reportable_run import AUTHORS, LICENSES

from commonart.core.data.files import write_json
from commonart.core.data.record import key_hash
from commonart.core.data.training_index import read_index
from commonart.core.errors import CommonArtError
from commonart.core.report.beside import CURVE, curves, without_places
from commonart.core.report.facts import Facts, gather, works
from commonart.core.report.history import flatten
from commonart.core.report.ledger import OURS, models_used
from commonart.core.report.makers import Maker


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def described(run: Path) -> dict[str, Any]:
    return dict(orjson.loads((run / "run.json").read_bytes()))


def test_what_is_counted_is_what_the_run_says_of_itself(facts: Facts) -> None:
    assert facts.run is not None
    data = facts.run["data"]
    assert facts.works == data["images"] == 21
    assert (facts.digest, facts.fingerprint) == (data["digest"], data["fingerprint"])
    assert facts.licenses == data["licenses"] == {"CC-BY-2.0": 11, "CC0-1.0": 10}
    assert facts.sources == data["sources"] == {"museum": 21}
    assert facts.captioners == {"nano": 21, "nano of nano": 21} == {m["model"]: m["captions"] for m in data["makers"]}
    assert facts.languages == {"en": 21, "ja": 21} and facts.splits == {"train": 21} and facts.sizes == {"16x16": 21}
    assert facts.caption_words == {"1": 21, "2": 21}  # 縞模様, and "stripes 3"
    assert facts.observed == ("2026-01-02T00:00:00Z",) * 2 and facts.bases == {"licence": 11, "dedication": 10}
    assert facts.hosts == {"example.org": 21}
    assert (facts.flops, facts.seconds) == (facts.run["compute"]["flops"], facts.run["compute"]["seconds"])


def test_missing_authors_are_counted_and_the_others_are_there(facts: Facts) -> None:
    # Every sixth has none: 11 and 17; number 5, and those that are held out, are not trained on.
    assert facts.unknown_authors == 2 and facts.untraced == {"author": 2}
    assert set(facts.authors) == {*AUTHORS} - {""} and sum(facts.authors.values()) == 19


def test_works_come_in_the_order_of_training_with_what_attribution_needs(facts: Facts) -> None:
    first, *others = works(facts.folders, facts.run)
    assert (first.key, first.title, first.author, first.license) == ("k00", "work 0", "Jane Doe", LICENSES[0][0])
    assert first.url == "https://example.org/works/0" and first.license_url == LICENSES[0][1]
    assert first.changes == "scaled and cropped from 96 x 96 to 16 x 16 pixels, encoded again as PNG"
    assert (first.shard, first.split, first.makers) == ("00000.tar", "train", ["nano", "nano of nano"])
    assert {work.shard for work in others} == {"00000.tar", "00001.tar", "00002.tar"}
    assert "k05" not in {work.key for work in others}


def test_the_way_from_filter_to_training_with_reasons(facts: Facts) -> None:
    assert [(row["stage"], row["in"], row["out"], row["dropped"]) for row in facts.history] == [
        ("license-filter", 24, 23, {"license_not_allowed:CC-BY-NC-2.0": 1}),
        ("shard", 23, 23, {}), ("train", 23, 21, {"heldout": 2}),
    ]  # fmt: skip
    assert facts.history[0]["unknown_before"] and not any("lost" in row for row in facts.history)


def test_what_no_stage_dropped_is_told_with_the_stage_that_misses_it() -> None:
    fetch = {"stage": "fetch", "version": "1", "settings": {}, "in": 100, "out": 100, "dropped": {}, "inputs": []}
    shard = {
        "stage": "shard",
        "version": "1",
        "settings": {},
        "in": 90,
        "out": 88,
        "dropped": {"too_small": 2},
        "inputs": [fetch],
    }
    data = {"images": 80, "heldout": 5, "left_out": {"no_captions": 2}, "policy": dict.fromkeys(
        ("name", "allowed", "denied", "accepted", "blocklist"))}  # fmt: skip
    rows = flatten([shard], {"data": data})
    assert [(row["stage"], row.get("lost")) for row in rows] == [("fetch", None), ("shard", 10), ("train", 1)]
    assert rows[2]["dropped"] == {"heldout": 5, "no_captions": 2} and rows[2]["in"] == 87
    assert flatten([], None) == [] and flatten([{"stage": "odd"}], None) == []


def test_shards_alone_hold_all_of_them(made: Path) -> None:
    facts = gather(None, made / "shards")
    assert (facts.works, facts.run, facts.curves, facts.flops) == (23, None, [], None)
    assert facts.splits == {"train": 21, "heldout": 2} and [row["stage"] for row in facts.history] == [
        "license-filter",
        "shard",
    ]


def test_languages_and_lengths_of_a_run_choose_the_captions(made: Path) -> None:
    run = described(made / "runs" / "tiny")
    only = [work.captions for work in works(made / "shards", {**run, "languages": {"ja": 1.0}})]
    assert len(only) == 21 and all([c["lang"] for c in each] == ["ja"] for each in only)
    assert not list(works(made / "shards", {**run, "languages": {"fr": 1.0}}))
    refused = {**run["data"]["policy"], "allowed": ["CC0-1.0"]}
    assert {work.license for work in works(made / "shards", {**run, "data": {"policy": refused}})} == {"CC0-1.0"}
    captioner = {**run, "captioner": {}, "prompts": [["en", "short", ["?"]]]}
    assert all(each.makers == ["nano"] for each in works(made / "shards", captioner))


def changed(here: Path, **data: Any) -> Path:
    run = here / "runs" / "tiny"
    values = described(run)
    write_json(run / "run.json", {**values, "data": {**values["data"], **data}})
    return run


def refused(here: Path, *words: str, run: str = "runs/tiny", shards: str | None = "shards") -> None:
    with pytest.raises(CommonArtError) as told:
        gather(here / run, here / shards if shards else None)
    assert all(word in str(told.value) for word in words), told.value


def test_shards_that_changed_since_training_are_refused_with_how_many(here: Path) -> None:
    (here / "shards" / "00002.tar").unlink()
    refused(here, "changed since the run was trained: 21 works then, 20 now", "Put those shards back")


def test_as_many_but_other_works_are_refused(here: Path) -> None:
    images = lookup_shards.pictures(COUNT := 30)[COUNT - 21 :]
    shutil.rmtree(here / "raw")
    (here / "raw").mkdir()
    reportable_run.lookup_shards.written(
        here / "raw", [reportable_run.record(number + 6, data, here / "raw") for number, data in enumerate(images)]
    )
    assert call(here, "shard", "raw/list.jsonl", "-o", "other", "--size", "16", "-q") == 0
    refused(here, "21 works then, the same number now, but not the same works", shards="other")


def test_works_of_a_blocklist_and_those_without_features_are_not_named_as_trained_on(here: Path) -> None:
    (here / "blocklist.txt").write_text("k02\nkey: k09\n")
    tiny_runs.start(here / "shards", here / "runs" / "less", blocklist=str(here / "blocklist.txt"))
    run = described(here / "runs" / "less")
    data, facts = run["data"], gather(here / "runs" / "less", here / "shards")
    assert data["left_out"] == {"blocklisted": 2} and len(data["left_out_keys"]["blocklisted"]) == 2
    assert facts.works == data["images"] == 19 and (facts.digest, facts.attribution) == (
        data["digest"],
        data["attribution"],
    )
    named = {work.key for work in works(facts.folders, facts.run)}
    assert len(named) == 19 and not named & {"k02", "k09"}
    index = read_index(here / "shards")
    index.keep(np.array([key != "k00" for key in index.keys]), "no_latents")
    data = index.describe(index.caption_odds())
    assert data["left_out_keys"] == {"no_latents": [f"{key_hash('k00'):016x}"]} and data["images"] == 20
    assert "k00" not in {work.key for work in works(here / "shards", {**run, "data": data})}


def test_rules_of_another_version_are_not_papered_over(here: Path) -> None:
    changed(here, digest="0" * 64, images=20)
    refused(here, "was trained on 20 works", "by the rules of this version it would be 21", "0.1.0")


def test_shards_that_were_only_written_again_are_the_same_works(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(here, "shard", "shards", "-o", "again", "--size", "16", "--format", "webp", "-q") == 0
    assert gather(here / "runs" / "tiny", here / "again").works == 21
    assert "were written again since" in capfd.readouterr().err


@pytest.mark.parametrize("missing", ["digest", "attribution", "policy", "folder"])
def test_a_run_without_provenance_is_refused(here: Path, missing: str) -> None:
    run = here / "runs" / "tiny"
    values = described(run)
    del values["data"][missing]
    write_json(run / "run.json", values)
    refused(here, f"does not say what the run was trained on: data has no {missing}", "report its shards alone instead")


def test_an_empty_run_and_damaged_files_are_refused(here: Path) -> None:
    run = here / "runs" / "tiny"
    values = described(run)
    write_json(run / "run.json", {name: value for name, value in values.items() if name != "compute"})
    refused(here, "has no checkpoint yet: nothing was trained")
    (run / "run.json").write_bytes(b"{")
    refused(here, "run.json is not JSON")
    (run / "run.json").write_bytes(b"[]")
    refused(here, "does not say what the run was trained on")
    (run / "run.json").unlink()
    refused(here, "run.json cannot be read: No such file or directory")


def test_shards_that_have_gone_are_named(here: Path) -> None:
    changed(here, folder="elsewhere/shards")
    refused(here, "was trained on elsewhere/shards, which is not here", "commonart report RUN SHARDS", shards=None)


def test_shards_without_a_record_are_refused(here: Path) -> None:
    from commonart.core.data.shards.writer import ShardWriter

    with ShardWriter(here / "empty" / "00000.tar"):
        pass
    with pytest.raises(CommonArtError, match=r"empty holds no work that a card could name\."):
        gather(None, here / "empty")
    refused(here, "holds no work that the run was trained on", shards="empty")


def test_several_sets_are_one_run_and_their_shards_keep_apart(tmp_path: Path) -> None:
    data = f"{tmp_path / 'a'},{tmp_path / 'b'}:0.5"
    for name in ("a", "b"):  # each has twenty keys, and none of the other's
        tiny_runs.dataset(
            tmp_path / name, more={n: {"key": f"{name}{n}", "source": name, "author": name} for n in range(20)}
        )
    tiny_runs.start(Path(data), tmp_path / "run")
    facts = gather(tmp_path / "run")
    assert facts.run is not None and facts.sources == {"a": 20, "b": 20}
    assert (facts.digest, facts.fingerprint) == (facts.run["data"]["digest"], facts.run["data"]["fingerprint"])
    assert facts.run["data"]["folder"] == "a,b:0.5"
    assert sorted({work.shard for work in works(facts.folders, facts.run)}) == [
        "a/00000.tar", "a/00001.tar", "b/00000.tar", "b/00001.tar",
    ]  # fmt: skip
    moved = gather(tmp_path / "run", Path(data))
    assert moved == facts


def test_one_image_under_two_licences_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    made = reportable_run.records(raw)
    twin = {**made[0], "key": "twin", "license": "CC0-1.0", "license_url": LICENSES[1][1]}
    plain = {**made[1], "key": "same"}  # twice, under the same licence
    lookup_shards.written(raw, [*made, twin, plain])
    assert call(tmp_path, "shard", "raw/list.jsonl", "-o", "shards", "--size", "16", "-q") == 0
    facts = gather(None, tmp_path / "shards")
    assert facts.conflicting == 1
    (conflict,) = facts.conflicts
    assert conflict.keys == ("k00", "twin") and conflict.licenses == ("CC-BY-2.0", "CC0-1.0")
    assert conflict.sha256 == made[0]["sha256"]
    for named in (20, 0):
        monkeypatch.setattr("commonart.core.report.facts.CONFLICTS", named)
        capfd.readouterr()
        assert call(tmp_path, "report", "shards", "-o", f"card{named}", "-q") == 0
        warned = capfd.readouterr().err
        assert ("k00, twin are one image under CC-BY-2.0 and CC0-1.0" in warned) is (named > 0)
        assert ("images under several licences: 1, of which the first 0 are named" in warned) is (named == 0)


def test_curves_are_thinned_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    rows = [orjson.dumps({"step": n, "loss": 1.0}) + b"\n" for n in range(2 * CURVE + 7)]
    measured = b'{"step": 3, "heldout_loss": 1.0}\n'
    (tmp_path / "m.jsonl").write_bytes(b"".join([*rows[:4], measured, *rows[4:], b'{"step": 1']))
    found = curves(tmp_path / "m.jsonl")
    assert [row for row in found if "loss" not in row] == [orjson.loads(measured)], "few rows are all kept"
    found.remove(orjson.loads(measured))
    assert len(found) == CURVE and (found[0]["step"], found[-1]["step"]) == (0, 2 * CURVE + 6)
    assert curves(tmp_path / "none") == []
    assert curves(tmp_path / "m.jsonl", last=2)[-1]["step"] == 2, (
        "a training that was killed wrote on after its checkpoint"
    )


def test_scores_and_audit_are_found_in_the_run_or_given(here: Path) -> None:
    run = here / "runs" / "tiny"
    write_json(run / "eval.json", {"scores": [], "model": "/home/me/runs/tiny"})
    write_json(here / "other.json", {"verdict": "no sign"})
    facts = gather(run, here / "shards", audit=here / "other.json")
    assert facts.evaluation == {"scores": [], "model": "tiny"} and facts.audit == {"verdict": "no sign"}
    for wrong, option, why in (
        ({"scores": []}, "audit", r"is not what commonart mia writes, it holds scores: give it to --eval"),
        ({"verdict": "no sign"}, "evaluation", r"is not what commonart eval writes, it is an audit: give it to --mia"),
        ({"model": "x"}, "audit", r"commonart mia writes: it has no verdict"),
        ({"model": "x"}, "evaluation", r"commonart eval writes: it has no scores"),
        ({"verdict": "x", "members": "many"}, "audit", r"commonart mia writes: members is not a whole number"),
    ):
        write_json(here / "wrong.json", wrong)
        with pytest.raises(CommonArtError, match=why):
            gather(run, here / "shards", **{option: here / "wrong.json"})
    (here / "other.json").write_bytes(b"[1]")
    with pytest.raises(CommonArtError, match=r"is not what commonart eval or mia write"):
        gather(run, here / "shards", audit=here / "other.json")


def test_scores_of_another_tool_are_refused_with_what_they_lack(here: Path) -> None:
    run = here / "runs" / "tiny"
    for scores in ([{"metric": "CLIP", "lang": "en", "n": 3}], [7], 7):
        write_json(here / "eval.json", {"scores": scores})
        with pytest.raises(
            CommonArtError, match=r"eval\.json is not what commonart eval writes: a score has no (mode|metric)"
        ):
            gather(run, here / "shards", evaluation=here / "eval.json")


def test_places_on_a_machine_stay_there() -> None:
    said = {"folder": "/data/a,/data/b:0.5", "list": ["/x/y", "runs/z"], "number": 1}
    assert without_places(said) == {"folder": "a,b:0.5", "list": ["y", "runs/z"], "number": 1}


def test_models_that_took_part_with_their_terms_and_origins() -> None:
    run = {
        "data": {"accepted": ["gemma"]}, "text_encoder": {"name": "calm2-7b", "revision": "abc"}, "autoencoder": {"name": "nano"},
        "init": {"from": "/home/me/runs/256", "step": 9},
    }  # fmt: skip
    makers = [
        Maker("gemma of florence2", "g1", "", "ja", True, 1), Maker("florence2", "f1", "MIT", "en", True, 1),
        Maker("/home/me/mine", "sha256:1", "Apache-2.0", "en", True, 1),
    ]  # fmt: skip
    scores = {"scores": [{"judge": "clip-vit-b32", "judge_revision": "c1"}, {"metric": "scenes"}]}
    audit = {
        "reference": {"model": "nano", "revision": "sha256:9"},
        "blind": {"judge": "clip-vit-b32", "judge_revision": "c1"},
    }
    found = {(m.role, m.name): m for m in models_used(run, makers, scores, audit)}
    assert list(found) == [
        ("text encoder", "calm2-7b"), ("autoencoder", "nano"), ("initial weights", "256"), ("translator", "gemma"),
        ("captioner", "florence2"), ("captioner", "mine"), ("scorer", "clip-vit-b32"),
        ("audit reference", "nano"),
    ]  # fmt: skip
    assert "1.3 trillion tokens of publicly available" in found["text encoder", "calm2-7b"].trained_on
    assert found["autoencoder", "nano"].trained_on == OURS.english
    gemma = found["translator", "gemma"]
    assert (gemma.terms, gemma.trained_on) == ("accepted by the user", "not disclosed")
    assert found["captioner", "florence2"].revision == "f1" and "FLD-5B" in found["captioner", "florence2"].trained_on
    assert found["initial weights", "256"].revision == "step 9"
    assert found["scorer", "clip-vit-b32"].revision == "c1" and found["audit reference", "nano"].revision == "sha256:9"
    assert found["captioner", "mine"].terms == "free" and found["captioner", "mine"].address == ""


def test_dates_that_are_none_are_not_stated(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    dates = ["2026-03-01T08:00:00+09:00", "yesterday <b>", "", "0001-01-01T00:00:00+09:00", "2026-02-28T23:30:00Z"]
    made = [{**each, "license_observed_at": at} for each, at in zip(reportable_run.records(raw), dates, strict=False)]
    lookup_shards.written(raw, made)
    assert call(tmp_path, "shard", "raw/list.jsonl", "-o", "shards", "--size", "16", "-q") == 0
    facts = gather(None, tmp_path / "shards")
    assert facts.observed == ("2026-02-28T23:00:00Z", "2026-02-28T23:30:00Z"), "compared as times, not as text"
    assert facts.works == 5 and facts.untraced["observed"] == 3
