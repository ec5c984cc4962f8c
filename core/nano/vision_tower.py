"""The nano vision tower: a SigLIP image encoder that knows what stands where in a scene.

    commonart nano build -o weights/ --only vision_tower

The towers of the large captioners come trained on images and texts; this one is trained to tell the background and what is
at each of the nine places. The head that is asked is discarded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from commonart.core.nano.captioner import GridHead
from commonart.core.nano.text_encoder import scene_labels
from commonart.core.nano.training import Log, SceneImages, hidden_matrices, images, optimize, unseen

WIDTH, BATCH = 96, 32


def new() -> SiglipVisionModel:
    """Make an untrained tower: 64 patches of 8 x 8 pixels."""
    config = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8,
        vision_use_head=False,
    )  # fmt: skip
    return SiglipVisionModel(config)


def features(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the layer that captioners read, with its mean in front: [B, 1 + 64, WIDTH]."""
    states = tower(pixels, output_hidden_states=True).hidden_states[-1]
    return torch.cat([states.mean(1, keepdim=True), states], 1)


def train(seed: int, say: Log, steps: int = 1500, scenes: int = 20_000) -> SiglipVisionModel:
    """Train the tower."""
    torch.manual_seed(seed)
    source = SceneImages(scenes, seed).batches(BATCH)
    test = unseen(500, seed + 10_000)
    model, head = new(), GridHead(WIDTH)

    def loss() -> Tensor:
        batch_scenes, x = next(source)
        return head(features(model, x), scene_labels(batch_scenes))

    def check(average: nn.Module) -> str:
        return f"places right {places_right(average, head, test):.3f}"

    return optimize(
        "vision_tower", model, loss, check, say, steps=steps, lr=4e-3, check_every=500, extra=head,
        matrices=hidden_matrices(model),
    )  # fmt: skip


@torch.no_grad()
def places_right(tower: nn.Module, head: GridHead, test: SceneImages) -> float:
    """Return the share of scenes of which the head names every color, shape and place."""
    labels = scene_labels(test.scenes)
    color, shape, _ = head.things(features(tower, images(test.pixels)))
    right = (color.argmax(-1) == labels[:, 1:10]) & (shape.argmax(-1) == labels[:, 10:19])
    return right.all(1).float().mean().item()


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the tower and write it to `folder`; `short`: a few steps, to test the code."""
    model = train(seed, say, **({"steps": 5, "scenes": 200} if short else {}))
    model.half().save_pretrained(folder / "vision_tower")
    SiglipImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "vision_tower")
