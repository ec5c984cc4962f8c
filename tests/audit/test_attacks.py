"""Each attack against its paper's formula, written out anew in float64, on a tiny transformer of the real class."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_pipeline
import torch

from commonart.core.audit import attacks
from commonart.core.audit.attacks import PFAMI_CROPS, Denoiser, center_crop

TIMES = [50, 350, 650, 950]
BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # alpha bar of DDPM


@pytest.fixture(scope="module", params=["eps", "flow"])
def denoisers(request, tmp_path_factory):
    objective = request.param
    model = tiny_pipeline.transformer(tmp_path_factory.mktemp(objective), objective)
    generator = torch.Generator().manual_seed(1)
    texts = torch.randn(2, 1, 5, tiny_pipeline.WIDTH, generator=generator)

    def with_text(text):
        def predict(x, t):
            with torch.no_grad():
                time = torch.full((len(x),), float(t))
                return model(x, time, text.expand(len(x), -1, -1), None)[:, :4].float()

        return Denoiser(predict, objective)

    return with_text(texts[0]), with_text(texts[1])


@pytest.fixture
def latents():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def noise(seed, like):
    return attacks.noise_for([seed], like.shape[1:]).expand_as(like).double().numpy()


def predicted(denoiser, x, t):
    return denoiser.predict(torch.tensor(x).float(), t).double().numpy()


def noised(denoiser, x0, e, t):
    if denoiser.objective == "flow":
        return (1 - t / 1000) * x0 + t / 1000 * e
    return BAR[t] ** 0.5 * x0 + (1 - BAR[t]) ** 0.5 * e


def loss(denoiser, x0, seed, t):
    e = noise(seed, torch.tensor(x0))
    aim = e - x0 if denoiser.objective == "flow" else e
    return ((predicted(denoiser, noised(denoiser, x0, e, t), t) - aim) ** 2).mean((1, 2, 3))


def score(attack, denoisers, latents, crops=()):
    return attacks.scores(attack, *denoisers, latents, crops, times=TIMES, draws=1, seed=7)


def test_loss_is_the_mean_error_and_clid_that_of_the_empty_caption_minus_it(denoisers, latents):
    x0 = latents.double().numpy()
    own, null = ([loss(d, x0, 7 + i, t) for i, t in enumerate(TIMES)] for d in denoisers)
    np.testing.assert_allclose(score("loss", denoisers, latents), -np.mean(own, axis=0), rtol=1e-4)
    np.testing.assert_allclose(
        score("clid", denoisers, latents), np.mean(null, axis=0) - np.mean(own, axis=0), rtol=1e-3, atol=1e-5
    )


def test_secmi_is_the_way_forth_and_back_at_100(denoisers, latents):
    model = denoisers[0]

    def ddim(x, start, end):
        e = predicted(model, x, start)
        if model.objective == "flow":
            return x + (end - start) / 1000 * e
        p = np.sqrt(1 / BAR - 1)
        return np.sqrt(BAR[end]) * (x / np.sqrt(BAR[start]) + (p[end] - p[start]) * e)  # SecMI, equation 8

    x = latents.double().numpy()
    for t in range(0, 100, 10):
        x = ddim(x, t, t + 10)
    distance = ((ddim(ddim(x, 100, 110), 110, 100) - x) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(score("secmi", denoisers, latents), -distance, rtol=2e-2)


def test_pia_is_the_fourth_power_of_how_far_the_noise_at_0_is_missed_at_200(denoisers, latents):
    model, x0 = denoisers[0], latents.double().numpy()
    e0 = predicted(model, x0, 0)
    if model.objective == "flow":
        e0 = x0 + e0
    again = predicted(model, noised(model, x0, e0, 200), 200)
    if model.objective == "flow":
        again = again + x0  # the velocity is noise - data
    np.testing.assert_allclose(score("pia", denoisers, latents), -((e0 - again) ** 4).sum((1, 2, 3)), rtol=1e-4)


def test_sima_is_the_fourth_power_of_the_noise_seen_in_the_clean_image(denoisers, latents):
    model, x0 = denoisers[0], latents.double().numpy()
    e = predicted(model, x0, 100)
    if model.objective == "flow":  # x = (1 - t) data + t noise, velocity = noise - data: solved for the noise
        e = np.linalg.solve([[0.9, 0.1], [-1, 1]], np.stack([x0.ravel(), e.ravel()]))[1].reshape(x0.shape)
    np.testing.assert_allclose(score("sima", denoisers, latents), -(e**4).sum((1, 2, 3)), rtol=1e-4)


def test_pfami_is_how_much_less_the_loss_is_than_that_of_crops(denoisers, latents):
    model = denoisers[0]
    crops = [center_crop(latents, share) for share in PFAMI_CROPS]
    changes = []
    for crop in crops:
        for i, t in enumerate(TIMES[:2]):  # those below 500
            own = loss(model, latents.double().numpy(), 7 + i, t)
            changes.append((own - loss(model, crop.double().numpy(), 7 + i, t)) / own)
    np.testing.assert_allclose(
        score("pfami", denoisers, latents, crops), -np.mean(changes, axis=0), rtol=1e-3, atol=1e-5
    )


def test_a_crop_shows_the_middle():
    pixels = torch.zeros(1, 3, 20, 20)
    pixels[:, :, 3:17, 3:17] = 1
    assert center_crop(pixels, 0.7).min() > 0.99 and center_crop(pixels, 0.95)[0, 0, 0, 0] == 0
    assert center_crop(pixels, 0.825).shape == pixels.shape
    assert list(attacks.early_times([700, 800])) == [700]


def test_noise_samples_are_averaged(denoisers, latents):
    x0 = latents.double().numpy()
    expected = np.mean([loss(denoisers[0], x0, 3 + i, t) for i, t in enumerate([200, 200, 600, 600])], axis=0)
    found = attacks.scores("loss", *denoisers, latents, times=[200, 600], draws=2, seed=3)
    np.testing.assert_allclose(found, -expected, rtol=1e-4)
