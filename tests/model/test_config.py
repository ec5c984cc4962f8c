"""core.model.config: diffusers' config.json of either class, what it may ask for, and the named sizes."""

import diffusers
import pytest
import torch

from commonart.core.errors import CommonArtError
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt


def tiny(sample_size=8):
    return PixArtConfig(
        num_attention_heads=4, attention_head_dim=8, num_layers=2, caption_channels=24, sample_size=sample_size
    )


@pytest.mark.parametrize(("sample_size", "scale"), [(16, 0.25), (32, 0.5), (64, 1.0), (128, 2.0)])
def test_interpolation_scale_is_always_written(sample_size, scale, caplog):
    config = tiny(sample_size=sample_size)
    assert config.to_dict()["interpolation_scale"] == scale
    values = {**config.to_dict(), "interpolation_scale": None}
    assert PixArtConfig.from_dict(values).interpolation_scale == scale
    assert "interpolation_scale" in caplog.text


def test_config_holds_every_key_of_diffusers():
    theirs = dict(diffusers.PixArtTransformer2DModel.from_config(tiny().to_dict()).config)
    ours = tiny().to_dict()
    assert {k: v for k, v in theirs.items() if not k.startswith("_")} == {
        k: v for k, v in ours.items() if not k.startswith("_")
    }
    assert PixArtConfig.from_dict(ours) == tiny()


# What is public of CommonArt beta's config.json, with the rest of the keys that its class wrote.
COMMONART_BETA = {
    "_class_name": "Transformer2DModel", "_diffusers_version": "0.30.0", "activation_fn": "gelu-approximate",
    "attention_bias": True, "attention_head_dim": 72, "attention_type": "default", "caption_channels": 4096,
    "cross_attention_dim": 1152, "double_self_attention": False, "dropout": 0.0, "in_channels": 4,
    "interpolation_scale": 1, "norm_elementwise_affine": False, "norm_eps": 1e-06, "norm_num_groups": 32,
    "norm_type": "ada_norm_single", "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28,
    "num_vector_embeds": None, "only_cross_attention": False, "out_channels": 8, "patch_size": 2,
    "sample_size": 64, "upcast_attention": False, "use_additional_conditions": False,
    "use_linear_projection": False,
}  # fmt: skip


def test_old_class_of_commonart_beta_is_read():
    config = PixArtConfig.from_dict(COMMONART_BETA)
    assert config == PixArtConfig(sample_size=64)
    assert config.interpolation_scale == 1
    with torch.device("meta"):
        assert PixArt(config, initialize=False).parameters_count == 610_856_096  # "0.61 B"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "SD3Transformer2DModel"}, "SD3Transformer2DModel"),
        ({"norm_type": "ada_norm_zero"}, "norm_type"),
        ({"use_additional_conditions": True}, "use_additional_conditions"),
        ({"num_vector_embeds": 8}, "num_vector_embeds"),
        ({"cross_attention_dim": 768}, "cross_attention_dim"),
        ({"caption_channels": None}, "caption_channels"),
        ({"num_layers": "28"}, "num_layers"),
        ({"num_layers": 0}, "num_layers"),
        ({"sample_size": 63}, "63"),
    ],
)
def test_config_that_does_not_fit_is_refused(change, words):
    with pytest.raises(CommonArtError, match=words):
        PixArtConfig.from_dict({**COMMONART_BETA, **change}, "folder/config.json")


def test_unknown_key_is_said(caplog):
    assert PixArtConfig.from_dict({**COMMONART_BETA, "flavour": 1}) == PixArtConfig(sample_size=64)
    assert "flavour" in caplog.text


def test_positions_follow_the_size():
    assert PixArtConfig(sample_size=64).interpolation_scale == 1
    assert PixArtConfig(sample_size=32).interpolation_scale == 0.5
