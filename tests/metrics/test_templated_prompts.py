"""Templated prompts: what they say, in both languages, and the questions that go with them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from commonart.core.data.text import language_of
from commonart.core.errors import UsageError
from commonart.core.metrics.prompt_words import EVERYDAY, SCENES, Noun
from commonart.core.metrics.templated_prompts import KINDS, SKILLS, make_prompts
from commonart.core.nano import facts, scenes

WORDS = {"everyday": EVERYDAY, "scenes": SCENES}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_prompts_follow_from_the_seed_and_differ(words, lang):
    prompts = make_prompts(words, 60, lang, 7)
    assert prompts == make_prompts(words, 60, lang, 7) and prompts[:25] == make_prompts(words, 25, lang, 7)
    assert prompts != make_prompts(words, 60, lang, 8)
    assert len({prompt.text for prompt in prompts}) == 60
    assert Counter(prompt.kind for prompt in prompts) == dict.fromkeys(KINDS, 12)
    assert {question.skill for prompt in prompts for question in prompt.questions} == set(SKILLS)
    for prompt in prompts:
        assert language_of(prompt.text) == lang
        skills = [question.skill for question in prompt.questions]
        assert skills[0] == "object" and (prompt.kind in skills or prompt.kind == "mixed")
        assert len(set(question.text("en") for question in prompt.questions)) == len(skills)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_both_languages_say_the_same(words):
    for en, ja in zip(make_prompts(words, 100, "en", 3), make_prompts(words, 100, "ja", 3), strict=True):
        assert en.questions == ja.questions and en.kind == ja.kind
        for question in en.questions:
            subject = question.subject
            noun = subject.noun.en if subject.count == 1 else subject.noun.plural
            assert re.search(rf"\b{noun}\b", en.text) and subject.noun.ja in ja.text
            if subject.count > 1:
                assert ("two", "three", "four", "five")[subject.count - 2] in en.text.split()
                assert f"{subject.count}{subject.noun.counter}" in ja.text
            if subject.color:
                assert subject.color.en in en.text and subject.color.ja in ja.text
            if subject.attribute:
                assert subject.attribute.en in en.text and subject.attribute.ja in ja.text
            if question.relation and question.anchor:
                assert f" {question.relation.en} " in en.text
                assert f"{question.anchor.noun.ja}の{question.relation.ja}に" in ja.text


def test_more_prompts_than_there_are_is_a_sentence():
    """Scenes have 96 prompts that count: six shapes in eight colors, two or three of them."""
    with pytest.raises(UsageError, match="--templated 5000: there are only about 480 prompts"):
        make_prompts(SCENES, 5000, "en", 0)
    assert len(make_prompts(SCENES, 400, "en", 0)) == 400 and len(make_prompts(EVERYDAY, 3000, "ja", 0)) == 3000


def test_english_is_english():
    prompts = make_prompts(EVERYDAY, 400, "en", 0)
    for text in [p.text for p in prompts] + [q.text("en") for p in prompts for q in p.questions]:
        assert not re.search(r"\ban? [^aeiou\s]*s\b(?<!bus)(?<!glass)", text.replace("striped", "")), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
    assert "There are" in " ".join(p.text for p in prompts if p.questions[0].subject.count > 1)


def test_japanese_has_the_right_verb_and_counter():
    prompts = make_prompts(EVERYDAY, 400, "ja", 0)
    for prompt in prompts:
        subject = prompt.questions[0].subject
        if prompt.kind in ("count", "relation", "mixed"):
            verbs = set(re.findall(r"(いる|ある)(?:写真|。)$", prompt.text))
            assert verbs <= {"いる" if subject.noun.animate else "ある"}, prompt.text
        for question in prompt.questions:
            text = question.text("ja")
            assert text.endswith("か。") and not re.search(r"\{|\}|None", text)
            if question.skill == "relation":
                assert text.endswith("いますか。" if question.subject.noun.animate else "ありますか。")


def test_examples():
    texts = {lang: [p.text for p in make_prompts(EVERYDAY, 10, lang, 0)] for lang in ("en", "ja")}
    assert texts["en"][:3] == [
        "There are five bicycles.", "a brown ball and a black bicycle", "a photo of a plastic chair and a striped tent",
    ]  # fmt: skip
    assert texts["ja"][:3] == [
        "自転車が5台ある。", "茶色いボールと黒い自転車", "プラスチック製の椅子と縞模様のテントの写真",
    ]  # fmt: skip
    (question,) = [q for q in make_prompts(EVERYDAY, 4, "ja", 0)[3].questions if q.skill == "relation"]
    assert (
        question.text("en") == "Is the cat in front of the hat?" and question.text("ja") == "猫は帽子の前にいますか。"
    )


def test_words_fit_together():
    kinds = {each.kind for each in EVERYDAY.attributes}
    for words in (EVERYDAY, SCENES):
        assert len({noun.ja for noun in words.nouns}) == len({noun.en for noun in words.nouns}) == len(words.nouns)
        assert len({color.ja for color in words.colors}) == len(words.colors)
    for noun in EVERYDAY.nouns:
        assert isinstance(noun, Noun) and noun.animate == (noun.counter in "匹頭羽")
        assert set(noun.takes) <= {"c", "b", "t"} | kinds
    for relation in EVERYDAY.relations:
        for letter, place in zip(relation.needs, ("subject", "anchor"), strict=True):
            assert sum(letter in noun.takes for noun in EVERYDAY.nouns) > 3, place


def test_scene_words_are_those_that_the_nano_models_know():
    assert {noun.en for noun in SCENES.nouns} == set(scenes.SHAPES)
    assert {color.en for color in SCENES.colors} == set(scenes.COLORS)
    rng = np.random.default_rng(0)
    for lang in ("en", "ja"):
        for prompt in make_prompts(SCENES, 60, lang, int(rng.integers(100))):
            if prompt.kind in ("color", "attribute", "relation"):
                said = facts.parse(prompt.text, lang)
                subjects = {q.subject.noun.en: q.subject for q in prompt.questions if q.skill == "object"}
                assert {thing.shape for thing in said.things} == subjects.keys(), prompt.text
                for thing in said.things:
                    subject = subjects[thing.shape]
                    assert subject.color is not None and thing.color == subject.color.en, prompt.text
                    assert thing.size == (subject.attribute.en if subject.attribute else None), prompt.text
