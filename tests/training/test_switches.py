"""Recipes with a switch on: what their steps compute, and that they resume, average and refuse as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from tiny_runs import WIDTH, dataset, lines, refused, settings_of, start, state

from commonart.core import recipes
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model import diffusion
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt
from commonart.core.training import checkpoint, cost, muon, optimizers
from commonart.core.training.batches import BatchSampler
from commonart.core.training.criterion import DiffusionLoss
from commonart.core.training.dry_run import made_up

CONFIG = PixArtConfig(
    num_attention_heads=1, attention_head_dim=16, num_layers=1, out_channels=4, caption_channels=WIDTH, sample_size=4
)
SWITCHES: dict[str, dict[str, Any]] = {
    "draws": {"draws": 3},
    "Muon": {"optimizer": "Muon", "lr": 1e-2},
    "x": {"prediction": "x"},
    "qk_norm": {"qk_norm": 1},
    "times": {"times": "mode", "time_scale": -0.5},
    "tread": {"tread": 0.5, "tread_before": 0, "tread_after": 0, "tread_off": 0},
    "mask": {"mask": 0.75, "mask_after": 0, "mask_off": 0},
    "sra": {"sra": 1.0, "sra_block": 1},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("switches") / "shards", heldout=(3, 14))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_stopped_run_goes_on_bit_for_bit_and_any_micro_batch_is_the_same(
    shards: Path, tmp_path: Path, name: str
) -> None:
    more = SWITCHES[name]
    start(shards, tmp_path / "whole", more, heldout_every=2)
    start(shards, tmp_path / "parts", {**more, "steps": 4}, heldout_every=2)
    start(shards, tmp_path / "parts", more, heldout_every=2)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    start(shards, tmp_path / "small", {**more, "micro_batch": 2}, heldout_every=2)
    for a, b in zip(lines(tmp_path / "small"), lines(tmp_path / "whole"), strict=True):
        for key in {"loss", "heldout_loss", "tokens"} & b.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-3)
    found = checkpoint.newest(tmp_path / "whole")
    assert found is not None and found.weights.name == "ema"
    model = PixArt.load(found.weights)
    assert model.config.own == {
        key: value for key, value in (("prediction", more.get("prediction")), ("qk_norm", bool(more.get("qk_norm")))) if value
    }  # fmt: skip
    about = orjson.loads((tmp_path / "whole" / "run.json").read_bytes())
    assert about["recipe"] | more == about["recipe"]


def losses_of(step: int, **more: Any) -> tuple[Any, DiffusionLoss, Any, PixArt]:
    """What a recipe's criterion says of 4 made-up images at `step`; the criterion, its batch and its model."""
    recipe = recipes.resolve("nano", {"batch": 4, "flow_shift": 2.0, **more})
    torch.manual_seed(0)
    model, source = PixArt(CONFIG), made_up(CONFIG, 4, 3)
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)
    sampler = BatchSampler(0, 4, 0.0)
    criterion = DiffusionLoss(CONFIG, source, recipe, sampler, torch.float32)
    fetched = source.fetch(*sampler.indices(source, step, 0, 4))
    return criterion(model, fetched, step, slice(0, 4), torch.device("cpu")), criterion, fetched, model


def test_off_a_step_has_the_numbers_that_it_always_had() -> None:
    """Noise, posterior and times from one generator, in this order: bit for bit what runs before the switches took."""
    losses, criterion, batch, model = losses_of(5)
    generator = BatchSampler(0, 4, 0.0).generator(5, torch.device("cpu"))
    noise, posterior = (torch.randn(4, 4, 4, 4, generator=generator) for _ in range(2))
    time = torch.randn(4, generator=generator).sigmoid()
    time = 2 * time / (1 + time)
    latents = batch.mean_BCHW + batch.std_BCHW * posterior
    velocity = model(torch.lerp(latents, noise, time.view(-1, 1, 1, 1)), 1000 * time, batch.text_BLT, batch.mask_BL)
    assert torch.equal(losses.loss_B, (velocity - (noise - latents)).square().flatten(1).mean(1))
    assert torch.equal(losses.timestep_B, 1000 * time)
    assert criterion.flops(3) == 3 * cost.flops_per_image(CONFIG, 4, 3)


def test_draws_are_several_noises_of_each_image() -> None:
    losses, criterion, batch, model = losses_of(5, draws=3)
    assert losses.loss_B.shape == losses.timestep_B.shape == (12,) and losses.tokens == 12
    generator = BatchSampler(0, 4, 0.0).generator(5, torch.device("cpu"))
    noise, posterior = (torch.randn(12, 4, 4, 4, generator=generator) for _ in range(2))
    time = torch.randn(12, generator=generator).sigmoid()
    for n in range(12):  # one at a time, each with the text of its image
        image = slice(n // 3, n // 3 + 1)
        latents = batch.mean_BCHW[image] + batch.std_BCHW[image] * posterior[n : n + 1]
        one, _ = diffusion.loss(
            model, latents, batch.text_BLT[image], None, "flow", noise_BCHW=noise[n : n + 1], time_B=time[n : n + 1], shift=2.0
        )  # fmt: skip
        torch.testing.assert_close(losses.loss_B[n], one[0], rtol=1e-4, atol=1e-5)
    once, text = cost.flops_per_image(CONFIG, 4, 3), cost.flops_per_image(CONFIG, 4, 0)
    assert criterion.flops(3) < 3 * 3 * once and criterion.flops(0) == 3 * 3 * text


def test_draws_average_their_losses(shards: Path, tmp_path: Path) -> None:
    """A line's loss is a mean, and so is the gradient: with three noises of each image both are as large as with one."""
    for draws in (1, 3):
        start(shards, tmp_path / str(draws), {"draws": draws, "steps": 2, "lr": 1e-9}, log_every=1)
    (one, _, *_), (three, _, *_) = (lines(tmp_path / name) for name in ("1", "3"))
    assert 0.7 < three["loss"] / one["loss"] < 1.4 and 0.4 < three["grad_norm"] / one["grad_norm"] < 1.6
    assert three["tokens"] == pytest.approx(one["tokens"]) and one["images"] == three["images"] == 8


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = PixArt(CONFIG)
    recipe = recipes.resolve("nano", {"optimizer": "Muon", "weight_decay": 0.1, "lr": 0.02})
    optimizer = optimizers.make(list(model.named_parameters()), recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    *adam, hidden = optimizer.param_groups
    assert {names[id(p)] for p in hidden["params"]} == {
        f"transformer_blocks.0.{name}.weight"
        for name in (
            *(f"{attn}.{part}" for attn in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")),
            "ff.net.0.proj", "ff.net.2",
        )
    }  # fmt: skip
    assert sum(len(group["params"]) for group in (*adam, hidden)) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]


@pytest.mark.parametrize(
    ("run", "products"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)],
)
def test_muon_multiplies_in_the_precision_of_the_run(run: torch.dtype, products: torch.dtype) -> None:
    recipe = recipes.resolve("nano", {"optimizer": "Muon"})
    optimizer = optimizers.make(list(PixArt(CONFIG).named_parameters()), recipe, run)
    assert isinstance(optimizer, muon.Muon) and optimizer.dtype == products


def test_a_step_of_muon_is_orthogonal_and_as_large_as_adamws() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(32, 16))
    weight.grad = torch.randn(32, 16)
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    optimizer = muon.Muon([weight], [{"params": [torch.nn.Parameter(torch.ones(2))]}], 0.0, lr=0.1)
    optimizer.step()
    step = -weight.detach() / (0.1 * 0.2 * 32**0.5)
    singular = torch.linalg.svdvals(step)
    assert float(singular.min()) > 0.6 and float(singular.max()) < 1.3  # Newton-Schulz stops near 1
    assert float((step * (u @ v)).sum() / step.norm() / (u @ v).norm()) > 0.97
    assert float(step.square().mean().sqrt()) * 0.2 * 32**0.5 == pytest.approx(0.2, rel=0.2)
    assert optimizer.state[weight]["momentum_buffer"].shape == (32, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_steps_as_torchs_does(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = ((24, 8), (8, 24), (24, 8), (8, 8))
    ours, theirs = (
        [torch.nn.Parameter(w.clone()) for w in weights] for weights in [[torch.randn(s) for s in shapes]] * 2
    )
    one = muon.Muon(ours, [{"params": [torch.nn.Parameter(torch.ones(2))]}], 0.1, dtype, lr=0.1)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    before = [weight.detach().clone() for weight in ours]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b, first in zip(ours, theirs, before, strict=True):  # torch's products are bfloat16
        assert ((a - b).norm() / (b - first).norm()).item() < 0.02


def test_what_cannot_be_is_refused(shards: Path, tmp_path: Path) -> None:
    def resolved(**more: Any) -> Any:
        return lambda: recipes.resolve("nano", more)

    refused(
        UsageError,
        2,
        "prediction must be velocity where the objective is eps",
        "",
        resolved(prediction="x", objective="eps"),
    )
    refused(UsageError, 2, "times must be logit-normal where", "", resolved(times="uniform", objective="eps"))
    refused(UsageError, 2, "times must be one of logit-normal, uniform, mode", "", resolved(times="cosine"))
    refused(UsageError, 2, "time_scale must be above -1", "", resolved(time_scale=-1))
    refused(UsageError, 2, "draws must be at least 1", "", resolved(draws=0))
    refused(UsageError, 2, "qk_norm must be 0 or 1", "", resolved(qk_norm=2))
    captioner = {"optimizer": "Muon"}
    refused(UsageError, 2, "another than Muon", "", lambda: recipes.resolve("captioner", captioner))
    refused(UsageError, 2, "no setting 'draws'", "", lambda: recipes.resolve("captioner", {"draws": 2}))
    cut = settings_of(shards, tmp_path / "run", {"optimizer": "Muon"}, fsdp=True)
    refused(UsageError, 2, "--fsdp cannot cut the state of Muon", "AdamW", cut.check)


def test_a_run_and_weights_of_another_switch_are_refused(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "plain", {"steps": 2})
    for name, more in SWITCHES.items():
        key = next(iter(more))
        what = f"this transformer has {key} " if name in ("x", "qk_norm") else f"was started with {key}="
        refused(
            CommonArtError, 1, what, f"--set {key}=",
            lambda more=more: start(shards, tmp_path / "plain", {**more, "steps": 4}),  # type: ignore[misc]
        )  # fmt: skip
        if name in ("x", "qk_norm"):
            refused(
                CommonArtError, 1, f"this transformer has {key} ", f"--set {key}=",
                lambda more=more: start(shards, tmp_path / name, more, init=str(tmp_path / "plain")),  # type: ignore[misc] # noqa: B023
            )  # fmt: skip


def test_a_run_of_an_older_version_is_one_without_switches(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "run", {"steps": 2})
    path = tmp_path / "run" / "run.json"
    values = orjson.loads(path.read_bytes())
    for name in ("draws", "prediction", "qk_norm", "times", "time_mean", "time_std", "time_scale"):
        del values["recipe"][name]
    path.write_bytes(orjson.dumps(values))
    refused(
        CommonArtError, 1, "was started with draws=1, and now it is 2", "--set draws=1",
        lambda: start(shards, tmp_path / "run", {"draws": 2}),
    )  # fmt: skip
    assert start(shards, tmp_path / "run").step == 6


def test_a_compiled_transformer_is_compiled_once_for_every_length_of_text(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for a real backend, run eagerly: texts of 1 to 5 tokens, with padding and without."""
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    more = {"batch": 2, "micro_batch": 2, "steps": 16}
    start(shards, tmp_path / "plain", more, log_every=1, heldout_every=0)
    assert len({line["tokens"] for line in lines(tmp_path / "plain")}) > 4
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=counter))
    start(shards, tmp_path / "compiled", more, log_every=1, heldout_every=0, compile=True)
    assert counter.frame_count == 1
    for a, b in zip(lines(tmp_path / "compiled"), lines(tmp_path / "plain"), strict=True):
        assert (a["loss"], a["tokens"]) == (pytest.approx(b["loss"], rel=1e-4), b["tokens"])
