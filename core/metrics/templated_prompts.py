"""Templated prompts in English and Japanese, each with the yes-or-no questions that an image of it must pass.

    commonart eval --model nano --templated 100

As in GenEval 2 (arXiv 2512.16853), a prompt is made of facts that are asked for one by one; templates and words are our own
(`prompt_words`). Prompt i says the same in both languages, so that their scores can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from commonart.core.errors import UsageError
from commonart.core.metrics.prompt_words import NUMBERS, Attribute, Color, Noun, Relation, Vocabulary

T = TypeVar("T")
KINDS = ("count", "color", "attribute", "relation", "mixed")  # of prompts, in turn
PATIENCE = 2000  # draws without anything new, after which there is nothing new
SKILLS = ("object", "count", "color", "attribute", "relation")  # of questions
ANSWER = {"en": "Answer yes or no.", "ja": "「はい」か「いいえ」で答えてください。"}


@dataclass(frozen=True, slots=True)
class Subject:
    """Some things of one kind."""

    noun: Noun
    count: int = 1
    color: Color | None = None
    attribute: Attribute | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One fact of a prompt, whose answer is yes where the image shows it."""

    skill: str  # of SKILLS
    subject: Subject
    relation: Relation | None = None
    anchor: Subject | None = None

    def text(self, lang: str) -> str:
        """Return the question in English or Japanese."""
        return (_question_ja if lang == "ja" else _question_en)(self)


@dataclass(frozen=True, slots=True)
class TemplatedPrompt:
    """A prompt in one language, with its questions."""

    text: str
    lang: str
    kind: str  # of KINDS
    questions: tuple[Question, ...]


def make_prompts(words: Vocabulary, n: int, lang: str, seed: int) -> list[TemplatedPrompt]:
    """Return `n` different prompts, a fifth of each of KINDS; the first ones are the same whatever `n` is.

    Args:
        lang: "en" or "ja".

    Raises:
        UsageError: there are fewer prompts than that.
    """
    prompts: list[TemplatedPrompt] = []
    seen: set[str] = set()
    number = repeated = 0
    while len(prompts) < n:
        kind = KINDS[len(prompts) % len(KINDS)]
        rng = np.random.default_rng([seed, number, 20261128])
        number += 1
        subjects, relation = _facts(words, kind, rng)
        if words.colored:
            subjects = [replace(subject, color=subject.color or _pick(words.colors, rng)) for subject in subjects]
        style = int(rng.integers(3))
        # What is said decides whether it is new, not how: the prompts of both languages stay together.
        key = _prompt_en(words, subjects, relation, 0)
        repeated = repeated + 1 if key in seen else 0
        if repeated > PATIENCE:
            raise UsageError(f"--templated {n}: there are only about {len(prompts)} prompts.", "Ask for fewer.")
        if repeated:
            continue
        seen.add(key)
        text = (_prompt_ja if lang == "ja" else _prompt_en)(words, subjects, relation, style)
        prompts.append(TemplatedPrompt(text, lang, kind, _questions(subjects, relation)))
    return prompts


def _facts(words: Vocabulary, kind: str, rng: np.random.Generator) -> tuple[list[Subject], Relation | None]:
    def nouns(letter: str, count: int) -> list[Noun]:
        fitting = [noun for noun in words.nouns if letter in noun.takes]
        return [fitting[i] for i in rng.choice(len(fitting), count, replace=False)]

    def attribute(noun: Noun, other: Attribute | None = None) -> Attribute:
        return _pick([each for each in words.attributes if each.kind in noun.takes and each is not other], rng)

    if kind == "count":
        noun = _pick(words.nouns, rng)
        color = _pick(words.colors, rng) if "c" in noun.takes and rng.random() < 0.5 else None
        return [Subject(noun, int(rng.integers(2, words.most + 1)), color)], None
    if kind == "color":
        chosen = rng.choice(len(words.colors), 2, replace=False)
        return [Subject(noun, 1, words.colors[i]) for noun, i in zip(nouns("c", 2), chosen, strict=True)], None
    kinds = {each.kind for each in words.attributes}
    if kind == "attribute":
        described = [noun for noun in words.nouns if kinds & set(noun.takes)]
        first, second = (described[i] for i in rng.choice(len(described), 2, replace=False))
        one = attribute(first)
        return [Subject(first, 1, None, one), Subject(second, 1, None, attribute(second, one))], None
    relation = _pick(words.relations, rng)
    needs = relation.needs
    pairs = [
        (a, b)
        for a in words.nouns
        for b in words.nouns
        if a is not b and needs[0] in a.takes and needs[1] in b.takes
        and (kind == "relation" or ("c" in a.takes and kinds & set(b.takes)))
    ]  # fmt: skip
    subject, anchor = _pick(pairs, rng)
    if kind == "relation":
        return [Subject(subject), Subject(anchor)], relation
    return [Subject(subject, 2, _pick(words.colors, rng)), Subject(anchor, 1, None, attribute(anchor))], relation


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


def _questions(subjects: list[Subject], relation: Relation | None) -> tuple[Question, ...]:
    asked = [Question("object", subject) for subject in subjects]
    for subject in subjects:
        asked += [Question("count", subject)] if subject.count > 1 else []
        asked += [Question("color", subject)] if subject.color else []
        asked += [Question("attribute", subject)] if subject.attribute else []
    if relation is not None:
        asked.append(Question("relation", subjects[0], relation, subjects[1]))
    return tuple(asked)


def _adjectives(subject: Subject, lang: str) -> list[str]:
    found = []
    if subject.color:
        found.append(subject.color.en if lang == "en" else subject.color.ja)
    if subject.attribute:
        word = subject.attribute.en if lang == "en" else subject.attribute.ja
        found.insert(0 if subject.attribute.kind == "s" else len(found), word)
    return found


def _phrase_en(subject: Subject) -> str:
    """`three red cups`, `an orange wooden box`."""
    noun = subject.noun.en if subject.count == 1 else subject.noun.plural
    words = " ".join([*_adjectives(subject, "en"), noun])
    number = NUMBERS[subject.count] if subject.count > 1 else "an" if words[0] in "aeiou" else "a"
    return f"{number} {words}"


def _prompt_en(words: Vocabulary, subjects: list[Subject], relation: Relation | None, style: int) -> str:
    phrases = list(map(_phrase_en, subjects))
    text = f" {relation.en} ".join(phrases) if relation else " and ".join(phrases)
    verb = "are" if subjects[0].count > 1 else "is"
    return (text, f"a {words.medium['en']} of {text}", f"There {verb} {text}.")[style]


def _prompt_ja(words: Vocabulary, subjects: list[Subject], relation: Relation | None, style: int) -> str:
    names = ["".join([*_adjectives(subject, "ja"), subject.noun.ja]) for subject in subjects]
    medium, first = words.medium["ja"], subjects[0]
    number = f"{first.count}{first.noun.counter}" if first.count > 1 else ""
    verb = "いる" if first.noun.animate else "ある"
    if relation:
        there = f"{names[1]}の{relation.ja}に{names[0]}"
        return (
            there + (f"が{number}" if number else ""),
            f"{there}が{number}{verb}{medium}",
            f"{there}が{number}{verb}。",
        )[style]
    if len(subjects) == 2:
        both = f"{names[0]}と{names[1]}"
        return (both, f"{both}の{medium}", f"{both}が{words.shown_ja}{medium}")[style]
    return (f"{number}の{names[0]}", f"{names[0]}が{number}{verb}{medium}", f"{names[0]}が{number}{verb}。")[style]


def _question_en(question: Question) -> str:
    subject = question.subject
    many = subject.count > 1
    noun, verb = (subject.noun.plural, "Are") if many else (subject.noun.en, "Is")
    if question.skill == "object":
        article = "an" if noun[0] in "aeiou" else "a"
        return f"Are there any {noun} in this image?" if many else f"Is there {article} {noun} in this image?"
    if question.skill == "count":
        return f"Are there exactly {NUMBERS[subject.count]} {noun} in this image?"
    if question.relation and question.anchor:
        return f"{verb} the {noun} {question.relation.en} the {question.anchor.noun.en}?"
    said = subject.color.en if question.skill == "color" and subject.color else ""
    return f"{verb} the {noun} {said or (subject.attribute.is_en if subject.attribute else '')}?"


def _question_ja(question: Question) -> str:
    subject = question.subject
    noun = subject.noun.ja
    if question.skill == "object":
        return f"この画像に{noun}は{'写っていますか' if subject.noun.takes != 'cs' else '描かれていますか'}。"
    if question.skill == "count":
        verb = "いる" if subject.noun.animate else "ある"
        return f"この画像に{verb}{noun}は、ちょうど{subject.count}{subject.noun.counter}ですか。"
    if question.relation and question.anchor:
        verb = "いますか" if subject.noun.animate else "ありますか"
        return f"{noun}は{question.anchor.noun.ja}の{question.relation.ja}に{verb}。"
    if question.skill == "color" and subject.color:
        return f"{noun}の色は{subject.color.ja_noun}ですか。"
    return f"{noun}は{subject.attribute.is_ja if subject.attribute else ''}ですか。"
