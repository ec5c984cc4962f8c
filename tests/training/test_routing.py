"""Runs whose tokens skip blocks, and whose tokens are aligned with latents: steps, costs, checkpoints, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_runs import WIDTH, dataset, dry_run, lines, refused, settings_of, start, state
from torch.nn import functional

from commonart.core import recipes
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model import alignment, diffusion, masking, sra, tread
from commonart.core.model.config import PixArtConfig
from commonart.core.model.layers import unpatch
from commonart.core.model.transformer import PixArt
from commonart.core.training import checkpoint, cost, trainer
from commonart.core.training.batches import BatchSampler
from commonart.core.training.criterion import DiffusionLoss, Losses
from commonart.core.training.dry_run import made_up

CONFIG = PixArtConfig(
    num_attention_heads=1, attention_head_dim=16, num_layers=3, out_channels=4, caption_channels=WIDTH, sample_size=8
)
ROUTED: dict[str, Any] = {"layers": 3, "tread": 0.5, "tread_before": 1, "tread_after": 1, "tread_off": 0.25}
ALIGNED: dict[str, Any] = {"sra": 0.5, "sra_block": 2}
MASKED: dict[str, Any] = {"layers": 3, "mask": 0.75, "mask_after": 1, "mask_off": 0.25}
BOTH: dict[str, Any] = {**ROUTED, **ALIGNED, "tread_off": 0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("routing") / "shards", heldout=(3, 14))


def step_of(progress: float = 0.0, parts: int = 1, **more: Any) -> tuple[list[Losses], DiffusionLoss, Any, PixArt]:
    """What a recipe's criterion says of 4 made-up images at step 5, in `parts`; the criterion, its batch and its model."""
    recipe = recipes.resolve("nano", {"batch": 4, "layers": 3, "flow_shift": 2.0, **more})
    torch.manual_seed(0)
    model, source = PixArt(CONFIG), made_up(CONFIG, 4, 3)
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)
    if recipe.sra:
        model.alignment = alignment.make_head(sra.widths(CONFIG), recipe.sra_block, 0)
    sampler = BatchSampler(0, 4, 0.0)
    criterion = DiffusionLoss(CONFIG, source, recipe, sampler, torch.float32)
    size, losses = 4 // parts, []
    for first in range(0, 4, size):
        fetched = source.fetch(*sampler.indices(source, 5, first, size))
        samples = slice(first, first + size)
        losses.append(criterion(model, fetched, 5, samples, torch.device("cpu"), progress))
    return losses, criterion, source.fetch(*sampler.indices(source, 5, 0, 4)), model


def numbers(draws: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, posterior, times and the order of the tokens at step 5, in the order in which they are drawn."""
    generator, count = BatchSampler(0, 4, 0.0).generator(5, torch.device("cpu")), 4 * draws
    noise, posterior = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    return (
        noise,
        posterior,
        torch.randn(count, generator=generator).sigmoid(),
        torch.rand(count, 16, generator=generator),
    )


def errors_of(batch: Any, model: PixArt, share: float, first: int, stop: int) -> tuple[torch.Tensor, ...]:
    """Squared error of the velocity and SRA 2's of the latents, each (B, C, H, W), and which latents are of kept tokens."""
    noise, posterior, time, order = numbers()
    latents, shifted = batch.mean_BCHW + batch.std_BCHW * posterior, 2 * time / (1 + time)
    noisy = torch.lerp(latents, noise, shifted.view(-1, 1, 1, 1))
    route = tread.Route(tread.choose(order, share), first, stop)
    output, tokens = model(noisy, 1000 * shifted, batch.text_BLT, batch.mask_BL, route)
    kept = masking.weight(route.kept_BK, (8, 8), 2).expand_as(latents) > 0
    far = functional.smooth_l1_loss(unpatch(tokens, 8, 8, 2), latents, reduction="none", beta=0.05)
    return (output - (noise - latents)).square(), far, kept


@pytest.mark.parametrize("draws", [1, 2])
def test_a_routed_step_has_the_noise_of_a_plain_one_and_each_image_its_own_route(draws: int) -> None:
    (losses,), _, batch, model = step_of(draws=draws, **ROUTED)
    noise, posterior, time, order = numbers(draws)
    kept = tread.choose(order, 0.5)
    for n in range(4 * draws):
        image = slice(n // draws, n // draws + 1)
        latents = batch.mean_BCHW[image] + batch.std_BCHW[image] * posterior[n : n + 1]

        def routed(*inputs: Any, n: int = n) -> torch.Tensor:
            return model(*inputs, tread.Route(kept[n : n + 1], 1, 2))

        one, _ = diffusion.loss(
            routed, latents, batch.text_BLT[image], None, "flow", noise_BCHW=noise[n : n + 1],
            time_B=time[n : n + 1], shift=2.0,
        )  # fmt: skip
        torch.testing.assert_close(losses.loss_B[n], one[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_masked_step_has_the_loss_of_the_kept_patches(block: int) -> None:
    """Its alignment is that of the tokens that are at hand after the block: all of them where none has ended yet."""
    (losses,), _, batch, model = step_of(**MASKED, **ALIGNED | {"sra_block": block})
    wrong, far, kept = errors_of(batch, model, 0.75, 1, 3)
    assert int(kept.sum()) == 4 * 4 * 4 * 4  # images, tokens, channels, latents of a patch
    assert losses.alignment_B is not None
    for n in range(4):
        torch.testing.assert_close(losses.loss_B[n], wrong[n][kept[n]].mean(), rtol=1e-4, atol=1e-5)
        seen = far[n] if block == 1 else far[n][kept[n]]
        torch.testing.assert_close(losses.alignment_B[n], 0.5 * seen.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_routed_step_aligns_the_tokens_that_have_passed_the_block(block: int) -> None:
    """Those that skip blocks 1 and 2 are not aligned after the first, and are after they have come back."""
    (losses,), _, batch, model = step_of(**ROUTED | {"tread_before": 0}, **ALIGNED | {"sra_block": block})
    wrong, far, kept = errors_of(batch, model, 0.5, 0, 2)
    assert losses.alignment_B is not None
    for n in range(4):
        torch.testing.assert_close(losses.loss_B[n], wrong[n].mean(), rtol=1e-4, atol=1e-5)
        seen = far[n][kept[n]] if block == 1 else far[n]
        torch.testing.assert_close(losses.alignment_B[n], 0.5 * seen.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [BOTH, {**MASKED, **ALIGNED}])
def test_micro_batches_have_the_routes_of_the_whole_batch(more: dict[str, Any]) -> None:
    (whole,), *_ = step_of(**more)
    halves, *_ = step_of(parts=2, **more)
    for name in ("loss_B", "alignment_B"):
        parts = torch.cat([getattr(half, name) for half in halves])
        torch.testing.assert_close(parts, getattr(whole, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("more", "few", "passing"), [(ROUTED, 1, 8), (MASKED, 2, 4)])
def test_in_the_last_share_of_a_run_all_tokens_pass(more: dict[str, Any], few: int, passing: int) -> None:
    (plain,), counted, *_ = step_of()
    for progress, off in ((0.0, False), (0.74, False), (0.75, True), (1.0, True)):
        (losses,), criterion, *_ = step_of(progress, **more)
        assert torch.equal(losses.loss_B, plain.loss_B) == off
        assert (criterion.flops(3) == counted.flops(3)) == off
        assert off or criterion.flops(3) == 3 * cost.flops_per_image(CONFIG, 8, 3, few=few, passing=passing)


def test_a_run_that_is_never_routed_is_a_plain_one_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "plain", {"layers": 3})
    start(shards, tmp_path / "off", {**ROUTED, "tread_off": 1})
    start(shards, tmp_path / "routed", ROUTED)
    assert state(tmp_path / "off") == state(tmp_path / "plain")
    assert lines(tmp_path / "routed")[0]["loss"] != lines(tmp_path / "plain")[0]["loss"]


def test_the_alignment_is_minimized_beside_the_loss() -> None:
    (plain,), off, *_ = step_of()
    (losses,), on, batch, model = step_of(**ALIGNED)
    assert torch.equal(losses.loss_B, plain.loss_B) and plain.alignment_B is None
    noise, posterior, time, _ = numbers()
    latents, shifted = batch.mean_BCHW + batch.std_BCHW * posterior, 2 * time / (1 + time)
    noisy = torch.lerp(latents, noise, shifted.view(-1, 1, 1, 1))
    found = model(noisy, 1000 * shifted, batch.text_BLT, batch.mask_BL)[1]
    assert losses.alignment_B is not None
    torch.testing.assert_close(losses.alignment_B, 0.5 * sra.loss(found, latents, 2), rtol=1e-4, atol=1e-5)
    assert on.flops(3) - off.flops(3) == 3 * 2 * 16 * alignment.count_weights(sra.widths(CONFIG))


def test_both_resume_bit_for_bit_and_leave_no_trace_in_the_model(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "whole", BOTH, heldout_every=2)
    start(shards, tmp_path / "parts", {**BOTH, "steps": 3}, heldout_every=2)
    start(shards, tmp_path / "parts", BOTH, heldout_every=2)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    ours, theirs = ([line for line in lines(tmp_path / name) if line["step"] > 3] for name in ("parts", "whole"))
    assert ours == theirs
    start(shards, tmp_path / "small", {**BOTH, "micro_batch": 2}, heldout_every=2)
    for a, b in zip(lines(tmp_path / "small"), lines(tmp_path / "whole"), strict=True):
        for key in {"loss", "heldout_loss", "alignment_loss", "grad_norm"} & b.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-3)
    found = checkpoint.newest(tmp_path / "whole")
    assert found is not None and PixArt.load(found.weights).alignment is None
    for file in found.folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
        assert any(name.startswith(alignment.PREFIX) for name in names) == (file.parent == found.folder), file
    start(shards, tmp_path / "after", {"layers": 3, "steps": 2}, init=str(tmp_path / "whole"))  # without the head


def test_the_alignment_learns(shards: Path, tmp_path: Path) -> None:
    more = {**ALIGNED, "sra_block": 1, "steps": 40, "lr": 0.01}
    start(shards, tmp_path / "run", more, log_every=10, heldout_every=0)
    found = [line["alignment_loss"] for line in lines(tmp_path / "run")]
    assert len(found) == 4 and found[-1] < 0.5 * found[0]
    start(shards, tmp_path / "plain", {"steps": 4})
    assert "alignment_loss" not in lines(tmp_path / "plain")[0]


def test_a_compiled_transformer_takes_routes_and_the_head(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    more = {**BOTH, "tread_off": 0.5, "steps": 8}
    start(shards, tmp_path / "plain", more, log_every=1, heldout_every=0)
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=counter))
    start(shards, tmp_path / "compiled", more, log_every=1, heldout_every=0, compile=True)
    assert counter.frame_count == 2  # with routes, and without
    for a, b in zip(lines(tmp_path / "compiled"), lines(tmp_path / "plain"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_a_plan_counts_routes_and_the_head() -> None:
    def flops(**more: Any) -> float:
        found = dry_run("512", data="nowhere/", overrides=more)["flops_per_image_forward"]
        return float(found)

    plain, never = flops(), flops(tread=0.5, tread_off=1)
    routed, always = flops(tread=0.5), flops(tread=0.5, tread_off=0)
    assert never == plain and routed == pytest.approx(0.1 * plain + 0.9 * always)
    assert 0.40 < always / plain < 0.62  # 25 of 28 blocks, at half of the tokens
    masked = flops(mask=0.75, mask_off=0)
    assert 0.25 < masked / plain < 0.42  # 24 of 28 blocks, at a quarter
    assert flops(mask=0.75) == pytest.approx(0.1 * plain + 0.9 * masked)
    assert flops(sra=1) / plain == pytest.approx(1.028, abs=0.01)  # the paper's 4 %, less what text costs here
    need = [
        dry_run("512", data="nowhere/", overrides={"sra": weight})["memory_bytes_per_device"]["weights"] for weight in (0, 1)
    ]  # fmt: skip
    assert 70e6 < need[1] - need[0] < 80e6


def test_a_calibration_is_of_the_routed_steps_and_the_hours_of_the_whole_run() -> None:
    sizes = cost.Sizes(8, 3)
    recipe = recipes.resolve("nano", {"layers": 3, **ROUTED, "batch": 4})

    def hours(recipe: recipes.Recipe) -> float:
        found = cost.account(CONFIG, recipe, sizes, world_size=1, micro_batch=4, measured=100.0)["hours"]
        return float(found)

    plain = hours(recipes.resolve("nano", {"layers": 3, "batch": 4}))
    whole, routed = (cost.forward_flops(CONFIG, recipe, 8, 3, part) for part in (False, True))
    assert hours(recipe) == pytest.approx(plain * (0.25 * whole + 0.75 * routed) / routed, rel=0.01)


def test_few_tokens_are_warned_of(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(shards, tmp_path / "run", {**ROUTED, "steps": 1}, quiet=False)
    assert "tread=0.5: images of 4 tokens are few for routing" in capsys.readouterr().err
    dry_run("256-early", data="nowhere/", overrides={"tread": 0.5})
    assert "images of 256 tokens are few" in capsys.readouterr().err
    dry_run("512", data="nowhere/", overrides={"tread": 0.5})
    assert "are few" not in capsys.readouterr().err


def test_what_cannot_be_is_refused(shards: Path, tmp_path: Path) -> None:
    def resolved(name: str = "nano", **more: Any) -> Any:
        return lambda: recipes.resolve(name, more)

    refused(UsageError, 2, "tread must be at least 0 and below 1", "", resolved(tread=1))
    refused(UsageError, 2, "tread must be 0 where tread_before and tread_after", "", resolved(tread=0.5, layers=3))
    refused(UsageError, 2, "tread_off must be between 0 and 1", "", resolved(tread_off=1.5))
    refused(UsageError, 2, "tread_before must be at least 0", "", resolved(tread_before=-1))
    refused(UsageError, 2, "mask must be 0 where tread is on", "", resolved(tread=0.5, mask=0.5))
    refused(UsageError, 2, "mask must be at least 0 and below 1", "", resolved(mask="nan"))
    refused(UsageError, 2, "mask_after must be below 6, the layers", "", resolved(mask=0.5, mask_after=6))
    refused(UsageError, 2, "mask_after must be at least 0", "", resolved(mask=0.5, mask_after=-1))
    refused(UsageError, 2, "sra_block must be from 1 to 6, the layers", "", resolved(sra=1))
    refused(UsageError, 2, "sra must be at least 0", "", resolved(sra=-1))
    refused(UsageError, 2, "sra must be a finite number", "", resolved(sra="inf", sra_block=1))
    refused(UsageError, 2, "no setting 'tread'", "", resolved("captioner", tread=0.5))
    refused(UsageError, 2, "no setting 'sra'", "", resolved("captioner", sra=1))
    start(shards, tmp_path / "run", {**ROUTED, "steps": 2})
    more = {**ROUTED, "tread_off": 0.5, "steps": 4}  # as cooldown, it may be decided anew
    assert start(shards, tmp_path / "run", more).step == 4
    what = "was started with tread_after=1, and now it is 0"
    refused(
        CommonArtError, 1, what, "--set tread_after=1", lambda: start(shards, tmp_path / "run", {**more, "tread_after": 0})
    )  # fmt: skip


def test_a_head_is_a_part_of_the_checkpoint(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "run", {**BOTH, "steps": 2})
    found = checkpoint.newest(tmp_path / "run")
    assert found is not None
    (found.folder / trainer.ALIGNMENT_FILE).unlink()
    refused(CommonArtError, 1, "Every checkpoint", "", lambda: start(shards, tmp_path / "run", {**BOTH, "steps": 4}))
    assert settings_of(shards, tmp_path / "run", BOTH).recipe.sra == 0.5
