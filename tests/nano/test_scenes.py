"""The embedded scenes: pixels that never change, colours that stay apart, things that never touch."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations

import numpy as np
import pytest

from commonart.core.nano.scene_reader import lab
from commonart.core.nano.scenes import (
    BACKGROUND_RGB,
    BACKGROUNDS,
    COLOR_RGB,
    COLORS,
    HELDOUT_PAIRS,
    PLACES,
    SHAPES,
    SIZE_RADIUS,
    SIZES,
    Scene,
    Thing,
    apart,
    coverage,
    in_order,
    random_scene,
    render,
    scene_from_json,
    scene_to_json,
    split_of,
)

ALL_THINGS = [Thing(shape, color, size, place) for shape in SHAPES for color, size, place in zip(
    COLORS, [*SIZES, *SIZES, *SIZES], PLACES, strict=False)]  # fmt: skip


def drawn(n: int, seed: int = 0, **options: object) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **options) for _ in range(n)]  # type: ignore[arg-type]


def test_there_is_as_much_as_promised() -> None:
    assert (len(COLORS), len(SHAPES), len(SIZES), len(BACKGROUNDS), len(PLACES)) == (8, 6, 3, 5, 9)


def test_colours_are_far_from_each_other_and_from_every_background() -> None:
    colors = {name: lab(rgb) for name, rgb in COLOR_RGB.items()}
    for a, b in combinations(COLORS, 2):
        assert np.linalg.norm(colors[a] - colors[b]) > 40, (a, b)
    for background, ends in BACKGROUND_RGB.items():
        for end in ends:
            for name, value in colors.items():
                assert np.linalg.norm(value - lab(end)) > 35, (name, background)
    middles = {name: lab(np.mean(ends, axis=0)) for name, ends in BACKGROUND_RGB.items()}
    for a, b in combinations(BACKGROUNDS, 2):
        assert np.linalg.norm(middles[a] - middles[b]) > 20, (a, b)


def test_pixels_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for background in BACKGROUNDS:
        for thing in ALL_THINGS:
            digest.update(render(Scene(background, (thing,))).tobytes())
    digest.update(render(Scene("sea", (ALL_THINGS[7], ALL_THINGS[20])), 100).tobytes())
    assert digest.hexdigest() == "72983ccc4a6eed8ca47d0790ac61a0d13c506851738320133aa18a926217e616"


def test_draws_are_the_same_everywhere() -> None:
    text = json.dumps([scene_to_json(scene) for scene in drawn(200)])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "91082974e77d187565034b14e53bf8f81d39f7b23b51fdd86a09daed8b96ea4f"
    )


@pytest.mark.parametrize("size", [16, 64, 65, 256])
def test_any_size_shows_the_same_scene(size: int) -> None:
    scene = Scene("snow", (Thing("circle", "red", "large", "top left"), Thing("ring", "blue", "small", "bottom")))
    image = render(scene, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    red = (np.abs(image.astype(int) - COLOR_RGB["red"]).sum(axis=-1) < 40).mean()
    assert red == pytest.approx(np.pi * (24 / 128) ** 2, rel=0.12 if size > 16 else 0.4)


def test_edges_are_smooth() -> None:
    alpha = coverage("circle", 24)
    assert 0 < ((alpha > 0) & (alpha < 255)).sum() < alpha.size / 4
    assert alpha.sum() / 255 == pytest.approx(np.pi * 12**2, rel=0.002)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_things_are_inside_at_every_place(shape: str, size: str) -> None:
    for place in PLACES:
        image = render(Scene("snow", (Thing(shape, "purple", size, place),))).astype(int)
        bare = render(Scene("snow", ())).astype(int)
        changed = (image != bare).any(axis=-1)
        share = np.abs(image - bare).sum() / np.abs(bare - COLOR_RGB["purple"]).sum()
        assert not changed[[0, -1]].any() and not changed[:, [0, -1]].any()
        assert share == pytest.approx(coverage(shape, SIZE_RADIUS[size]).sum() / 255 / 64**2, rel=0.05)


def test_things_never_touch() -> None:
    for scene in drawn(1500) + drawn(500, heldout=True):
        masks = [(render(Scene("snow", (t,))) != render(Scene("snow", ()))).any(axis=-1) for t in scene.things]
        assert all(apart(a, b) for a, b in combinations(scene.things, 2))
        for a, b in combinations(masks, 2):
            spread = np.argwhere(a)[:, None] - np.argwhere(b)[None]
            assert np.sqrt((spread**2).sum(axis=-1)).min() >= 4


def test_draws_have_the_promised_mix() -> None:
    scenes = drawn(6000)
    counts = np.bincount([len(scene.things) for scene in scenes], minlength=4) / len(scenes)
    assert counts[1:] == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    assert all(scene == in_order(scene) for scene in scenes)
    one = [scene.things[0] for scene in scenes if len(scene.things) == 1]
    for field, names in (("shape", SHAPES), ("color", COLORS), ("size", SIZES), ("place", PLACES)):
        share = [sum(getattr(thing, field) == name for thing in one) / len(one) for name in names]
        assert min(share) > 0.6 / len(names) and max(share) < 1.5 / len(names)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_heldout_pairs_are_held_out() -> None:
    assert len(HELDOUT_PAIRS) == 6
    assert len({color for color, _ in HELDOUT_PAIRS}) == len({shape for _, shape in HELDOUT_PAIRS}) == 6

    def heldout(scene: Scene) -> int:
        return sum((thing.color, thing.shape) in HELDOUT_PAIRS for thing in scene.things)

    for split in ("train", "heldout-scene", None):
        assert not any(heldout(scene) for scene in drawn(1000, split=split))
    assert all(heldout(scene) for scene in drawn(500, heldout=True))


def test_one_scene_in_ten_is_reserved_and_sizes_do_not_matter() -> None:
    assert {split_of(scene) for scene in drawn(1000)} == {"train"}
    assert {split_of(scene) for scene in drawn(300, split="heldout-scene")} == {"heldout-scene"}
    both = drawn(3000, split=None)
    assert np.mean([split_of(scene) == "heldout-scene" for scene in both]) == pytest.approx(0.1, abs=0.03)
    for scene in both[:200]:
        other = Scene(scene.background, tuple(Thing(t.shape, t.color, "small", t.place) for t in scene.things[::-1]))
        assert split_of(other) == split_of(scene)


def test_scenes_survive_json() -> None:
    for scene in drawn(200):
        assert scene_from_json(json.loads(json.dumps(scene_to_json(scene)))) == scene


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"background": "moon", "things": []},
        {"background": "sea", "things": [{"shape": "circle"}]},
        {"background": "sea", "things": [{"shape": "blob", "color": "red", "size": "small", "place": "top"}]},
        {"background": "sea", "things": 3},
        "[1, 2]",
    ],
)
def test_what_is_no_scene_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        scene_from_json(value)  # type: ignore[arg-type]


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="blob"):
        coverage("blob", 14)
