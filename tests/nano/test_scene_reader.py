"""The reader: what it measures from pixels is what was drawn, also after compression, noise and blur."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from commonart.core.nano.facts import Score
from commonart.core.nano.scene_reader import read, score, score_many
from commonart.core.nano.scenes import Pixels, Scene, Thing, random_scene, render

CHANGES: dict[str, tuple[int, Callable[[Pixels, np.random.Generator], Pixels], int, float]] = {
    # name -> (size, change, scenes, least share right)
    "plain":    (64, lambda image, rng: image, 1000, 0.995),
    "jpeg q90": (64, lambda image, rng: jpeg(image, 90), 200, 0.995),
    "noise":    (64, lambda image, rng: clip(image + rng.normal(0, 8, image.shape)), 200, 0.995),
    "blur":     (64, lambda image, rng: clip(ndimage.gaussian_filter(image.astype(float), (0.8, 0.8, 0))), 200, 0.995),
    "tint":     (64, lambda image, rng: clip(image * [0.95, 1.0, 1.04] + [4, -4, 3]), 200, 0.995),
    "256 px":   (256, lambda image, rng: image, 200, 0.995),
    "100 px":   (100, lambda image, rng: image, 200, 0.99),
    "48 px":    (48, lambda image, rng: image, 200, 0.99),
}  # fmt: skip


def clip(values: np.ndarray) -> Pixels:
    return np.clip(values, 0, 255).round().astype(np.uint8)


def jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


@pytest.mark.parametrize("name", CHANGES)
def test_the_reader_is_right(name: str) -> None:
    size, change, count, least = CHANGES[name]
    rng = np.random.default_rng(17)
    scenes = [random_scene(rng, heldout=i % 4 == 0, split=None) for i in range(count)]
    found = score_many((scene, change(render(scene, size), rng)) for scene in scenes)
    for fact in ("color", "shape", "background", "place", "size", "all"):
        assert found[fact] >= least, (fact, found)


def test_an_empty_scene_has_no_things() -> None:
    assert read(render(Scene("night sky", ()))) == Scene("night sky", ())


@pytest.mark.parametrize("image", [np.zeros((1, 1, 3), np.uint8), np.full((7, 900, 3), 128, np.uint8)])
def test_any_image_is_read(image: Pixels) -> None:
    assert read(image).background


def test_pure_noise_is_read() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert isinstance(read(noise), Scene)


def test_a_broken_thing_is_one_thing() -> None:
    scene = Scene("snow", (Thing("circle", "red", "large", "left"),))
    image = render(scene).copy()
    image[31:33] = render(Scene("snow", ()))[31:33]
    assert score(scene, image) == Score(True, True, True, True, True)


def test_specks_are_no_things() -> None:
    scene = Scene("sea", (Thing("star", "pink", "medium", "bottom"),))
    image = render(scene).copy()
    image[10:13, 10:13] = (200, 30, 30)
    assert read(image) == scene


LEFT, RIGHT = Thing("circle", "red", "small", "left"), Thing("star", "blue", "large", "right")


@pytest.mark.parametrize(
    ("expected", "shown", "result"),
    [
        ((LEFT, RIGHT), (RIGHT, LEFT), Score(True, True, True, True, True)),
        ((LEFT,), (LEFT, RIGHT), Score(False, False, True, False, False)),
        ((LEFT, RIGHT), (LEFT,), Score(False, False, True, False, False)),
        ((LEFT,), (Thing("circle", "green", "small", "left"),), Score(False, True, True, True, True)),
        ((LEFT,), (Thing("ring", "red", "small", "left"),), Score(True, False, True, True, True)),
        ((LEFT,), (Thing("circle", "red", "large", "top"),), Score(True, True, True, False, False)),
    ],
)
def test_scores(expected: tuple[Thing, ...], shown: tuple[Thing, ...], result: Score) -> None:
    assert score(Scene("desert", expected), render(Scene("desert", shown))) == result
    wrong = score(Scene("sea", expected), render(Scene("desert", shown)))
    assert not wrong.background and wrong.color == result.color


def test_pil_images_are_read_too() -> None:
    scene = Scene("grassland", (Thing("ring", "purple", "large", "top right"),))
    assert read(Image.fromarray(render(scene, 128)).convert("RGBA")) == scene


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4), (0, 64, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        read(np.zeros(shape, np.uint8))


def test_no_images_score_nothing() -> None:
    assert set(score_many([]).values()) == {0.0}
