"""The guards of captions and translations: single cases by reason, and their figures on the labelled list."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commonart.core.model.captioning.guards import clean, is_written_in, loops, problem, translation_problem
from commonart.core.model.captioning.numerals import lost_number

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("guards_benchmark", BENCHMARKS / "guards.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


# -- the labelled list -------------------------------------------------------------------------------------------------


def test_the_list_is_what_the_figures_are_of(benchmark: Any) -> None:
    """At least 320 texts, both halves hold every language and both kinds, and no text stands in it twice."""
    tune, held = benchmark.rows("tune"), benchmark.rows("measure")
    assert len(tune) + len(held) >= 320
    for half in (tune, held):
        groups = {(row["of"], row["lang"], bool(row["expect"])) for row in half}
        assert len(groups) == 8
    keys = [(row["of"], row.get("original"), row["text"], row["lang"]) for row in tune + held]
    assert len(set(keys)) == len(keys)


def test_the_figures_do_not_fall(benchmark: Any) -> None:
    """Those of tests/benchmarks/README.md, on the half that the rules were not made on."""
    groups = benchmark.measure("measure")["groups"]
    assert groups["all"]["precision"] >= 0.98 and groups["all"]["recall"] >= 0.96 and groups["all"]["named"] >= 0.97
    for name, score in groups.items():
        assert score["precision"] >= 0.95 and score["recall"] >= 0.95, name
        assert score["wrongly_refused"] * 20 <= score["good"], name


# -- what is taken off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The image shows a red car.", "A red car."),
        ("the image shows two dogs", "two dogs"),
        ("The image shows that cats sleep.", "The image shows that cats sleep."),
        ("The image is a close-up of a leaf.", "A close-up of a leaf."),
        ("The image is divided into two halves.", "The image is divided into two halves."),
        ("In this image, there is a dog.", "There is a dog."),
        ("In the image, we can see a dog.", "A dog."),
        ("In the picture book, a dog sleeps.", "In the picture book, a dog sleeps."),
        ("Sure! Here is a caption: A dog.", "A dog."),
        ("a photo of a dog", "a dog"),
        ("a black and white photo of a dog", "a black and white photo of a dog"),
        ("この画像には、犬が写っています。", "犬が写っています。"),
        ("写真立てが机の上にある。", "写真立てが机の上にある。"),
        ("画像に写っているのは、灯台です。", "灯台です。"),
        ("以下は画像の説明です：犬がいる。", "犬がいる。"),
        ("「犬」", "犬"),
        ("「犬」と「猫」", "「犬」と「猫」"),
        ("A **very** small dog", "A very small dog"),
        ("**Subject:** a dog", "**Subject:** a dog"),
        ("  a\n dog </s>", "a dog"),
        ("The image shows", ""),
        ("", ""),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_the_prompt_is_taken_off_where_the_answer_begins_with_it() -> None:
    ask = "Describe this image in one sentence."
    assert clean("Describe this image in one sentence. A dog.", ask) == "A dog."
    assert clean("a photo of a dog", "a photo of") == "a dog"
    assert (
        clean("この画像を説明してください。犬。", "USER: <image>\nこの画像を説明してください。\nASSISTANT: ") == "犬。"
    )
    assert (
        problem("A dog. Describe this image in one sentence.", lang="en", finished=True, prompt=ask) == "prompt_leaked"
    )
    assert problem("A dog on a photo of a hill.", lang="en", finished=True, prompt="a photo of") == ""


# -- single rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["red circle", "zebra", "santa maria del fiore", "a cat", "Mount Fuji (富士山)", "sign with the text 止まれ on it"],
)
def test_short_english_is_not_taken_for_another_language(text: str) -> None:
    assert is_written_in(text, "en") and not is_written_in(text, "ja")


@pytest.mark.parametrize("text", ["富士山", "東京都庁第一本庁舎", "機関車 D51", "Canon EOS R5で撮影した桜", "雨"])
def test_japanese_with_and_without_kana(text: str) -> None:
    assert is_written_in(text, "ja") and not is_written_in(text, "en")


@pytest.mark.parametrize("text", ["一只猫坐在沙发上", "一個女人在公園裡跑步", "고양이", "un chat", "Кошка на диване"])
def test_other_languages_are_neither(text: str) -> None:
    assert not is_written_in(text, "ja")


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("a red cup, a blue cup, a green cup, a yellow cup", False),
        ("row after row after row of tulips", False),
        ("赤い丸、青い丸、緑の丸、黄色い丸", False),
        ("ふわふわで、もふもふの猫", False),
        ("numbers 1, 2, 3, 4, 5, 6, 7, 8 on a wall", False),
        ("cat cat cat cat cat cat", True),
        ("a dog on a mat on a mat on a mat on a mat", True),
        ("It is red. It is big. It is red. It is big. It is red. It is big.", True),
        ("皿の上の皿の上の皿の上の皿の上の皿", True),
        ("a" * 10_000, True),
    ],
)
def test_loops(text: str, looping: bool) -> None:
    assert loops(text) is looping


def test_cut_off_comes_from_the_model_and_not_from_the_text() -> None:
    assert problem("A dog on", lang="en", finished=True) == ""
    assert problem("A dog on a mat.", lang="en", finished=False) == "cut_off"


def test_what_a_sign_says_is_not_judged() -> None:
    for said in ("I'm sorry, I can't come", "NO NO NO NO NO NO", "冷たい飲み物", "<p>hello</p>"):
        assert problem(f'A sign says "{said}" in white.', lang="en", finished=True) == ""


@pytest.mark.parametrize(
    ("original", "translation", "source", "lost"),
    [
        ("three dogs", "犬が三匹", "en", ""),
        ("three dogs", "3匹の犬", "en", ""),
        ("three dogs", "３匹の犬", "en", ""),
        ("three dogs", "犬", "en", "three"),
        ("two thousand and twenty-six lamps", "2026個のランプ", "en", ""),
        ("two thousand and twenty-six lamps", "二千二十六個のランプ", "en", ""),
        ("two hundred and five lamps", "二百個のランプ", "en", "two hundred five"),
        ("1,204 lamps", "1204個のランプ", "en", ""),
        ("1,204 lamps", "12個と4個のランプ", "en", "1,204"),
        ("2.5 million people", "250万人", "en", ""),
        ("two or three dogs", "二、三匹の犬", "en", ""),
        ("7:30 pm", "19時30分", "en", ""),
        ("one of the dogs", "犬の一匹", "en", ""),
        ("a two-tone car", "ツートンの車", "en", ""),
        ("三匹の犬", "three dogs", "ja", ""),
        ("三匹の犬", "dogs", "ja", "三"),
        ("三重県の海", "The sea of Mie Prefecture", "ja", ""),
        ("5月5日", "May 5", "ja", ""),
        ("昭和30年", "1955", "ja", ""),
        ("昭和30年", "1956", "ja", "30"),
        ("３割引", "30 percent off", "ja", ""),
        ("一万二千人", "12,000 people", "ja", ""),
        ("二〇二六年", "2026", "ja", ""),
    ],
)
def test_lost_number(original: str, translation: str, source: str, lost: str) -> None:
    assert lost_number(original, translation, source, "en" if source == "ja" else "ja") == lost


def test_numbers_of_other_languages_are_their_digits() -> None:
    assert lost_number("1,204 lamps", "1.204 lampes", "en", "fr") == ""
    assert lost_number("1,204 lamps", "des lampes", "en", "fr") == "1,204"
    assert lost_number("3 dogs", "trois chiens", "en", "fr") == ""


def test_what_the_original_does_is_no_fault_of_its_translation() -> None:
    chant = "go go go go go go, they chant"
    assert (
        loops(chant)
        and translation_problem("行け 行け 行け 行け 行け 行けと唱える", chant, "en", "ja", finished=True) == ""
    )
    assert translation_problem("ごめんなさい", "I'm sorry", "en", "ja", finished=True) == ""


@pytest.mark.parametrize(
    "text",
    ["a" * 10_000, "ab " * 5_000, "* " * 5_000, '"' * 5_001, "Question: " * 1_000, "**a" * 3_000, "<p" * 5_000, "以下は" * 3_000,
     " ".join(map(str, range(5_000))), "".join(chr(0x3041 + i * 7 % 80) for i in range(10_000)), "1. 2 " * 3_000],
    ids=range(11),
)  # fmt: skip
def test_hostile_texts_cost_little(text: str) -> None:
    started = time.process_time()
    problem(clean(text, text[:50]), lang="ja", finished=True, prompt=text[:50])
    translation_problem(text, text[::-1], "en", "ja", finished=True)
    assert time.process_time() - started < 1


def test_thoughts_are_no_part_of_a_caption() -> None:
    thought = "<think>hmm, red.</think> A red circle on a green field."
    assert clean(thought) == "A red circle on a green field."
    assert problem(clean("A red circle <think> is it?"), lang="en", finished=True) == "markup"


def test_what_was_cut_off_before_its_first_word() -> None:
    assert problem("", lang="en", finished=False) == "cut_off"
    assert problem("", lang="en", finished=True) == "empty"


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("a red circle in the upper left, a red square at the top right, an orange disc in the lower left, a square in the "
         "bottom left corner, a square in a square in the desert corner, a square at the upper right corner, a square near "
         "the top right corner, a circle in the bottom left, a square at a square in the the bottom left, an orange square "
         "in the bottom corner", "en"),
        ("にに右に大きな赤いののの右にある夜空", "ja"),
    ],
)  # fmt: skip
def test_few_words_in_ever_other_orders_are_a_loop(text: str, lang: str) -> None:
    """What the embedded captioners said of a flat red picture, which is none of their scenes."""
    assert problem(text, lang=lang, finished=True) == "looping"
