"""core.model.sampler against diffusers' DPMSolverMultistepScheduler and its PixArt-Sigma pipeline."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

from commonart.core.errors import CommonArtError
from commonart.core.model import sampler
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt

ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def toy(objective):
    """A model that is sure of bounded data, not linear, and of the timestep: any slip in the solver shows."""

    def predict(x, timestep):
        data = torch.tanh(x * 0.7 + torch.sin(timestep.float() / 90)) + 0.1 * x.roll(1, -1).tanh()
        if objective == "flow":
            return (x - data) / max(timestep.item() / 1000, 0.02)
        bar = ALPHA_BAR[timestep].item()
        return (x - bar**0.5 * data) / (1 - bar) ** 0.5

    return predict


def reference(noise, steps, objective, shift=1.0):
    model = toy(objective)
    scheduler = DPMSolverMultistepScheduler.from_config(sampler.scheduler_config(objective, shift))
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, timestep), timestep), timestep, x).prev_sample
    return x, scheduler


@pytest.mark.parametrize("steps", [1, 2, 5, 14, 15, 20, 33, 50])
@pytest.mark.parametrize(("objective", "shift"), [("eps", 1.0), ("flow", 1.0), ("flow", 3.0)])
def test_latents_are_those_of_diffusers(steps, objective, shift):
    noise = sampler.noise_for([1, 2], (4, 8, 8))
    expected, scheduler = reference(noise, steps, objective, shift)
    timesteps, sigmas = sampler.timesteps_and_sigmas(objective, steps, shift)
    assert torch.equal(timesteps, scheduler.timesteps)
    assert torch.equal(sigmas, scheduler.sigmas)
    drawn = sampler.dpmpp_2m(toy(objective), noise, steps, objective, shift=shift)
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=0)


def test_scheduler_takes_its_config_without_a_word(caplog):
    for objective in ("eps", "flow"):
        DPMSolverMultistepScheduler.from_config(sampler.scheduler_config(objective))
    assert not caplog.records


def small_model(out=8):
    torch.manual_seed(0)
    config = PixArtConfig(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, caption_channels=12, sample_size=8, out_channels=out
    )
    model = PixArt(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("objective", ["eps", "flow"])
@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_pipeline_of_diffusers_draws_the_same(tmp_path, objective, guidance):
    from diffusers import AutoencoderKL, PixArtTransformer2DModel

    model = small_model(8 if objective == "eps" else 4)
    model.save(tmp_path)
    torch.manual_seed(1)
    texts, null = [torch.randn(5, 12), torch.randn(3, 12)], torch.randn(1, 12)
    noise = sampler.noise_for([3, 4], (4, 8, 8))
    ours = sampler.sample(model, noise, texts, null, 7, guidance, objective)
    vae = AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, down_block_types=["DownEncoderBlock2D"] * 2,
                        up_block_types=["UpDecoderBlock2D"] * 2)  # fmt: skip
    pipeline = PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=vae,
        transformer=PixArtTransformer2DModel.from_pretrained(tmp_path),
        scheduler=DPMSolverMultistepScheduler.from_config(sampler.scheduler_config(objective)),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    embeds = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    theirs = pipeline(
        prompt_embeds=embeds, prompt_attention_mask=mask, negative_prompt=None,
        negative_prompt_embeds=null.expand(2, 5, 12),
        negative_prompt_attention_mask=torch.tensor([[1, 0, 0, 0, 0]] * 2),
        num_inference_steps=7, guidance_scale=guidance, latents=noise, output_type="latent",
        height=16, width=16, use_resolution_binning=False,
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_guidance_is_one_batched_pass():
    model = small_model()
    sizes = []
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    noise = sampler.noise_for([0, 1, 2], (4, 8, 8))
    texts, null = [torch.randn(n, 12) for n in (4, 2, 6)], torch.zeros(1, 12)
    sampler.sample(model, noise, texts, null, 3, 2.0, "eps")
    assert sizes == [6, 6, 6]
    sizes.clear()
    sampler.sample(model, noise, texts, null, 3, 1.0, "eps")
    assert sizes == [3, 3, 3]


def test_a_picture_depends_on_its_seed_and_text_alone():
    model = small_model()
    texts, null = [torch.randn(n, 12) for n in (4, 2, 6)], torch.randn(1, 12)
    together = sampler.sample(model, sampler.noise_for([5, 6, 7], (4, 8, 8)), texts, null, 5, 3.0, "eps")
    alone = sampler.sample(model, sampler.noise_for([6], (4, 8, 8)), texts[1:2], null, 5, 3.0, "eps")
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_bfloat16_model_and_callback():
    model = small_model().bfloat16()
    seen = []
    out = sampler.sample(
        model, sampler.noise_for([0], (4, 8, 8)), [torch.randn(4, 12)], torch.randn(1, 12), 4, 2.0, "eps",
        callback=lambda step, latents: seen.append((step, latents.shape)),
    )  # fmt: skip
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert seen == [(i, (1, 4, 8, 8)) for i in range(4)]


def test_ddim_is_the_first_order():
    noise = sampler.noise_for([1, 2], (4, 8, 8))
    scheduler = DPMSolverMultistepScheduler.from_config(sampler.scheduler_config("eps"), solver_order=1)
    scheduler.set_timesteps(9)
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(toy("eps")(x, timestep), timestep, x).prev_sample
    drawn = sampler.dpmpp_2m(toy("eps"), noise, 9, "eps", order=1)
    torch.testing.assert_close(drawn, x, atol=1e-5, rtol=0)
    assert not torch.allclose(drawn, sampler.dpmpp_2m(toy("eps"), noise, 9, "eps"), atol=1e-2)
    with pytest.raises(CommonArtError, match="--sampler euler is unknown"):
        sampler.order_of("euler")


def test_the_text_is_read_once():
    model = small_model()
    calls = []
    for block in model.transformer_blocks:
        block.attn2.to_k.register_forward_hook(lambda *_: calls.append(1))
    text, mask = torch.randn(2, 5, 12), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    noise, time = sampler.noise_for([0, 1], (4, 8, 8)), torch.tensor([500, 20])
    with torch.no_grad():
        whole = model(noise, time, text, mask)
        assert torch.equal(model(noise, time, model.read_text(text), mask), whole)
    calls.clear()
    sampler.sample(model, noise, list(text), torch.zeros(1, 12), 6, 2.0)
    assert len(calls) == 2, "once a block, not once a step"


def test_a_negative_text_longer_than_the_prompts_is_the_same_in_a_batch():
    model = small_model()
    noise = sampler.noise_for([3, 4], (4, 8, 8))
    texts, null = [torch.randn(5, 12), torch.randn(3, 12)], torch.randn(7, 12)
    both = sampler.sample(model, noise, texts, null, 4, 3.0)
    for i in range(2):
        alone = sampler.sample(model, noise[i : i + 1], texts[i : i + 1], null, 4, 3.0)
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-3, rtol=1e-3)


def test_guidance_in_an_interval_costs_half_outside_it():
    model = small_model()
    sizes = []
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    noise, text, null = sampler.noise_for([0], (4, 8, 8)), [torch.randn(4, 12)], torch.randn(9, 12)
    timesteps = sampler.timesteps_and_sigmas("eps", 5)[0].tolist()  # 999, 799, 599, 400, 200
    some = sampler.sample(model, noise, text, null, 5, 3.0, "eps", interval=(0.3, 0.7))
    assert sizes == [2 if 300 <= t <= 700 else 1 for t in timesteps] and sizes.count(2) == 2
    whole = sampler.sample(model, noise, text, null, 5, 3.0, "eps", interval=(0.0, 1.0))
    none = sampler.sample(model, noise, text, null, 5, 1.0, "eps")
    assert not torch.allclose(some, whole, atol=1e-3) and not torch.allclose(some, none, atol=1e-3)
    torch.testing.assert_close(sampler.sample(model, noise, text, null, 5, 3.0, "eps", interval=(0.0, 0.01)), none)


def test_rescale_is_that_of_diffusers(monkeypatch):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    model = small_model()
    noise, text, null = sampler.noise_for([0], (4, 8, 8)), torch.randn(4, 12), torch.randn(1, 12)
    said = {}

    def once(predict, noise, *_, **__):
        said["ours"] = predict(noise, torch.tensor(999))
        return noise

    monkeypatch.setattr(sampler, "dpmpp_2m", once)
    sampler.sample(model, noise, [text], null, 1, 6.0, "eps", rescale=0.7)
    with torch.no_grad():
        wanted = model(noise, torch.tensor([999]), text[None])[:, :4]
        unwanted = model(noise, torch.tensor([999]), null[None])[:, :4]
    theirs = rescale_noise_cfg(unwanted + 6.0 * (wanted - unwanted), wanted, guidance_rescale=0.7)
    torch.testing.assert_close(said["ours"], theirs, atol=1e-5, rtol=1e-4)


def test_bad_requests_are_said():
    with pytest.raises(CommonArtError, match="--steps 0"):
        sampler.timesteps_and_sigmas("eps", 0)
    with pytest.raises(CommonArtError, match="2 texts do not fit 1 images"):
        sampler.sample(small_model(), torch.zeros(1, 4, 8, 8), [torch.zeros(1, 12)] * 2, torch.zeros(1, 12))
