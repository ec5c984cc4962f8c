"""Questions about images: the reader of scenes, captioners that answer, and servers; and how answers become scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
import torch
from chat_server import HUB, Answer, ChatServer
from PIL import Image

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics.image_set import ImageRef
from commonart.core.metrics.prompt_words import SCENES
from commonart.core.metrics.questions import by_questions, line, open_judge, probability, shows, templated_groups
from commonart.core.metrics.templated_prompts import Question, Subject, TemplatedPrompt, make_prompts
from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.endpoint import EndpointOptions
from commonart.core.model.captioning.generate import Generated
from commonart.core.nano.scenes import Scene, Thing, render

COMMON = {"lang": "en", "seed": 0, "resolution": "64x64", "set": "templated"}


def true_scene(prompt: TemplatedPrompt) -> Scene:
    """A scene that shows what a prompt says."""
    subjects = list(dict.fromkeys(q.subject for q in prompt.questions if q.skill == "object"))
    relation = next((q.relation.name for q in prompt.questions if q.relation), "left")
    first = {"left": ("top left", "bottom left"), "right": ("top right", "bottom right"),
             "above": ("top left", "top right"), "below": ("bottom left", "bottom right")}[relation]  # fmt: skip
    second = {"left": "right", "right": "left", "above": "bottom", "below": "top"}[relation]
    places = [*first[: subjects[0].count], second] if len(subjects) == 2 else ["top left", "top right", "bottom"]
    things = []
    for subject in subjects:
        for _ in range(subject.count):
            size = subject.attribute.en if subject.attribute else "medium"
            color = subject.color.en if subject.color else "red"
            things.append(Thing(subject.noun.en, color, size, places[len(things)]))
    return Scene("snow", tuple(things))


def test_true_scenes_pass_every_question_and_wrong_ones_the_right_ones_of_them(tmp_path):
    group = templated_groups(judge := open_judge(), 40, ["ja"], 1)[0]
    for number, prompt in enumerate(group.asked):
        path = tmp_path / f"{number}.png"
        Image.fromarray(render(true_scene(prompt), 128)).save(path)
        group.items.append(ImageRef(str(path), {}))
    score = by_questions(group, judge, COMMON)
    assert score["value"] == score["facts"]["value"] == 1 and score["n"] == 40 and score["unanswered"] == 0
    assert {name: mean["value"] for name, mean in score["skills"].items()} == dict.fromkeys(
        ("object", "count", "color", "attribute", "relation"), 1.0
    )
    assert score["facts"]["low"] == pytest.approx(0.025 ** (1 / 40)), "40 of 40 prompts are not certainty"
    assert score["questions"] == sum(len(prompt.questions) for prompt in group.asked) and score["asked_in"] == "en"
    group.items = group.items[1:] + group.items[:1]  # every prompt with another's image
    other = by_questions(group, judge, COMMON)
    assert other["value"] < 0.05 < other["facts"]["value"] < 0.5
    low, high = other["facts"]["low"], other["facts"]["high"]
    assert low < other["facts"]["value"] < high and "all 0 %" in line({**other, "value": 0.0}, "en")


@pytest.mark.parametrize(
    ("skill", "change", "answer"),
    [
        ("object", {"shape": "star"}, False), ("color", {"color": "pink"}, False), ("attribute", {"size": "large"}, False),
        ("relation", {"place": "bottom right"}, False), ("color", {"size": "large"}, True),
        ("relation", {"color": "pink"}, True),
    ],
)  # fmt: skip
def test_one_wrong_fact_fails_its_own_question(skill, change, answer):
    """A small red circle to the left of a blue square."""
    circle = Thing("circle", "red", "small", "left")
    square = Thing("square", "blue", "medium", "centre")
    fields = {"shape": "circle", "color": "red", "size": "small", "place": "left"}
    scene = Scene("snow", (Thing(**{**fields, **change}), square))
    noun = {each.en: each for each in SCENES.nouns}
    subject = Subject(noun["circle"], 1, SCENES.colors[0], SCENES.attributes[0])
    question = Question(skill, subject)
    if skill == "relation":
        question = Question(skill, subject, SCENES.relations[0], Subject(noun["square"]))
    assert shows(Scene("snow", (circle, square)), question) and shows(scene, question) == answer


def test_counts_are_exact():
    (count,) = [q for p in make_prompts(SCENES, 1, "en", 3) for q in p.questions if q.skill == "count"]
    for things in (1, 2, 3, 4):
        places = ("top left", "top right", "bottom left", "bottom right")[:things]
        scene = Scene("sea", tuple(Thing(count.subject.noun.en, "red", "small", place) for place in places))
        assert shows(scene, count) == (things == count.subject.count)


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("", {"Yes": 0.6, " yes": 0.1, "No": 0.1, "Well": 0.2}, 0.7 / 0.8),
        ("", {"Y": 0.3, "N": 0.1}, 0.75),
        ("", {"はい": 0.2, "いい": 0.6}, 0.25),
        ("Yes.", {"Yes": 0.01, "No": 0.01}, 1.0),  # it hardly thought of either: what it said counts
        ("No, there is none.", {}, 0.0),
        ("**Yes**, it is", {}, 1.0),
        ("はい、写っています。", {}, 1.0),
        ("いいえ。", {}, 0.0),
        ("yesterday", {}, None),
        ("Noodles", {}, None),
        ("A cat.", {"A": 0.9}, None),
        ("", {}, None),
        ("<think> hm </think> no", {}, 0.0),
    ],
)
def test_what_an_answer_is_worth(text, first, expected):
    found = probability(Generated(text, True, 1, tuple(first.items())), "Is the cup red? Answer yes or no.")
    assert found == (None if expected is None else pytest.approx(expected))
    assert probability(Problem("endpoint_error", "down"), "?") is None


@pytest.mark.parametrize("make", [tiny.qwen2_vl, tiny.llava, tiny.idefics3], ids=lambda make: make.__name__)
def test_a_model_that_runs_here_gives_the_probability_of_its_logits(make, tmp_path):
    folder = str(make(tmp_path / "tiny"))
    captioner = Captioner.open(folder, device="cpu", precision="fp32", accept_terms=[folder])
    images = [Image.new("RGB", (40, 40), color) for color in ("red", "blue", "green")]
    answers = captioner.answer(images, "Is it red? Answer yes or no.")
    assert len(answers) == 3
    for image, answer in zip(images, answers, strict=True):
        assert isinstance(answer, Generated)
        inputs = captioner.prepare([image], "Is it red? Answer yes or no.")
        with torch.inference_mode():
            logits = captioner.loaded.model(**inputs.tensors).logits[0, -1]
        expected = logits.float().softmax(-1)
        for token, value in answer.first:
            ids = captioner.loaded.processor.tokenizer.encode(token, add_special_tokens=False)
            if len(ids) == 1 and "\ufffd" not in token:
                assert value == pytest.approx(float(expected[ids[0]]), abs=1e-4)
        assert sum(value for _, value in answer.first) <= 1.0001 and len(answer.first) > 5


def pictures(folder: Path, judge: Any, n: int = 5) -> Any:
    (group,) = templated_groups(judge, n, ["en"], 0)
    for number in range(n):
        Image.new("RGB", (50 + number, 40), "red").save(folder / f"{number}.png")
        group.items.append(ImageRef(str(folder / f"{number}.png"), {}))
    return group


def test_a_tiny_model_judges_from_its_folder(tmp_path):
    folder = str(tiny.qwen2_vl(tmp_path / "tiny"))
    judge = open_judge(folder, device="cpu", precision="fp32", accept_terms=[folder])
    group = pictures(tmp_path, judge)
    asked = [(item.pointer, q) for item, prompt in zip(group.items, group.asked, strict=True) for q in prompt.questions]
    answers = judge.answer(asked)
    assert len(answers) == len(asked) and all(a is None or 0 <= a <= 1 for a in answers)
    assert judge.answer(asked[::-1]) == pytest.approx(answers[::-1], abs=1e-4), "batches do not matter"


def said(text: str, **logprobs: float) -> Answer:
    """What a server says, with the log-probabilities of first tokens."""
    top = [{"token": token, "logprob": math.log(p)} for token, p in logprobs.items()]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if top:
        choice["logprobs"] = {"content": [{"token": text, "logprob": top[0]["logprob"], "top_logprobs": top}]}
    return Answer(body=json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}).encode())


def test_a_server_judges_by_log_probabilities_or_by_what_it_says(tmp_path):
    with ChatServer() as server:
        judge = open_judge("qwen3-vl", endpoint=EndpointOptions([server.url]))
        group = pictures(tmp_path, judge)

        def choose(body: dict[str, Any]) -> Answer:
            question = body["messages"][0]["content"][1]["text"]
            assert question.endswith(" Answer yes or no.") and body["temperature"] == 0
            if "logprobs" in body:
                assert body["top_logprobs"] == 20
            return said("Yes", Yes=0.6, No=0.2) if "exactly" in question else said("No.")

        server.choose = choose
        score = by_questions(group, judge, COMMON)
        assert score["judge"] == "qwen3-vl" and score["skills"]["count"]["value"] == pytest.approx(0.75)
        assert score["skills"]["object"]["value"] == 0 and score["value"] == 0 and score["unanswered"] == 0
        count = len(server.requests)
        assert count == score["questions"]
        server.choose = lambda body: Answer(status=400) if "logprobs" in body else said("Yes")
        assert by_questions(group, judge, COMMON)["value"] == 1
        assert len(server.requests) == 3 * count
        assert by_questions(group, judge, COMMON)["value"] == 1 and len(server.requests) == 4 * count


def test_questions_without_an_answer_are_counted_and_a_judge_that_answers_none_is_an_error(tmp_path, capsys):
    with ChatServer() as server:
        judge = open_judge("qwen3-vl", endpoint=EndpointOptions([server.url]))
        group = pictures(tmp_path, judge)
        server.choose = lambda body: said("Yes" if "exactly" in str(body) else "A photo of a cat.")
        score = by_questions(group, judge, COMMON)
        assert score["unanswered"] == score["questions"] - 2 and set(score["skills"]) == {"count"} and score["n"] == 2
        assert "did not say yes or no to" in capsys.readouterr().err
        server.choose = lambda body: said("A photo of a cat.")
        with pytest.raises(CommonArtError, match="--judge qwen3-vl answered no question"):
            by_questions(group, judge, COMMON)


def test_a_japanese_judge_is_asked_in_japanese(tmp_path):
    with ChatServer(["cyberagent/llava-calm2-siglip"]) as server:
        judge = open_judge("llava-jp", endpoint=EndpointOptions([server.url]))
        server.choose = lambda body: said("はい", はい=0.5, いいえ=0.5)
        score = by_questions(pictures(tmp_path, judge), judge, COMMON)
        assert score["asked_in"] == "ja" and score["value"] == pytest.approx(0.5)
        text = server.requests[0]["messages"][0]["content"][1]["text"]
        assert text.endswith("か。「はい」か「いいえ」で答えてください。") and HUB not in text


def test_judges_that_cannot_answer_are_refused():
    for name, sentence in (
        ("florence2", "does not answer questions"), ("nano-ja", "does not answer questions"), ("blip2", "does not answer"),
        ("nowhere", "--judge nowhere is not"), ("qwen2.5-vl-3b", "research"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=sentence):
            open_judge(name)
    with pytest.raises(UsageError, match="--judge nano reads scenes without a server"):
        open_judge(endpoint=EndpointOptions(["http://127.0.0.1:9"]))
