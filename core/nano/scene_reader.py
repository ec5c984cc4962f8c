"""Read a scene back from the pixels of an image: how `commonart eval` scores what the nano models generate.

There is no model and no learning: the background is found by its color, and things are connected areas that differ from
it, each matched against rendered shapes of every size. More than 99.5 % of rendered scenes are read correctly, also
after JPEG, blur and noise (tests/nano/test_scene_reader.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from commonart.core.nano.facts import Score, compare
from commonart.core.nano.scenes import (
    BACKGROUNDS,
    COLOR_RGB,
    COLORS,
    GRID,
    PLACES,
    SHAPES,
    SIZE_RADIUS,
    SIZES,
    Scene,
    Thing,
    coverage,
    in_order,
    render,
)

Floats = npt.NDArray[np.float64]
AnyImage = npt.NDArray[np.uint8] | Image.Image

SIDE: Final = 64  # every image is read at this size
DIFFERENT: Final = 18.0  # CIELAB units from the background at which a pixel belongs to a thing; things have 37 or more
SMALLEST: Final = 30  # pixels; the smallest thing, a small star, has about 85
REACH: Final = 4  # pixels around the middle of its box where a thing's centre is looked for
WINDOW: Final = 32  # pixels; the largest thing is 27 wide
PALETTE: Final[Floats] = np.array([COLOR_RGB[name] for name in COLORS], dtype=np.float64)


def lab(rgb: npt.ArrayLike) -> Floats:
    """Convert sRGB [..., 3] in 0..255 to CIELAB, white point D65 (IEC 61966-2-1, CIE 15)."""
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = np.einsum("...c,xc->...x", linear, to_xyz / np.array([[0.95047], [1.0], [1.08883]]))
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def read(image: AnyImage) -> Scene:
    """Return the scene that an image, uint8 [H, W, 3] of any size, shows, its things in reading order.

    Raises:
        ValueError: an array of another shape or type.
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
    # A thing differs more than a stain of generation or compression does.
    areas = (a for a in _areas(difference > DIFFERENT) if np.percentile(difference[a], 75) > DIFFERENT + 8)
    things = [_thing(rgb, area, under) for area in areas]
    return in_order(Scene(BACKGROUNDS[k], tuple(things)))


def score(expected: Scene, image: AnyImage) -> Score:
    """Return which facts of `expected` the image shows, as `facts.compare` does."""
    return compare(expected, read(image))


def score_many(pairs: Iterable[tuple[Scene, AnyImage]]) -> dict[str, float]:
    """Return the shares of (expected scene, image) pairs with the right color, shape, background, place and size.

    `all` counts the pairs where color, shape, background and place are right. Without pairs, every share is 0.
    """
    rows = [asdict(score(scene, image)) for scene, image in pairs]
    for row in rows:
        row["all"] = row["color"] and row["shape"] and row["background"] and row["place"]
    names = ("color", "shape", "background", "place", "size", "all")
    return {name: sum(row[name] for row in rows) / max(len(rows), 1) for name in names}


def _at_side(image: AnyImage) -> Floats:
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"an image must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    if pixels.shape[:2] != (SIDE, SIDE):
        whole = pixels.shape[0] % SIDE == 0 and pixels.shape[1] % SIDE == 0
        kind = Image.Resampling.BOX if whole else Image.Resampling.BICUBIC
        pixels = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), kind))
    return pixels.astype(np.float64)


@lru_cache(maxsize=1)
def _backgrounds() -> Floats:
    """Return the backgrounds without things, in CIELAB: [5, SIDE, SIDE, 3]."""
    return np.stack([lab(render(Scene(name, ()), SIDE)) for name in BACKGROUNDS])


def _areas(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """Return the areas of things: connected pixels, with fragments in one place joined and specks dropped."""
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


def _middle(values: npt.NDArray[np.intp]) -> float:
    return (int(values.min()) + int(values.max()) + 1) / 2


def _extent(area: npt.NDArray[np.bool_]) -> int:
    return max(int(np.ptp(axis)) + 1 for axis in np.nonzero(area))


def _place(row: float, column: float) -> int:
    """Return the index in PLACES of the cell nearest to a centre in pixels."""
    y, x = (int(np.abs(np.array(GRID) - at).argmin()) for at in (row, column))
    return 3 * y + x


def _thing(rgb: Floats, area: npt.NDArray[np.bool_], under: Floats) -> Thing:
    core = ndimage.binary_erosion(area)
    core = core if core.sum() >= 8 else area
    seen = np.median(rgb[core], axis=0)
    # Blur and JPEG mix a thin thing with what is under it: look along the line to each color, but not too far.
    share = np.linspace(0.65, 1.0, 8)
    mixed = lab(under + share[:, None, None] * (PALETTE - under))
    miss = np.linalg.norm(mixed - lab(seen), axis=-1) + 30 * (1 - share)[:, None]
    color = COLORS[int(miss.min(axis=0).argmin())]

    # How much of each pixel the thing covers: where its color is between the background's and the thing's.
    axis = seen - under
    alpha = np.clip(((rgb - under) * axis).sum(axis=-1) / max(float((axis * axis).sum()), 1.0), 0, 1)
    alpha = np.where(ndimage.binary_dilation(area), alpha, 0)
    rows, columns = np.nonzero(area)
    shape, radius, row, column = _fit(alpha, round(_middle(rows)), round(_middle(columns)))
    size = min(SIZES, key=lambda name: abs(SIZE_RADIUS[name] - radius))
    return Thing(shape, color, size, PLACES[_place(row, column)])


def _fit(alpha: Floats, middle_y: int, middle_x: int) -> tuple[str, int, int, int]:
    """Return (shape, radius in 1/128, row and column of the centre) of the template most similar to `alpha`.

    Similarity is 2ab / (aa + bb), which is 1 only where the two agree. A few radii are tried at every second pixel
    around the middle of the box, then every radius around the best of them. It is computed by einsum and not as a
    matrix product: BLAS threads cost more than they save on products this small, much more on a busy machine.
    """
    shapes_and_radii, templates_NP, norms_N = _templates()
    pad = WINDOW // 2 + REACH
    padded = np.pad(alpha.astype(np.float32), pad)
    around = padded[middle_y : middle_y + 2 * pad, middle_x : middle_x + 2 * pad]
    windows_YXHW = np.lib.stride_tricks.sliding_window_view(around, (WINDOW, WINDOW))
    norm = np.float32((alpha * alpha).sum())

    def similarity(windows_YXHW: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
        windows = np.ascontiguousarray(windows_YXHW).reshape(*windows_YXHW.shape[:2], -1)
        return 2 * np.einsum("yxp,np->yxn", windows, templates_NP[::step]) / (norm + norms_N[::step])

    coarse = similarity(windows_YXHW[::2, ::2], 3)
    y, x = (2 * int(at) for at in np.unravel_index(int(coarse.argmax()), coarse.shape)[:2])
    y0, x0 = max(y - 1, 0), max(x - 1, 0)
    fine = similarity(windows_YXHW[y0 : y + 2, x0 : x + 2], 1)
    dy, dx, best = (int(at) for at in np.unravel_index(int(fine.argmax()), fine.shape))
    return *shapes_and_radii[best], middle_y + y0 + dy - REACH, middle_x + x0 + dx - REACH


@lru_cache(maxsize=1)
def _templates() -> tuple[list[tuple[str, int]], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Render every shape at radii from slightly below small to slightly above large: these pairs, [N, pixels], norms."""
    pairs = [(s, r) for s in SHAPES for r in range(SIZE_RADIUS["small"] - 2, SIZE_RADIUS["large"] + 3)]
    alphas = (coverage(shape, radius, SIDE) / 255 for shape, radius in pairs)
    table = np.stack([np.pad(alpha, (WINDOW - len(alpha)) // 2).ravel() for alpha in alphas]).astype(np.float32)
    return pairs, table, (table * table).sum(axis=1)
