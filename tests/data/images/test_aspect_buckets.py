"""Aspect buckets: PixArt's own sizes, by rule; every picture into the one that cuts least of it."""

from __future__ import annotations

import math

import pytest
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import (
    ASPECT_RATIO_256_BIN,
    ASPECT_RATIO_512_BIN,
    ASPECT_RATIO_1024_BIN,
)
from hypothesis import given
from hypothesis import strategies as st

from commonart.core.data.images.aspect_buckets import Size, bucket_sizes, nearest_bucket

# Height : width of the 40 of PixArt-Sigma's training, as its table names them.
RATIOS = (
    0.25, 0.26, 0.27, 0.28, 0.32, 0.33, 0.35, 0.4, 0.42, 0.48, 0.5, 0.52, 0.57, 0.6, 0.68, 0.72, 0.78, 0.82, 0.88, 0.94,
    1.0, 1.07, 1.13, 1.21, 1.29, 1.38, 1.46, 1.67, 1.75, 2.0, 2.09, 2.4, 2.5, 2.89, 3.0, 3.11, 3.62, 3.75, 3.88, 4.0,
)  # fmt: skip


@pytest.mark.parametrize("resolution", [256, 512, 1024])
def test_the_40_of_pixart(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    assert len(sizes) == len(set(sizes)) == 40 and (resolution, resolution) in sizes
    assert sorted(round(height / width, 2) for width, height in sizes) == sorted(RATIOS)
    for width, height in sizes:
        assert width % (resolution // 16) == height % (resolution // 16) == 0
        assert 0.9 * resolution**2 <= width * height <= resolution**2
        assert 1 / 4 <= width / height <= 4


@pytest.mark.parametrize(
    ("resolution", "table"), [(256, ASPECT_RATIO_256_BIN), (512, ASPECT_RATIO_512_BIN), (1024, ASPECT_RATIO_1024_BIN)]
)
def test_what_diffusers_samples_in_is_among_them(resolution: int, table: dict[str, list[float]]) -> None:
    """Its tables hold 33 of the 40."""
    theirs = {(int(width), int(height)) for height, width in table.values()}
    assert len(theirs) == 33 and theirs < set(bucket_sizes(resolution))


def kept(picture: Size, size: Size) -> float:
    """The part of a picture's area that is left when it is scaled to cover `size` and cut."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    return size[0] * size[1] / (scale**2 * picture[0] * picture[1])


@given(st.integers(100, 4000), st.integers(100, 4000))
def test_nothing_would_cut_less(width: int, height: int) -> None:
    sizes = bucket_sizes(512)
    found = nearest_bucket(width, height, sizes)
    assert math.isclose(kept((width, height), found), max(kept((width, height), size) for size in sizes))
    if 1 / 4 <= width / height <= 4:
        assert kept((width, height), found) > 0.88


def test_usual_cameras() -> None:
    sizes = bucket_sizes(512)
    chosen = {
        ratio: nearest_bucket(*ratio, sizes) for ratio in ((1, 1), (4, 3), (3, 4), (3, 2), (16, 9), (9, 16), (10, 1))
    }
    assert chosen == {
        (1, 1): (512, 512), (4, 3): (576, 448), (3, 4): (448, 576), (3, 2): (608, 416), (16, 9): (672, 384),
        (9, 16): (384, 672), (10, 1): (1024, 256),
    }  # fmt: skip


@pytest.mark.parametrize("resolution", [64, 128, 192, 320, 384])
def test_sides_are_multiples_of_8_at_any_resolution(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    assert (resolution, resolution) in sizes and len(sizes) == len(set(sizes)) > 10
    assert all(width % 8 == height % 8 == 0 and width * height <= resolution**2 for width, height in sizes)


@pytest.mark.parametrize("resolution", [64, 128, 256, 384, 512, 1024])
@pytest.mark.parametrize("multiple", [8, 16, 32])
def test_what_a_model_can_sample_is_what_shards_hold(resolution: int, multiple: int) -> None:
    sizes = bucket_sizes(resolution, multiple)
    assert set(sizes) <= set(bucket_sizes(resolution))
    assert all(width % multiple == height % multiple == 0 for width, height in sizes)


@pytest.mark.parametrize(("resolution", "multiple"), [(0, 8), (8, 16), (16, 32)])
def test_an_area_without_buckets(resolution: int, multiple: int) -> None:
    with pytest.raises(ValueError, match="no size of the area"):
        bucket_sizes(resolution, multiple)
