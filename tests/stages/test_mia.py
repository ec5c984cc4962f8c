"""Membership inference finds all in a model that memorised, and nothing in one that never saw the pictures."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_pipeline
import torch
from PIL import Image

from commonart.core.audit import ATTACKS, attacks
from commonart.core.audit.attacks import Denoiser
from commonart.core.data.record import split_of
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics import roc
from commonart.core.model import diffusion
from commonart.core.output import c2pa, metadata
from commonart.stages.mia import run as run_mia
from commonart.stages.mia import table

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

    def scored(pictures):
        crops = [attacks.center_crop(pictures, share) for share in attacks.PFAMI_CROPS]
        return attacks.scores(attack, model, ignorant, pictures, crops, **options)

    inside, outside = scored(members), scored(others)
    assert roc.auc(roc.curve(inside, outside)) > 0.95
    strangers = scored(torch.randn(24, *SHAPE))
    assert 0.2 < roc.auc(roc.curve(strangers, outside)) < 0.8, "two groups that it never saw look alike"


@pytest.mark.parametrize("objective", ["eps", "flow"])
def test_scores_do_not_depend_on_the_batch(objective):
    torch.manual_seed(0)
    pictures = torch.randn(6, *SHAPE)
    model = memoriser(pictures[:3], objective)
    for attack in ATTACKS:
        options = {"times": [100, 700], "draws": 2, "seed": 3}
        whole = attacks.scores(attack, model, model, pictures, [pictures.roll(1, 2)], **options)
        parts = [attacks.scores(attack, model, model, part, [part.roll(1, 2)], **options) for part in pictures.split(2)]
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


def sha256(number: int, split: str) -> str:
    """A hash of which the split follows."""
    hashes = (hashlib.sha256(f"{number} {attempt}".encode()).hexdigest() for attempt in range(10_000))
    return next(value for value in hashes if split_of(value) == split)


def shards(folder: Path, train: int = 12, heldout: int = 8, doubled: int = 0, damaged=()) -> str:
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "00000.tar") as writer:
        for i in range(train + heldout):
            split = "train" if i < train else "heldout"
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
            captions = [{"text": f"a red circle {i:02d}", "lang": "en"}, {"text": f"赤い円 {i:02d}", "lang": "ja"}]
            record = {
                "key": f"k{i}", "license": "CC0-1.0", "captions": captions, "split": split, "width": 40, "height": 40,
                "sha256": sha256(i, split),
            }  # fmt: skip
            if split == "heldout" and i - train < doubled:  # looks like the first member
                record |= {"phash": "0f" * 8, "chroma": "80" * 18}
            elif i == 0 and doubled:
                record |= {"phash": "0f" * 7 + "0e", "chroma": "82" * 18}
            writer.add_record(record, file.getvalue()[: 90 if record["key"] in damaged else None], "png")
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
        "permutations": 199,
        "replicate": 4,
        "quiet": True,
    }

    def run(**options):
        return run_mia(made["model"], options.pop("data", made["data"]), **{"judge": made["judge"], **small, **options})

    return run


def test_a_whole_audit(attack, capsys):
    result = attack(figure="mia.png", extract=1)
    assert json.loads(Path("mia.json").read_text()) == json.loads(json.dumps(result))
    # The two held-out images that are members too leave with them, on both sides.
    assert (result["members"], result["heldout"], result["dropped"]) == (11, 6, {"twin": 3})
    assert set(result["attacks"]) == {*ATTACKS, "complexity"}
    for row in [*result["attacks"].values(), result["combined"]]:
        assert row["members"] == 11 and row["others"] == 6 and 0 < row["p_value"] <= 1
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"]
        assert row["tpr@1%fpr"] is None and row["tpr@0.1%fpr"] is None, "6 held-out images carry no such rate"
        assert row["smallest_fpr"] == pytest.approx(1 / 7)
    assert result["set_test"] is None and result["reference"] is None and not result["data_is_of_the_run"]
    assert [row["t"] for row in result["curve"]] == [250, 750] and set(result["curve"][0]) == {"t", "loss", "clid"}
    assert set(result["blind"]["single"]) == {"file_bytes", "png_bytes", "caption_length"}
    copied = result["replication"]
    assert (copied["generated"], copied["training_images"]) == (4, 12)
    assert copied["similarity"]["mean"] >= copied["to_own_image"]["mean"]
    assert metadata.read("mia.png").synthetic
    assert (c2pa.read("mia.png") or {})["state"] == "Trusted"
    assert len(metadata.read("mia.png").settings["captions"]) == 3
    assert copied["control"]["generated"] == 4 and copied["verdict"] == "too few to tell"
    assert result["extraction"]["captions"] == result["extraction"]["heldout_captions"] == 1
    prompts = result["memorised_prompts"]
    assert (prompts["prompts"], prompts["heldout_prompts"]) == (11, 6) and prompts["threshold"] > 0
    page = Path("mia.html").read_text("utf-8")
    assert result["verdict"] in page and page.count("data:image/webp") == 9, "three rows of three images"
    told = table(result)
    assert "loss" in told and "replication" in told and "carry no FPR below 14.3 %" in told
    assert told.splitlines()[-1] == f"verdict: {result['verdict']}: {result['reason']}"
    assert "only large leaks can be found" in capsys.readouterr().err


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


def test_a_killed_audit_goes_on_where_it_was(attack, monkeypatch):
    """The second batch dies; the second call measures what is missing, and says what an uninterrupted one says."""
    from commonart.core.audit import scoring

    whole = attack(out=None, replicate=0, batch=4)
    measured, real = [], scoring._measure

    def dies(engine, images, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(len(images))
        return real(engine, images, *rest)

    monkeypatch.setattr(scoring, "_measure", dies)
    with pytest.raises(KeyboardInterrupt):
        attack(replicate=0, batch=4)
    assert not Path("mia.json").exists()
    with open("mia.scores.jsonl", "ab") as file:
        file.write(b'{"id": "cut sho')
    monkeypatch.setattr(scoring, "_measure", lambda *a: measured.append(len(a[1])) or real(*a))
    assert attack(replicate=0, batch=4) == whole
    assert measured == [4, 4, 4, 4, 1], "17 images, none twice"
    assert attack(replicate=0, batch=4, overwrite=True) == whole and len(measured) == 5
    attack(replicate=0, seed=1, overwrite=True)
    assert len(measured) > 5, "other noise is measured anew"


def test_a_reference_model_is_the_control(attack, made, tmp_path):
    other = tiny_pipeline.copy(Path(made["model"]), tmp_path / "other")
    tiny_pipeline.transformer(other / "transformer", seed=3)
    result = attack(reference=str(other), replicate=0, out=None, attacks=("loss", "clid"))
    assert result["reference"]["model"] == str(other) and 0 < result["reference_p_value"] <= 1
    alone = attack(replicate=0, out=None, attacks=("loss", "clid"))
    assert result["attacks"]["loss"]["target"]["auc"] == alone["attacks"]["loss"]["auc"]
    assert result["attacks"]["loss"]["reference"]["auc"] != result["attacks"]["loss"]["target"]["auc"]
    with pytest.raises(UsageError, match="--reference .* is the model itself"):
        attack(reference=made["model"])


def test_a_reference_of_another_kind_is_refused(attack, tmp_path):
    eps = tiny_pipeline.pipeline(tmp_path / "eps", "eps")
    with pytest.raises(UsageError, match="was trained with eps, and .* with flow"):
        attack(reference=str(eps))
    small = tiny_pipeline.pipeline(tmp_path / "small")
    config = small / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 4}))
    with pytest.raises(UsageError, match="generates 16 pixels, and .* 32"):
        attack(reference=str(small))


def test_works_in_question_take_the_place_of_the_members(attack):
    Path("keys.txt").write_text("k1\nk2\nkey: k3\nk5\nk13\n# a comment\n")
    result = attack(keys="keys.txt", replicate=0, out=None, attacks=("loss",))
    # k13 is held out and in question, and a twin of k12, which is held out, and of k0, which is neither.
    assert (result["members"], result["heldout"], result["dropped"]) == (4, 6, {"twin": 2})
    assert result["question"] == "keys of keys.txt"
    Path("none.txt").write_text("")
    with pytest.raises(CommonArtError, match=r"--keys none\.txt names no works"):
        attack(keys="none.txt")
    with pytest.raises(CommonArtError, match=r"--keys gone\.txt cannot be read"):
        attack(keys="gone.txt")


def test_copies_of_works_in_question_are_looked_for_among_them(attack):
    """Some of them are held out, and were looked for in the training set, where they are not (it was a KeyError)."""
    Path("keys.txt").write_text("k1\nk2\nk3\nk5\nk14\n")
    result = attack(keys="keys.txt", attacks=("loss",))
    assert result["members"] == 5 and result["replication"]["training_images"] == 5
    told = table(result)
    assert told.startswith("5 works in question, 5 held-out images")
    assert "training captions" not in told and "not tested, which needs 70 images" in told


def test_features_of_the_training_set_are_kept(attack, made, tmp_path, monkeypatch):
    """And what of it cannot be read is left out of replication too."""
    from commonart.core.metrics import features

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, read, real = shards(tmp_path / "broken", damaged=("k2",)), [], features._prepare
    monkeypatch.setattr(features, "_prepare", lambda *a, **k: read.append(a) or real(*a, **k))
    first = attack(data=data, attacks=("loss",))
    assert len(read) == 12 and first["replication"]["training_images"] == 11
    assert attack(data=data, attacks=("loss",), overwrite=True)["replication"] == first["replication"]
    assert len(read) == 12


def test_the_size_of_a_png_is_counted_once(made):
    """A PNG of the model's own size takes as many bytes as its pixels do without loss, which are counted anyway."""
    from commonart.core.audit import blind
    from commonart.core.metrics import image_set
    from commonart.core.metrics.clip_score import DualEncoder

    items, encoder = image_set.collect(made["data"]), DualEncoder.load(made["judge"], device="cpu")
    assert set(blind.look(items, encoder, None, 40)[0]) == {"png_bytes", "caption_length"}
    assert set(blind.look(items, encoder, None, 32)[0]) == {"file_bytes", "png_bytes", "caption_length"}


def test_an_unreadable_image_is_left_out_and_counted(attack, made, tmp_path):
    data = shards(tmp_path / "broken", damaged=("k2", "k15"))
    result = attack(data=data, replicate=0, out=None, attacks=("loss",))
    assert (result["members"], result["heldout"], result["dropped"]) == (11, 7, {"unreadable": 2})
    with pytest.raises(CommonArtError, match="0 members and 8 held-out images are left .12 unreadable."):
        attack(data=shards(tmp_path / "none", damaged=[f"k{i}" for i in range(12)]), replicate=0, attacks=("loss",))


def test_an_overfitted_model_is_caught(attack, made, tmp_path):
    """Four hundred steps on the members, through the whole stage: the loss gives them away."""
    from commonart.core.generation.components import locate
    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.generation.request import ModelSpec
    from commonart.core.metrics import image_set
    from commonart.core.model import diffusion
    from commonart.core.model.autoencoder import to_pixels
    from commonart.core.model.transformer import stack_text

    folder, data = tiny_pipeline.copy(Path(made["model"]), tmp_path / "overfit"), shards(tmp_path / "more", 16, 16)
    config = folder / "vae" / "config.json"  # an untrained autoencoder's latents are small beside the noise
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 5.0}))
    spec = ModelSpec(str(folder), device="cpu", precision="fp32")
    engine = Pipeline.open(locate(spec), spec)
    items = [i for i in image_set.collect(data, split="train")]
    prompts = [item.record["captions"][0]["text"] for item in items]
    texts = engine.encode(prompts)
    pixels = to_pixels([image_set.open_image(i.pointer).resize((32, 32)) for i in items])
    latents = engine.autoencoder().encode(pixels)[0]
    model = engine.transformer().requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    text, mask = stack_text([texts[prompt].float() for prompt in prompts])
    for _ in range(500):
        loss, _ = diffusion.loss(model, latents, text, mask, "flow", generator)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    model.save(folder / "transformer")
    common = {
        "replicate": 0,
        "out": None,
        "device": "cpu",
        "precision": "fp32",
        "times": 5,
        "permutations": 999,
        "quiet": True,
    }
    result = run_mia(str(folder), data, attacks=("loss",), reference=made["model"], **common)
    assert result["attacks"]["loss"]["target"]["auc"]["value"] > 0.85
    assert result["attacks"]["loss"]["p_value"] <= 0.01 and result["verdict"] == "leaks", result["reason"]
    innocent = run_mia(made["model"], data, attacks=("loss",), **common)
    assert innocent["verdict"] == "no leak found"


def test_shards_of_another_run_are_refused(attack, made, tmp_path):
    """`mia` said "no leak found" four times of shards that the run had never seen."""
    from commonart.core.audit import groups
    from commonart.core.data.admission import Rules

    run = tmp_path / "run"
    run.mkdir()
    described = {"recipe": {}, "text_encoder": {}, "autoencoder": {}}
    index = groups.read_index(made["data"])
    right = index.fingerprint
    for fingerprint in (right, "f" * 64):
        policy = Rules().describe()
        data = {"fingerprint": fingerprint, "digest": index.digest(), "policy": policy, "folder": "right/"}
        (run / "run.json").write_text(json.dumps({**described, "data": data}))
        if fingerprint == right:
            assert set(groups.trained_keys(str(run), made["data"])) == set(index.keys)
    with pytest.raises(
        CommonArtError, match="is not what .* was trained on: its fingerprint is .*, that in .*run.json is ffff"
    ):
        groups.trained_keys(str(run), made["data"])
    assert not groups.trained_keys(made["model"], made["data"]), "of a model that is no run nothing is known"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ("guess",)}, "--attacks guess is not an attack"),
        ({"n": 2}, "-n must be at least 4, not 2"),
        ({"permutations": 50}, "--permutations must be at least 199"),
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
    from commonart.core.audit import scoring

    monkeypatch.setattr(scoring, "score", lambda *_: pytest.fail("the attacks ran"))
    with pytest.raises(UsageError, match="--judge nowhere is not a clip model"):
        attack(judge="nowhere")
    with pytest.raises(CommonArtError, match="-o missing/mia.json: there is no folder missing"):
        attack(out="missing/mia.json")
    with pytest.raises(UsageError, match="--figure f.pdf: images are written as"):
        attack(figure="f.pdf")


def test_too_few_held_out_pictures(attack, tmp_path):
    with pytest.raises(CommonArtError, match="holds 2 images held out"):
        attack(data=shards(tmp_path / "few", heldout=2))


def test_nothing_is_overwritten(attack):
    Path("mia.json").write_text("{}")
    with pytest.raises(UsageError, match="mia.json already exists"):
        attack()
    assert Path("mia.json").read_text() == "{}"
