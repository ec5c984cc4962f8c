"""The scorer of training's sample grid: images that fit their prompts score higher, fact by fact."""

from __future__ import annotations

import pytest
from PIL import Image

from commonart.core.errors import UsageError
from commonart.core.metrics.prompt_following import open_scorer
from commonart.core.nano import grammar
from commonart.core.nano.scenes import render

KINDS = ("color", "shape", "background", "place")


def test_right_pictures_and_those_of_other_prompts() -> None:
    pairs = [pair for lang in ("en", "ja") for pair in grammar.eval_prompts(12, lang, 3)]
    pictures = [Image.fromarray(render(scene, 64)) for scene, _ in pairs]
    score = open_scorer("nano", [text for _, text in pairs])
    right, wrong = score(pictures), score([*pictures[1:12], pictures[0], *pictures[13:], pictures[12]])
    for lang in ("en", "ja"):
        assert all(right[f"{kind}_{lang}"] == 1.0 for kind in KINDS)
        assert all(wrong[f"{kind}_{lang}"] < 0.7 for kind in KINDS)
        assert right[f"clip_{lang}"] > wrong[f"clip_{lang}"] + 10


def test_what_a_prompt_does_not_tell_is_not_counted() -> None:
    blank = Image.new("RGB", (64, 64), "white")
    assert set(open_scorer("nano", ["a red circle"])([blank])) == {"clip_en", "color_en", "shape_en"}
    assert set(open_scorer("nano", ["a zebra"])([blank])) == {"clip_en"}


def test_an_unknown_model() -> None:
    with pytest.raises(UsageError, match="nowhere"):
        open_scorer("nowhere", ["a zebra"])
