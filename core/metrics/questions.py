"""Whether images show what their prompts say, by questions: a captioner that answers them, or the reader of scenes.

    commonart eval --model runs/512 --templated 200 --judge qwen3-vl-8b

A question's score is the probability of "yes" among "yes" and "no", from the logits of the answer's first token or from a
server's log-probabilities; where neither can be had, the answer that was given counts as 0 or 1 (as in TIFA, arXiv
2303.11897; soft scores as in GenEval 2, arXiv 2512.16853).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.log import say
from commonart.core.metrics import image_set, roc
from commonart.core.metrics.prompt_words import EVERYDAY, SCENES, Vocabulary
from commonart.core.metrics.templated_prompts import ANSWER, SKILLS, Question, make_prompts
from commonart.core.model.captioning import guards

if TYPE_CHECKING:
    from commonart.core.metrics.image_groups import ImageGroup
    from commonart.core.model.captioning.captioners import Captioner
    from commonart.core.model.captioning.endpoint import Endpoint, EndpointOptions
    from commonart.core.model.captioning.generate import Generated
    from commonart.core.nano.scenes import Scene

NANO = "nano"  # the judge that reads scenes
BATCH = 16  # images that are asked one question at once
MASS = 0.05  # probability of yes and no together below which a model has not answered
YES, NO = ("yes", "はい"), ("no", "いいえ", "いえ")
Asked = Sequence[tuple[str, Question]]  # a pointer to an image, and what is asked about it


@dataclass(frozen=True, slots=True)
class Judge:
    """What answers questions about images."""

    name: str
    revision: str
    words: Vocabulary  # that prompts for it are made of
    lang: str  # that it is asked in, whatever the language of the prompt
    answer: Callable[[Asked], list[float | None]]  # the probability of yes to each; None where it did not answer


def open_judge(
    name: str = NANO,
    *,
    endpoint: EndpointOptions | None = None,
    accept_terms: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
) -> Judge:
    """Find the judge that `--judge NAME` names: nano reads scenes, any other is a captioner that answers questions.

    One that reads English is asked in English about prompts of both languages: a difference between them is then not the
    judge's.

    Raises:
        UsageError: the name is unknown, its terms are refused, or it cannot answer questions.
        CommonArtError: its files cannot be found, or a server does not answer.
    """
    if name == NANO:
        if endpoint is not None:
            raise UsageError(
                "--judge nano reads scenes without a server.", "Name the model that it runs: --judge NAME."
            )
        return Judge(NANO, "", SCENES, "en", _read)
    from commonart.core.registry.lookup import check_terms, find_model

    row = find_model(name, "caption", "--judge")  # before torch is imported
    check_terms(row, accept_terms, "--judge")
    from commonart.core.model.captioning import endpoint as endpoints
    from commonart.core.model.captioning.captioners import Captioner

    if row.embedded or row.cls in endpoints.NOT_CHAT:
        raise UsageError(
            f"--judge {name} describes images, but does not answer questions.",
            "Choose a chat model, such as qwen3-vl, or nano for scenes.",
        )
    lang = "ja" if row.langs and "en" not in row.langs else "en"
    if endpoint is not None:
        server = endpoints.Endpoint.open(name, Captioner.ROLE, endpoint, accept_terms=accept_terms)
        return Judge(server.name, server.revision, EVERYDAY, lang, lambda asked: _by_server(server, asked, lang))
    captioner = Captioner.open(name, accept_terms=accept_terms, device=device, precision=precision)
    return Judge(captioner.name, captioner.revision, EVERYDAY, lang, lambda asked: _by_model(captioner, asked, lang))


def templated_groups(judge: Judge, n: int, langs: Sequence[str], seed: int) -> list[ImageGroup]:
    """Return `n` templated prompts that a judge can judge, in each language, as groups without images."""
    from commonart.core.metrics.image_groups import ImageGroup

    groups = []
    for lang in langs:
        prompts = make_prompts(judge.words, n, lang, seed)
        nothing: list[Scene | None] = [None] * n
        texts = [prompt.text for prompt in prompts]
        groups.append(ImageGroup(lang, [], texts, scenes=nothing, kind="templated", asked=prompts))
    return groups


def by_questions(group: ImageGroup, judge: Judge, common: dict[str, Any]) -> dict[str, Any]:
    """Return how well the images of templated prompts pass their questions.

    `value` is the mean over prompts of the geometric mean of a prompt's answers, 1 only where all facts are there; `facts`
    the mean over all questions; `skills` the same by kind of question. Intervals are bootstrapped over prompts. A question
    without an answer is counted in `unanswered`, and scores nothing.

    Raises:
        CommonArtError: the judge answered none.
    """
    asked = [
        (item.pointer, question)
        for item, prompt in zip(group.items, group.asked, strict=True)
        for question in prompt.questions
    ]
    answers = iter(judge.answer(asked))
    probabilities = [[next(answers) for _ in prompt.questions] for prompt in group.asked]
    per_prompt = [[p for p in each if p is not None] for each in probabilities]
    count, unanswered = sum(map(len, probabilities)), sum(p is None for each in probabilities for p in each)
    if unanswered == count:
        raise CommonArtError(f"--judge {judge.name} answered no question with yes or no.", "Choose another judge.")
    if unanswered:
        say(f"{judge.name} did not say yes or no to {unanswered:,} of {count:,} questions, which score nothing.")
    seed = common["seed"]
    whole = [[math.prod(each) ** (1 / len(each))] for each in per_prompt if each]
    skills = {}
    for skill in SKILLS:
        right = [
            [p for p, question in zip(each, prompt.questions, strict=True) if p is not None and question.skill == skill]
            for each, prompt in zip(probabilities, group.asked, strict=True)
        ]
        if any(right):
            skills[skill] = _mean(right, seed)
    return {
        "metric": "questions", "judge": judge.name, "judge_revision": judge.revision, "asked_in": judge.lang,
        **_mean(whole, seed), "facts": _mean(per_prompt, seed), "skills": skills,
        "questions": count, "unanswered": unanswered, **common,
    }  # fmt: skip


def line(score: dict[str, Any], group: str) -> str:
    """Return a score of `by_questions` as one line."""

    def percent(mean: dict[str, Any]) -> str:
        return f"{100 * mean['value']:.0f} % [{100 * mean['low']:.0f}, {100 * mean['high']:.0f}]"

    skills = "  ".join(f"{skill} {percent(mean)}" for skill, mean in score["skills"].items())
    name = f"questions ({score['judge']})"
    return f"{name:<18} {group:<24} all {percent(score)}  {skills}  (n {score['n']:,})"


def _mean(groups: Sequence[Sequence[float]], seed: int) -> dict[str, float | int]:
    """Return the mean over all values, with an interval that resamples whole groups."""
    sums = np.array([(sum(group), len(group)) for group in groups if group], dtype=np.float64)

    def ratio(rows: roc.Floats) -> float:
        total, count = sums[rows.astype(np.intp)].sum(axis=0)
        return float(total / count)

    rows = np.arange(len(sums), dtype=np.float64)
    low, high = roc.bootstrap(rows, ratio, seed=seed)
    if low == high:  # all answers are the same, which a bootstrap takes for certainty
        all_or_none = roc.proportion(round(ratio(rows) * len(sums)), len(sums))
        low, high = all_or_none["low"], all_or_none["high"]
    return {"value": ratio(rows), "low": low, "high": high, "n": int(sums[:, 1].sum())}


# -- judges ------------------------------------------------------------------------------------------------------------


def _by_model(captioner: Captioner, asked: Asked, lang: str) -> list[float | None]:
    """Ask a model that runs here: each question about all of its images at once."""
    by_text: dict[str, list[int]] = defaultdict(list)
    for number, (_, question) in enumerate(asked):
        by_text[_text(question, lang)].append(number)
    found: list[float | None] = [None] * len(asked)
    for text, numbers in by_text.items():
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            images = [_shown(captioner, asked[number][0]) for number in part]
            for number, answer in zip(part, captioner.answer(images, text), strict=True):
                found[number] = probability(answer, text)
    return found


def _by_server(server: Endpoint, asked: Asked, lang: str) -> list[float | None]:
    found: list[float | None] = []
    for start in range(0, len(asked), server.largest_batch):
        part = [
            (_shown(server, pointer), _text(question, lang))
            for pointer, question in asked[start : start + server.largest_batch]
        ]
        answers = server.answer(part)
        found += [probability(answer, text) for answer, (_, text) in zip(answers, part, strict=True)]
    return found


def _text(question: Question, lang: str) -> str:
    return f"{question.text(lang)} {ANSWER[lang]}" if lang == "en" else f"{question.text(lang)}{ANSWER[lang]}"


def _shown(engine: Captioner | Endpoint, pointer: str) -> Image.Image:
    """Return an image as `commonart caption` shows it to a model: no larger than it looks at."""
    from commonart.core.model.captioning.captioners import SIDE

    image = image_set.open_image(pointer).convert("RGB")
    side = int(engine.settings.get("side", SIDE))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def probability(answer: Generated | Problem, question: str) -> float | None:
    """Return the probability of yes among yes and no of an answer; None where it is neither.

    A first token counts for the word that it begins: "Y", "Yes" and " yes" are yes.
    """
    if isinstance(answer, Problem):
        return None
    yes, no = (sum(p for token, p in answer.first if _begins(token, words)) for words in (YES, NO))
    if yes + no >= MASS:
        return yes / (yes + no)
    for text in (answer.text, guards.clean(answer.text, question)):  # which takes "はい、" for an opening
        said = re.sub(r"^\W+", "", text).casefold()
        for value, words in ((1.0, YES), (0.0, NO)):
            if any(re.match(rf"{word}(?![a-z])", said) for word in words):
                return value
    return None


def _begins(token: str, words: Sequence[str]) -> bool:
    text = token.strip(" \t\r\n.,!\u2581").casefold()
    return bool(text) and any(word.startswith(text) for word in words)


def _read(asked: Asked) -> list[float | None]:
    """Answer questions about scenes from their pixels: 1 or 0."""
    from commonart.core.nano import scene_reader

    found: list[float | None] = []
    seen: tuple[str, Scene | None] = ("", None)
    for pointer, question in asked:
        if seen[0] != pointer or seen[1] is None:
            seen = (pointer, scene_reader.read(image_set.open_image(pointer)))
        found.append(float(shows(seen[1], question)) if seen[1] is not None else None)
    return found


def shows(scene: Scene, question: Question) -> bool:
    """Return whether a scene shows what a question of the vocabulary SCENES asks for."""
    from commonart.core.nano.scenes import cell

    subject = question.subject
    things = [thing for thing in scene.things if thing.shape == subject.noun.en]
    if question.skill == "count":
        return len(things) == subject.count
    if question.skill == "color" and subject.color:
        return bool(things) and all(thing.color == subject.color.en for thing in things)
    if question.skill == "attribute" and subject.attribute:
        return bool(things) and all(thing.size == subject.attribute.en for thing in things)
    if question.relation and question.anchor:
        others = [thing for thing in scene.things if thing.shape == question.anchor.noun.en]
        axis, sign = {"left": (1, 1), "right": (1, -1), "above": (0, 1), "below": (0, -1)}[question.relation.name]
        pairs = [(cell(a.place)[axis], cell(b.place)[axis]) for a in things for b in others]
        return bool(pairs) and all(sign * (b - a) > 0 for a, b in pairs)
    return bool(things)
