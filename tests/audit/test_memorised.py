"""Memorised prompts: the measure is the paper's, the threshold keeps its rate, and `sample` refuses what is above it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
import torch
from sampling import sample

from commonart.cli.main import run
from commonart.core.audit import memorised
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.components import locate
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import ModelSpec
from commonart.core.model.sampler import noise_for
from commonart.core.model.transformer import stack_text

PROMPTS = ["a red circle", "赤い丸", "a blue square on a hill"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {objective: str(tiny_pipeline.pipeline(root / objective, objective)) for objective in ("flow", "eps")}


def opened(folder: str) -> Pipeline:
    spec = ModelSpec(folder, device="cpu", precision="fp32")
    return Pipeline.open(locate(spec), spec)


@pytest.mark.parametrize("objective", ["flow", "eps"])
def test_the_measure_is_the_papers(folders, objective):
    """By hand: || eps(x_T, p) - eps(x_T, "") ||, over the root of the number of elements, the mean of four noises."""
    engine = opened(folders[objective])
    texts, model = engine.encode(["", *PROMPTS]), engine.transformer()
    expected = []
    for prompt in PROMPTS:
        norms = []
        for seed in range(4):
            x = noise_for([seed], (4, 8, 8))
            made = [
                model(x, torch.tensor([999.0]), *stack_text([texts[text]]))[:, :4].detach() for text in (prompt, "")
            ]
            norms.append(float((made[0] - made[1]).norm()) / (4 * 8 * 8) ** 0.5)
        expected.append(np.mean(norms))
    found = memorised.magnitudes(engine, PROMPTS, batch=3)
    assert found == pytest.approx(expected, rel=1e-4) and len(set(found)) == 3
    assert memorised.magnitudes(engine, [*PROMPTS, PROMPTS[0], ""], batch=16) == pytest.approx(
        [*expected, expected[0], 0], rel=1e-4, abs=1e-5
    )


def test_the_threshold_keeps_its_rate():
    """Of new prompts, whatever their distribution, at most so many are above it, on average over what it was set by."""
    rng = np.random.default_rng(0)
    for n, promised in ((20, 1 / 21), (99, 0.01), (399, 0.01)):
        rates = []
        for _ in range(400):
            threshold, rate = memorised.threshold_of(rng.gamma(2, size=n))
            assert rate == pytest.approx(promised)
            rates.append((rng.gamma(2, size=500) > threshold).mean())
        assert np.mean(rates) == pytest.approx(promised, rel=0.25)


def test_an_audit_counts_the_captions_above_the_threshold(folders, monkeypatch):
    engine = opened(folders["flow"])
    values = {f"seen {i}": 5.0 + i for i in range(3)} | {f"plain {i}": i / 100 for i in range(50)}
    monkeypatch.setattr(memorised, "magnitudes", lambda e, prompts, **o: np.array([values[p] for p in prompts]))
    members = {f"m{i}": f"seen {i}" for i in range(3)} | {f"m{i}": f"plain {i}" for i in range(3, 10)}
    heldout = {f"h{i}": f"plain {i}" for i in range(5, 50)}
    found = memorised.audit(engine, members, heldout)
    assert found["heldout_prompts"] == 40, "a caption that a member has as well was seen"
    assert (found["threshold"], found["false_alarm_rate"]) == (0.49, pytest.approx(1 / 41))
    assert found["flagged"]["value"] == 0.3 and found["flagged"]["low"] == pytest.approx(0.0667, abs=1e-3)
    assert [row["key"] for row in found["flagged_prompts"]] == ["m2", "m1", "m0"]
    assert memorised.audit(engine, members, {"h": "seen 1"}) is None


@pytest.fixture
def refusing(folders, tmp_path, monkeypatch):
    """A mia.json whose threshold lies between the first and the other prompts of PROMPTS."""
    monkeypatch.chdir(tmp_path)
    engine = opened(folders["flow"])
    values = memorised.magnitudes(engine, PROMPTS)
    threshold = float(np.sort(values)[-1] + np.sort(values)[-2]) / 2
    found = {"memorised_prompts": {"threshold": threshold, "fingerprint": engine.components.fingerprint}}
    Path("mia.json").write_text(json.dumps(found))
    return PROMPTS[int(values.argmax())], [p for p in PROMPTS if p != PROMPTS[int(values.argmax())]]


def test_sample_refuses_memorised_prompts(folders, refusing, capfd):
    refused, kept = refusing
    tiny = ["--model", folders["flow"], "--steps", "2", "--device", "cpu", "--precision", "fp32", "--no-c2pa"]
    assert run(["sample", *PROMPTS, "-n", "2", "-o", "images", "--refuse-memorised", "mia.json", *tiny]) == 0
    told = capfd.readouterr()
    records = [json.loads(line) for line in told.out.splitlines()]
    assert [record["prompt"] for record in records] == [p for p in kept for _ in range(2)]
    assert f"refused as memorised: {refused!r} (magnitude " in told.err
    summary = json.loads(told.err.splitlines()[-1])
    assert (summary["in"], summary["out"], summary["dropped"]) == (6, 4, {"memorised": 2})
    # The images are those of a call without the filter.
    assert run(["sample", *kept, "-n", "2", "-o", "plain", *tiny]) == 0
    names = sorted(path.name for path in Path("images").iterdir())
    assert names == sorted(path.name for path in Path("plain").iterdir())
    assert all(Path("images", name).read_bytes() == Path("plain", name).read_bytes() for name in names)
    # Where nothing is left there is no image, and no success.
    assert run(["sample", refused, "-o", "out.png", "--refuse-memorised", "mia.json", *tiny]) == 1
    assert "every prompt is memorised" in capfd.readouterr().err and not Path("out.png").exists()


def test_another_models_threshold_is_refused(folders, refusing):
    small = {"out": "out.png", "steps": 2, "device": "cpu", "precision": "fp32"}
    with pytest.raises(UsageError, match="measured on another model"):
        sample(["a"], model=folders["eps"], refuse_memorised="mia.json", **small)
    for text in ("{}", "[]", "no JSON", '{"memorised_prompts": null}'):
        Path("bad.json").write_text(text)
        with pytest.raises(UsageError, match=r"bad\.json holds no threshold"):
            sample(["a"], model=folders["flow"], refuse_memorised="bad.json", **small)
    with pytest.raises(UsageError, match="missing.json cannot be read"):
        sample(["a"], model=folders["flow"], refuse_memorised="missing.json", **small)


def test_numbers_that_are_not_finite_are_no_permission(folders, refusing, monkeypatch):
    monkeypatch.setattr(memorised, "magnitudes", lambda engine, prompts, **options: np.full(len(prompts), np.nan))
    with pytest.raises(CommonArtError, match="not finite"):
        sample(
            ["a"], model=folders["flow"], refuse_memorised="mia.json", out="o.png", steps=2, device="cpu",
            precision="fp32",
        )  # fmt: skip
