"""Captions of scenes in English and Japanese, written by templates; `core.nano.facts` reads them back."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from commonart.core.nano import facts
from commonart.core.nano.lexicon import BACKGROUND_WORDS, COLOR_WORDS, PLACE_WORDS, SHAPE_WORDS, SIZE_WORDS
from commonart.core.nano.scenes import PLACES, Scene, Split, Thing, cell, random_scene

Kind = Literal["full", "short", "related"]  # of prompts

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
        "There is {a} {pa} and {b} {pb} of {the}.",
        "{a} {pa}, {b} {pb}, {bg} background",
        "{pa} {a}, {pb} {b}, {on}",
    ),
    3: (
        "{a} {pa}, {b} {pb} and {c} {pc}, {on}",
        "{on}, {a} {pa}, {b} {pb} and {c} {pc}",
        "{the} with {a} {pa}, {b} {pb} and {c} {pc}",
        "There is {a} {pa}, {b} {pb} and {c} {pc} of {the}.",
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
# {s}: the subject; {a}: the anchor; {of}: "to the left of"; {it}: "to its left".
# By where the pair is: "" across the whole image, "scope" along one side of it, "centre" around its middle.
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
# direction, as the place that it points to -> (of, it) in English, and the Japanese word for both.
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


def caption(scene: Scene, lang: str, rng: np.random.Generator) -> str:
    """Write one natural sentence or phrase that names every shape, color and place, and the background.

    Half of the captions of one thing name its size, a quarter of those of two, and none of three. Two things opposite
    each other are placed by their relation half of the time: "a red circle to the left of a blue square" means the two
    ends of the middle row, unless the caption names another row.

    Raises:
        ValueError: `lang` is not "en" or "ja", or the scene has no things or more than three.
    """
    if lang not in ("en", "ja"):
        raise ValueError(f"captions are written in en or ja, not {lang!r}")
    if not 1 <= len(scene.things) <= 3:
        raise ValueError(f"captions name one to three things, not {len(scene.things)}")
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
    """Write a caption without places, half of the time without sizes and now and then without a background.

    Every shape and color is named: "a red circle on the snow".
    """
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    sized = bool(rng.random() < 0.5)
    named = {name: _thing(thing, lang, sized, rng) for name, thing in zip("abc", things, strict=False)}
    template = _pick((_EN_SHORT if lang == "en" else _JA_SHORT)[len(things)], rng)
    return template.format(**named, **_background_fields(scene.background, lang, rng))


def eval_prompts(n: int, lang: str, seed: int, heldout: bool = False, kind: Kind = "full") -> list[tuple[Scene, str]]:
    """Return `n` different prompts of scenes that no training run has seen, each with its scene.

    Args:
        heldout: scenes with a (color, shape) of HELDOUT_PAIRS; else scenes of the reserved tenth (`scenes.split_of`),
            whose colors and shapes are known and whose combination is not.
        kind: "full": as `caption` writes them; "short": without places, always with a background; "related": two things, one
            of which is placed by the other.
    """
    rng = np.random.default_rng([seed, int(heldout), 20240607])
    draw = random_related_scene if kind == "related" else random_scene
    prompts: dict[str, Scene] = {}
    while len(prompts) < n:
        scene = draw(rng, heldout=heldout, split="heldout-scene")
        text = (short_caption if kind == "short" else caption)(scene, lang, rng)
        if kind == "short" and facts.parse(text, lang).background is None:
            continue
        if kind == "related" and not facts.has_relation(text, lang):
            continue
        prompts.setdefault(text, scene)
    return [(scene, text) for text, scene in prompts.items()]


def random_related_scene(rng: np.random.Generator, heldout: bool = False, split: Split | None = "train") -> Scene:
    """Return a random scene, as `scenes.random_scene`, of two things, one of which a caption may place by the other."""
    while True:
        scene = random_scene(rng, heldout=heldout, split=split)
        if len(scene.things) == 2 and any(_relation(*pair) for pair in (scene.things, scene.things[::-1])):
            return scene


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _thing(thing: Thing, lang: str, sized: bool, rng: np.random.Generator) -> str:
    size = _pick(SIZE_WORDS[lang][thing.size], rng) if sized else ""
    color, shape = _pick(COLOR_WORDS[lang][thing.color], rng), _pick(SHAPE_WORDS[lang][thing.shape], rng)
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
    """Return (kind of phrasing, direction from anchor to subject, place that names the row, column or centre)."""
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
