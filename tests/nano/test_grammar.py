"""Captions and their parser: every caption gives its scene back, and other people's words do no harm."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonart.core.nano.facts import Facts, Score, ThingFacts, compare, has_relation, mentions, parse
from commonart.core.nano.grammar import caption, eval_prompts, short_caption
from commonart.core.nano.scenes import HELDOUT_PAIRS, Scene, Thing, random_scene, split_of

RIGHT = Score(True, True, True, True, True)


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize("heldout", [False, True])
def test_facts_invert_every_caption(lang: str, heldout: bool) -> None:
    rng = np.random.default_rng(11)
    sized = 0
    for _ in range(3000):
        scene = random_scene(rng, heldout=heldout, split=None)
        text = caption(scene, lang, rng)
        told = parse(text, lang)
        assert told == parse(text), text
        assert compare(scene, told) == RIGHT, (text, scene)
        one = len(scene.things) == 1
        sized += one and told.things[0].size is not None
    assert 0.4 < sized / (0.6 * 3000) < 0.6


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_thing_has_its_own_part_of_the_caption(lang: str) -> None:
    """In each part, the things' words are its own: the text encoder learns from it what a token is about."""
    rng = np.random.default_rng(12)
    for _ in range(1000):
        scene = random_scene(rng)
        text = caption(scene, lang, rng)
        parts = mentions(text, lang)
        assert {thing for _, thing in parts} == set(parse(text, lang).things), text
        starts = [start for start, _ in parts]
        assert starts == sorted(starts), text
        for (start, thing), stop in zip(parts, [*starts[1:], len(text)], strict=True):
            inside = parse(text[start:stop], lang).things
            assert all((each.color, each.shape) == (thing.color, thing.shape) for each in inside), text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a red circle on the left, on the snow", [("red circle on the ", "red"), ("left, on the snow", "red")]),
        # "red"'s place is known after "blue square" only
        ("a red circle above a blue square, on the snow",
         [("red circle above a ", "red"), ("blue square", "blue"), (", on the snow", "red")]),
        ("青い四角の左に赤い丸、背景は海", [("青い四角の左に", "blue"), ("赤い丸", "red"), ("、背景は海", "blue")]),
        ("草原の右に黄色い星", [("右に", "yellow"), ("黄色い星", "yellow")]),
        ("the sea", []),
    ],
)  # fmt: skip
def test_parts_of_a_caption(text: str, parts: list[tuple[str, str]]) -> None:
    found = mentions(text)
    ends = [*(start for start, _ in found[1:]), len(text)][: len(found)]
    assert [(text[start:end], thing.color) for (start, thing), end in zip(found, ends, strict=True)] == parts


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_there_are_many_phrasings(lang: str, count: int) -> None:
    rng = np.random.default_rng(3)
    frames: set[str] = set()
    while True:
        scene = random_scene(rng)
        if len(scene.things) == count:
            break
    longest = 0
    for _ in range(400):
        text = caption(scene, lang, rng)
        frames.add(re.sub(r"\b(small|little|medium|medium-sized|large|big) ", "", text))
        longest = max(longest, len(text.split()))
    assert len(frames) > 20
    assert longest <= 32


def test_captions_are_the_same_for_the_same_generator() -> None:
    scene = random_scene(np.random.default_rng(5))
    assert caption(scene, "ja", np.random.default_rng(1)) == caption(scene, "ja", np.random.default_rng(1))


def test_captions_of_something_else_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="en or ja"):
        caption(random_scene(rng), "de", rng)
    with pytest.raises(ValueError, match="one to three"):
        caption(Scene("sea", ()), "en", rng)
    with pytest.raises(ValueError, match="en or ja"):
        parse("ein roter Kreis", "de")


def said(background: str | None, *things: tuple[str | None, ...]) -> Facts:
    """(colour, shape, place[, size]) for each thing."""
    rows = [(*row, None)[:4] for row in things]
    return Facts(background, tuple(ThingFacts(str(shape), color, size, place) for color, shape, place, size in rows))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("草原のシマウマ", said("grassland")),
        ("a zebra on the grass", said("grassland")),
        ("草原の左上にある小さな赤い丸", said("grassland", ("red", "circle", "top left", "small"))),
        ("夜空に、大きな黄色い星が真ん中にあります", said("night sky", ("yellow", "star", "centre", "large"))),
        (
            "赤い丸の右に青い四角、背景は雪原",
            said("snow", ("red", "circle", "left"), ("blue", "square", "right")),
        ),
        ("赤い丸は青い四角の左にある", said(None, ("red", "circle", "left"), ("blue", "square", "right"))),
        ("海の上に浮かぶ緑の三角形", said("sea", ("green", "triangle", None))),
        ("海の上部に赤い星", said("sea", ("red", "star", "top"))),
        ("星空", said("night sky")),
        ("左斜め上に青い輪", said(None, ("blue", "ring", "top left"))),
        ("赤い丸と青い四角が海にある", said("sea", ("red", "circle", None), ("blue", "square", None))),
        ("a small red circle on the left of the sea.", said("sea", ("red", "circle", "left", "small"))),
        ("A Red CIRCLE, top-left, snow", said("snow", ("red", "circle", "top left"))),
        ("a red circle left of a blue square", said(None, ("red", "circle", "left"), ("blue", "square", "right"))),
        ("above a blue square is a red circle", said(None, ("red", "circle", "top"), ("blue", "square", "bottom"))),
        (
            "in the desert, a red circle in the middle with a blue square to its upper left",
            said("desert", ("blue", "square", "top left"), ("red", "circle", "centre")),
        ),
        (
            "at the bottom of the sea, a red circle to the left of a blue square",
            said("sea", ("red", "circle", "bottom left"), ("blue", "square", "bottom right")),
        ),
        (
            "a green meadow with a circle in the lower right-hand corner",
            said("grassland", (None, "circle", "bottom right")),
        ),
        ("the circle is red", said(None, ("red", "circle", None))),
        ("", said(None)),
        ("Stuart, restarted", said(None)),
    ],
)
def test_what_people_write(text: str, expected: Facts) -> None:
    assert parse(text) == expected


def test_a_language_reads_its_own_words_only() -> None:
    assert parse("草原の左上に赤い丸", "en") == Facts()
    assert parse("a red circle on the sea", "ja") == Facts()


EN_WORDS = ("red", "circle", "left", "of", "the", "above", "it", "its", "below", "square", "centre", "sea", ",", ".")
WORDS = (*EN_WORDS, "赤い", "丸", "の", "上", "に", "その", "左", "草原", "、", "星")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))
def test_any_text_is_read_without_harm(text: str) -> None:
    for lang in (None, "en", "ja"):
        told = parse(text, lang)
        assert all(thing.shape for thing in told.things)


def test_long_nonsense_is_quick() -> None:
    assert len(parse("a red circle to its left " * 2000).things) == 2000


ONE = Scene("sea", (Thing("circle", "red", "small", "top"),))
TWO = Scene("sea", (Thing("circle", "red", "small", "left"), Thing("star", "blue", "large", "right")))


@pytest.mark.parametrize(
    ("scene", "text", "expected"),
    [
        (ONE, "a red circle at the top, on the sea", RIGHT),
        (ONE, "a small red circle at the top, on the sea", RIGHT),
        (ONE, "a large red circle at the top, on the sea", Score(True, True, True, True, False)),
        (ONE, "a blue circle at the top, on the sea", Score(False, True, True, True, True)),
        (ONE, "a red star at the top, on the sea", Score(True, False, True, True, True)),
        (ONE, "a red circle at the top, in the desert", Score(True, True, False, True, True)),
        (ONE, "a red circle on the sea", Score(True, True, True, False, True)),
        (ONE, "the sea", Score(False, False, True, False, False)),
        (
            ONE,
            "a red circle at the top and a blue ring on the left, on the sea",
            Score(False, False, True, False, False),
        ),
        (TWO, "海の右に青い星、左に赤い丸", RIGHT),
        (TWO, "海の右に赤い星、左に青い丸", Score(False, True, True, True, True)),
    ],
)
def test_facts_right(scene: Scene, text: str, expected: Score) -> None:
    assert compare(scene, parse(text)) == expected


def test_a_translation_must_keep_the_size() -> None:
    source = parse("a small red circle at the top, on the sea")
    assert compare(source, parse("海の上側に小さな赤い丸", "ja")) == RIGHT
    assert not compare(source, parse("海の上側に赤い丸", "ja")).size


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_eval_prompts_are_unseen(lang: str) -> None:
    prompts = eval_prompts(1000, lang, 0)
    assert prompts == eval_prompts(1000, lang, 0) and prompts[:10] != eval_prompts(10, lang, 1)
    assert len({text for _, text in prompts}) == 1000
    for scene, text in prompts:
        assert split_of(scene) == "heldout-scene"
        assert compare(scene, parse(text, lang)) == RIGHT
    for scene, _ in eval_prompts(200, lang, 0, heldout=True):
        assert any((thing.color, thing.shape) in HELDOUT_PAIRS for thing in scene.things)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_related_prompts_place_one_thing_by_the_other(lang: str) -> None:
    prompts = eval_prompts(200, lang, 0, kind="related")
    assert len(prompts) == 200
    for scene, text in prompts:
        assert split_of(scene) == "heldout-scene" and has_relation(text, lang)
        assert compare(scene, parse(text, lang)) == RIGHT


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_short_captions_tell_colours_and_shapes_and_no_places(lang: str) -> None:
    prompts = eval_prompts(500, lang, 3, kind="short")
    for scene, text in prompts:
        found = parse(text, lang)
        assert found.background == scene.background and all(thing.place is None for thing in found.things), text
        assert sorted((t.color, t.shape) for t in found.things) == sorted((t.color, t.shape) for t in scene.things)
    rng = np.random.default_rng(0)
    texts = {short_caption(scene, lang, rng) for scene, _ in prompts}
    assert any(parse(text, lang).background is None for text in texts)
