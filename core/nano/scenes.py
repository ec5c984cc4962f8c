"""The embedded data source: small scenes of colored shapes, rendered with integer arithmetic only.

A scene is a background (grassland, sea, desert, snow, night sky) with one to three things on a 3x3 grid of places. The
nano models are trained and measured on scenes, whose pixels are the same to the byte on every platform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Split = Literal["train", "heldout-scene"]

# name -> sRGB. At least 40 CIELAB units from one another and 35 from every background (tests/nano/test_scenes.py).
COLOR_RGB: Final[Mapping[str, tuple[int, int, int]]] = {
    "red":    (222,  38,  46),
    "orange": (250, 136,  16),
    "yellow": (252, 218,  28),
    "green":  ( 22, 150,  66),
    "blue":   ( 26,  98, 226),
    "purple": (158,  42, 190),
    "pink":   (250, 128, 190),
    "brown":  (118,  66,  32),
}  # fmt: skip
# name -> sRGB of the first row and of the last row; the rows between are interpolated.
BACKGROUND_RGB: Final[Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]]] = {
    "grassland": ((202, 234, 178), (176, 219, 146)),
    "sea":       ((172, 227, 240), (138, 208, 230)),
    "desert":    ((244, 224, 184), (232, 203, 154)),
    "snow":      ((250, 252, 255), (236, 240, 248)),
    "night sky": (( 14,  16,  44), ( 30,  34,  74)),
}  # fmt: skip
# name -> radius in 1/128 of the canvas, which is half pixels of the radius at 64 px: diameters 14, 19, 24.
SIZE_RADIUS: Final[Mapping[str, int]] = {"small": 14, "medium": 19, "large": 24}

COLORS: Final[tuple[str, ...]] = tuple(COLOR_RGB)
SHAPES: Final[tuple[str, ...]] = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES: Final[tuple[str, ...]] = tuple(SIZE_RADIUS)
BACKGROUNDS: Final[tuple[str, ...]] = tuple(BACKGROUND_RGB)
PLACES: Final[tuple[str, ...]] = (
    "top left",    "top",    "top right",
    "left",        "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
GRID: Final[tuple[int, int, int]] = (14, 32, 50)  # centres of the columns and rows, in 1/64 of the canvas
# How far a shape's corners reach from its centre, in radii, and the least distance between two things, in 1/64.
CORNER: Final[Mapping[str, float]] = {
    "circle": 1.0, "square": 1.245, "triangle": 1.366, "star": 1.132, "cross": 1.063, "ring": 1.0,
}  # fmt: skip
GAP: Final[int] = 5

# (color, shape) that no training scene shows: a model that generates one has combined what it learned separately.
HELDOUT_PAIRS: Final = frozenset(zip(("green", "purple", "red", "blue", "orange", "yellow"), SHAPES, strict=True))


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape; every field is one of the names in SHAPES, COLORS, SIZES, PLACES."""

    shape: str
    color: str
    size: str
    place: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and its things, in reading order (top left first) when made by this module."""

    background: str
    things: tuple[Thing, ...]


def cell(place: str) -> tuple[int, int]:
    """Return the (row, column), each 0..2, of a place."""
    return divmod(PLACES.index(place), 3)


def in_order(scene: Scene) -> Scene:
    """Return the same scene with its things in reading order."""
    things = sorted(scene.things, key=lambda thing: PLACES.index(thing.place))
    return Scene(scene.background, tuple(things))


def apart(a: Thing, b: Thing) -> bool:
    """Return whether the circles around two things are at least GAP apart, whatever their shapes."""
    (row_a, column_a), (row_b, column_b) = cell(a.place), cell(b.place)
    dy, dx = GRID[row_a] - GRID[row_b], GRID[column_a] - GRID[column_b]
    reach = (SIZE_RADIUS[a.size] * CORNER[a.shape] + SIZE_RADIUS[b.size] * CORNER[b.shape]) / 2 + GAP
    return dx * dx + dy * dy >= reach * reach


def split_of(scene: Scene) -> Split:
    """Return the side of the fixed 9:1 split that a scene is on, by a hash; one tenth is reserved for evaluation.

    Sizes are left out: two scenes that differ in size only may have the same caption, and must be on the same side.
    """
    things = sorted(f"{thing.place}/{thing.color}/{thing.shape}" for thing in scene.things)
    digest = hashlib.sha256("|".join([scene.background, *things]).encode()).digest()
    return "heldout-scene" if int.from_bytes(digest[:8], "big") % 10 == 0 else "train"


def random_scene(rng: np.random.Generator, heldout: bool = False, split: Split | None = "train") -> Scene:
    """Return a random scene: 60 % have one thing, 30 % two, 10 % three; no two of them touch or are the same.

    Args:
        heldout: scenes with at least one of HELDOUT_PAIRS, whatever their split: no such scene is ever trained on. Else
            scenes without any of them.
        split: side of the split; None: both.
    """
    count = (1, 1, 1, 1, 1, 1, 2, 2, 2, 3)[int(rng.integers(10))]  # before the loop: rejections must not change shares
    layouts = _layouts(count)
    while True:
        cells = layouts[int(rng.integers(len(layouts)))]
        pairs = [(COLORS[int(rng.integers(8))], SHAPES[int(rng.integers(6))]) for _ in cells]
        if heldout:
            pairs[int(rng.integers(count))] = sorted(HELDOUT_PAIRS)[int(rng.integers(len(HELDOUT_PAIRS)))]
        elif any(pair in HELDOUT_PAIRS for pair in pairs):
            continue
        sizes = [SIZES[int(rng.integers(3))] for _ in cells]
        things = tuple(
            Thing(shape, color, size, PLACES[at]) for (color, shape), size, at in zip(pairs, sizes, cells, strict=True)
        )
        if len(set(pairs)) < count or not all(apart(a, b) for a, b in combinations(things, 2)):
            continue
        scene = Scene(BACKGROUNDS[int(rng.integers(5))], things)
        if heldout or split is None or split_of(scene) == split:
            return scene


def render(scene: Scene, size: int = 64) -> Pixels:
    """Render a scene as sRGB pixels, uint8 [size, size, 3]; the same bytes on every platform."""
    image = _backdrop(scene.background, size).copy()
    for thing in scene.things:
        alpha = coverage(thing.shape, SIZE_RADIUS[thing.size], size)
        half = alpha.shape[0] // 2
        row, column = (GRID[axis] * size // 64 for axis in cell(thing.place))
        top, left = row - half, column - half
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(row + half, size), min(column + half, size)
        a = alpha[y0 - top : y1 - top, x0 - left : x1 - left, None].astype(np.int32)
        under = image[y0:y1, x0:x1].astype(np.int32)
        color = np.array(COLOR_RGB[thing.color], dtype=np.int32)
        image[y0:y1, x0:x1] = (under * (255 - a) + color * a + 127) // 255
    return image


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """Return a record's field `scene`: {"background": name, "things": [{shape, color, size, place}]}."""
    things = [{"shape": t.shape, "color": t.color, "size": t.size, "place": t.place} for t in scene.things]
    return {"background": scene.background, "things": things}


def scene_from_json(data: Mapping[str, Any]) -> Scene:
    """Return the scene of a record's field `scene`. Raises ValueError where that is not a scene."""
    try:
        things = tuple(Thing(t["shape"], t["color"], t["size"], t["place"]) for t in data["things"])
        scene = Scene(data["background"], things)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a scene: {data!r}") from error
    known = [(scene.background, BACKGROUNDS)]
    for t in things:
        known += [(t.shape, SHAPES), (t.color, COLORS), (t.size, SIZES), (t.place, PLACES)]
    for name, names in known:
        if name not in names:
            raise ValueError(f"{name!r} is not one of {', '.join(names)}")
    return scene


@lru_cache(maxsize=1024)
def coverage(shape: str, radius: int, size: int = 64) -> Pixels:
    """Return how much of each pixel a shape covers, 0..255, as uint8 [2h, 2h] around the shape's centre.

    Each pixel is sampled 8x8 times, with integers only. `radius` is in 1/128 of the canvas of `size` pixels.
    """
    samples, unit = 8, 1 << 16  # `unit` is the radius in the shape's own coordinates
    half = max(1, -(-radius * size * 9 // (128 * 8)))  # shapes reach at most 9/8 of their radius
    n = 2 * half * samples
    u = (2 * np.arange(n, dtype=np.int64) + 1 - n) * (128 * unit) // (2 * samples * radius * size)
    inside = _inside(shape, u[None, :], u[:, None], unit)
    counts = inside.reshape(2 * half, samples, 2 * half, samples).sum(axis=(1, 3), dtype=np.int64)
    alpha: Pixels = ((counts * 255 + samples * samples // 2) // (samples * samples)).astype(np.uint8)
    alpha.flags.writeable = False
    return alpha


# Corners in 1/1000 of the radius, clockwise from the top. Star: outer radius 1090, inner 545 (fat arms, so that
# an autoencoder with 4x4 pixels a latent keeps them), moved down by 50 to stand in the middle of its box.
_STAR: Final = (
    (0, -1040), (320, -391), (1037, -287), (518, 218), (641, 932),
    (0, 595), (-641, 932), (-518, 218), (-1037, -287), (-320, -391),
)  # fmt: skip
_TRIANGLE: Final = ((0, -960), (1060, 860), (-1060, 860))


def _inside(shape: str, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], unit: int) -> npt.NDArray[np.bool_]:
    if shape in ("circle", "ring"):
        square = x * x + y * y
        full = square <= unit * unit
        return full & (square >= (unit // 2) ** 2) if shape == "ring" else full
    if shape == "square":
        side = unit * 88 // 100
        return (abs(x) <= side) & (abs(y) <= side)
    if shape == "cross":
        arm, width = unit, unit * 36 // 100
        return ((abs(x) <= width) & (abs(y) <= arm)) | ((abs(x) <= arm) & (abs(y) <= width))
    if shape not in ("triangle", "star"):
        raise ValueError(f"{shape!r} is not one of {', '.join(SHAPES)}")
    corners = [(px * unit // 1000, py * unit // 1000) for px, py in (_TRIANGLE if shape == "triangle" else _STAR)]
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue  # a level edge crosses no level ray
        spans = (y0 <= y) != (y1 <= y)  # even-odd rule: count the edges that a ray to the right crosses
        side_of = (x - x0) * (y1 - y0) - (x1 - x0) * (y - y0)
        inside ^= spans & ((side_of < 0) if y1 > y0 else (side_of > 0))
    return inside


@lru_cache(maxsize=64)
def _backdrop(background: str, size: int) -> Pixels:
    first, last = (np.array(rgb, dtype=np.int64) for rgb in BACKGROUND_RGB[background])
    row = np.arange(size, dtype=np.int64)[:, None]
    span = max(size - 1, 1)
    rows = (first * (span - row) + last * row + span // 2) // span
    image: Pixels = np.repeat(rows.astype(np.uint8)[:, None, :], size, axis=1)
    image.flags.writeable = False
    return image


@lru_cache(maxsize=4)
def _layouts(count: int) -> tuple[tuple[int, ...], ...]:
    """Return sets of cells in reading order: any one; two that are not direct neighbours; three, two steps apart."""

    def fits(a: int, b: int) -> bool:
        rows, columns = abs(a // 3 - b // 3), abs(a % 3 - b % 3)
        return max(rows, columns) == 2 or (count == 2 and rows + columns == 2)

    cells = combinations(range(9), count)
    return tuple(chosen for chosen in cells if all(fits(a, b) for a, b in combinations(chosen, 2)))
