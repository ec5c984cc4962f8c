"""The watermark on generated scenes and textures: what it withstands, what it costs, and what is found where there is none."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from commonart.core.nano import scenes
from commonart.core.output import watermark


def scene(seed: int, size: int = 256) -> Image.Image:
    return Image.fromarray(scenes.render(scenes.random_scene(np.random.default_rng(seed)), size))


def texture(seed: int, size: tuple[int, int] = (320, 256)) -> Image.Image:
    """Soft noise of three widths, as busy as a photograph."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.normal(128, 40, (size[1] // n, size[0] // n)).clip(0, 255).astype("u1")).resize(size, 3))
        for n in (32, 16, 8)
    ]  # fmt: skip
    return Image.fromarray(np.mean(layers, 0).astype(np.uint8)).convert("RGB")


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image) -> Image.Image:
    """A tenth of both sides is cut off, at neither edge nor on a block of JPEG."""
    return image.crop((11, 7, 11 + round(image.width * 0.9), 7 + round(image.height * 0.9)))


def psnr(a: Image.Image, b: Image.Image) -> float:
    return 10 * math.log10(255**2 / ((np.asarray(a, float) - np.asarray(b, float)) ** 2).mean())


ATTACKS = {
    "none": lambda image: image,
    "jpeg": jpeg,
    "half": lambda image: image.resize((image.width // 2, image.height // 2)).resize(image.size),
    "small": lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10)),
    "crop": crop,
    "crop and jpeg": lambda image: jpeg(crop(image)),
    "mirror": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.fixture(scope="module")
def marked() -> list[tuple[Image.Image, Image.Image, np.ndarray]]:
    """(image, marked, its bits) of scenes, textures, and a scene of another size."""
    rng = np.random.default_rng(0)
    originals = [scene(1), scene(2), texture(3), texture(4), scene(5, 600)]
    bits = [rng.integers(0, 2, watermark.BITS).astype(bool) for _ in originals]
    return [(image, watermark.embed(image, each), each) for image, each in zip(originals, bits, strict=True)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_bits_survive(marked, attack):
    found = [watermark.detect(ATTACKS[attack](image), bits) for _, image, bits in marked]
    assert all(each.found for each in found)
    assert np.mean([each.matches for each in found]) / watermark.BITS >= (0.99 if attack == "none" else 0.95)


def test_the_mark_cannot_be_seen(marked):
    assert all(psnr(image, made) >= 40 and made.size == image.size for image, made, _ in marked)
    assert psnr(*marked[0][:2]) > 45, "what is easy to mark is marked weakly"


@pytest.mark.parametrize("color", ["black", "white", "#8003c9"])
def test_a_plain_picture_holds_it_too(color):
    made = watermark.embed(Image.new("RGB", (256, 256), color))
    assert watermark.detect(made).matches == watermark.BITS
    assert psnr(made, Image.new("RGB", (256, 256), color)) >= 40


def test_where_there_is_none_nothing_is_found(marked):
    unmarked = [scene(seed) for seed in range(100, 140)] + [texture(seed) for seed in range(10)]
    matches = np.array([watermark.detect(image).matches for image in unmarked])
    assert matches.max() < 38  # p = 3e-5
    assert abs(matches.mean() - 24) < 2  # 4 standard errors
    foreign = [watermark.detect(made) for _, made, _ in marked]  # other bits are not this project's
    assert not any(each.found for each in foreign)


def test_p_values_are_those_of_the_binomial():
    from scipy.stats import binom

    assert watermark.p_value(24) == pytest.approx(binom.sf(23, 48, 0.5))
    assert watermark.p_value(48) == 2.0**-48 and watermark.p_value(0) == 1
    assert watermark.p_value(41) < watermark.LIMIT < watermark.p_value(40)


def test_the_same_image_is_marked_alike_and_small_ones_are_not():
    image = scene(9)
    assert watermark.embed(image).tobytes() == watermark.embed(image).tobytes() != image.tobytes()
    small = scene(9, 255)
    assert watermark.embed(small) is small
    assert watermark.embed(image.convert("L")).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (256, 3000)])
def test_odd_sizes(size):
    assert not watermark.detect(Image.new("RGB", size)).found
    if min(size) >= watermark.SIDE:
        assert watermark.detect(watermark.embed(Image.new("RGB", size, "grey"))).found


def test_names_have_bits_of_their_own():
    one, two = watermark.payload(), watermark.payload("another")
    assert one.shape == (watermark.BITS,) and 12 < (one != two).sum() < 36
    assert np.packbits(one).tobytes().hex() == "55804a413fb3"  # never changes: marked images are out there
