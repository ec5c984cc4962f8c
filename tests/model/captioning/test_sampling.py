"""Captions at a temperature: drawn from the model's probabilities, and the same for an image in every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language_models as tiny
import torch
from PIL import Image

from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.sampling import NUCLEUS, TOP, Sampling, seed_of


def drawn(logits: list[float], temperature: float, count: int = 4000) -> np.ndarray:
    """Return how often each token is drawn, in one batch of `count` rows."""
    sampling = Sampling(temperature, range(count), skip=3)
    scores = sampling(torch.zeros(count, 5, dtype=torch.long), torch.tensor(logits).expand(count, -1))
    assert (scores.isfinite().sum(1) == 1).all(), "one token is left of each row"
    return np.bincount(scores.argmax(1).numpy(), minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_nucleus_as_often_as_they_are_likely(temperature: float) -> None:
    logits = [0.0, 1.0, 2.0, -6.0, 1.5]
    likely = np.exp(np.array(logits) / temperature)
    likely /= likely.sum()
    order = np.argsort(-likely)
    kept = order[np.cumsum(likely[order]) - likely[order] < NUCLEUS]
    expected = np.zeros(len(logits))
    expected[kept] = likely[kept] / likely[kept].sum()
    assert 1 < len(kept) < len(logits)
    np.testing.assert_allclose(drawn(logits, temperature), expected, atol=0.025)  # three errors of 4,000 draws


def test_what_is_certain_stays_and_the_tail_is_never_drawn() -> None:
    assert drawn([5.0, 0.0, 0.0], 1.0)[0] == 1.0
    flat = drawn([0.0] * 80, 1.0)
    assert 1 < (flat > 0).sum() <= TOP


def test_a_draw_depends_on_its_own_seed_and_step_alone() -> None:
    scores = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(6, 7, dtype=torch.long)
    seeds = [seed_of(0, "nano", f"key {n}") for n in range(6)]
    together = Sampling(1.0, seeds)(ids, scores.clone()).argmax(1)
    for row in range(6):
        assert Sampling(1.0, [seeds[row]])(ids[:1], scores[row : row + 1].clone()).argmax(1) == together[row]
    some = Sampling(1.0, seeds).of([4, 1])(ids[:2], scores[[4, 1]].clone()).argmax(1)
    assert some.tolist() == together[[4, 1]].tolist()
    longer = [Sampling(1.0, seeds)(torch.zeros(6, n, dtype=torch.long), scores.clone()).argmax(1) for n in range(8, 20)]
    assert any((later != together).any() for later in longer)
    # Prompts of another length do not change what is drawn.
    assert (
        Sampling(1.0, seeds, skip=5)(torch.zeros(6, 12, dtype=torch.long), scores.clone()).argmax(1) == together
    ).all()


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("name", ["florence2", "qwen2-vl"])
def test_captions_vary_and_do_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    """An encoder-decoder and a decoder, whose batch is halved when half of its texts have ended."""
    folder = tiny.CAPTIONERS[name](tmp_path / name)

    def captions(keys: list[str], images: list[Image.Image], **options: Any) -> list[str]:
        captioner = Captioner.open(str(folder), precision="fp32", **{"max_new_tokens": 24, **options})
        captioner.loaded.model.double()
        captioner.loaded.dtype = torch.float64
        answers = captioner.caption(images, captioner.model.prompts[0].texts[0], keys=keys)
        assert all(isinstance(answer, Generated) for answer in answers)
        return [answer.text for answer in answers if isinstance(answer, Generated)]

    images, keys = pictures(9), [f"image {n}" for n in range(9)]
    together = captions(keys, images, temperature=1.0)
    assert len(set(together)) == 9
    assert captions(keys[:2], images[:2], temperature=1.0) == together[:2]
    assert captions(keys[::-1], images[::-1], temperature=1.0) == together[::-1]
    assert captions(["another"], images[:1], temperature=1.0) != together[:1]
    assert captions(keys[:1], images[:1], temperature=1.0, seed=1) != together[:1]
    assert captions(keys[:2], images[:2]) == captions(["a", "b"], images[:2])  # the likeliest text has no seed
