"""The grids that training samples carry the marks of whatever a model made, and its scores are of the images without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from commonart.core.output import c2pa, metadata, watermark
from commonart.core.training import preview
from commonart.core.training.preview import Preview

SIDE = 256


class Decoder:
    """An autoencoder that decodes whatever it gets into one soft texture."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        noise = np.random.default_rng(0).normal(size=(SIDE, SIDE, 3))
        soft = gaussian_filter(noise, (3, 3, 0))
        image = torch.from_numpy((soft / soft.std() / 4).clip(-1, 1)).permute(2, 0, 1)
        return image.expand(len(latents), -1, -1, -1)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Preview, list[Image.Image]]:
    scored: list[Image.Image] = []

    def scorer(images: Sequence[Image.Image]) -> dict[str, float]:
        scored.extend(images)
        return {"score": 1.0}

    recipe = SimpleNamespace(objective="flow", flow_shift=1.0)
    settings = cast(Any, SimpleNamespace(run=tmp_path / "run", guidance=4.5, recipe=recipe))
    text_encoder = cast(
        Any, SimpleNamespace(encode=lambda prompts: [torch.zeros(1, 2)] * len(prompts), null=lambda: torch.zeros(1, 2))
    )
    monkeypatch.setattr(Preview, "latents", lambda self, model, first: torch.zeros(len(self.prompts), 4, 8, 8))
    return Preview(
        ["a", "b"], settings, text_encoder, cast(Any, Decoder()), (4, 8, 8), torch.float32, scorer, 1
    ), scored


def test_a_grid_is_signed_and_its_images_hold_the_watermark(
    made: tuple[Preview, list[Image.Image]], tmp_path: Path
) -> None:
    sample, scored = made
    assert sample(cast(Any, None), 7) == {"score": 1.0}
    path = tmp_path / "run" / "samples" / "step-0000007.png"
    said = c2pa.read(path)
    assert said is not None and said["state"] == "Trusted"
    assert metadata.read(path).synthetic and (metadata.settings_of(path) or {})["prompts"] == ["a"]
    margin = preview.contact_sheet.MARGIN
    with Image.open(path) as sheet:
        shown = sheet.convert("RGB").crop((margin, margin, margin + SIDE, margin + SIDE))
    assert watermark.detect(shown).found
    assert len(scored) == 2 and not any(watermark.detect(image).found for image in scored)


def test_a_key_that_cannot_be_made_ends_no_training(
    made: tuple[Preview, list[Image.Image]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert made[0](cast(Any, None), 7) == {"score": 1.0}
    assert "an image is not signed: " in capsys.readouterr().err
    assert c2pa.read(tmp_path / "run" / "samples" / "step-0000007.png") is None
