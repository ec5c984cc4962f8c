"""Translators on tiny random models of their real classes with their real tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
import tiny_translators
import torch
import transformers

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.guards import translation_problem
from commonart.core.model.captioning.languages import LANGUAGES, language_code, language_tokens
from commonart.core.model.captioning.sentences import join, split
from commonart.core.model.captioning.translators import SEQ2SEQ, Translator
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model

TEXTS = ["a cat", "a very long text about two dogs and a house", "a red circle on white"]
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "phi3": tiny.phi3,
    "llama": tiny.llama,
    "llama without a chat template": lambda folder: tiny.llama(folder, chat=False),
    "qwen2": tiny_translators.qwen2,
    "gemma3": tiny_translators.gemma3,
    "marian": tiny_translators.marian,
    "marian of several languages": lambda folder: tiny_translators.marian(folder, ">>jpn<<", ">>fra<<", target="mul"),
    "m2m100": tiny_translators.m2m100,
    "nllb": tiny_translators.nllb,
    "t5": tiny_translators.t5,
    "madlad": lambda folder: tiny_translators.t5(folder, "<2ja>", "<2en>", "<2de>"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family](tmp_path_factory.mktemp("models") / "model")
        return made[family]

    return folder


def texts(answers: list[Generated | Problem]) -> list[str]:
    assert all(isinstance(answer, Generated) for answer in answers), answers
    return [answer.text for answer in answers if isinstance(answer, Generated)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, folders: Callable[[str], Path]) -> None:
    """A batch of texts of several lengths gives what each gives alone, and the same again; a retry decodes otherwise."""
    translator = Translator.open(str(folders(family)), precision="fp32", max_new_tokens=12)
    together = translator.translate(TEXTS, "en", "ja")
    assert together == [translator.translate([text], "en", "ja")[0] for text in TEXTS]
    assert not any("ranslate" in text for text in texts(together)), "the prompt is no part of the answer"
    assert all(answer.tokens == 12 for answer in together if isinstance(answer, Generated) and not answer.finished)
    assert translator.translate([], "en", "ja") == []
    if family in ("phi3", "marian"):  # which loop here
        assert translator.translate(TEXTS, "en", "ja", retry=True) != together


@pytest.mark.parametrize("family", ["phi3", "marian", "marian of several languages", "m2m100", "nllb", "t5", "madlad"])
def test_each_is_asked_as_its_card_says(family: str, folders: Callable[[str], Path]) -> None:
    """Equal to transformers by hand: chat template, language tokens before the text, first token of the translation."""
    folder = folders(family)
    translator = Translator.open(str(folder), precision="fp32", max_new_tokens=12)
    kind: Any = getattr(transformers, translator.model.cls)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    text, skip, options = TEXTS[1], 0, {}
    if family == "phi3":
        text = translator.model.template.format(text=text, source="English", target="Japanese")
        turn = [{"role": "user", "content": text}]
        inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        skip = inputs["input_ids"].shape[1]
    else:
        if family == "m2m100":
            tokenizer.src_lang = "en"
            options = {"forced_bos_token_id": tokenizer.get_lang_id("ja")}
        if family == "nllb":
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, src_lang="eng_Latn")
            options = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids("jpn_Jpan")}
        text = {
            "t5": f"translate English to Japanese: {text}", "madlad": f"<2ja> {text}",
            "marian of several languages": f">>jpn<< {text}",
        }.get(family, text)  # fmt: skip
        inputs = tokenizer([text], return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
    answer = tokenizer.decode(written[0, skip:], skip_special_tokens=True)
    assert texts(translator.translate([TEXTS[1]], "en", "ja")) == [" ".join(answer.split())]


def test_the_languages_that_each_knows(folders: Callable[[str], Path]) -> None:
    def known(family: str) -> tuple[set[str], set[str]]:
        translator = Translator.open(str(folders(family)))
        return set(translator.sources), set(translator.targets)

    assert known("marian") == ({"en"}, {"ja"})
    assert known("marian of several languages") == ({"en"}, {"fr", "ja"})
    assert known("madlad") == ({"de", "en", "ja"}, {"de", "en", "ja"})
    assert {"en", "ja", "zh", "fr"} < known("nllb")[1] and len(known("m2m100")[1]) == 100
    assert known("qwen2") == (set(LANGUAGES), set(LANGUAGES))
    nano = Translator(hub.resolve_model(find_model("nano", "translate")))
    assert nano.sources == nano.targets == ("en", "ja")


def test_the_target_reaches_the_model(folders: Callable[[str], Path]) -> None:
    for family in ("marian of several languages", "nllb", "m2m100"):
        translator = Translator.open(str(folders(family)), precision="fp32", max_new_tokens=12)
        assert translator.translate(TEXTS, "en", "ja") != translator.translate(TEXTS, "en", "fr"), family


@pytest.mark.parametrize("family", ["marian", "phi3", "t5"])
def test_a_text_that_is_longer_than_the_model_reads_is_not_cut(
    family: str, folders: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    translator = Translator.open(str(folders(family)), precision="fp32", max_new_tokens=12)
    short, long = translator.translate(["a cat", "a cat " * 500], "en", "ja")
    assert isinstance(short, Generated) and isinstance(long, Problem) and long.reason == "input_too_long"
    assert short == translator.translate(["a cat"], "en", "ja")[0]
    assert "sequence length" not in capfd.readouterr().err


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny_translators.marian(tmp_path / "m")
    (folder / "source.spm").unlink()
    with pytest.raises(CommonArtError, match="tokenizer of .* cannot be loaded"):
        Translator.open(str(folder)).targets  # noqa: B018
    assert "source.spm" in hub.select_files(["config.json", "source.spm", "model.safetensors"], "translate")


def test_the_table_s_classes_have_adapters() -> None:
    from commonart.core.registry.catalogue import MODELS

    assert {m.cls for m in MODELS if m.role == "translate" and not m.remote_code} <= Translator.MODEL_CLASSES
    assert all(hasattr(transformers, cls) for cls in SEQ2SEQ)


def test_a_refused_translator_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="share-alike"):
        Translator.open("fugumt")
    with pytest.raises(CommonArtError, match="has no adapter for translate") as caught:
        Translator.open(str(tiny.florence2(tmp_path)))
    assert "MarianMTModel" in caught.value.fix and len(caught.value.fix) < 400


def test_nano_goes_through_the_same_adapter() -> None:
    translator = Translator(hub.resolve_model(find_model("nano", "translate")))
    assert translator.model.cls == "Phi3ForCausalLM"
    text = "a small red circle on a white background"
    answer = translator.translate([text], "en", "ja")[0]
    assert isinstance(answer, Generated)
    assert translation_problem(answer.text, text, "en", "ja", finished=answer.finished) == ""


# -- languages and sentences -------------------------------------------------------------------------------------------


def test_language_tokens() -> None:
    assert language_tokens(["__ja__", "▁ja", "<2en>", ">>fra<<", "deu_Latn", "es_XX", "<s>", "__", "cat"]) == {
        "de": "deu_Latn", "en": "<2en>", "es": "es_XX", "fr": ">>fra<<", "ja": "__ja__",
    }  # fmt: skip
    assert language_tokens(["zho_Hant", "zho_Hans"]) == {"zh": "zho_Hans"}
    assert [language_code(name) for name in ("jap", "jpn", "ja", "ROMANCE", "", None)] == [
        "ja",
        "ja",
        "ja",
        "ROMANCE",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "most", "pieces"),
    [
        ("a cat", 0, [("a cat", "")]),
        ("A cat. A dog.", 0, [("A cat.", ""), ("A dog.", "")]),
        ("A cat. A dog. A bird.", 14, [("A cat. A dog.", ""), ("A bird.", "")]),
        ("A cat.\nA dog.\n\nA bird.", 500, [("A cat.", "\n"), ("A dog.", "\n\n"), ("A bird.", "")]),
        ("Mr. Smith and J. S. Bach at Mt. Fuji. It snows.", 0, [("Mr. Smith and J. S. Bach at Mt. Fuji.", ""), ("It snows.", "")]),
        ("It costs 3.50 dollars. No. 5 is red.", 0, [("It costs 3.50 dollars.", ""), ("No. 5 is red.", "")]),
        ('He says "Hi." She waves.', 0, [('He says "Hi."', ""), ("She waves.", "")]),
        ("猫がいる。犬もいる！「はい。」と言う。", 0, [("猫がいる。", ""), ("犬もいる！", ""), ("「はい。」と言う。", "")]),
        ("「はい。」彼は言う。", 0, [("「はい。」", ""), ("彼は言う。", "")]),
        ("  a cat \n", 0, [("a cat", "")]),
        ("", 0, [("", "")]),
    ],
)  # fmt: skip
def test_split(text: str, most: int, pieces: list[tuple[str, str]]) -> None:
    assert split(text, most) == pieces


def test_pieces_join_to_the_text() -> None:
    for text in ("A cat. A dog.\nA bird. It sings!\n\nThe end.", "a cat", "J. S. Bach."):
        for most in (0, 10, 500):
            assert join(split(text, most), "en") == text
    assert join([("猫。", ""), ("犬。", "\n"), ("鳥。", "")], "ja") == "猫。犬。\n鳥。"
