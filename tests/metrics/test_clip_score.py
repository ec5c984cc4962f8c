"""CLIP scores: the formula, both formats of encoders, and the traps that only warn elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_encoders
from PIL import Image
from tiny_clip import open_clip_folder, transformers_folder

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics import clip_score
from commonart.core.metrics.clip_score import DualEncoder
from commonart.core.registry import hub, lookup

PICTURES = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "white")]
TEXTS = ["a red picture", "青い絵", "white"]


@pytest.fixture(scope="module", params=[open_clip_folder, transformers_folder], ids=["open_clip", "transformers"])
def encoder(request, tmp_path_factory) -> DualEncoder:
    return DualEncoder.load(str(request.param(tmp_path_factory.mktemp("clip") / "tiny")), device="cpu")


def test_features_are_unit_vectors_and_do_not_depend_on_batches(encoder):
    images, texts = encoder.encode_images(PICTURES), encoder.encode_texts(TEXTS)
    assert images.shape == texts.shape == (3, 16)
    assert np.allclose(np.linalg.norm(images, axis=1), 1) and np.allclose(np.linalg.norm(texts, axis=1), 1)
    assert np.allclose(images, encoder.encode_images(iter(PICTURES), batch=1), atol=1e-5)
    assert np.allclose(texts, encoder.encode_texts(iter(TEXTS), batch=2), atol=1e-5)
    assert encoder.revision.startswith("sha256:")


def test_a_long_text_is_cut(encoder):
    assert encoder.encode_texts(["long " * 100]).shape == (1, 16)


def test_the_two_conventions(encoder):
    images = encoder.encode_images(PICTURES)
    for convention, weight, prefix in (("paper", 100, ""), ("hessel", 2.5, "A photo depicts ")):
        assert clip_score.convention_of(convention) == (weight, prefix)
        texts = encoder.encode_texts([prefix + text for text in TEXTS])
        expected = weight * np.maximum(np.sum(images * texts, axis=1), 0)
        assert np.allclose(clip_score.scores(images, texts, convention), expected)


def test_a_negative_cosine_scores_zero():
    one = np.array([[1.0, 0.0]])
    assert clip_score.scores(one, -one)[0] == 0 and clip_score.scores(one, one)[0] == 100


def test_bad_calls(encoder):
    with pytest.raises(UsageError, match="--clip-mode other is not a mode"):
        clip_score.convention_of("other")
    with pytest.raises(ValueError):
        clip_score.scores(encoder.encode_images(PICTURES), encoder.encode_texts(TEXTS[:2]))
    with pytest.raises(ValueError):
        encoder.encode_images([])


def test_openai_weights_without_quick_gelu_are_an_error(tmp_path, monkeypatch):
    for quick in (True, False):
        folder = open_clip_folder(tmp_path / str(quick), quick_gelu=quick)
        monkeypatch.setattr(
            hub, "resolve_model", lambda model, folder=folder: hub.ResolvedModel(folder, "c" * 40, model.name, model)
        )
        if quick:
            assert DualEncoder.load("clip-vit-b32", device="cpu").name == "clip-vit-b32"
        else:
            with pytest.raises(CommonArtError, match="QuickGELU"):
                DualEncoder.load("clip-vit-b32", device="cpu")


def test_weights_in_half_precision_alone(tmp_path):
    folder = transformers_folder(tmp_path)
    whole = DualEncoder.load(str(folder), device="cpu").encode_texts(["a"])
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert np.array_equal(DualEncoder.load(str(folder), device="cpu").encode_texts(["a"]), whole)


def test_remote_code_needs_trust_and_a_commit(monkeypatch):
    row = dataclasses.replace(lookup.find_model("clip-vit-b32", "clip"), name="theirs", remote_code=True)
    monkeypatch.setattr(lookup, "find_model", lambda *_: row)
    with pytest.raises(UsageError, match="not trusted"):
        DualEncoder.load("theirs")
    with pytest.raises(UsageError, match="needs a commit"):
        DualEncoder.load("theirs", trust_remote_code=True)


def test_what_is_no_dual_encoder(tmp_path):
    tiny_encoders.llama(tmp_path / "llama")
    with pytest.raises(CommonArtError, match="no dual encoder"):
        DualEncoder.load(str(tmp_path / "llama"), device="cpu")
    with pytest.raises(UsageError, match="not a clip model"):
        DualEncoder.load("no-such-model")
    assert {"nano", "clip-vit-b32", "clip-japanese-base"} <= set(lookup.model_names("clip"))
