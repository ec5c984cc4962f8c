"""What a recipe may switch on in the transformer and its loss: equations, and that nothing changes where it is off."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commonart.core.errors import CommonArtError
from commonart.core.generation.export import export
from commonart.core.model import diffusion, sampler, x_prediction
from commonart.core.model.config import PixArtConfig
from commonart.core.model.times import TimeLaw
from commonart.core.model.transformer import PixArt, stack_text

CONFIG = PixArtConfig(
    num_attention_heads=2, attention_head_dim=8, num_layers=2, out_channels=4, caption_channels=6, sample_size=8
)


def model_of(**changes: Any) -> PixArt:
    torch.manual_seed(0)
    model = PixArt(replace(CONFIG, **changes))
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)  # else it predicts zero
    return model


def texts(count: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    return stack_text([torch.randn(2 + n % 3, 6, generator=generator) for n in range(count)])


def drawn(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 4, 8, 8, generator=generator), torch.rand(count, generator=generator)


@pytest.mark.parametrize("autocast", [False, True])
def test_latents_that_share_a_text_are_as_if_each_had_its_own(autocast: bool) -> None:
    (text, mask), (latents, time), model = texts(3), drawn(6), model_of()
    assert mask is not None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        shared = model(latents, 1000 * time, text, mask)
        shared.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
        model.zero_grad()
        own = model(latents, 1000 * time, text.repeat_interleave(2, 0), mask.repeat_interleave(2, 0))
        own.square().sum().backward()
    near = {"rtol": 0.1, "atol": 0.1} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(shared, own, **near)
    ours = torch.cat([gradient.flatten() for gradient in gradients])
    theirs = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
    assert float((ours - theirs).norm() / theirs.norm()) < (0.02 if autocast else 1e-5)
    with pytest.raises(CommonArtError, match="5 latents cannot share"):
        model(latents[:5], 1000 * time[:5], text, mask)


def test_x_prediction_is_trained_and_sampled_by_its_velocity() -> None:
    (text, mask), (latents, time), plain, model = texts(4), drawn(4), model_of(), model_of(prediction="x")
    time[0] = 0.01  # below the clamp
    noise = drawn(4)[0].flip(0)
    noisy = torch.lerp(latents, noise, time.view(-1, 1, 1, 1))
    x = plain(noisy, 1000 * time, text, mask)
    velocity = model(noisy, 1000 * time, text, mask)
    torch.testing.assert_close(velocity[1:], (noisy - x)[1:] / time[1:, None, None, None])
    loss_B, _ = diffusion.loss(
        model, latents, text, mask, "flow", noise_BCHW=noise, time_B=time, prediction="x"
    )  # fmt: skip
    weight_B = time.clamp(min=0.05).pow(-2)
    torch.testing.assert_close(loss_B, weight_B * (x - latents).square().flatten(1).mean(1), rtol=1e-4, atol=1e-4)


def test_a_perfect_x_prediction_has_no_loss_and_samples_its_image() -> None:
    latents, time = drawn(4)
    time[0] = 0.01

    def perfect(noisy: Tensor, timestep: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        return x_prediction.velocity(noisy, latents, timestep / 1000)

    loss_B, _ = diffusion.loss(perfect, latents, torch.ones(4, 1, 6), None, "flow", time_B=time, prediction="x")
    assert float(loss_B.max()) < 1e-9


def test_an_x_prediction_samples_through_the_same_sampler() -> None:
    model = model_of(prediction="x")
    text = torch.randn(3, 6)
    noise = sampler.noise_for(range(2), (4, 8, 8), torch.device("cpu"))
    image = sampler.sample(model, noise, [text, text], torch.ones(1, 6), 20, 1.0, "flow")
    assert image.isfinite().all() and image.shape == (2, 4, 8, 8)


def test_normed_queries_and_keys_have_unit_size_and_the_text_is_read_once_alike() -> None:
    model, (text, mask), (latents, time) = model_of(qk_norm=True), texts(4), drawn(4)
    block: Any = model.transformer_blocks[0]
    keys, _ = block.attn1.keys_and_values(torch.randn(2, 5, 16) * 30)
    torch.testing.assert_close(keys.square().mean(-1), torch.ones(2, 2, 5), rtol=1e-3, atol=1e-3)
    assert {name for name in model.state_dict() if "norm_" in name} == {
        f"transformer_blocks.{n}.{part}.norm_{what}.weight"
        for n in range(2)
        for part in ("attn1", "attn2")
        for what in "qk"
    }
    read = model.read_text(text)
    torch.testing.assert_close(model(latents, 1000 * time, text, mask), model(latents, 1000 * time, read, mask))
    plain = model_of()
    assert not torch.allclose(model(latents, 1000 * time, text, mask), plain(latents, 1000 * time, text, mask))


@pytest.mark.parametrize("changes", [{"prediction": "x"}, {"qk_norm": True}, {"prediction": "x", "qk_norm": True}])
def test_a_switch_of_the_architecture_is_kept_and_export_refuses_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = model_of(**changes)
    folder = model.save(tmp_path / "transformer")
    assert json.loads((folder / "config.json").read_text())["prediction" if "prediction" in changes else "qk_norm"]
    again = PixArt.load(folder)
    (text, mask), (latents, time) = texts(2), drawn(2)
    assert torch.equal(again(latents, 1000 * time, text, mask), model(latents, 1000 * time, text, mask))
    with pytest.raises(CommonArtError, match=r"which diffusers' PixArtTransformer2DModel cannot compute") as told:
        export(str(tmp_path), tmp_path / "out")
    assert all(f"{name} = {value}" in told.value.what for name, value in changes.items())
    assert not (tmp_path / "out").exists()


def test_off_nothing_of_them_is_written() -> None:
    assert not {"prediction", "qk_norm"} & CONFIG.to_dict().keys() and CONFIG.own == {}
    for wrong in ({"prediction": "v"}, {"qk_norm": 2}):
        with pytest.raises(CommonArtError, match="is unknown here"):
            PixArtConfig.from_dict({**CONFIG.to_dict(), **wrong})


def test_the_default_law_is_the_sigmoid_of_the_same_numbers() -> None:
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    expected = torch.randn(1000, generator=generators[0]).sigmoid()
    assert torch.equal(diffusion.draw_times(1000, "flow", generators[1]), expected)


def test_laws_of_times_have_their_densities() -> None:
    def times(**law: Any) -> Tensor:
        found = TimeLaw(**law).draw(200_000, torch.Generator().manual_seed(0))
        assert float(found.min()) >= 0 and float(found.max()) <= 1
        return found

    normal = times(mean=-0.5, std=1.5)
    assert float(normal.logit().mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(normal.logit().std()) == pytest.approx(1.5, abs=0.02)
    uniform = times(name="uniform")
    assert [float((uniform < q).float().mean()) for q in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=0.005)
    torch.testing.assert_close(times(name="mode").flip(0), 1 - uniform.flip(0))  # scale 0 is uniform
    for scale in (-0.5, 1.0):
        found = times(name="mode", scale=scale)
        # Equation 20: the density is 1 / |f'|, with f'(0) = -1 - scale and f'(1/2) = -1 - scale + scale pi / 2.
        middle = float(((found - 0.5).abs() < 0.01).float().mean()) / 0.02
        end = float((found > 0.99).float().mean()) / 0.01
        assert middle == pytest.approx(1 / abs(-1 - scale + scale * math.pi / 2), rel=0.05)
        assert end == pytest.approx(1 / (1 + scale), rel=0.08)
