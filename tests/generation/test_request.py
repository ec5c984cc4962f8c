"""What a call generates with: sizes and aspect ratios."""

from __future__ import annotations

import pytest

from commonart.core.data.images.aspect_buckets import bucket_sizes
from commonart.core.errors import UsageError
from commonart.core.generation.request import pixels


def test_size_names_the_nearest():
    assert pixels("640x384", 512, 16) == (640, 384)
    assert pixels(None, 512, 16) == (512, 512)
    with pytest.raises(UsageError) as error:
        pixels("500x1", 512, 16)
    assert "496x16" in error.value.fix or "512x16" in error.value.fix


def test_an_aspect_takes_the_nearest_bucket():
    """PixArt-Sigma's at 512 px: steps of 32 pixels, from 256x1024 to 1024x256."""
    assert pixels(None, 512, 16, "1:1") == (512, 512)
    assert pixels(None, 512, 16, "3:2") == (608, 416) and pixels(None, 512, 16, "2:3") == (416, 608)
    assert pixels(512, 256, 16, "16:9") == (672, 384) and pixels(None, 512, 16, "4:1") == (1024, 256)
    for ratio in ("9:1", "1:100"):
        with pytest.raises(UsageError, match=f"--aspect {ratio}: models are trained from 1:4 to 4:1"):
            pixels(None, 512, 16, ratio)
    assert pixels(None, 32, 8, "2:1") == (40, 24)
    for ratio in ("4:3", "1:3", "21:9"):
        width, height = pixels("512", 512, 16, ratio)
        assert not width % 32 and not height % 32 and 0.8 < width * height / 512**2 < 1.2


@pytest.mark.parametrize(("size", "multiple"), [(64, 8), (256, 16), (512, 16), (1024, 16), (512, 8)])
def test_an_aspect_gives_a_size_that_shards_are_cut_to(size: int, multiple: int):
    given = {f"{across}:{down}" for across in range(1, 41) for down in range(1, 41) if 1 / 4 <= across / down <= 4}
    assert {pixels(None, size, multiple, aspect) for aspect in given} <= set(bucket_sizes(size))
