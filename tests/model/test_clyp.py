"""clip-japanese-base without its own code: tiny weights of the published names, against the figures of that code.

Those were computed once by what LY Corporation's `modeling_clyp.py`, `tokenization_clyp.py` and `image_processing_clyp.py`
do, construct by construct (timm 1.0.9, transformers 4.44.2 with its T5Tokenizer in lower case, torchvision's transforms).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_clyp
from hub_server import HubServer
from PIL import Image
from safetensors.torch import load, save

from commonart.core.errors import CommonArtError
from commonart.core.metrics.clip_score import DualEncoder

NAME = "clip-japanese-base"
TEXTS = ["赤い丸と青い四角", "A Red Circle", "雪" * 30]  # plain, in capitals, too long
# The first four of the sixteen features that the original computes.
IMAGES_THERE = [[0.77932, -0.69873, -0.35324, -0.36741], [1.76466, -0.13160, -0.44093, -0.84232],
                [2.11541, -1.66751, 0.63948, -0.35154]]  # fmt: skip
TEXTS_THERE = [[-1.39459, -1.42265, 0.37842, -0.68909], [-1.39950, -1.20616, 0.37709, -0.45214],
               [-1.74663, -1.39197, 0.42058, -0.29147]]  # fmt: skip


def pictures() -> list[Image.Image]:
    """Upright, on its side and larger than the model's size, and square: 20x32, 40x64 and 32x32 pixels."""
    sizes = ((20, 32), (64, 40), (32, 32))
    ramps = [np.indices(size).sum(0)[..., None] * np.array([3, 5, 7]) % 256 for size in sizes]
    return [Image.fromarray(ramp.astype(np.uint8)) for ramp in ramps]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with HubServer() as running:
        for name, files in tiny_clyp.repositories(tmp_path / "made").items():
            running.add(name, files)
        yield running.take_over(monkeypatch, tmp_path / "home")


def test_features_are_those_of_the_original_code(hub):
    encoder = DualEncoder.load(NAME, device="cpu")
    for found, there in (
        (encoder.embed_pixels(_stack(encoder, pictures())), IMAGES_THERE),
        (encoder.embed_texts(TEXTS), TEXTS_THERE),
    ):
        assert found.shape == (3, 16) and np.allclose(found.detach().numpy()[:, :4], there, atol=2e-5)
    assert encoder.encode_texts(["A RED CIRCLE"]) == pytest.approx(encoder.encode_texts(["a red circle"]))


def test_nothing_but_weights_and_settings_is_downloaded(hub):
    encoder = DualEncoder.load(NAME, device="cpu")
    assert not any(name.endswith(".py") for name in hub.fetched())
    assert encoder.revision == "+".join(hub.repos[name].sha for name in (
        "line-corporation/clip-japanese-base", "rinna/japanese-clip-vit-b-16", "rinna/japanese-roberta-base",
    ))  # fmt: skip
    hub.broken = True  # a second time, the cache is enough
    assert np.array_equal(DualEncoder.load(NAME, device="cpu").encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_texts_of_one_batch_do_not_change_one_another(hub):
    encoder = DualEncoder.load(NAME, device="cpu")
    assert encoder.encode_texts(TEXTS, batch=1) == pytest.approx(encoder.encode_texts(TEXTS), abs=1e-6)


def test_another_repository_that_is_missing_is_named(hub):
    del hub.repos["rinna/japanese-roberta-base"]
    with pytest.raises(CommonArtError, match="japanese-roberta-base") as error:
        DualEncoder.load(NAME, device="cpu")
    assert "hf download rinna/japanese-roberta-base spiece.model" in error.value.fix


def test_weights_of_another_layout(hub):
    files = dict(hub.repos["line-corporation/clip-japanese-base"].files)
    weights = load(files["model.safetensors"])
    del weights["text_encoder.neck.linear.weight"]
    hub.add("line-corporation/clip-japanese-base", {**files, "model.safetensors": save(weights)})
    with pytest.raises(CommonArtError, match="does not hold the weights of a CLYPModel"):
        DualEncoder.load(NAME, device="cpu")


def _stack(encoder: DualEncoder, images: list[Image.Image]):
    import torch

    return torch.stack([encoder.prepare(image) for image in images])
