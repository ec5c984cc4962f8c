"""The stage around a translator; the models themselves: tests/model/captioning/test_translators.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import tiny_language_models as tiny
import tiny_translators
from commands import Command

from commonart.core.data import stream
from commonart.core.data.drops import Drop, Problem
from commonart.core.data.record import Record, all_fit
from commonart.core.errors import TooManyFailures, UsageError
from commonart.core.model.captioning.generate import Generated
from commonart.stages.translate import open_model, origins, settings, translate


class Fake:
    """A translator with a dictionary, which writes down what it was asked; `again`: its answers to a retry."""

    name, revision, license, accepted = "fake", "r1", "MIT", False
    sources = targets = ("en", "ja")
    piece_size, template = 500, "to {target}: {text}"

    def __init__(self, again: dict[str, str] | None = None, **words: str | Problem) -> None:
        self.words, self.again = words, again or {}
        self.asked, self.asked_again = list[str](), list[str]()
        self.settings: dict[str, str | int | float] = {"precision": "fp32", "max_new_tokens": 512}

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, retry: bool = False
    ) -> list[Generated | Problem]:
        (self.asked_again if retry else self.asked).extend(texts)
        answers = [(self.again if retry else self.words).get(text, f"これは「{text}」") for text in texts]
        return [a if isinstance(a, Problem) else Generated(a, "…" not in a, 5) for a in answers]


def record(key: str, *captions: tuple[str, str, str]) -> Record:
    return {"key": key, "captions": [{"text": t, "lang": lang, "model": model} for t, lang, model in captions]}


def run(
    records: Iterable[Record], model: Any, to: str = "ja", batch: int = 4, drop: Drop | None = None
) -> list[Record]:
    drop = drop or Drop()
    out = list(translate(records, drop, model=model, to=to, batch=batch))
    assert not drop.reasons, "a record is never dropped"
    return out


def test_captions_are_added_and_originals_kept() -> None:
    given = record("k", ("a cat", "en", "florence2"), ("猫", "ja", "llava-jp"))
    given["captions"][0]["length"] = "short"
    before = [dict(c) for c in given["captions"]]
    out = run([given], Fake())[0]["captions"]
    assert out[:2] == before
    assert out[2:] == [
        {"text": "これは「a cat」", "lang": "ja", "model": "fake", "revision": "r1", "license": "MIT", "synthetic": True,
         "translated_from": "florence2", "length": "short", "prompt": "to {target}: {text}", "precision": "fp32",
         "max_new_tokens": 512, "words": out[2]["words"]}
    ]  # fmt: skip
    assert all_fit([given, given]), "the reader's fast path takes it"


def test_a_second_run_changes_nothing_and_asks_nothing() -> None:
    records = [record(str(i), (f"text {i}", "en", "a"), (f"other {i}", "en", "a")) for i in range(5)]
    once = run(records, Fake())
    assert [len(r["captions"]) for r in once] == [4] * 5
    again = Fake()
    assert run(once, again) == once and again.asked == []


def test_a_translation_with_other_settings_is_not_the_one_that_is_asked_for() -> None:
    once = run([record("k", ("a cat", "en", "a"))], Fake())
    other = Fake()
    other.settings = {**other.settings, "precision": "bf16"}
    assert [c.get("precision") for c in run(once, other)[0]["captions"]] == [None, "fp32", "bf16"]
    assert settings(Fake(), "ja") != settings(other, "ja")  # type: ignore[arg-type]


def test_origins_name_each_original() -> None:
    found = [
        {"text": "1", "lang": "en", "model": "a"},
        {"text": "2", "lang": "en", "model": "a"},
        {"text": "3", "lang": "ja", "model": "a"},
        {"text": "4", "lang": "en"},
        {"text": "5", "lang": "ja", "model": "t", "translated_from": "a"},
    ]
    assert origins(found) == ["a", "a#2", "a", "source", ""]


def test_translations_are_not_translated_back() -> None:
    once = run([record("k", ("a cat", "en", "a"))], Fake())
    assert run(once, Fake(), to="en") == once


def test_each_text_is_translated_once_and_the_order_is_kept() -> None:
    records = [record(str(i), ("a cat" if i % 2 else "a dog", "en", "a")) for i in range(10)]
    model = Fake()
    out = run(records, model, batch=100)
    assert model.asked == ["a cat", "a dog"]
    assert [r["key"] for r in out] == [str(i) for i in range(10)]
    assert out[1]["captions"][1]["text"] == "これは「a cat」"


def test_a_bad_translation_is_asked_for_once_more_and_then_missing() -> None:
    model = Fake(
        again={"a dog": "犬", "a bird": "a bird", "a boat": "船船船船船船船船船船船船"},
        **{
            "a cat": "猫",
            "a dog": "犬犬犬犬犬犬犬犬犬犬犬犬",
            "a bird": "",
            "a boat": "船が…",
            "a fish": Problem("model_error", "boom"),
        },
    )
    refused: list[Record] = []
    drop = Drop(refused.append)
    out = run([record(t, (f"a {t}", "en", "a")) for t in ("cat", "dog", "bird", "boat", "fish")], model, drop=drop)
    assert [[c["text"] for c in r["captions"][1:]] for r in out] == [["猫"], ["犬"], [], [], []]
    assert sorted(model.asked_again) == ["a bird", "a boat", "a dog"], "what failed is not asked again"
    assert drop.missing_reasons == {"unchanged": 1, "looping": 1, "model_error": 1} and drop.failures == 3
    assert {r["key"]: r["reason"] for r in refused} == {"bird": "unchanged", "boat": "looping", "fish": "model_error"}
    assert "translation of a: boom" in [r["reason_detail"] for r in refused]


def test_what_is_cut_off_or_loses_a_number_is_missing() -> None:
    model = Fake(
        **{"three cats on a mat": "マットの上の猫", "a dog on a mat": "マットの上の…"},
        again={"three cats on a mat": "マットの猫", "a dog on a mat": "マットの…"},
    )
    drop = Drop()
    run([record(t, (t, "en", "a")) for t in ("three cats on a mat", "a dog on a mat")], model, drop=drop)
    assert drop.missing_reasons == {"lost_number": 1, "cut_off": 1}


def test_a_long_caption_goes_in_pieces_and_comes_back_as_it_was() -> None:
    """Sentences one by one, line breaks kept, a piece that stands in two captions asked once; one bad piece costs the whole."""
    model = Fake(
        **{"A cat.": "猫。", "Two dogs sleep.": "犬が二匹寝ている。", "It snows.": "雪が降る。", "A bird.": "A bird."},
        again={"A bird.": "A bird."},
    )
    model.piece_size = 0
    drop = Drop()
    out = run([
        record("0", ("A cat. Two dogs sleep.\n\nIt snows.", "en", "a")),
        record("1", ("A cat. It snows.", "en", "a")),
        record("2", ("A cat. A bird.", "en", "a")),
    ], model, drop=drop)  # fmt: skip
    assert [r["captions"][1]["text"] for r in out[:2]] == ["猫。犬が二匹寝ている。\n\n雪が降る。", "猫。雪が降る。"]
    assert len(out[2]["captions"]) == 1 and drop.missing_reasons == {"unchanged": 1}
    assert sorted(model.asked) == ["A bird.", "A cat.", "It snows.", "Two dogs sleep."]


def test_a_language_that_the_model_does_not_read_is_counted() -> None:
    drop = Drop()
    out = run([record("k", ("un chat", "fr", "a"), ("a cat", "en", "a"))], Fake(), drop=drop)
    assert len(out[0]["captions"]) == 3 and drop.missing_reasons == {"unknown_language": 1} and drop.failures == 1


def test_records_without_captions_pass() -> None:
    given: list[Record] = [{"key": "a"}, {"key": "b", "captions": []}, record("c", (" ", "en", "a"))]
    assert run(given, Fake()) == given


def test_records_that_all_lack_captions_are_a_warning(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"key": "a"}\n{"key": "b", "captions": []}\n')
    done = in_process("translate", "in.jsonl", "--model", "nano", "--to", "ja", "-o", "out.jsonl")
    first, last = done.stderr.decode().splitlines()
    assert first == "warning: translate: none of the 2 records has a caption; they are passed on as they came."
    assert (done.returncode, orjson.loads(last)["in"], orjson.loads(last)["out"]) == (0, 2, 2)
    (tmp_path / "one.jsonl").write_bytes(b'{"key": "a"}\n{"key": "b", "captions": [{"text": "a", "lang": "ja"}]}\n')
    assert b"warning" not in in_process("translate", "one.jsonl", "--model", "nano", "--to", "ja", "-o", "-").stderr


def test_fields_of_other_kinds_than_ours_are_taken_as_text() -> None:
    odd = {"text": "a cat {0} %s", "lang": "en", "model": ["a"], "length": ["long"], "translated_from": None}
    done = {"text": "猫", "lang": "ja", "model": "t", "translated_from": ["a"]}
    out = run([{"key": "k", "captions": [odd, done]}], Fake())[0]["captions"]
    assert out[2]["text"] == "これは「a cat {0} %s」" and out[2]["translated_from"] == "['a']"


def test_the_user_s_word_is_kept_in_the_record() -> None:
    model = Fake()
    model.accepted = True
    assert run([record("k", ("a cat", "en", "a"))], model)[0]["captions"][1]["terms_accepted"] is True


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="--to fr is not a supported language") as caught:
        open_model("phi3-medium", "fr")  # before the model is looked for
    assert caught.value.fix == "Choose one of en, ja."
    with pytest.raises(UsageError, match="--to fr"):
        run([], Fake(), to="fr")
    with pytest.raises(UsageError, match="--batch must be at least 1, not 0"):
        run([], Fake(), batch=0)


def test_a_language_that_a_checkpoint_does_not_write_is_named_before_it_runs(tmp_path: Path) -> None:
    folder = tiny_translators.marian(tmp_path / "marian")
    with pytest.raises(UsageError, match="--to en is not a supported language of") as caught:
        open_model(str(folder), "en")
    assert caught.value.fix == "Choose one of ja."
    assert open_model(str(folder), "ja").targets == ("ja",)


# -- the command -------------------------------------------------------------------------------------------------------


def test_translations_that_are_all_rejected_exit_3(in_process: Command, tmp_path: Path) -> None:
    """The random model's answers are no translations: everything is written, and the exit code says that it is worth little."""
    model = str(tiny.phi3(tmp_path / "model"))
    (tmp_path / "in.jsonl").write_bytes(b"".join(
        orjson.dumps(record(str(i), (f"a cat number {i}", "en", "a"), ("白い猫", "ja", "b")), option=orjson.OPT_APPEND_NEWLINE)
        for i in range(20)
    ))  # fmt: skip
    arguments = ("translate", "--to", "ja", "--model", model, "in.jsonl", "-o", "out.jsonl", "--rejects", "no.jsonl")
    done = in_process(*arguments)
    summary = json.loads(done.stderr.splitlines()[-1])
    assert done.returncode == 3 and b"20 of 20 records failed" in done.stderr
    assert summary["in"] == summary["out"] == 20 and summary["dropped"] == {} and sum(summary["missing"].values()) == 20
    assert (
        len((tmp_path / "out.jsonl").read_bytes().splitlines())
        == len((tmp_path / "no.jsonl").read_bytes().splitlines())
        == 20
    )
    assert in_process(*arguments, "--overwrite", "--max-failures", "1").returncode == 0


def test_max_failures_counts_records() -> None:
    model = Fake(**{"bad": "bad"}, again={"bad": "bad"})
    records = [record(str(i), ("bad" if i < 172 else "a cat", "en", "a")) for i in range(174)]

    def once(max_failures: float) -> None:
        stream.run("translate", lambda rs, drop: translate(rs, drop, model=model), records=records, out="/dev/null",  # type: ignore[arg-type]
                   max_failures=max_failures, quiet=True)  # fmt: skip

    with pytest.raises(TooManyFailures, match="172 of 174 records failed"):
        once(0.5)
    once(1.0)


def test_folders_say_what_they_depend_on(in_process: Command, tmp_path: Path) -> None:
    """A shard of one precision is not taken for one of another; the same command again does nothing."""
    assert in_process("fetch", "scenes", "--limit", "2", "-o", "raw").returncode == 0
    arguments = ("translate", "--to", "ja", "--model", "nano", "raw", "-o", "out", "--precision")
    assert in_process(*arguments, "fp32").returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert in_process(*arguments, "fp32").returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert in_process(*arguments, "bf16").returncode == 1
    added = next(c for r in stream.read(str(tmp_path / "out")) for c in r["captions"] if c["model"] == "nano")
    assert (added["lang"], added["precision"], added["prompt"]) == ("ja", "float32", "to {target}: {text}")
    assert added["revision"].startswith("sha256:") and added["translated_from"] == "scenes-grammar"
