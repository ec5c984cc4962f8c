"""Which images are compared with which, in which order each voter sees the pairs, and on which side.

    commonart vote pictures/a pictures/b pictures/c

All of it follows from the images and the voter's name, so that nothing but the votes has to be kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from commonart.core.data.record import split_pointer
from commonart.core.data.shards.reader import read_bytes
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.prompts import text_of
from commonart.core.metrics import image_set
from commonart.core.output import metadata

CHECK_EVERY = 9  # comparisons for each attention check
FIRST_CHECK = 3  # comparisons among which the first one stands, so that those who stop early meet it too
DEGRADED = "degraded"  # in place of a model's name: the worse side of an attention check
CELLS = 8  # of the longer side of a degraded image


class Side(NamedTuple):
    """An image on one side of a comparison."""

    model: str  # or DEGRADED
    pointer: str


class Comparison(NamedTuple):
    """Two images of one prompt, as one voter sees them; `id` is the same for all voters."""

    id: str
    prompt: str
    left: Side
    right: Side
    check: bool = False


class Pair(NamedTuple):
    """Two images of one prompt, by two models in the order of their names."""

    id: str
    prompt: str
    first: Side
    second: Side


class Entry(NamedTuple):
    """One image of a folder, with what it can be matched by."""

    prompt: str
    seed: Any
    name: str
    pointer: str


@dataclass(frozen=True)
class Study:
    """The pairs of a vote. Votes of one study never count for another, whose images are others."""

    id: str
    models: tuple[str, ...]
    pairs: tuple[Pair, ...]
    matched_by: str  # "prompt and seed", "prompt" or "file name"
    unmatched: int  # images without a partner
    per_voter: int | None = None  # comparisons of one voter, attention checks not counted

    def sequence(self, voter: str) -> tuple[Comparison, ...]:
        """Return what a voter compares, in an order and on sides of their own, with attention checks in between."""
        order = sorted(self.pairs, key=lambda pair: _hash(self.id, voter, pair.id))[: self.per_voter]
        shown = []
        for number, pair in enumerate(order):
            if number % CHECK_EVERY == 0:
                block = len(order[number : number + CHECK_EVERY])
                within = block if number else min(block, FIRST_CHECK)
                place = number + _hash(self.id, voter, "check", number) % within
            if number == place:
                good = (pair.first, pair.second)[_hash(self.id, voter, "whose", number) % 2]
                bad = Side(DEGRADED, good.pointer)
                shown.append(self._sided(voter, Pair(f"check-{number // CHECK_EVERY}", pair.prompt, good, bad), True))
            shown.append(self._sided(voter, pair, False))
        return tuple(shown)

    def _sided(self, voter: str, pair: Pair, check: bool) -> Comparison:
        sides = (pair.first, pair.second)
        left, right = sides[:: 1 if _hash(self.id, voter, "side", pair.id) % 2 else -1]
        return Comparison(pair.id, pair.prompt, left, right, check)


def open_study(folders: Sequence[str], per_voter: int | None = None) -> Study:
    """Match the images of folders, each of one model, as `core.metrics.image_set.collect` takes them.

    They are matched by prompt and seed, by prompt alone (the images of one prompt in the order of their seeds) or by
    file name: by what matches most of them.

    Raises:
        UsageError: fewer than two folders, or one of them twice.
        CommonArtError: a folder without images, or folders that have no two images in common.
    """
    models, folders = zip(*sorted(zip(_names(folders), folders, strict=True)), strict=True)
    entries = [_entries(folder) for folder in folders]
    ways: dict[str, Callable[[Entry], Hashable]] = {
        "prompt and seed": lambda entry: (entry.prompt, str(entry.seed)) if entry.seed is not None else None,
        "prompt": lambda entry: entry.prompt or None,
        "file name": lambda entry: entry.name,
    }
    tables = {name: [_keyed(each, way) for each in entries] for name, way in ways.items()}
    by_way = {name: _pairs(models, table) for name, table in tables.items()}
    matched_by = max(by_way, key=lambda name: len(by_way[name]))  # the first of those that match as many
    pairs = by_way[matched_by]
    if not pairs:
        raise CommonArtError(
            f"{' and '.join(folders)} have no images of the same prompt.",
            "Generate both from the same prompts: commonart sample --file prompts.txt --model NAME -o FOLDER.",
        )
    used = {side.pointer for pair in pairs for side in (pair.first, pair.second)}
    digest = hashlib.sha256(repr(models).encode())
    for pair in pairs:
        digest.update(pair.id.encode())
    for pointer in sorted(used):
        digest.update(hashlib.sha256(read_bytes(pointer)).digest())
    unmatched = sum(map(len, entries)) - len(used)
    return Study(digest.hexdigest()[:12], models, tuple(pairs), matched_by, unmatched, per_voter)


def picture(side: Side) -> Image.Image:
    """Return the pixels of one side, without marks. Raises CommonArtError where the image cannot be read."""
    image = image_set.open_image(side.pointer).convert("RGB")
    return degraded(image) if side.model == DEGRADED else image


def degraded(image: Image.Image) -> Image.Image:
    """Return a copy that nobody who looks prefers: CELLS cells across, their colors disturbed by half of the range."""
    scale = CELLS / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BOX)
    noise = np.random.default_rng(0).integers(-128, 129, (*small.size[::-1], 3))
    pixels = np.clip(np.asarray(small, dtype=np.int64) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(image.size, Image.Resampling.BICUBIC)


def _names(folders: Sequence[str]) -> tuple[str, ...]:
    example = "commonart vote pictures/a pictures/b."
    if len(folders) < 2:
        raise UsageError("A vote compares the images of at least two folders.", f"For example {example}")
    names = [Path(folder).name or folder for folder in folders]
    if len(set(names)) < len(names) or DEGRADED in names:
        names = list(folders)
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UsageError("A folder is named twice.", f"Name one for each model: {example}")
    return tuple(names)


def _entries(folder: str) -> list[Entry]:
    found = []
    for item in image_set.collect(folder):
        path, member = split_pointer(item.pointer)
        # Records of commonart sample hold the settings of their images; files have them in their marks.
        settings = item.record if item.record else metadata.settings_of(path) or {}
        prompt = text_of(item.record) or str(settings.get("prompt", ""))
        inside = Path(path).is_relative_to(folder) and member is None
        name = str(Path(path).relative_to(folder).with_suffix("")) if inside else item.name
        found.append(Entry(prompt, settings.get("seed"), name, item.pointer))
    return sorted(found, key=lambda entry: (str(entry.seed).zfill(20), entry.name))


def _keyed(entries: Sequence[Entry], way: Callable[[Entry], Hashable]) -> dict[Hashable, Entry]:
    """Return entries by key; those of one key by their place among them."""
    counts = Counter[Hashable]()
    table: dict[Hashable, Entry] = {}
    for entry in entries:
        if (key := way(entry)) is not None:
            table[key, counts[key]] = entry
            counts[key] += 1
    return table


def _pairs(models: Sequence[str], tables: Sequence[dict[Hashable, Entry]]) -> list[Pair]:
    pairs = []
    for (a, first), (b, second) in combinations(zip(models, tables, strict=True), 2):
        for key in sorted(first.keys() & second.keys(), key=repr):
            one, other = first[key], second[key]
            if one.prompt and other.prompt and one.prompt != other.prompt:
                continue  # files of one name that show different things
            id = hashlib.sha256(f"{a}\n{b}\n{key!r}".encode()).hexdigest()[:12]
            sides = Side(a, one.pointer), Side(b, other.pointer)
            pairs.append(Pair(id, one.prompt or other.prompt, *sides))
    return pairs


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:8], "big")
