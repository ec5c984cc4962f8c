"""Aspect buckets: the sizes that pictures are cut to, all of nearly one area, so that a wide one need not lose its sides.

    commonart shard raw/ -o shards/ --size 512 --buckets

At 256 and 512 they are the 40 sizes that PixArt-Sigma was trained on. A record's bucket is its `width` and `height`.
"""

from __future__ import annotations

from functools import lru_cache

Size = tuple[int, int]  # width, height in pixels

UNITS = 16  # on a side of the square
LEAST_AREA = 0.9  # of the square's
WIDEST = 4  # long side : short side
# The rule gives 41 sizes; this one, 11:21, PixArt's table lacks, though it has its wide twin.
ABSENT = (11, 21)


@lru_cache(maxsize=16)
def bucket_sizes(resolution: int) -> tuple[Size, ...]:
    """The 40 sizes around `resolution` x `resolution`, from upright to wide.

    Sides are multiples of resolution / 16, the ratio is at most 4, and the area 90 to 100 % of the square's.

    Raises:
        ValueError: `resolution` is no multiple of 16.

    Source: ASPECT_RATIO_256, _512 and _1024 of PixArt-Sigma (diffusion/data/datasets/utils.py), derived here by rule.
    """
    if resolution < UNITS or resolution % UNITS:
        raise ValueError(f"{resolution} is no multiple of {UNITS}")
    unit = resolution // UNITS
    found = [
        (width, height)
        for width in range(1, 2 * UNITS + 1)
        for height in range(1, 2 * UNITS + 1)
        if LEAST_AREA * UNITS**2 <= width * height <= UNITS**2
        and max(width, height) <= WIDEST * min(width, height)
        and (width, height) != ABSENT
    ]
    found.sort(key=lambda size: size[0] / size[1])
    return tuple((width * unit, height * unit) for width, height in found)


def nearest(width: int, height: int, sizes: tuple[Size, ...]) -> Size:
    """The size that keeps most of a picture of `width` x `height` when it is scaled to cover it and cut."""
    ratio = width / height
    return max(sizes, key=lambda size: min(ratio * size[1] / size[0], size[0] / (size[1] * ratio)))
