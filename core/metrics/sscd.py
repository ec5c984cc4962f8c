"""SSCD, the descriptor for copies ("A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022, arXiv 2202.10261).

Its weights (MIT, as the code) lie on a server of their own and on no hub, so that the file is named and nothing is
downloaded: `sscd_disc_mixup.torchvision.pt`, recommended by its authors, or another `.torchvision.pt` of a ResNet-50. It is
read as tensors alone (`weights_only`), so that no code in it runs; `.torchscript.pt` is a program, and refused.

    commonart mia MODEL --judge sscd_disc_mixup.torchvision.pt

A ResNet whose last pooling is a generalised mean with p = 3, and whose classifier gives the descriptor. An image is
squeezed into 320 x 320 pixels. Of its authors' copies, pairs above 0.75 are copies with 90 % precision.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from commonart.core.errors import CommonArtError, UsageError, first_line
from commonart.core.metrics.clip_score import DualEncoder
from commonart.core.model.device import pick_device

SIDE, POWER = 320, 3.0
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENDING = ".torchvision.pt"


class GeneralizedMean(nn.Module):
    """Pool (B, C, H, W) into (B, C, 1, 1): the p-th root of the mean of p-th powers."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features."""
        return x.clamp(min=1e-6).pow(POWER).mean((2, 3), keepdim=True).pow(1 / POWER)


def load(path: str, *, device: str = "auto", flag: str = "--judge") -> DualEncoder:
    """Load a file of SSCD's weights as an encoder of images; it knows no texts.

    Raises:
        CommonArtError: the file is missing or damaged, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = _model(state)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
        EOFError,
    ) as error:
        raise CommonArtError(
            f"{flag} {path} holds no weights of SSCD that can be loaded ({first_line(error)}).",
            f"Name a file of its authors like sscd_disc_mixup{ENDING}.",
        ) from error
    on = pick_device(device)
    model.to(on).eval().requires_grad_(False)
    mean, deviation = (torch.tensor(values, device=on).view(3, 1, 1) for values in (MEAN, DEVIATION))

    def prepare(image: Image.Image) -> Tensor:
        from torchvision.transforms import functional

        return functional.to_tensor(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    def embed_pixels(pixels: Tensor) -> Tensor:
        features: Tensor = model((pixels.to(on) - mean) / deviation)
        return features

    def embed_texts(texts: list[str]) -> Tensor:
        raise UsageError(f"{flag} {path} encodes images and no texts.", "Name a CLIP model.")

    name = Path(path).name.removesuffix(ENDING)
    return DualEncoder(name, f"sha256:{digest}", prepare, embed_pixels, embed_texts)


def _model(state: Mapping[str, Tensor]) -> nn.Module:
    """Build the ResNet of bottlenecks that these weights belong to; its depth is read from their names."""
    from torchvision.models.resnet import Bottleneck, ResNet

    weights = {name.removeprefix("backbone."): value for name, value in state.items()}
    blocks = [{m[1] for name in weights if (m := re.match(rf"layer{stage}\.(\d+)\.", name))} for stage in (1, 2, 3, 4)]
    model = ResNet(Bottleneck, [len(found) for found in blocks], num_classes=len(weights["fc.bias"]))
    model.avgpool = GeneralizedMean()  # type: ignore[assignment]
    model.load_state_dict(weights)
    return model
