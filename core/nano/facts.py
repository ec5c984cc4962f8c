"""What a text says of a scene, by a captioner, a translator or a person: the inverse of `core.nano.grammar`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from commonart.core.nano.lexicon import Token, tokens
from commonart.core.nano.scenes import PLACES, Scene, Thing, cell

_RELATIONS: Final = ("of", "it", "after")  # kinds of the lexicon's tokens


@dataclass(frozen=True, slots=True)
class ThingFacts:
    """What a text says of one thing; None for what it does not say."""

    shape: str
    color: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text says of a scene; things in reading order of their places, those without a place last."""

    background: str | None = None
    things: tuple[ThingFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Which facts of a scene are right, each for all of its things at once."""

    color: bool
    shape: bool
    background: bool
    place: bool
    size: bool


def parse(text: str, lang: str | None = None) -> Facts:
    """Return what a text says of a scene: the inverse of `grammar.caption`; unknown words are ignored.

    A thing needs a shape: "草原のシマウマ" has a background and no things. `lang`, "en" or "ja", reads the words of that
    language only (to score a translation); None identifies it.
    """
    words = tokens(text, lang)
    background = next((token.value for token in words if token.kind == "background"), None)
    things, _ = _things(words)
    return Facts(background, tuple(sorted(things, key=lambda t: PLACES.index(t.place) if t.place else len(PLACES))))


def mentions(text: str, lang: str | None = None) -> list[tuple[int, ThingFacts]]:
    """Return (first character, thing) for each part of a text that is about one thing, in the order of the text.

    A part begins at the thing's own words, or at the place that is named for it. Where one thing is placed by the other, what
    follows the second one is about the first again: only there its place is known.
    """
    words = tokens(text, lang)
    things, spans = _things(words)
    parts = [(start, thing) for (start, _), thing in zip(spans, things, strict=True)]
    named = [token for token in words if token.kind == "place"]
    if len(named) == len(things):
        parts += [(token.start, thing) for token, thing in zip(named, things, strict=True)]
    elif len(things) == 2 and any(token.kind in _RELATIONS for token in words):
        parts.append((spans[1][1], things[0]))
    return sorted(parts, key=lambda part: part[0])


def has_relation(text: str, lang: str | None = None) -> bool:
    """Return whether a text places one thing by another ("above it"), rather than each by a place of its own."""
    return any(token.kind in _RELATIONS for token in tokens(text, lang))


def compare(expected: Scene | Facts, seen: Scene | Facts) -> Score:
    """Return which facts agree, with things matched by their best assignment.

    With more or fewer things than expected, color, shape, place and size are all wrong. A size that `seen` does not
    name counts as right against a Scene (which always knows it) and as wrong against Facts that name it.
    """
    background = expected.background == seen.background
    if len(expected.things) != len(seen.things) or len(seen.things) > 6:
        return Score(False, False, background, False, False)
    expected_things: Sequence[Thing | ThingFacts] = expected.things
    seen_things: Sequence[Thing | ThingFacts] = seen.things
    best, best_rank = Score(True, True, background, True, True), -1
    for order in permutations(seen_things):
        agree = [_agree(a, b) for a, b in zip(expected_things, order, strict=True)]
        rank = sum(map(sum, agree))
        if rank > best_rank:
            color, shape, place, size = (all(row[i] for row in agree) for i in range(4))
            best, best_rank = Score(color, shape, background, place, size), rank
    return best


def _agree(a: Thing | ThingFacts, b: Thing | ThingFacts) -> tuple[bool, bool, bool, bool]:
    size = a.size == b.size or (b.size is None and isinstance(a, Thing))
    return a.color == b.color, a.shape == b.shape, a.place == b.place, size


def count_kept(expected: Facts, seen: Facts) -> tuple[int, int]:
    """Return (facts of `expected` that `seen` has, facts of `expected`): background, shapes, colors, sizes, places.

    Things are matched by place, the only field that identifies one for certain. An extra thing costs a fact.
    """
    total, hits = 1, int(expected.background == seen.background)
    others = {thing.place: thing for thing in seen.things}
    for thing in expected.things:
        other = others.pop(thing.place, None)
        for name in ("shape", "color", "size", "place"):
            value = getattr(thing, name)
            if value is not None:
                total += 1
                hits += int(other is not None and getattr(other, name) == value)
            elif other is not None and name == "size" and other.size is not None:
                total += 1  # an invented size is a wrong fact
    return hits, total + len(others)


def _things(words: list[Token]) -> tuple[list[ThingFacts], list[tuple[int, int]]]:
    """Return the things of a text and the characters, first and last + 1, of the words for each, in the text's order."""
    things: list[ThingFacts] = []
    spans: list[tuple[int, int]] = []
    pending: dict[str, str] = {}
    start = 0
    for token in words:
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
    places = _places(words, spans)
    return [ThingFacts(t.shape, t.color, t.size, place) for t, place in zip(things, places, strict=True)], spans


def _places(words: list[Token], spans: list[tuple[int, int]]) -> list[str | None]:
    """Return the place of each thing, from the places that the text names and from one relation between two things."""
    named = [token for token in words if token.kind == "place"]
    relations = [token for token in words if token.kind in _RELATIONS]
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
    # "S above A"; "above A is S". "A, above it S"; "A with S above it". 「Aの上にS」; 「SがAの上に」
    subject_last = {"of": before == 0, "it": True, "after": before == 1}[relation.kind]
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
    return [anchor_place, subject_place] if subject_last else [subject_place, anchor_place]
