"""Aspect buckets: sizes of nearly one area, so that a wide image need not lose its sides.

At 256, 512 and 1024 they are the 40 sizes that PixArt-Sigma was trained on. A record's bucket is its `width` and `height`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

Size = tuple[int, int]  # width, height in pixels

UNITS = 16  # on a side of the square
FINEST = 8  # pixels of a unit at least, as the smallest autoencoder and its patches need
LEAST_AREA = 0.9  # of the square's
WIDEST = 4  # long side : short side
# The rule gives 41 sizes; this one, 11:21, PixArt's table lacks, though it has its wide twin.
ABSENT = (11, 21)


@lru_cache(maxsize=16)
def bucket_sizes(resolution: int, multiple: int = FINEST) -> tuple[Size, ...]:
    """Return the sizes around `resolution` x `resolution`, from upright to wide: 40 of them from 256 pixels on.

    Sides are multiples of resolution / 16 (of 8 at least), the ratio is at most 4, and the area 90 to 100 % of the square's.
    Only sizes whose sides are multiples of `multiple`, as a model may need; ValueError where there are none.

    Source: ASPECT_RATIO_256, _512 and _1024 of PixArt-Sigma (diffusion/data/datasets/utils.py), derived here by rule.
    """
    unit = max(FINEST, resolution // UNITS // FINEST * FINEST)
    area = (resolution / unit) ** 2
    longest = int(resolution / unit * WIDEST**0.5)
    sizes = [
        (width * unit, height * unit)
        for width in range(1, longest + 1)
        for height in range(1, longest + 1)
        if LEAST_AREA * area <= width * height <= area
        and max(width, height) <= WIDEST * min(width, height)
        and (area, (width, height)) != (UNITS**2, ABSENT)
        and width * unit % multiple == height * unit % multiple == 0
    ]
    if not sizes:
        raise ValueError(
            f"no size of the area of {resolution} x {resolution} has sides that are multiples of {multiple}"
        )
    return tuple(sorted(sizes, key=lambda size: size[0] / size[1]))


def nearest_bucket(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """Return the size that keeps most of an image of `width` x `height` when it is scaled to cover it and cut."""
    ratio = width / height
    return max(sizes, key=lambda size: min(ratio * size[1] / size[0], size[0] / (size[1] * ratio)))
