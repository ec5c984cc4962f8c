"""PixArt's own state-dict names to diffusers': weights that its official repository trained, as safetensors.

A `.pth` is a pickle, which is not opened here: `core/registry/pickle_conversion.py` converts one in a process of its own.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from torch import Tensor

from commonart.core.errors import CommonArtError
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt

# The names of github.com/PixArt-alpha/PixArt-sigma (diffusion/model/nets/PixArtMS.py), without ".weight" and ".bias".
_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "final_layer.linear": "proj_out",
    "final_layer": "",  # its scale_shift_table
}
_BLOCK: dict[str, tuple[str, ...]] = {
    "": ("",),  # its scale_shift_table
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
# Positions are computed here; the learned null text and its like belong to text encoders that bring their own.
_LEFT_OUT = ("pos_embed", "y_embedder.y_embedding")


def is_original(names: set[str]) -> bool:
    """Return whether these are the names of PixArt's own repository."""
    return "x_embedder.proj.weight" in names


def convert(state: dict[str, Tensor], file: Path, heads: int = 16) -> PixArt:
    """Return the transformer whose tensors `state` holds under PixArt's own names; `heads` is not to be read from them.

    Its resolution follows from the stored positions (PixArt-Sigma's sample_size / 64 as interpolation_scale). Raises
    CommonArtError, which names a tensor that a PixArt-Sigma transformer does not have, or lacks.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in _LEFT_OUT:
            continue
        targets = _targets(name, file)
        for target, chunk in zip(targets, tensor.chunk(len(targets)), strict=True):
            renamed[target] = chunk.contiguous()
    return PixArt.of(_config(state, renamed, file, heads), renamed, file)


def _targets(name: str, file: Path) -> list[str]:
    stem, _, kind = name.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.?(.*)", stem)
    if block:
        known, prefix = _BLOCK.get(block[2]), f"transformer_blocks.{block[1]}."
    else:
        known, prefix = ((_ENDS[stem],) if stem in _ENDS else None), ""
    if known is None or kind not in ("weight", "bias", "scale_shift_table"):
        raise CommonArtError(
            f"{file} holds {name}, which a PixArt-Sigma transformer does not have.",
            "Name weights of PixArt-Sigma at 256, 512 or 1024 pixels (no query-key norm, no compressed keys).",
        )
    return [prefix + ".".join(filter(None, (inner, kind))) for inner in known]


def _config(state: dict[str, Tensor], renamed: dict[str, Tensor], file: Path, heads: int) -> PixArtConfig:
    try:
        width, channels, patch, _ = renamed["pos_embed.proj.weight"].shape
        out = renamed["proj_out.bias"].shape[0] // patch**2
        text = renamed["caption_projection.linear_1.weight"].shape[1]
        side = math.isqrt(state["pos_embed"].shape[1]) * patch
    except KeyError as error:
        fix = "Name all the weights of a PixArt transformer."
        raise CommonArtError(f"{file} lacks {error.args[0]}.", fix) from None
    layers = 1 + max(int(name.split(".")[1]) for name in renamed if name.startswith("transformer_blocks."))
    if width % heads:
        what = f"{file}: its width {width} is not a multiple of {heads} heads."
        raise CommonArtError(what, "Set the number of heads: --set heads=N.")
    return PixArtConfig(
        num_attention_heads=heads, attention_head_dim=width // heads, num_layers=layers, in_channels=channels,
        out_channels=out, patch_size=patch, sample_size=side, caption_channels=text,
    )  # fmt: skip
