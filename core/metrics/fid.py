"""Fréchet distances between two sets of images: FID on Inception features, and FD on any others.

Only a distance on the features of the Inception-v3 of 2015 is called FID, with one of clean-fid's ways of resizing
(arXiv 2104.11222); on other features it has a name of its own (`FD-nano-clip`), because the two cannot be compared.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.errors import CommonArtError, UsageError, first_line
from commonart.core.log import say
from commonart.core.metrics.features import Encoder, extract
from commonart.core.metrics.image_set import ImageRef

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    Network = Callable[[Tensor], Tensor]

Floats = NDArray[np.float64]
Z = 1.959964  # of a normal distribution, for 95 %

# clean-fid's mode -> the weights that it runs on, of 95 MB each. `clean` resizes images by PIL's bicubic filter,
# `legacy_pytorch` bilinearly without anti-aliasing, as pytorch-fid does.
MODES = {"clean": "inception-2015-12-05.pt", "legacy_pytorch": "pt_inception-2015-12-05-6726825d.pth"}


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A Gaussian fitted to features: mean [D], covariance [D, D] and the number of images."""

    mean: Floats
    covariance: Floats
    n: int


def fit(features: NDArray[Any]) -> Gaussian:
    """Fit a Gaussian to features [N, D], with the unbiased covariance that every FID implementation uses.

    Raises ValueError for fewer than two rows, or a value that is not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a covariance needs at least two images, got features of shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("a feature is not finite")
    return Gaussian(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)), len(features))


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Return the Fréchet distance |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), never below 0 (arXiv 1706.08500, eq. 6).

    The eigenvalues of C1 C2 are those of the symmetric S C2 S with S = C1^(1/2): no complex, unstable square root of a
    product, and no epsilon when there are fewer images than features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of two kinds, {a.mean.shape} and {b.mean.shape}")
    return _distance(a, _root(a.covariance), b.mean, b.covariance)


def jackknife(features: NDArray[Any], reference: Gaussian, groups: int = 20) -> tuple[float, float]:
    """Return a 95 % interval of the distance of features [N, D] to a reference, which counts as given.

    The delete-a-group jackknife (Efron and Tibshirani, An Introduction to the Bootstrap, 11.5): a bootstrap would move the
    distance itself, which grows where images repeat. `features` in an order that says nothing of them, as by content.
    """
    root = _root(reference.covariance)
    centre = features.mean(axis=0, dtype=np.float64)
    parts = [part.astype(np.float64) - centre for part in np.array_split(features, min(groups, len(features)))]
    whole = np.sum([part.T @ part for part in parts], axis=0)
    values = []
    for part in parts:
        n = len(features) - len(part)
        if n < 2:
            return 0.0, float("inf")
        mean = -part.sum(axis=0) / n
        covariance = (whole - part.T @ part - n * np.outer(mean, mean)) / (n - 1)
        values.append(_distance(reference, root, centre + mean, covariance))
    error = np.sqrt((len(values) - 1) / len(values) * np.sum((np.array(values) - np.mean(values)) ** 2))
    value = frechet(reference, fit(features))
    return max(0.0, value - Z * float(error)), value + Z * float(error)


def _distance(a: Gaussian, root: Floats, mean: Floats, covariance: Floats) -> float:
    product = np.linalg.eigvalsh(root @ covariance @ root)
    distance = np.sum((a.mean - mean) ** 2) + np.trace(a.covariance) + np.trace(covariance)
    return float(max(0.0, distance - 2 * np.sqrt(product.clip(min=0)).sum()))


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def encoder(mode: str, device: str = "cpu", network: Network | None = None, sha256: str = "") -> Encoder:
    """Return Inception as an encoder of images, which are resized by clean-fid itself.

    Args:
        network: pixels [B, 3, 299, 299] in 0..255 -> features [B, D]; by default `inception(mode, device)`.
        sha256: of the network's weights.
    """
    import torch
    from cleanfid.resize import build_resizer

    if network is None:
        network, sha256 = inception(mode, device)
    resize, to = build_resizer(mode), torch.device(device)

    def prepare(image: Image.Image) -> Tensor:
        pixels = np.asarray(resize(np.asarray(image.convert("RGB"))), dtype=np.float32)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def embed(pixels: Tensor) -> Tensor:
        return network(pixels.to(to))

    return Encoder(f"inception {mode} {sha256} {to.type}", prepare, embed)


def inception_features(
    files: Sequence[str | os.PathLike[str]], mode: str, device: str = "cpu", network: Network | None = None
) -> NDArray[np.float32]:
    """Return Inception's pool features [N, 2048] of image files, upright and in sRGB, resized as clean-fid does.

    Args:
        network: as `encoder` takes it.
    """
    by = encoder(mode, device, network)
    return extract([ImageRef(str(file), {}) for file in files], [by]).rows[by.name]


def inception(mode: str, device: str = "cpu", folder: Path | None = None) -> tuple[Network, str]:
    """Return clean-fid's network for a mode, and the sha256 of its weights.

    FID is defined on these two files, which exist in no other form: a TorchScript archive (no Python code runs) and a
    state dict that is read with `weights_only`.

    Args:
        folder: of the weights, which are downloaded where they are missing; default: `commonart/inception` in the
            user's cache (XDG_CACHE_HOME is honoured), not the shared temporary folder that clean-fid would use.

    Raises:
        UsageError: an unknown mode.
        CommonArtError: the weights are missing and cannot be downloaded, or they are damaged.
    """
    check_mode(mode)
    import pickle

    import torch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = folder or cache / "commonart" / "inception"
    path = folder / MODES[mode]
    if not path.is_file():
        _download(mode, path)
    try:
        if mode == "clean":
            from cleanfid.inception_torchscript import InceptionV3W

            model: torch.nn.Module = InceptionV3W(str(folder), download=False).to(device).eval()
        else:
            model = _pytorch_inception(path).to(device).eval()
    except (RuntimeError, OSError, KeyError, EOFError, pickle.UnpicklingError) as problem:
        raise CommonArtError(
            f"{path} does not hold the Inception weights ({first_line(problem)}).",
            "Delete the file; the same command downloads it again.",
        ) from problem

    def features(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = model(pixels) if mode == "clean" else model(pixels / 255)[0].flatten(1)
            return output

    return features, hashlib.sha256(path.read_bytes()).hexdigest()


def check_mode(mode: str) -> None:
    """Raise UsageError for an unknown mode."""
    if mode not in MODES:
        raise UsageError(f"--fid {mode} is not a mode.", f"Choose one of {', '.join(MODES)}.")


def _pytorch_inception(path: Path) -> torch.nn.Module:
    """Make clean-fid's InceptionV3, with its loader replaced by one that unpickles nothing but tensors."""
    import torch
    from cleanfid import inception_pytorch

    def load(*_args: object, **_options: object) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True)

    original = inception_pytorch.load_state_dict_from_url
    inception_pytorch.load_state_dict_from_url = load
    try:
        model: torch.nn.Module = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)
        return model
    finally:
        inception_pytorch.load_state_dict_from_url = original


def _download(mode: str, path: Path) -> None:
    from torch.hub import download_url_to_file

    if mode == "clean":
        from cleanfid.downloads_helper import inception_url as url
    else:
        from cleanfid.inception_pytorch import FID_WEIGHTS_URL as url
    # Only the second file has a published hash, as a part of its name; eval.json records the sha256 of either.
    prefix = "6726825d" if mode == "legacy_pytorch" else None
    say(f"downloading {path.name} (95 MB)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), hash_prefix=prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, ValueError) as problem:
        raise CommonArtError(
            f"FID ({mode}) needs {path.name} (95 MB), which cannot be downloaded ({problem}).",
            f"Put the file at {path}, or measure without --fid: FD-nano-clip needs no download.",
        ) from problem
