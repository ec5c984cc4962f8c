"""Captions of scenes in English and Japanese, and the parser that reads their facts back.

`caption` says a scene in one of several natural ways; `facts` inverts it, and reads what captioners, translators
and people write. tests/nano/test_grammar.py proves the inverse over thousands of captions.
Try it: `python -m commonart.core.nano.grammar` prints ten captions in each language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final, Literal

import numpy as np

from commonart.core.nano.lexicon import BACKGROUND_WORDS, COLOUR_WORDS, PLACE_WORDS, SHAPE_WORDS, SIZE_WORDS, Token
from commonart.core.nano.lexicon import tokens as _tokens
from commonart.core.nano.scenes import PLACES, Scene, Score, Thing, cell, random_scene

Lang = Literal["en", "ja"]


@dataclass(frozen=True, slots=True)
class ThingFacts:
    """What a text says of one thing; None where it says nothing."""

    shape: str
    color: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text says of a scene; things in reading order of their places, unplaced ones last."""

    background: str | None = None
    things: tuple[ThingFacts, ...] = ()


# {a}, {b}, {c}: the things; {pa}..: their places; {on}: "on the snow"; {the}: "the snow"; {bg}: "snow".
_EN: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "{a} {pa}, {on}",
        "{a} {pa} of {the}",
        "{on}, {a} {pa}",
        "{the} with {a} {pa}",
        "There is {a} {pa} of {the}.",
        "{a}, {pa}, {bg} background",
        "{pa} of {the} is {a}",
        "A picture of {a} {pa}, {on}.",
    ),
    2: (
        "{a} {pa} and {b} {pb}, {on}",
        "{on}, {a} {pa} and {b} {pb}",
        "{the} with {a} {pa} and {b} {pb}",
        "There are {a} {pa} and {b} {pb} of {the}.",
        "{a} {pa}, {b} {pb}, {bg} background",
        "{pa} {a}, {pb} {b}, {on}",
    ),
    3: (
        "{a} {pa}, {b} {pb} and {c} {pc}, {on}",
        "{on}, {a} {pa}, {b} {pb} and {c} {pc}",
        "{the} with {a} {pa}, {b} {pb} and {c} {pc}",
        "There are {a} {pa}, {b} {pb} and {c} {pc} of {the}.",
        "{a} {pa}, {b} {pb}, {c} {pc}, {bg} background",
        "{pa} {a}, {pb} {b}, {pc} {c}, {on}",
    ),
}
_JA: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "{bg}の{pa}にある{a}",
        "{bg}に、{a}が{pa}にあります",
        "{pa}に{a}、背景は{bg}",
        "{bg}の{pa}に{a}があります。",
        "{a}が{bg}の{pa}にある",
        "背景は{bg}、{pa}に{a}",
        "{bg}を背景に、{pa}に{a}",
        "{pa}に{a}がある{bg}",
        "{bg}、{a}、{pa}",
    ),
    2: (
        "{bg}の{pa}に{a}、{pb}に{b}",
        "{pa}に{a}、{pb}に{b}、背景は{bg}",
        "{bg}に、{pa}の{a}と{pb}の{b}があります",
        "{a}が{pa}に、{b}が{pb}にある{bg}",
        "{bg}で、{a}は{pa}、{b}は{pb}",
        "{bg}を背景に、{pa}に{a}、{pb}に{b}があります。",
    ),
    3: (
        "{bg}の{pa}に{a}、{pb}に{b}、{pc}に{c}",
        "{pa}に{a}、{pb}に{b}、{pc}に{c}、背景は{bg}",
        "{bg}に、{pa}の{a}と{pb}の{b}と{pc}の{c}があります",
        "{a}が{pa}に、{b}が{pb}に、{c}が{pc}にある{bg}",
        "{bg}で、{a}は{pa}、{b}は{pb}、{c}は{pc}",
        "{bg}を背景に、{pa}に{a}、{pb}に{b}、{pc}に{c}",
    ),
}
# Without places, as people ask for pictures.
_EN_SHORT: Final[dict[int, tuple[str, ...]]] = {
    1: ("{a} {on}", "{a}, {on}", "{on}, {a}", "{the} with {a}", "{a}, {bg} background", "{a}"),
    2: ("{a} and {b} {on}", "{on}, {a} and {b}", "{the} with {a} and {b}", "{a} and {b}"),
    3: ("{a}, {b} and {c} {on}", "{on}, {a}, {b} and {c}", "{a}, {b} and {c}"),
}
_JA_SHORT: Final[dict[int, tuple[str, ...]]] = {
    1: ("{bg}の{a}", "{bg}にある{a}", "{bg}に{a}", "{a}、背景は{bg}", "{a}がある{bg}", "{a}"),
    2: ("{bg}の{a}と{b}", "{bg}に{a}と{b}", "{a}と{b}、背景は{bg}", "{a}と{b}"),
    3: ("{bg}に{a}と{b}と{c}", "{a}、{b}、{c}、背景は{bg}", "{a}と{b}と{c}"),
}
# {s}: the subject; {a}: the anchor, which the subject is `of` ("to the left of"), or stands `it` ("to its left").
# By where the pair stands: "" across the whole picture, "scope" along one side of it, "centre" around its middle.
_EN_RELATION: Final[dict[str, tuple[str, ...]]] = {
    "": ("{s} {of} {a}, {on}", "{on}, {s} {of} {a}", "{a} with {s} {it}, {on}", "{the} with {s} {of} {a}"),
    "scope": ("{scope} of {the}, {s} {of} {a}", "{s} {of} {a}, {scope} of {the}", "{scope}, {s} {of} {a}, {on}"),
    "centre": ("{a} {scope} with {s} {it}, {on}", "{scope} of {the}, {a} with {s} {it}"),
}
_JA_RELATION: Final[dict[str, tuple[str, ...]]] = {
    "": (
        "{a}の{of}に{s}、背景は{bg}",
        "{bg}に、{s}が{a}の{of}にあります",
        "{bg}に{a}、その{of}に{s}",
        "{a}の{of}に{s}がある{bg}",
    ),
    "scope": (
        "{bg}の{scope}で、{a}の{of}に{s}",
        "{bg}の{scope}で、{s}は{a}の{of}",
        "{scope}で{a}の{of}に{s}、背景は{bg}",
    ),
    "centre": ("{bg}の{scope}に{a}、その{of}に{s}", "{scope}に{a}、その{of}に{s}、背景は{bg}"),
}
# direction, as the place it points to -> (of, it) in English, and the one word that Japanese needs.
_DIRECTION: Final[dict[str, tuple[tuple[str, ...], str, str]]] = {
    "left":         (("to the left of", "left of"),   "to its left",        "左"),
    "right":        (("to the right of", "right of"), "to its right",       "右"),
    "top":          (("above",),                      "above it",           "上"),
    "bottom":       (("below", "under"),              "below it",           "下"),
    "top left":     (("to the upper left of",),       "to its upper left",  "左上"),
    "top right":    (("to the upper right of",),      "to its upper right", "右上"),
    "bottom left":  (("to the lower left of",),       "to its lower left",  "左下"),
    "bottom right": (("to the lower right of",),      "to its lower right", "右下"),
}  # fmt: skip

_RELATIONS: Final = ("of", "it", "after")  # kinds of the lexicon's tokens


def caption(scene: Scene, lang: str, rng: np.random.Generator) -> str:
    """One natural sentence or phrase that tells every shape, colour and place, and the background.

    Sizes are told in half of the captions of one thing, in a quarter of those of two, never of three. Two things
    that stand opposite each other are told by their relation half of the time: "a red circle to the left of a blue
    square" means the two ends of the middle row, unless the caption names another row. ValueError for a `lang`
    other than "en" and "ja", and for a scene of no things or more than three.
    """
    if lang not in ("en", "ja"):
        raise ValueError(f"captions are in en or ja, not {lang!r}")
    if not 1 <= len(scene.things) <= 3:
        raise ValueError(f"captions tell one to three things, not {len(scene.things)}")
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    sized = bool(rng.random() < (0.5, 0.25, 0.0)[len(things) - 1])
    fields = _background_fields(scene.background, lang, rng)
    relation = _relation(things[0], things[1]) if len(things) == 2 else None
    if relation is not None and rng.random() < 0.5:
        kind, direction, scope = relation
        template = _pick((_EN_RELATION if lang == "en" else _JA_RELATION)[kind], rng)
        of, it, word = _DIRECTION[direction]
        fields |= {"of": _pick(of, rng) if lang == "en" else word, "it": it}
        fields["scope"] = _pick(PLACE_WORDS[lang][scope], rng) if scope else ""
        fields |= {"s": _thing(things[0], lang, sized, rng), "a": _thing(things[1], lang, sized, rng)}
    else:
        template = _pick((_EN if lang == "en" else _JA)[len(things)], rng)
        for name, thing in zip("abc", things, strict=False):
            fields[name] = _thing(thing, lang, sized, rng)
            fields[f"p{name}"] = _pick(PLACE_WORDS[lang][thing.place], rng)
    text = template.format(**fields)
    return text[0].upper() + text[1:] if text.endswith(".") else text


def short_caption(scene: Scene, lang: str, rng: np.random.Generator) -> str:
    """A caption without places, half of the time without sizes, and now and then without a background: "a red circle on
    the snow". Every shape and colour is told."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    sized = bool(rng.random() < 0.5)
    named = {name: _thing(thing, lang, sized, rng) for name, thing in zip("abc", things, strict=False)}
    template = _pick((_EN_SHORT if lang == "en" else _JA_SHORT)[len(things)], rng)
    return template.format(**named, **_background_fields(scene.background, lang, rng))


def facts(text: str, lang: str | None = None) -> Facts:
    """What a text says of a scene: it inverts `caption` and passes over every word that it does not know.

    `lang` "en" or "ja" reads the words of that language only (to judge a translation); None reads Japanese where
    the text has any, else English. A thing needs a shape: "草原のシマウマ" has a background and no things.
    """
    found = _tokens(text, lang)
    background = next((token.value for token in found if token.kind == "background"), None)
    things: list[ThingFacts] = []
    spans: list[tuple[int, int]] = []
    pending: dict[str, str] = {}
    start = 0
    for token in found:
        if token.kind in ("color", "size"):
            start = start if pending else token.start
            pending[token.kind] = token.value
        elif token.kind == "shape":
            things.append(ThingFacts(token.value, pending.get("color"), pending.get("size")))
            spans.append((start if pending else token.start, token.end))
            pending = {}
        else:
            pending = {}  # "green" in "a green meadow with a circle" is not the circle's
    if pending and things and things[-1].color is None:  # "the circle is red"
        last = things[-1]
        things[-1] = ThingFacts(last.shape, pending.get("color"), last.size or pending.get("size"))
    places = _places(found, spans)
    placed = [ThingFacts(t.shape, t.color, t.size, place) for t, place in zip(things, places, strict=True)]
    placed.sort(key=lambda thing: PLACES.index(thing.place) if thing.place else len(PLACES))
    return Facts(background, tuple(placed))


def relates(text: str, lang: str | None = None) -> bool:
    """Whether a text places one thing by another ("above it"), rather than each by a place of its own."""
    return any(token.kind in _RELATIONS for token in _tokens(text, lang))


def compare(expected: Scene | Facts, seen: Scene | Facts) -> Score:
    """Which facts agree, things matched by their best assignment; with more or fewer things than expected, colour,
    shape, place and size are all wrong. A size that `seen` does not tell counts as right against a Scene (which
    knows it always) and as wrong against Facts that tell it."""
    background = expected.background == seen.background
    if len(expected.things) != len(seen.things) or len(seen.things) > 6:
        return Score(False, False, background, False, False)
    wanted: Sequence[Thing | ThingFacts] = expected.things
    told: Sequence[Thing | ThingFacts] = seen.things
    best, best_rank = Score(True, True, background, True, True), -1
    for order in permutations(told):
        agree = [_agree(a, b) for a, b in zip(wanted, order, strict=True)]
        rank = sum(map(sum, agree))
        if rank > best_rank:
            color, shape, place, size = (all(row[i] for row in agree) for i in range(4))
            best, best_rank = Score(color, shape, background, place, size), rank
    return best


def _agree(a: Thing | ThingFacts, b: Thing | ThingFacts) -> tuple[bool, bool, bool, bool]:
    size = a.size == b.size or (b.size is None and isinstance(a, Thing))
    return a.color == b.color, a.shape == b.shape, a.place == b.place, size


def facts_right(expected: Scene | Facts, text: str, lang: str | None = None) -> Score:
    """Which facts of a scene (or of another text's Facts) a text tells rightly; see `compare` and `facts`."""
    return compare(expected, facts(text, lang))


def eval_prompts(n: int, lang: str, seed: int, heldout: bool = False, short: bool = False) -> list[tuple[Scene, str]]:
    """`n` different prompts of scenes that no training run has seen, with what they ask for.

    `heldout=False`: scenes of the reserved tenth (`scenes.split_of`), whose colours and shapes are known and whose
    combination is not. `heldout=True`: scenes with a (colour, shape) of HELDOUT_PAIRS. `short`: no places are told, so
    that a picture's places say nothing of how it follows, and every background is. The same seed gives the same
    scenes in both languages only as far as their captions differ, so compare languages by their averages.
    """
    rng = np.random.default_rng([seed, int(heldout), 20240607])
    prompts: dict[str, Scene] = {}
    while len(prompts) < n:
        scene = random_scene(rng, heldout=heldout, split="heldout-scene")
        text = (short_caption if short else caption)(scene, lang, rng)
        if not short or facts(text, lang).background is not None:
            prompts.setdefault(text, scene)
    return [(scene, text) for text, scene in prompts.items()]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _thing(thing: Thing, lang: str, sized: bool, rng: np.random.Generator) -> str:
    size = _pick(SIZE_WORDS[lang][thing.size], rng) if sized else ""
    color, shape = _pick(COLOUR_WORDS[lang][thing.color], rng), _pick(SHAPE_WORDS[lang][thing.shape], rng)
    if lang == "ja":
        return size + color + shape
    words = " ".join(word for word in (size, color, shape) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _background_fields(background: str, lang: str, rng: np.random.Generator) -> dict[str, str]:
    words = _pick(BACKGROUND_WORDS[lang][background], rng)
    if lang == "ja":
        return {"bg": words}
    _, article, noun = words.split(" ", 2)  # "on the snow"
    return {"on": words, "the": f"{article} {noun}", "bg": noun}


def _relation(subject: Thing, anchor: Thing) -> tuple[str, str, str] | None:
    """(kind of phrasing, direction from anchor to subject, place that names the row, column or centre)."""
    (row_s, column_s), (row_a, column_a) = cell(subject.place), cell(anchor.place)
    dy, dx = row_s - row_a, column_s - column_a
    direction = PLACES[4 + 3 * int(np.sign(dy)) + int(np.sign(dx))]
    if abs(dx) == 2 and dy == 0:
        return ("", direction, "") if row_s == 1 else ("scope", direction, PLACES[3 * row_s + 1])
    if abs(dy) == 2 and dx == 0:
        return ("", direction, "") if column_s == 1 else ("scope", direction, PLACES[3 + column_s])
    if abs(dx) == abs(dy) == 2:
        return "", direction, ""
    return ("centre", direction, "centre") if anchor.place == "centre" else None


def _places(found: list[Token], spans: list[tuple[int, int]]) -> list[str | None]:
    """The place of each thing, from the places that the text names and from one relation between two things."""
    named = [token for token in found if token.kind == "place"]
    relations = [token for token in found if token.kind in _RELATIONS]
    if len(named) == len(spans):
        return [token.value for token in named]  # both run in the same order in either language
    if len(spans) == 2 and len(relations) == 1 and len(named) <= 1:
        return _related(relations[0], named[0].value if named else None, spans)
    places: list[str | None] = [None] * len(spans)
    for token in named:
        free = [i for i in range(len(spans)) if places[i] is None]
        if free:
            gaps = [max(token.start - spans[i][1], spans[i][0] - token.end) for i in free]
            places[free[gaps.index(min(gaps))]] = token.value
    return places


def _related(relation: Token, scope: str | None, spans: list[tuple[int, int]]) -> list[str | None]:
    before = sum(end <= relation.start for _, end in spans)
    if relation.kind == "of":  # "S above A"; "above A is S"
        subject = 1 if before == 0 else 0
    elif relation.kind == "it":  # "A, above it S"; "A with S above it"
        subject = 1
    else:  # 「Aの上にS」; 「SがAの上に」
        subject = 1 if before == 1 else 0
    y, x = (part - 1 for part in cell(relation.value))
    if scope is None:  # across the whole picture
        where, anchor = (1 + y, 1 + x), (1 - y, 1 - x)
    else:
        row, column = cell(scope)
        across = (y == 0 and column == 1) or (x == 0 and row == 1)
        if across and (scope != "centre" or relation.kind == "of"):
            # a row and a step to the side, a column and a step up or down: the two ends of it
            where, anchor = ((row, 1 + x), (row, 1 - x)) if y == 0 else ((1 + y, column), (1 - y, column))
        else:
            where, anchor = (min(max(row + y, 0), 2), min(max(column + x, 0), 2)), (row, column)
    subject_place, anchor_place = PLACES[3 * where[0] + where[1]], PLACES[3 * anchor[0] + anchor[1]]
    return [anchor_place, subject_place] if subject == 1 else [subject_place, anchor_place]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    for lang in ("en", "ja"):
        for _ in range(10):
            print(caption(random_scene(rng), lang, rng))
