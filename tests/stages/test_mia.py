"""Membership inference finds all in a model that memorised, and nothing in one that never saw the pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_pipeline
import torch
from PIL import Image

from commonart.core.audit import attacks
from commonart.core.audit.attacks import ATTACKS, Denoiser
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics import roc
from commonart.core.model import diffusion
from commonart.core.output import metadata
from commonart.stages.mia import run as run_mia
from commonart.stages.mia import table, verdict

SHAPE = (4, 8, 8)


def memoriser(pictures: torch.Tensor, objective) -> Denoiser:
    """The ideal denoiser of a training set: the mean of its pictures, weighed by how likely each became x_t."""

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        schedule = diffusion.schedule(x.device)
        signal = 1 - t / 1000 if objective == "flow" else float(schedule.signal[t])
        deviation = max(t / 1000 if objective == "flow" else float(schedule.noise[t]), 1e-3)
        distance = torch.cdist(x.flatten(1), signal * pictures.flatten(1)).square() / (2 * deviation**2)
        data = (torch.softmax(-distance, dim=1) @ pictures.flatten(1)).view_as(x)
        noise = (x - signal * data) / deviation
        return noise - data if objective == "flow" else noise

    return Denoiser(predict, objective)


@pytest.mark.parametrize("objective", ["eps", "flow"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_finds_the_members_of_a_model_that_memorised(attack, objective):
    torch.manual_seed(0)
    members, others = torch.randn(24, *SHAPE), torch.randn(24, *SHAPE)
    model = memoriser(members, objective)
    ignorant = memoriser(torch.zeros(1, *SHAPE), objective)
    options = {"times": attacks.even_times(5), "draws": 2, "seed": 0}
    inside = attacks.scores(attack, model, ignorant, members, **options)
    outside = attacks.scores(attack, model, ignorant, others, **options)
    assert roc.auc(roc.curve(inside, outside)) > 0.95
    strangers = attacks.scores(attack, model, ignorant, torch.randn(24, *SHAPE), **options)
    assert 0.2 < roc.auc(roc.curve(strangers, outside)) < 0.8, "two groups that it never saw look alike"


@pytest.mark.parametrize("objective", ["eps", "flow"])
def test_scores_do_not_depend_on_the_batch(objective):
    torch.manual_seed(0)
    pictures = torch.randn(6, *SHAPE)
    model = memoriser(pictures[:3], objective)
    for attack in ATTACKS:
        options = {"times": [100, 700], "draws": 2, "seed": 3}
        whole = attacks.scores(attack, model, model, pictures, **options)
        parts = [attacks.scores(attack, model, model, part, **options) for part in pictures.split(2)]
        assert np.allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_the_loss_attack_is_the_training_loss_without_its_variance_term():
    from commonart.core.model import diffusion

    torch.manual_seed(0)
    pictures = torch.randn(3, *SHAPE)
    model = memoriser(torch.randn(2, *SHAPE), "flow")
    score = attacks.scores("loss", model, model, pictures, times=[300], draws=1, seed=9)
    noise = attacks.noise_for([9], SHAPE).expand_as(pictures)
    loss, _ = diffusion.loss(
        lambda x, t, text, mask: model.predict(x, int(t[0])), pictures, torch.zeros(3, 1, 1), None, "flow",
        noise_BCHW=noise, time_B=torch.full((3,), 0.3),
    )  # fmt: skip
    assert np.allclose(-score, loss.numpy(), rtol=1e-4)


def test_a_step_forth_and_back_returns_when_the_prediction_is_constant():
    for objective in ("eps", "flow"):
        model = Denoiser(lambda x, t: torch.full_like(x, 0.3), objective)
        x = torch.randn(2, *SHAPE)
        assert torch.allclose(model.step(model.step(x, 100, 110), 110, 100), x, atol=1e-5)


def test_verdicts():
    def report(low, high):
        return {"auc": {"low": low, "high": high}}

    assert verdict(report(0.6, 0.8), report(0.4, 0.6)) == "leaks"
    assert verdict(report(0.45, 0.55), report(0.4, 0.6)) == "no leak found"
    assert verdict(report(0.6, 0.8), report(0.55, 0.7)) == "control failed"


def shards(folder: Path, train: int = 12, heldout: int = 8, doubled: int = 0) -> str:
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "00000.tar") as writer:
        for i in range(train + heldout):
            split = "train" if i < train else "heldout"
            seen = i - train < doubled and split == "heldout"
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
            captions = [{"text": f"a red circle {i}", "lang": "en"}, {"text": f"赤い円 {i}", "lang": "ja"}]
            record = {
                "key": f"k{i}", "captions": captions, "split": split, "width": 40, "height": 40,
                "sha256": f"{0 if seen else i:064x}",
            }  # fmt: skip
            writer.add_record(record, file.getvalue(), "png")
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("made")
    return {
        "model": str(tiny_pipeline.pipeline(root / "model")),
        "judge": str(tiny_clip.open_clip_folder(root / "clip")),
        "data": shards(root / "shards", doubled=2),
    }


@pytest.fixture
def attack(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {
        "device": "cpu",
        "precision": "fp32",
        "steps": 2,
        "times": 2,
        "resamples": 50,
        "replicate": 4,
        "quiet": True,
    }

    def run(**options):
        return run_mia(made["model"], options.pop("data", made["data"]), **{"judge": made["judge"], **small, **options})

    return run


def test_a_whole_audit(attack, capsys):
    result = attack(figure="mia.png")
    assert json.loads(Path("mia.json").read_text()) == json.loads(json.dumps(result))
    assert (result["members"], result["heldout"], result["heldout_dropped_as_members"]) == (12, 6, 2)
    assert set(result["attacks"]) == set(ATTACKS)
    for row in result["attacks"].values():
        assert row["members"] == 12 and row["others"] == 6 and row["control"]["members"] == 3
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"] and "tpr@0.1%fpr" in row
    copied = result["replication"]
    assert (copied["drawn"], copied["training_pictures"]) == (4, 12)
    assert copied["similarity"]["mean"] >= copied["to_own_picture"]["mean"]
    assert metadata.read("mia.png").synthetic
    assert len(metadata.read("mia.png").settings["captions"]) == 3
    told = table(result)
    assert "loss" in told and "replication" in told
    assert "intervals will be wide" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_audit_whatever_the_batch(attack):
    first = attack(out=None, replicate=0, batch=3)
    again = attack(out=None, replicate=0, batch=3)
    assert first == again
    other = attack(out=None, replicate=0, batch=16)
    for name, row in first["attacks"].items():
        assert row["auc"]["value"] == pytest.approx(other["attacks"][name]["auc"]["value"], abs=0.05)


def test_japanese_captions_and_few_pictures(attack):
    result = attack(out=None, replicate=0, lang="ja", n=5, attacks=("clid",))
    assert list(result["attacks"]) == ["clid"] and (result["members"], result["heldout"]) == (5, 5)


def test_an_overfitted_model_is_caught(attack, made, tmp_path):
    """Four hundred steps on the twelve members, through the whole stage: the loss gives them away."""
    from commonart.core.generation.components import locate
    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.generation.request import ModelSpec
    from commonart.core.metrics import image_set
    from commonart.core.model import diffusion
    from commonart.core.model.autoencoder import to_pixels
    from commonart.core.model.transformer import stack_text

    folder = tiny_pipeline.copy(Path(made["model"]), tmp_path / "overfit")
    config = folder / "vae" / "config.json"  # an untrained autoencoder's latents are small beside the noise
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 5.0}))
    spec = ModelSpec(str(folder), device="cpu", precision="fp32")
    engine = Pipeline.open(locate(spec), spec)
    items = [i for i in image_set.collect(made["data"], split="train")]
    prompts = [item.record["captions"][0]["text"] for item in items]
    texts = engine.encode(prompts)
    pixels = to_pixels([image_set.open_image(i.pointer).resize((32, 32)) for i in items])
    latents = engine.autoencoder().encode(pixels)[0]
    model = engine.transformer().requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    text, mask = stack_text([texts[prompt].float() for prompt in prompts])
    for _ in range(400):
        loss, _ = diffusion.loss(model, latents, text, mask, "flow", generator)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    model.save(folder / "transformer")
    result = run_mia(
        str(folder), made["data"], attacks=("loss",), replicate=0, out=None, device="cpu", precision="fp32",
        times=5, resamples=100, quiet=True,
    )  # fmt: skip
    assert result["attacks"]["loss"]["auc"]["value"] > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ("guess",)}, "--attacks guess is not an attack"),
        ({"n": 2}, "-n must be at least 4, not 2"),
        ({"times": 0}, "--times must be at least 1, not 0"),
        ({"replicate": -1}, "--replicate must be at least 0, not -1"),
        ({"figure": "a.gif"}, r"\.png, \.jpg or \.webp"),
        ({"seed": -1}, "--seed must be at least 0, not -1"),
        ({"figure": "a.png", "replicate": 0}, "--figure shows"),
    ],
)
def test_bad_calls(attack, options, message):
    with pytest.raises(UsageError, match=message):
        attack(**options)
    assert not list(Path().iterdir())


def test_what_cannot_be_used_is_an_error_before_the_attacks(attack, monkeypatch):
    from commonart.stages import mia as stage

    monkeypatch.setattr(stage, "_attack", lambda *_: pytest.fail("the attacks ran"))
    with pytest.raises(UsageError, match="--judge nowhere is not a clip model"):
        attack(judge="nowhere")
    with pytest.raises(CommonArtError, match="-o missing/mia.json: there is no folder missing"):
        attack(out="missing/mia.json")
    with pytest.raises(UsageError, match="--figure f.pdf: images are written as"):
        attack(figure="f.pdf")


def test_too_few_held_out_pictures(attack, tmp_path):
    with pytest.raises(CommonArtError, match="holds 2 images of the split heldout"):
        attack(data=shards(tmp_path / "few", heldout=2))


def test_nothing_is_overwritten(attack):
    Path("mia.json").write_text("{}")
    with pytest.raises(UsageError, match="mia.json already exists"):
        attack()
    assert Path("mia.json").read_text() == "{}"
