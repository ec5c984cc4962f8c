"""core.model.diffusion: both objectives against formulas written again in float64 numpy."""

import math

import numpy as np
import pytest
import torch

from commonart.core.errors import CommonArtError
from commonart.core.model import diffusion
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt

TEXT = torch.zeros(5, 1, 3)


def constant(output):
    """A model that answers `output` and keeps what it was asked."""

    def model(latents, timestep, text, mask):
        model.asked = (latents, timestep)
        return output

    return model


def numbers(channels, seed=0):
    return torch.randn(5, channels, 3, 3, generator=torch.Generator().manual_seed(seed))


# --- eps -------------------------------------------------------------------------------------------------------


def vlb_numpy(x0, xt, eps, v, t):
    """Improved DDPM, one number, straight from the papers, float64: bits of one step."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - beta)

    def posterior(start, step):
        before = bar[step - 1] if step else 1.0
        mean = beta[step] * np.sqrt(before) / (1 - bar[step]) * start
        mean += (1 - before) * np.sqrt(1 - beta[step]) / (1 - bar[step]) * xt
        return mean, beta[step] * (1 - before) / (1 - bar[step])

    true_mean, true_variance = posterior(x0, t)
    mean, _ = posterior((xt - np.sqrt(1 - bar[t]) * eps) / np.sqrt(bar[t]), t)
    smallest = posterior(x0, max(t, 1))[1]
    variance = np.exp((v + 1) / 2 * np.log(beta[t]) + (1 - v) / 2 * np.log(smallest))
    if t > 0:
        ratio = true_variance / variance
        return 0.5 * (ratio - 1 - np.log(ratio) + (true_mean - mean) ** 2 / variance) / np.log(2)

    def normal_cdf(value):
        return 0.5 * (1 + math.erf(value / math.sqrt(2 * variance)))

    high, low = normal_cdf(x0 - mean + 1 / 255), normal_cdf(x0 - mean - 1 / 255)
    if x0 < -0.999:
        probability = high
    elif x0 > 0.999:
        probability = 1 - low
    else:
        probability = high - low
    return -np.log(max(probability, 1e-12)) / np.log(2)


def test_bound_is_the_papers_in_float64():
    # eps is near the noise, as a trained model's is: far from it every bin has probability 0.
    data, noise, v = numbers(4), numbers(4, 1), numbers(4, 2).tanh()
    predicted = noise + 0.3 * numbers(4, 3)
    time = torch.tensor([0, 1, 20, 500, 999])
    model = constant(torch.cat([predicted, v], 1))
    loss, timestep = diffusion.loss(model, data, TEXT, None, "eps", noise_BCHW=noise, time_B=time)
    noisy = model.asked[0].double().numpy()
    mse = (predicted - noise).square().flatten(1).mean(1).double()
    for i, t in enumerate(time.tolist()):
        cells = zip(*(a[i].flatten().double().numpy() for a in (data, predicted, v)), noisy[i].ravel(), strict=True)
        expected = np.mean([vlb_numpy(x0, xt, eps, w, t) for x0, eps, w, xt in cells])
        # x_t of float32 at t = 0 moves the numpy mean: the bin is 1/255 wide, sqrt(1 - bar) 0.01.
        assert (loss[i].double() - mse[i]).item() == pytest.approx(expected, rel=2e-4, abs=2e-5), t
    assert timestep.tolist() == time.tolist()
    assert model.asked[1].tolist() == time.tolist()


def test_noise_is_added_as_diffusers_adds_it():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    data, noise, time = numbers(4), numbers(4, 1), torch.tensor([0, 3, 200, 700, 999])
    model = constant(torch.zeros(5, 8, 3, 3))
    diffusion.loss(model, data, TEXT, None, "eps", noise_BCHW=noise, time_B=time)
    torch.testing.assert_close(model.asked[0], scheduler.add_noise(data, noise, time), atol=1e-5, rtol=0)


def test_bound_teaches_the_variance_alone():
    output = torch.cat([numbers(4, 1), numbers(4, 2).tanh()], 1).requires_grad_()
    noise, time = numbers(4, 3), torch.tensor([0, 1, 100, 500, 999])
    diffusion.loss(constant(output), numbers(4), TEXT, None, "eps", noise_BCHW=noise, time_B=time)[0].sum().backward()
    mse_gradient = 2 * (output.detach()[:, :4] - noise) / (4 * 3 * 3)
    torch.testing.assert_close(output.grad[:, :4], mse_gradient)
    assert output.grad.isfinite().all()
    assert output.grad[1:, 4:].abs().min() > 0


def test_right_variance_has_the_smallest_bound():
    data, noise, time = numbers(4), numbers(4, 1), torch.full((5,), 1)  # early, where the range is wide
    values = [
        diffusion.loss(
            constant(torch.cat([noise, torch.full_like(noise, v)], 1)), data, TEXT, None, "eps",
            noise_BCHW=noise, time_B=time,
        )[0].sum().item()
        for v in (-1.0, -0.5, 0.0, 1.0)
    ]  # fmt: skip
    assert values == sorted(values)
    assert values[0] == pytest.approx(0, abs=1e-5)  # the true noise and the posterior's variance: nothing to pay


# --- flow ------------------------------------------------------------------------------------------------------


def test_flow_is_velocity_on_a_straight_line():
    data, noise, time = numbers(4).double(), numbers(4, 1), torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    answer = numbers(4, 2)
    model = constant(answer)
    loss, timestep = diffusion.loss(model, data, TEXT, None, "flow", noise_BCHW=noise, time_B=time)
    at = time.view(-1, 1, 1, 1).double()
    torch.testing.assert_close(model.asked[0].double(), (1 - at) * data + at * noise, atol=1e-6, rtol=0)
    expected = (answer - (noise - data)).square().flatten(1).mean(1)
    torch.testing.assert_close(loss, expected.float())
    torch.testing.assert_close(timestep, 1000 * time)
    assert loss.dtype == torch.float32


def test_flow_shift_moves_times_to_noise():
    time = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    kwargs = {"noise_BCHW": numbers(4), "time_B": time}
    _, timestep = diffusion.loss(constant(numbers(4)), numbers(4), TEXT, None, "flow", shift=3.0, **kwargs)
    torch.testing.assert_close(timestep, 1000 * 3 * time / (1 + 2 * time))


def test_times_are_drawn_as_said():
    generator = torch.Generator().manual_seed(0)
    flow = diffusion.draw_times(20_000, "flow", generator)
    logit = torch.logit(flow)
    assert (logit.mean().abs() < 0.03) and (logit.std() - 1).abs() < 0.03
    eps = diffusion.draw_times(20_000, "eps", generator)
    assert eps.dtype == torch.int64 and eps.min() == 0 and eps.max() == 999
    assert eps.float().mean().item() == pytest.approx(499.5, abs=10)


# --- both ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", diffusion.OBJECTIVES)
def test_generator_alone_decides(objective):
    output = torch.zeros(5, diffusion.out_channels(objective), 3, 3)

    def draw(seed):
        return diffusion.loss(
            constant(output), numbers(4), TEXT, None, objective, torch.Generator().manual_seed(seed)
        )  # fmt: skip

    torch.manual_seed(1)
    one = draw(7)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one, draw(7), strict=True))
    assert not torch.equal(one[0], draw(8)[0])


@pytest.mark.parametrize("objective", diffusion.OBJECTIVES)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_small_transformer_learns(objective, autocast):
    torch.manual_seed(0)
    config = PixArtConfig(
        num_attention_heads=2, attention_head_dim=16, num_layers=1, caption_channels=3, sample_size=4,
        out_channels=diffusion.out_channels(objective),
    )  # fmt: skip
    model = PixArt(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    data, text = torch.ones(32, 4, 4, 4) * 0.5, torch.zeros(32, 1, 3)
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, _ = diffusion.loss(model, data, text, None, objective, generator)
        assert loss.dtype == torch.float32
        loss.mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.mean().item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_wrong_objective_and_channels_are_said():
    with pytest.raises(CommonArtError, match="vpred"):
        diffusion.loss(constant(numbers(4)), numbers(4), TEXT, None, "vpred")
    with pytest.raises(CommonArtError, match="4 channels; the objective eps needs 8"):
        diffusion.loss(constant(numbers(4)), numbers(4), TEXT, None, "eps")
    assert diffusion.objective_of(4, 8) == "eps"
    assert diffusion.objective_of(4, 4) == "flow"
