"""Translators on tiny random models of their real classes, and the stage around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
import torch
import transformers

from commonart.core.data.drops import Drop
from commonart.core.data.record import Record
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.captioning.translators import Translator, problem
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model
from commonart.stages.translate import open_model, origins, translate

TEXTS = ["a cat", "a very long text about two dogs and a house", "雨"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.phi3(tmp_path_factory.mktemp("phi3"))


class Fake:
    """A translator with a dictionary, which writes down what it was asked."""

    name, revision, license, accepted = "fake", "r1", "MIT", False

    def __init__(self, **words: str) -> None:
        self.words, self.asked = words, list[str]()

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        self.asked += texts
        return [self.words.get(text, f"訳:{text}") for text in texts]


def record(key: str, *captions: tuple[str, str, str]) -> Record:
    return {"key": key, "captions": [{"text": t, "lang": lang, "model": model} for t, lang, model in captions]}


def run(records: Iterable[Record], model: object, to: str = "ja", batch: int = 4) -> list[Record]:
    drop = Drop()
    out = list(translate(records, drop, model=model, to=to, batch=batch))  # type: ignore[arg-type]
    assert not drop.reasons
    return out


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["phi3", "llama", "llama without a chat template"])
def test_every_family(family: str, tmp_path: Path) -> None:
    """A batch of texts of several lengths gives what each gives alone, and the same again."""
    made = tiny.phi3(tmp_path) if family == "phi3" else tiny.llama(tmp_path, chat=family == "llama")
    translator = Translator.open(str(made), precision="fp32", max_new_tokens=12)
    together = translator.translate(TEXTS, "en", "ja")
    assert len(set(together)) > 1
    assert together == [translator.translate([text], "en", "ja")[0] for text in TEXTS]
    assert not any("Translate" in text for text in together), "the prompt is no part of the answer"
    assert translator.translate([], "en", "ja") == []


def test_phi3_is_what_transformers_says(folder: Path) -> None:
    translator = Translator.open(str(folder), precision="fp32", max_new_tokens=12)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = translator.model.prompt.format(text="a cat", source="English", target="Japanese")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        written = model.generate(**asked, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(written[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert translator.translate(["a cat"], "en", "ja") == [" ".join(answer.split())]


def test_the_table_s_classes_have_adapters() -> None:
    from commonart.core.registry.catalogue import MODELS

    usable = [m for m in MODELS if m.role == "translate" and not (m.refused or m.broken)]
    assert {m.cls for m in usable} <= set(Translator.MODEL_CLASSES)
    assert all(hasattr(transformers, cls) for cls in Translator.MODEL_CLASSES)


def test_a_refused_translator_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="share-alike"):
        Translator.open("fugumt")
    with pytest.raises(CommonArtError, match="has no adapter for translate"):
        Translator.open(str(tiny.florence2(tmp_path)))


@pytest.mark.skipif(not (hub.NANO_WEIGHTS / "translator").is_dir(), reason="the nano weights are not built")
def test_nano_goes_through_the_same_adapter() -> None:
    translator = Translator(hub.resolve_model(find_model("nano", "translate")))
    assert translator.model.cls == "Phi3ForCausalLM"
    text = "a small red circle on a white background"
    assert problem(translator.translate([text], "en", "ja")[0], text, "en", "ja") == ""


# -- what is not kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "original", "source", "target", "reason"),
    [
        ("白い背景に赤い丸", "a red circle on white", "en", "ja", ""),
        ("東京", "Tokyo", "en", "ja", ""),
        ("a red circle", "白い背景に赤い丸", "ja", "en", ""),
        ("富士山", "Mount Fuji", "en", "ja", ""),
        ("红色的圆形", "a red circle", "en", "ja", "wrong_script"),
        ("红色的圆形", "赤い丸", "ja", "en", "wrong_script"),
        ("", "a cat", "en", "ja", "empty"),
        ("a dog", "a cat", "en", "ja", "wrong_script"),
        ("赤い丸", "白い背景に赤い丸", "ja", "en", "wrong_script"),
        ("A Cat", "a cat", "en", "ja", "unchanged"),
        ("猫猫猫猫猫猫", "a cat", "en", "ja", "repetition"),
        ("丸と四角、丸と四角、丸と四角、丸と四角、丸と四角、", "a circle and a square", "en", "ja", "repetition"),
        ("。" * 6, "......", "en", "ja", "wrong_script"),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 200))), "a cat", "en", "ja", "too_long"),
    ],
)
def test_problem(text: str, original: str, source: str, target: str, reason: str) -> None:
    assert problem(text, original, source, target) == reason


# -- the stage ---------------------------------------------------------------------------------------------------------


def test_captions_are_added_and_originals_kept() -> None:
    given = record("k", ("a cat", "en", "florence2"), ("猫", "ja", "llava-jp"))
    before = [dict(c) for c in given["captions"]]
    out = run([given], Fake())[0]["captions"]
    assert out[:2] == before
    assert out[2:] == [
        {"text": "訳:a cat", "lang": "ja", "model": "fake", "revision": "r1", "license": "MIT", "synthetic": True,
         "translated_from": "florence2"}
    ]  # fmt: skip


def test_a_second_run_changes_nothing_and_asks_nothing() -> None:
    records = [record(str(i), (f"text {i}", "en", "a"), (f"other {i}", "en", "a")) for i in range(5)]
    once = run(records, Fake())
    assert [len(r["captions"]) for r in once] == [4] * 5
    again = Fake()
    assert run(once, again) == once and again.asked == []


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
    assert out[1]["captions"][1]["text"] == "訳:a cat"


def test_bad_translations_are_not_added_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    model = Fake(**{"a cat": "a cat", "a dog": "", "a bird": "鳥"})
    out = run([record(t, (t, "en", "a")) for t in ("a cat", "a dog", "a bird")], model)
    assert [len(r["captions"]) for r in out] == [1, 1, 2]
    assert "2 translations were not added (empty 1, unchanged 1)" in capsys.readouterr().err


def test_records_without_captions_pass() -> None:
    given: list[Record] = [{"key": "a"}, {"key": "b", "captions": []}, record("c", (" ", "en", "a"))]
    assert run(given, Fake()) == given


def test_the_user_s_word_is_kept_in_the_record() -> None:
    model = Fake()
    model.accepted = True
    assert run([record("k", ("a cat", "en", "a"))], model)[0]["captions"][1]["terms_accepted"] is True


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="--to fr is not a supported language"):
        open_model("phi3-medium", "fr")  # before the model is looked for
    with pytest.raises(UsageError, match="--to fr"):
        run([], Fake(), to="fr")
    with pytest.raises(UsageError, match="--batch must be at least 1, not 0"):
        run([], Fake(), batch=0)
