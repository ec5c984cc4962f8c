"""lookup: which runs were trained on a record, and why that is known or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import lookup_shards
import orjson
import pytest
from commands import Command
from lookup_shards import here, lines, made, pictures, record

from commonart.core.data.admission import Rules
from commonart.core.data.shards.reader import read_shard
from commonart.core.data.training_index import read_index
from commonart.core.licenses.policies import Policy

__all__ = ["here", "made"]  # the fixtures


def test_a_run_is_known_by_its_fingerprint_where_its_shards_have_moved(here: Path, in_process: Command) -> None:
    (here / "q").mkdir()
    (here / "runs" / "one").rename(here / "q" / "run")
    (here / "shards").rename(here / "q" / "shards")

    def trained() -> list[tuple[str, bool | None]]:
        done = in_process("lookup", "--key", "k04", "q/run", "q/shards", "--json")
        assert b"warning" not in done.stderr
        return [(each["run"], each["trained"]) for each in lines(done)[0]["runs"]]

    assert trained() == [("q/run", True)]
    assert in_process("lookup", "--key", "k05", "q/run", "q/shards", "--remove").returncode == 0
    assert trained() == [("q/run", True)], "also after a removal"
    (here / "q" / "shards" / "00002.tar").unlink()
    done = in_process("lookup", "--key", "k04", "q/run", "q/shards", "--json")
    assert lines(done)[0]["runs"][0]["why"] == "not known: shards is not there"
    assert b"q/run was trained on shards, which is not there." in done.stderr


def test_a_run_of_several_folders_that_have_moved_is_known_by_its_fingerprint(here: Path, in_process: Command) -> None:
    raw = here / "more"
    raw.mkdir()
    records = [record(n, data, raw, key=f"other{n}") for n, data in enumerate(pictures(14)[11:])]
    lookup_shards.stage.run(lookup_shards.written(raw, records), str(here / "b"), size=64, quiet=True)
    both = f"{here / 'shards'},{here / 'b'}:0.5"
    lookup_shards.run(here / "runs" / "two", folder="gone/a,gone/b:0.5", fingerprint=read_index(both).fingerprint)
    (found,) = lines(in_process("lookup", "--key", "other1", "b", "runs/two", "shards", "--json"))
    assert [(each["run"], each["trained"]) for each in found["runs"]] == [("runs/two", True)]


def test_each_run_says_whether_it_was_trained_on_a_record_and_why(
    here: Path, in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    lookup_shards.run(here / "runs" / "begun", checkpoint=False)
    lookup_shards.run(here / "runs" / "part", left_out={"no_caption_in_language": 2, "no_captions": 1})
    lookup_shards.run(here / "runs" / "older", fingerprint="0" * 64)
    lookup_shards.run(here / "runs" / "elsewhere", folder="gone/", fingerprint="1" * 64)
    (here / "runs" / "empty").mkdir()
    (here / "runs" / "broken").mkdir()
    (here / "runs" / "broken" / "run.json").write_text('{"data": []}')
    done = in_process("lookup", "--key", "k05", "--json")
    (found,) = lines(done)
    assert [(each["run"], each["trained"], each["why"]) for each in found["runs"]] == [
        ("runs/begun", False, "not yet: no checkpoint was written"),
        ("runs/elsewhere", None, "not known: gone/ is not there"),
        ("runs/older", None, "not known: its shards changed since it was trained"),
        ("runs/one", True, "in its training data"),
        ("runs/part", None, "in its data, of which it left some out (no_caption_in_language 2)"),
    ]
    warned = done.stderr.decode()
    assert "runs/broken/run.json does not say what the run was trained on. It is left out." in warned
    assert "runs/elsewhere was trained on gone/, which is not there." in warned
    heldout = next(
        each["key"] for tar in (here / "shards").glob("*.tar") for each in read_shard(tar) if each["split"] == "heldout"
    )
    (found,) = lines(in_process("lookup", "--key", heldout, "--json", "runs/one"))
    assert found["runs"] == [{"run": "runs/one", "trained": False, "why": "no: held out"}]


def test_what_a_run_left_out_by_policy_or_language_was_not_trained_on(
    here: Path, in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    shutil.rmtree(here / "runs" / "one")
    left_out = {"license_not_allowed:CC-BY-2.0": 3, "no_usable_caption": 1, "no_captions": 1}

    def run(name: str, policy: Rules, languages: dict[str, float] | None = None, **more: int) -> None:
        path = (
            lookup_shards.run(here / "runs" / name, left_out={**left_out, **more}, policy=policy.describe())
            / "run.json"
        )
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "languages": languages or {}}))

    public = Policy("own", {"CC0-1.0": "own"}, frozenset())
    run("allowed", Rules())
    run("blocked", Rules(), blocklisted=2)
    run("english", Rules(), {"en": 1.0, "ja": 0.0})
    run("japanese", Rules(), {"en": 0.0, "ja": 1.0})
    run("public", Rules(public))
    (found,) = lines(in_process("lookup", "--key", "k05", "--json"))
    assert [(each["run"].removeprefix("runs/"), each["trained"], each["why"]) for each in found["runs"]] == [
        ("allowed", True, "in its training data"),
        ("blocked", None, "in its data, of which it left some out (blocklisted 2)"),
        ("english", True, "in its training data"),
        ("japanese", False, "no: it could use none of its captions"),
        ("public", False, "no: its policy does not allow it (license_not_allowed:CC-BY-2.0)"),
    ]
