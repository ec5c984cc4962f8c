"""SSCD's published layout: what is read of it, what is computed, and that no code in a file runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models.resnet import Bottleneck, ResNet

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics import sscd


@pytest.fixture(scope="module")
def backbone() -> ResNet:
    """The real class, with one block a stage and a descriptor of 8 numbers."""
    torch.manual_seed(0)
    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=8).eval()


@pytest.fixture(scope="module")
def file(backbone, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("sscd") / "sscd_disc_tiny.torchvision.pt"
    torch.save({f"backbone.{name}": value for name, value in backbone.state_dict().items()}, path)
    return str(path)


def test_the_descriptor_is_the_authors(backbone, file):
    """As their README prepares images, and their model pools: the cube root of the mean of cubes."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    prepare = transforms.Compose([
        transforms.Resize([320, 320]), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    seen = {}
    backbone.layer4.register_forward_hook(lambda module, given, made: seen.update(made=made))
    with torch.no_grad():
        backbone(prepare(image)[None])
        pooled = seen["made"].flatten(2).clamp(min=1e-6).pow(3).mean(2).pow(1 / 3)
        expected = torch.nn.functional.normalize(backbone.fc(pooled))
    encoder = sscd.load(file, device="cpu")
    np.testing.assert_allclose(encoder.encode_images([image]), expected.numpy(), atol=1e-5)
    assert encoder.name == "sscd_disc_tiny" and encoder.revision.startswith("sha256:")
    with pytest.raises(UsageError, match="encodes images and no texts"):
        encoder.encode_texts(["a"])


class Bomb:
    def __reduce__(self):
        return Path("exploded").touch, ()


def test_other_files_are_refused_and_none_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"backbone.fc.bias": Bomb()}, "bomb.torchvision.pt")
    torch.save({"fc.bias": torch.zeros(3)}, "other.torchvision.pt")
    Path("text.torchvision.pt").write_text("no weights")
    Path("empty.torchvision.pt").touch()
    for name in ("bomb", "other", "text", "empty", "missing"):
        with pytest.raises(CommonArtError, match=rf"--judge {name}\.torchvision\.pt holds no weights of SSCD"):
            sscd.load(f"{name}.torchvision.pt", device="cpu")
    assert not Path("exploded").exists()
