"""The Fréchet distance against clean-fid's own, and the errors when Inception cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics import fid


def features(seed, n=80, d=12, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def test_equals_clean_fids_formula():
    a, b = features(0), features(1, shift=0.5)
    assert fid.frechet(fid.fit(a), fid.fit(b)) == pytest.approx(clean_fid.fid_from_feats(a, b), rel=1e-6)


def test_equals_the_closed_form_in_one_dimension():
    a, b = features(0, d=1), features(1, d=1, shift=3)
    closed = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert fid.frechet(fid.fit(a), fid.fit(b)) == pytest.approx(closed)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_is_symmetric_never_negative_and_zero_on_itself(one, two, n):
    # n below the dimension: singular covariances, where square roots of products turn complex.
    a, b = fid.fit(features(one, n=n)), fid.fit(features(two, n=n))
    there, back = fid.frechet(a, b), fid.frechet(b, a)
    scale = np.trace(a.covariance) + np.trace(b.covariance)
    assert there >= 0 and there == pytest.approx(back, abs=1e-6 * scale)
    assert fid.frechet(a, a) == pytest.approx(0, abs=1e-6 * scale)


def test_a_shift_adds_its_square():
    a = features(0)
    assert fid.frechet(fid.fit(a), fid.fit(a + 2)) == pytest.approx(4 * a.shape[1])


@pytest.mark.parametrize("bad", [np.zeros((1, 4)), np.zeros(4), np.full((4, 4), np.nan)])
def test_too_few_or_broken_features(bad):
    with pytest.raises(ValueError):
        fid.fit(bad)


def test_features_of_two_kinds():
    with pytest.raises(ValueError, match="two kinds"):
        fid.frechet(fid.fit(features(0, d=3)), fid.fit(features(0, d=4)))


@pytest.mark.parametrize("mode", list(fid.MODES))
def test_pictures_are_read_and_resized_as_clean_fid_does(tmp_path, mode):
    rng = np.random.default_rng(0)
    for group in "ab":
        (tmp_path / group).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / group / f"{i}.png")

    def network(pixels):  # any function of the resized pixels shows whether they are the same
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)

    theirs = clean_fid.compare_folders(
        str(tmp_path / "a"), str(tmp_path / "b"), network, mode, device=torch.device("cpu"), verbose=False
    )
    found = [
        fid.fit(fid.inception_features(sorted((tmp_path / group).iterdir()), mode, network=network)) for group in "ab"
    ]
    assert fid.frechet(*found) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("mode", list(fid.MODES))
def test_without_the_weights_the_error_names_file_and_place(tmp_path, monkeypatch, mode):
    def no_network(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CommonArtError, match="no route to host") as error:
        fid.inception_features(["a.png"], mode)
    assert fid.MODES[mode] in error.value.what and str(tmp_path) in error.value.fix


@pytest.mark.parametrize("mode", list(fid.MODES))
def test_a_damaged_weight_file_is_named(tmp_path, mode):
    (tmp_path / fid.MODES[mode]).write_bytes(b"not weights")
    with pytest.raises(CommonArtError, match="does not hold the Inception weights"):
        fid.inception(mode, folder=tmp_path)


def test_the_legacy_network_loads_a_state_dict_of_its_class(tmp_path, monkeypatch):
    from cleanfid import inception_pytorch

    with monkeypatch.context() as untrained:  # the class's own random weights stand in for the published ones
        untrained.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: {})
        untrained.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        weights = inception_pytorch.fid_inception_v3().state_dict()
    torch.save(weights, tmp_path / fid.MODES["legacy_pytorch"])
    network, digest = fid.inception("legacy_pytorch", folder=tmp_path)
    assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 2048) and len(digest) == 64


def test_an_unknown_mode():
    with pytest.raises(UsageError, match="legacy_tensorflow is not a mode"):
        fid.inception("legacy_tensorflow")
