"""The autoencoder against diffusers itself, on a tiny random AutoencoderKL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from commonart.core.data.images.decode import decode
from commonart.core.errors import CommonArtError
from commonart.core.model import memory
from commonart.core.model.autoencoder import Autoencoder, pick_precision, to_images, to_pixels


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("levels", [3, 4])
def test_latents_are_scaled_and_shifted(tmp_path: Path, levels: int) -> None:
    model = tiny.vae(tmp_path, levels=levels)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    assert (autoencoder.factor, autoencoder.channels) == (2 ** (levels - 1), 4)
    mean, std = autoencoder.encode(images(), batch=2)
    with torch.no_grad():
        posterior = model.encode(images()).latent_dist
    torch.testing.assert_close(mean, (posterior.mean - 0.1) * 0.5, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(std, posterior.std * 0.5, atol=1e-5, rtol=1e-4)
    assert mean.shape == (3, 4, 32 // autoencoder.factor, 32 // autoencoder.factor)


def test_decode_undoes_the_scaling(tmp_path: Path) -> None:
    model = tiny.vae(tmp_path)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    mean, _ = autoencoder.encode(images())
    with torch.no_grad():
        expected = model.decode(model.encode(images()).latent_dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(mean, batch=2), expected, atol=1e-4, rtol=1e-3)


def test_no_shift_is_zero(tmp_path: Path) -> None:
    tiny.vae(tmp_path, shift_factor=None, scaling_factor=0.13025)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    assert (autoencoder.scaling, autoencoder.shift) == (0.13025, 0.0)


def test_large_images_run_in_tiles_and_small_ones_do_not(tmp_path: Path) -> None:
    tiny.vae(tmp_path)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    whole, _ = autoencoder.encode(images(1, 128))
    assert not autoencoder.model.use_tiling  # its own sample_size is 32: only our limit counts
    autoencoder.tile_above = 64
    tiled, _ = autoencoder.encode(images(1, 128))
    assert autoencoder.model.use_tiling
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert autoencoder.decode(whole).shape == (1, 3, 128, 128)


def test_flux2_is_normed_as_its_own_pipeline_does_it(tmp_path: Path) -> None:
    """diffusers' Flux2Pipeline norms patches of 2 x 2; here the patches stay apart, so that a transformer chooses its own."""
    from diffusers import Flux2Pipeline

    model = tiny.flux2_vae(tmp_path)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    assert (autoencoder.factor, autoencoder.channels, autoencoder.deterministic) == (4, 4, False)
    assert autoencoder.settings == {"factor": 4}
    mean, std = autoencoder.encode(images(), batch=2)
    with torch.no_grad():
        posterior = model.encode(images()).latent_dist
    deviation = (model.bn.running_var + model.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    patches = Flux2Pipeline._patchify_latents(posterior.mean) - model.bn.running_mean.view(1, -1, 1, 1)
    torch.testing.assert_close(mean, Flux2Pipeline._unpatchify_latents(patches / deviation), atol=1e-5, rtol=1e-4)
    patches = Flux2Pipeline._patchify_latents(posterior.std) / deviation
    torch.testing.assert_close(std, Flux2Pipeline._unpatchify_latents(patches), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        expected = model.decode(posterior.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(mean), expected, atol=1e-4, rtol=1e-3)
    odd, _ = autoencoder.encode(images()[..., :20])  # half a patch at the edge
    assert odd.shape == (3, 4, 8, 5)


def test_the_statistics_are_not_rounded_to_the_precision_of_the_model(tmp_path: Path) -> None:
    tiny.flux2_vae(tmp_path)
    whole, half = (Autoencoder.load(tmp_path, precision, device="cpu") for precision in ("fp32", "bf16"))
    assert half.model.bn.running_mean.dtype == torch.bfloat16
    assert isinstance(half.shift, torch.Tensor) and isinstance(whole.shift, torch.Tensor)
    assert torch.equal(half.shift, whole.shift) and half.encode(images())[0].dtype == torch.float32


def test_dc_ae_gives_one_latent(tmp_path: Path) -> None:
    model = tiny.dc_ae(tmp_path)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    assert (autoencoder.factor, autoencoder.channels, autoencoder.deterministic) == (4, 8, True)
    mean, std = autoencoder.encode(images(), batch=2)
    with torch.no_grad():
        latent = model.encode(images()).latent
        expected = model.decode(latent).sample.clamp(-1, 1)
    torch.testing.assert_close(mean, latent * 0.41407, atol=1e-5, rtol=1e-4)
    assert not std.any() and std.shape == mean.shape
    torch.testing.assert_close(autoencoder.decode(mean), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [tiny.flux2_vae, tiny.dc_ae])
def test_others_run_in_tiles_too(tmp_path: Path, make: Any) -> None:
    make(tmp_path)
    autoencoder = Autoencoder.load(tmp_path, device="cpu")
    whole, _ = autoencoder.encode(images(1, 128))
    autoencoder.tile_above = 64
    tiled, _ = autoencoder.encode(images(1, 128))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert autoencoder.decode(whole).shape == (1, 3, 128, 128)
    autoencoder.tile_above = 1024
    assert torch.equal(autoencoder.encode(images(1, 128))[0], whole)
    assert memory.largest_side(autoencoder, (128, 128)) == 1024


def test_sides_must_be_multiples(tmp_path: Path) -> None:
    tiny.vae(tmp_path)
    with pytest.raises(ValueError, match="30x32"):
        Autoencoder.load(tmp_path, device="cpu").encode(torch.zeros(1, 3, 32, 30))


def test_pixels_there_and_back() -> None:
    array = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    pixels = to_pixels([Image.fromarray(array)])
    assert pixels.shape == (1, 3, 8, 6) and -1 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert np.array_equal(np.asarray(to_images(pixels)[0]), array)
    assert to_pixels([decode(tiny.jpeg((16, 8)))]).shape == (1, 3, 8, 16)


def test_precision_auto(tmp_path: Path) -> None:
    tiny.vae(tmp_path / "a", force_upcast=True)
    tiny.vae(tmp_path / "b", force_upcast=False)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert pick_precision(tmp_path / "a", "auto", gpu) == torch.float32
    assert pick_precision(tmp_path / "b", "auto", gpu) == torch.float16
    assert pick_precision(tmp_path / "b", "auto", cpu) == torch.float32
    assert Autoencoder.load(tmp_path / "a", "bf16", device="cpu").precision == "bfloat16"


def test_pipeline_folder(tmp_path: Path) -> None:
    tiny.vae(tmp_path / "vae")
    assert Autoencoder.load(tmp_path, device="cpu").factor == 4


def test_bad_folders_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="holds no autoencoder"):
        Autoencoder.load(tmp_path, device="cpu")
    tiny.vae(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "quant_conv.weight"}, weights)
    with pytest.raises(CommonArtError, match=r"lack 1 tensors, among them quant_conv\.weight"):
        Autoencoder.load(tmp_path, device="cpu")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CommonArtError, match="cannot be loaded"):
        Autoencoder.load(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(CommonArtError, match="a VQModel, not an AutoencoderKL"):
        Autoencoder.load(tmp_path, device="cpu")


def test_half_precision_alone_is_read(tmp_path: Path) -> None:
    tiny.vae(tmp_path)
    expected = Autoencoder.load(tmp_path, torch.float32, device="cpu").encode(images())
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    found = Autoencoder.load(tmp_path, torch.float32, device="cpu").encode(images())
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
