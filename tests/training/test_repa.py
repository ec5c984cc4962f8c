"""Runs whose tokens are aligned with what a vision encoder sees: REPA on scenes, with the embedded encoders."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import dry_run, lines, refused, start, state
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model, SiglipImageProcessor

from commonart.core import recipes
from commonart.core.data.features.format import Features
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task
from commonart.core.data.training_index import read_index
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.autoencoder import Autoencoder
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.vision_encoder import VisionEncoder
from commonart.core.nano import grammar
from commonart.core.nano.scenes import random_scene, render
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model
from commonart.core.report import ledger
from commonart.core.settings import Settings
from commonart.core.training import checkpoint, cost
from commonart.core.training.ablation import Arm, Grid
from commonart.core.training.dataset import open_shards
from commonart.core.training.run import read
from commonart.stages import ablate, encode_image, encode_text

ALIGNED: dict[str, Any] = {
    "repa": 0.5, "repa_block": 1, "patch": 4, "resolution": 64, "batch": 4, "micro_batch": 4, "layers": 2, "steps": 4,
}  # fmt: skip
CPU = torch.device("cpu")


def write(folder: Path) -> Path:
    """12 scenes of 64 pixels in two shards, with a caption each."""
    rng = np.random.default_rng(0)
    for shard in range(2):
        with ShardWriter(folder / f"{shard:05d}.tar") as writer:
            for n in range(6):
                scene, file = random_scene(rng), io.BytesIO()
                Image.fromarray(render(scene)).save(file, "png")
                data = file.getvalue()
                said = [{"text": grammar.caption(scene, "en", rng), "lang": "en"}]
                about = {"key": f"s{shard}-{n}", "license": "CC0-1.0", "sha256": hashlib.sha256(data).hexdigest()}
                writer.add_record({**about, "width": 64, "height": 64, "split": "train", "captions": said}, data, "png")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("repa") / "shards")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with features."""
    folder = write(tmp_path_factory.mktemp("repa") / "cached")
    encode_text.encode_text(str(folder), model="nano", quiet=True)
    encode_image.encode_image(str(folder), model="nano", quiet=True)
    return folder


def nano() -> VisionEncoder:
    return VisionEncoder.load(hub.resolve_model(find_model("nano", "vision-tower")).folder, CPU)


def test_what_is_seen_is_in_the_places_of_the_tokens() -> None:
    """An image whose right half alone differs from another's: the patches of that half differ the most."""
    encoder = nano()
    plain, half = Image.new("RGB", (64, 48), "navy"), Image.new("RGB", (64, 48), "navy")
    half.paste("yellow", (32, 0, 64, 48))
    prepared = [encoder.prepare(image, 6, 8) for image in (plain, half)]
    assert prepared[0].shape == (3, 6 * encoder.patch, 8 * encoder.patch)
    seen = encoder.encode(prepared)
    assert seen.shape == (2, 48, encoder.width)
    far = (seen[0] - seen[1]).norm(dim=1).view(6, 8)
    assert float(far[:, 5:].mean()) > 2 * float(far[:, :3].mean())


@pytest.mark.parametrize("special", [1, 5])
def test_class_token_and_registers_are_no_patches(tmp_path: Path, special: int) -> None:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
    }
    torch.manual_seed(0)
    if special == 1:
        model: Any = CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=8))
    else:
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, patch_size=8, num_register_tokens=4))
    model.save_pretrained(tmp_path)
    SiglipImageProcessor().save_pretrained(tmp_path)
    encoder = VisionEncoder.load(tmp_path, CPU)
    prepared = encoder.prepare(Image.linear_gradient("L"), 4, 4)
    dtype = encoder.model.dtype  # bfloat16 where the CPU computes in it
    states = model.eval().to(dtype)(pixel_values=prepared[None].to(dtype)).last_hidden_state
    assert states.shape[1] == special + 16
    torch.testing.assert_close(encoder.encode([prepared]), states[:, special:])
    assert encoder.encode([encoder.prepare(Image.linear_gradient("L"), 2, 6)]).shape == (1, 12, 16)


def test_dinov2_interpolates_its_positions_by_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8)
    Dinov2Model(config).save_pretrained(tmp_path)
    SiglipImageProcessor().save_pretrained(tmp_path)
    encoder = VisionEncoder.load(tmp_path, CPU)
    assert encoder.encode([encoder.prepare(Image.new("RGB", (40, 40)), 5, 3)]).shape == (1, 15, 16)


def test_a_batch_brings_what_is_seen_beside_latents_cached_or_not(scenes: Path, cached: Path) -> None:
    text, vae = (hub.resolve_model(find_model("nano", role)).folder for role in ("text-encoder", "autoencoder"))
    encoder, rows = nano(), torch.arange(3).numpy()
    data = open_shards(
        scenes, TextEncoder.load(text, torch.float32), Autoencoder.load(vae), vision=(encoder, 4), quiet=True
    )
    assert data.source.vision_width == encoder.width == 96 and not data.resident
    live = data.source.batch(data.source.fetch(rows, rows), CPU)
    index = read_index(str(scenes))
    images = [Image.open(io.BytesIO(index.image(row))) for row in range(3)]
    expected = encoder.encode([encoder.prepare(image, 4, 4) for image in images])
    assert live.vision_BPO is not None
    torch.testing.assert_close(live.vision_BPO, expected)
    features = [Features(cached / "text")], [Features(cached / "image")]
    source = open_shards(cached, *features, vision=(encoder, 4), quiet=True).source
    torch.testing.assert_close(source.batch(source.fetch(rows, rows), CPU).vision_BPO, expected)


def test_it_is_minimized_resumes_and_leaves_no_trace_in_the_model(cached: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"vision_tower": "nano", "heldout_every": 0}
    start(cached, tmp_path / "whole", ALIGNED, **settings)
    start(cached, tmp_path / "parts", {**ALIGNED, "steps": 2}, **settings)
    start(cached, tmp_path / "parts", ALIGNED, **settings)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    start(cached, tmp_path / "small", {**ALIGNED, "micro_batch": 2}, **settings)
    for a, b in zip(lines(tmp_path / "small"), lines(tmp_path / "whole"), strict=True):
        assert a["alignment_loss"] == pytest.approx(b["alignment_loss"], rel=1e-3)
    found = checkpoint.newest(tmp_path / "whole")
    assert found is not None
    head = load_file(found.folder / "alignment.safetensors")
    assert [tuple(head[f"alignment.layers.{n}.weight"].shape) for n in range(3)][1:] == [(64, 64), (96, 64)]
    assert not any(name.startswith("alignment") for name in load_file(next(found.weights.glob("*.safetensors"))))
    tower = read(tmp_path / "whole")["vision_tower"]
    assert tower == {"name": "nano", "revision": hub.resolve_model(find_model("nano", "vision-tower")).revision}
    used = ledger.models_used(read(tmp_path / "whole"), [], None)
    assert [model.name for model in used if model.role == "vision tower"] == ["nano"]
    without = {**ALIGNED, "repa": 0.0, "steps": 2}
    start(cached, tmp_path / "after", without, init=str(tmp_path / "whole"), heldout_every=0)
    changed, what = {**ALIGNED, "repa": 0.25}, "repa=0.5, and now it is 0.25"
    refused(CommonArtError, 1, what, "", lambda: start(cached, tmp_path / "whole", changed, **settings))


@pytest.mark.parametrize(
    "more",
    [{"draws": 2}, {"mask": 0.5, "mask_after": 0, "mask_off": 0}, {"tread": 0.5, "tread_before": 0, "tread_off": 0}],
)
def test_with_other_switches_it_is_aligned_as_before(cached: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    start(cached, tmp_path / "run", {**ALIGNED, "lr": 1e-6, **more}, vision_tower="nano", heldout_every=0)
    (line, *_) = lines(tmp_path / "run")
    assert line["alignment_loss"] == pytest.approx(0.5, abs=0.1)


def test_it_learns(cached: Path, tmp_path: Path) -> None:
    more = {**ALIGNED, "steps": 300, "lr": 0.003, "warmup": 1}
    start(cached, tmp_path / "run", more, vision_tower="nano", log_every=1, heldout_every=0)
    found = [line["alignment_loss"] for line in lines(tmp_path / "run")]
    assert found[0] == pytest.approx(0.5, abs=0.1)  # half of 1: a new head looks in no direction
    assert sum(found[-5:]) / 5 < 0.3 * found[0]


def test_refusals(scenes: Path, tmp_path: Path) -> None:
    what = "repa=0.5 aligns the transformer with a vision encoder, and none is named"
    refused(UsageError, 2, what, "--vision-tower siglip", lambda: start(scenes, tmp_path, ALIGNED))
    refused(UsageError, 2, "--vision-tower does not apply", "", lambda: start(scenes, tmp_path, vision_tower="nano"))
    both = {"repa": 1, "repa_block": 1, "sra": 1, "sra_block": 1}
    refused(UsageError, 2, "repa must be 0 where sra is on", "", lambda: recipes.resolve("nano", both))
    refused(UsageError, 2, "repa_block must be from 1 to 6", "", lambda: recipes.resolve("nano", {"repa": 1}))
    text = str(hub.resolve_model(find_model("nano", "text-encoder")).folder)
    what = "text_encoder cannot be loaded: a llama model has no patches of one size"
    refused(CommonArtError, 1, what, "", lambda: start(scenes, tmp_path / "run", ALIGNED, vision_tower=text))


def test_the_plan_counts_encoder_and_head() -> None:
    tower = str(hub.resolve_model(find_model("nano", "vision-tower")).folder)
    plain, with_repa = (
        dry_run("nano", data="nowhere/", overrides={"patch": 4, **more}, **settings)
        for more, settings in (({}, {}), ({"repa": 0.5, "repa_block": 1}, {"vision_tower": tower}))
    )
    # By hand: 16 patches through four blocks of 96 channels, whose feed-forward has 256.
    assert with_repa["flops_per_image_vision_tower"] == 2 * 16 * 4 * (4 * 96 * 96 + 2 * 96 * 256)
    wide = 4 * 144
    head = 144 * wide + wide + wide * wide + wide + wide * cost.VISION_CHANNELS + cost.VISION_CHANNELS
    assert with_repa["flops_per_image_forward"] - plain["flops_per_image_forward"] == 2 * 16 * head


def test_arms_with_and_without_it_are_compared(cached: Path, tmp_path: Path) -> None:
    own = {name: value for name, value in ALIGNED.items() if name != "steps"}
    arms = (Arm("repa", own), Arm("none", {**own, "repa": 0}))
    grid = Grid("nano", arms, (0,), 0.0, 2, 0, "none", "nano")
    settings = Settings("nano", data=str(cached), device="cpu", precision="fp32", quiet=True)
    assert ablate.run(grid, str(tmp_path), settings, Task(0, 1)).written == 2
    towers = [read(tmp_path / arm.name / "seed-0").get("vision_tower") for arm in arms]
    assert towers[0]["name"] == "nano" and towers[1] is None
    other = dataclasses.replace(grid, vision_tower="siglip")
    what = "holds a trial with vision_tower nano, and the grid says siglip"
    refused(CommonArtError, 1, what, "", lambda: ablate.run(other, str(tmp_path), settings, Task(0, 1)))
