"""Who wrote the captions, as the records state it: models, people, or nobody that they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commonart.core.data.sources.named import COCO_SOURCES

SOURCE = "source"  # what `commonart translate` calls the maker of a caption that names none


@dataclass(frozen=True, slots=True)
class Maker:
    """Captions of one making."""

    name: str  # a model or people; of a translation "TRANSLATOR of ORIGINAL"; "" where the records do not name it
    revision: str
    license: str
    lang: str
    generated: bool | None  # by a model; None: the records do not state it
    captions: int


def people(makers: Iterable[Maker]) -> frozenset[str]:
    """Return the names that stand for people: of captions that are stated to be no model's, and of no other."""
    makers = list(makers)
    by_people = {maker.name for maker in makers if maker.generated is False}
    # Also where their captions are gone, and translations are left.
    known = {source.maker for source in COCO_SOURCES.values()}
    return frozenset((by_people | known) - {maker.name for maker in makers if maker.generated})


def annotators(makers: Iterable[Maker]) -> list[str]:
    """Return who wrote the captions, in the hub's words: `machine-generated` of models, `other` of the rest."""
    generated = {bool(maker.generated) for maker in makers}
    return [word for word, is_so in (("machine-generated", True), ("other", False)) if is_so in generated]


def written(makers: Iterable[Maker], generated: bool | None) -> int:
    """Return how many captions models wrote (True), people did (False), or it is not stated who (None)."""
    return sum(maker.captions for maker in makers if maker.generated is generated)


def in_words(makers: Sequence[Maker], ja: bool = False) -> dict[str, int]:
    """Return a histogram of the captions by who wrote them, the most frequent first."""
    persons, counted = people(makers), dict[str, int]()
    for maker in makers:
        name = name_in_words(maker.name, maker.generated, persons, ja)
        counted[name] = counted.get(name, 0) + maker.captions
    return dict(sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])))


def name_in_words(name: str, generated: bool | None, persons: frozenset[str], ja: bool = False) -> str:
    """Return who wrote captions: a `name` as in `Maker`, and whether it is that of people. `persons`: as `people` returns them."""
    translator, _, origin = name.partition(" of ")
    if origin:
        original = name_in_words("" if origin == SOURCE else origin, None, persons, ja)
        return f"{original}（{translator} が翻訳）" if ja else f"{original} translated by {translator}"
    if not name:
        words = {True: ("a model not named", "モデル（名称の記載なし）"), False: ("people not named", "人（名前の記載なし）"),
                 None: ("not stated", "記載なし")}  # fmt: skip
        return words[generated][ja]
    if generated is False or (generated is None and name in persons):
        return f"{name}（人）" if ja else f"{name} (people)"
    return name
