"""Read a scene back from its pixels alone: the judge of everything that the nano models draw.

No model and no learning: the background by its colour, the things as connected areas that differ from it, each
matched against drawn shapes of every size. Right on more than 99.5 % of rendered scenes, also after JPEG, blur and
noise (tests/nano/test_scene_reader.py). `commonart eval` uses it on scenes; `read(image)` returns the scene.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from commonart.core.nano.grammar import compare
from commonart.core.nano.scenes import (
    BACKGROUNDS,
    COLOUR_RGB,
    COLOURS,
    GRID,
    PLACES,
    SHAPES,
    SIZE_RADIUS,
    SIZES,
    Scene,
    Score,
    Thing,
    coverage,
    in_order,
    render,
)

Floats = npt.NDArray[np.float64]

SIDE: Final = 64  # every image is read at this size
DIFFERENT: Final = 18.0  # CIELAB units from the background at which a pixel belongs to a thing; things have 37 or more
SMALLEST: Final = 30  # pixels; the smallest thing, a small star, has about 85
REACH: Final = 4  # pixels around the middle of its box where a thing's centre is looked for
WINDOW: Final = 32  # pixels; the largest thing is 27 wide


def lab(rgb: npt.ArrayLike) -> Floats:
    """sRGB [..., 3] in 0..255 -> CIELAB, white point D65 (IEC 61966-2-1, CIE 15)."""
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = np.einsum("...c,xc->...x", linear, to_xyz / np.array([[0.95047], [1.0], [1.08883]]))
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def read(image: npt.NDArray[np.uint8] | Image.Image) -> Scene:
    """The scene that an image shows. image: uint8 [H, W, 3] of any size, or a PIL image.

    Things come in reading order; an image of nothing but background has none. ValueError for another shape or type.
    """
    rgb = _at_side(image)
    # A slight blur first: noise in the dark is large in CIELAB.
    seen = lab(ndimage.gaussian_filter(rgb, (0.6, 0.6, 0)))
    references_KHWC = _backgrounds()
    far_KHW = np.linalg.norm(seen - references_KHWC, axis=-1)
    k = int(np.median(far_KHW, axis=(1, 2)).argmin())
    plain = far_KHW[k] <= max(DIFFERENT, float(np.median(far_KHW[k])) + 6)
    # A generated background may be a little off: measure against what it is, keeping the gradient.
    offset = np.median((seen - references_KHWC[k])[plain], axis=0)
    difference = np.linalg.norm(seen - references_KHWC[k] - offset, axis=-1)
    under = np.median(rgb[plain], axis=0)
    things = [_thing(rgb, area, under) for area in _areas(difference > DIFFERENT) if _clear(difference[area])]
    return in_order(Scene(BACKGROUNDS[k], tuple(things)))


def score(expected: Scene, image: npt.NDArray[np.uint8] | Image.Image) -> Score:
    """Which facts of `expected` the image shows, each for all things at once, things matched by best assignment.

    A missing or an extra thing makes colour, shape, place and size wrong.
    """
    return compare(expected, read(image))


def score_many(pairs: Iterable[tuple[Scene, Any]]) -> dict[str, float]:
    """Fractions right over (expected scene, image) pairs: colour, shape, background, place, size, and `all` for
    colour, shape, background and place together. Zeros for no pairs."""
    return fractions(score(scene, image) for scene, image in pairs)


def fractions(scores: Iterable[Score]) -> dict[str, float]:
    """Means of the fields of many scores, and `all` (colour, shape, background and place right together)."""
    rows = [(s.color, s.shape, s.background, s.place, s.size) for s in scores]
    table = np.array([(*row, all(row[:4])) for row in rows], dtype=np.float64).reshape(-1, 6)
    means = table.mean(axis=0) if len(table) else np.zeros(6)
    names = ("color", "shape", "background", "place", "size", "all")
    return {name: float(mean) for name, mean in zip(names, means, strict=True)}


def _at_side(image: npt.NDArray[np.uint8] | Image.Image) -> Floats:
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"an image is uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    if pixels.shape[:2] != (SIDE, SIDE):
        whole = pixels.shape[0] % SIDE == 0 and pixels.shape[1] % SIDE == 0
        kind = Image.Resampling.BOX if whole else Image.Resampling.BICUBIC
        pixels = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), kind))
    return pixels.astype(np.float64)


@lru_cache(maxsize=1)
def _backgrounds() -> Floats:
    """The backgrounds without things, in CIELAB: [5, SIDE, SIDE, 3]."""
    return np.stack([lab(render(Scene(name, ()), SIDE)) for name in BACKGROUNDS])


def _areas(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """The areas of things: connected pixels, fragments in one place together, specks dropped."""
    labels, count = ndimage.label(mask, np.ones((3, 3), int))
    by_place: dict[int, npt.NDArray[np.bool_]] = {}
    areas: list[npt.NDArray[np.bool_]] = []
    for i in range(1, count + 1):
        area = labels == i
        rows, columns = np.nonzero(area)
        if len(rows) < SMALLEST // 3:
            continue
        place = _place(_middle(rows), _middle(columns))
        if place in by_place and _extent(by_place[place] | area) <= WINDOW - 4:
            by_place[place] |= area
        else:
            areas.append(area)
            by_place[place] = area
    return [area for area in areas if area.sum() >= SMALLEST]


def _clear(difference: Floats) -> bool:
    """Whether an area differs as a thing does, and not as a stain on a generated or compressed background does."""
    return float(np.percentile(difference, 75)) > DIFFERENT + 8


def _middle(values: npt.NDArray[np.intp]) -> float:
    return (int(values.min()) + int(values.max()) + 1) / 2


def _extent(area: npt.NDArray[np.bool_]) -> int:
    return max(int(np.ptp(axis)) + 1 for axis in np.nonzero(area))


def _place(row: float, column: float) -> int:
    """Index in PLACES of the cell nearest to a centre in pixels."""
    y, x = (int(np.abs(np.array(GRID) - at).argmin()) for at in (row, column))
    return 3 * y + x


def _thing(rgb: Floats, area: npt.NDArray[np.bool_], under: Floats) -> Thing:
    core = ndimage.binary_erosion(area)
    core = core if core.sum() >= 8 else area
    own = np.median(rgb[core], axis=0)
    # Blur and JPEG mix a thin thing with what is under it: look along the line to each colour, but not too far.
    share = np.linspace(0.65, 1.0, 8)
    mixed = lab(under + share[:, None, None] * (_palette() - under))
    miss = np.linalg.norm(mixed - lab(own), axis=-1) + 30 * (1 - share)[:, None]
    color = COLOURS[int(miss.min(axis=0).argmin())]

    # How much of each pixel the thing covers: where its colour lies between the background's and its own.
    axis = own - under
    alpha = np.clip(((rgb - under) * axis).sum(axis=-1) / max(float((axis * axis).sum()), 1.0), 0, 1)
    alpha = np.where(ndimage.binary_dilation(area), alpha, 0)
    rows, columns = np.nonzero(area)
    shape, radius, row, column = _fit(alpha, round(_middle(rows)), round(_middle(columns)))
    size = min(SIZES, key=lambda name: abs(SIZE_RADIUS[name] - radius))
    return Thing(shape, color, size, PLACES[_place(row, column)])


def _fit(alpha: Floats, middle_y: int, middle_x: int) -> tuple[str, int, int, int]:
    """(shape, radius in 1/128, row and column of the centre) of the drawn shape most like `alpha`.

    Likeness is 2ab / (aa + bb), one exactly where the two agree. First a few radii at every second pixel around the
    middle of the box, then every radius around the best of them. einsum and not a matrix product: BLAS threads cost
    more than they bring on products this small, much more on a busy machine.
    """
    shapes, radii, drawn_NP, norms_N = _templates()
    pad = WINDOW // 2 + REACH
    padded = np.pad(alpha.astype(np.float32), pad)
    around = padded[middle_y : middle_y + 2 * pad, middle_x : middle_x + 2 * pad]
    windows_YXHW = np.lib.stride_tricks.sliding_window_view(around, (WINDOW, WINDOW))
    own = np.float32((alpha * alpha).sum())

    def likeness(windows_YXHW: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
        windows = np.ascontiguousarray(windows_YXHW).reshape(*windows_YXHW.shape[:2], -1)
        return 2 * np.einsum("yxp,np->yxn", windows, drawn_NP[::step]) / (own + norms_N[::step])

    coarse = likeness(windows_YXHW[::2, ::2], 3)
    y, x = (2 * int(at) for at in np.unravel_index(int(coarse.argmax()), coarse.shape)[:2])
    y0, x0 = max(y - 1, 0), max(x - 1, 0)
    fine = likeness(windows_YXHW[y0 : y + 2, x0 : x + 2], 1)
    dy, dx, best = (int(at) for at in np.unravel_index(int(fine.argmax()), fine.shape))
    return shapes[best], radii[best], middle_y + y0 + dy - REACH, middle_x + x0 + dx - REACH


@lru_cache(maxsize=1)
def _palette() -> Floats:
    return np.array([COLOUR_RGB[name] for name in COLOURS], dtype=np.float64)


@lru_cache(maxsize=1)
def _templates() -> tuple[list[str], list[int], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Every shape at every radius, a little under small to a little over large: names, radii, [N, pixels], norms."""
    shapes, radii, drawn = [], [], []
    for shape in SHAPES:
        for radius in range(SIZE_RADIUS["small"] - 2, SIZE_RADIUS["large"] + 3):
            alpha = coverage(shape, radius, SIDE) / 255
            shapes.append(shape)
            radii.append(radius)
            drawn.append(np.pad(alpha, (WINDOW - alpha.shape[0]) // 2).ravel())
    table = np.stack(drawn).astype(np.float32)
    return shapes, radii, table, (table * table).sum(axis=1)
