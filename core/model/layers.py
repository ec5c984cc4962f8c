"""The layers of the transformer: patches with positions, time, text, attention, blocks. core.model.transformer stacks them.

Names of parameters and outputs are those of diffusers' PixArtTransformer2DModel.

Shape suffixes: B batch, C latent channels, H W latent height and width, P tokens of the image,
L tokens of the text, N all real tokens of B texts, T channels of the text, D hidden width, E heads, K width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from commonart.core.model.config import NORM_EPS, TIME_CHANNELS, PixArtConfig


def unpatch(out_BPO: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Return tokens of `patch` x `patch` latents each, (B, P, patch * patch * C), as (B, C, height, width)."""
    patches = out_BPO.reshape(len(out_BPO), height // patch, width // patch, patch, patch, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(out_BPO), -1, height, width)


def position_embedding(
    width: int, grid: tuple[int, int], base_size: int, interpolation_scale: float, device: torch.device | None = None
) -> Tensor:
    """Return sines and cosines of the two positions of every patch, (1, rows * columns, width), float32: columns, then rows.

    Positions run over 0..base_size / interpolation_scale whatever the grid is (PixArt-alpha, section 2.4).
    """
    # diffusers takes the angles in float64; so must we, to sample the same image.
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64, device=device) / (width / 4))

    def encode(count: int) -> Tensor:
        position = torch.arange(count, dtype=torch.float32, device=device) / (count / base_size) / interpolation_scale
        angle = torch.outer(position.double(), frequencies)
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    rows, columns = grid
    by_column, by_row = encode(columns).repeat(rows, 1), encode(rows).repeat_interleave(columns, 0)
    return torch.cat([by_column, by_row], dim=1)[None].float()


class PatchEmbed(nn.Module):
    """Latents (B, C, H, W) to tokens (B, P, D) with positions."""

    pos_embed: Tensor

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.patch = config.patch_size
        self.base_size = config.sample_size // config.patch_size
        self.interpolation_scale = float(config.interpolation_scale or 1.0)
        self.proj = nn.Conv2d(config.in_channels, config.hidden, self.patch, stride=self.patch)
        self.register_buffer("pos_embed", self.positions((self.base_size, self.base_size)), persistent=False)
        self.cache: dict[tuple[int, int, torch.device], Tensor] = {}

    def positions(self, grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """Return the position embedding (1, P, D) of `grid` rows and columns of patches."""
        width = self.proj.out_channels
        return position_embedding(width, grid, self.base_size, self.interpolation_scale, device)

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """Return the tokens of the patches, (B, P, D), row by row."""
        B, C, H, W = latents_BCHW.shape
        p = self.patch
        grid = (H // p, W // p)
        # A convolution whose stride is its kernel is a product of matrices, which is faster on CPU.
        patches = latents_BCHW.reshape(B, C, grid[0], p, grid[1], p).permute(0, 2, 4, 1, 3, 5)
        x_BPD = F.linear(patches.reshape(B, grid[0] * grid[1], C * p * p), self.proj.weight.flatten(1), self.proj.bias)
        if grid == (self.base_size, self.base_size):
            position = self.pos_embed
        elif torch.compiler.is_compiling():
            position = self.positions(grid, x_BPD.device)
        else:
            key = (*grid, x_BPD.device)
            if key not in self.cache:
                self.cache[key] = self.positions(grid, x_BPD.device)
            position = self.cache[key]
        # Under autocast the residual stream stays in float32; a model cast to bfloat16 stays in bfloat16.
        return (x_BPD + position).to(self.proj.weight.dtype)


class TwoLayers(nn.Module):
    """The weights of two layers, under the names of diffusers."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)


class TextProjection(TwoLayers):
    """Text states in the width of the encoder to tokens in the width of the blocks."""

    def forward(self, text_BLT: Tensor) -> Tensor:
        """Return (B, L, D); packed text (N, T) gives (N, D)."""
        return self.linear_2(F.gelu(self.linear_1(text_BLT), approximate="tanh"))


class TimestepEmbedder(TwoLayers):
    """A timestep in 0..1000, whole or not, to a vector: sines and cosines, then two layers."""

    def forward(self, timestep_B: Tensor) -> Tensor:
        """Return (B, D)."""
        half = TIME_CHANNELS // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timestep_B.device) / half
        angle = timestep_B[:, None].float() * torch.exp(-math.log(10000) * exponent)
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(wave)))


class AdaLayerNormSingle(nn.Module):
    """One table of six shifts, scales and gates for all blocks (PixArt-alpha, section 2.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # As in diffusers' state dict: emb.timestep_embedder.
        self.emb = nn.ModuleDict({"timestep_embedder": TimestepEmbedder(TIME_CHANNELS, width)})
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the six of every block, (B, 6, D), and the embedded time, (B, D)."""
        time_BD = self.emb["timestep_embedder"](timestep_B)
        return self.linear(F.silu(time_BD)).unflatten(1, (6, -1)), time_BD


@dataclass(slots=True)
class Packed:
    """The real tokens of B texts, one after the other. `index_N`: where each of them stands among B * L."""

    text_ND: Tensor
    index_N: Tensor
    shape: tuple[int, int]  # B, L

    def padded(self, values_ND: Tensor) -> Tensor:
        """Return (B, L, D) with zeros where no token is."""
        B, L = self.shape
        return values_ND.new_zeros(B * L, values_ND.shape[-1]).index_copy(0, self.index_N, values_ND).view(B, L, -1)


# Tokens (B, L, D), or what `Attention.keys_and_values` makes of them.
BlockText = Tensor | Packed | tuple[Tensor, Tensor]


def texts_in(text: BlockText) -> int:
    """Return the number of texts."""
    return text.shape[0] if isinstance(text, Tensor | Packed) else text[0].shape[0]


class Attention(nn.Module):
    """Self-attention, or cross-attention when `context` is given: tokens (B, L, D), or their keys and values."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        # Of each head (arXiv 2403.03206, section 5.3.2), under diffusers' names.
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, NORM_EPS) if qk_norm else None for _ in range(2))
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def keys_and_values(self, tokens: Tensor | Packed) -> tuple[Tensor, Tensor]:
        """Return (B, E, L, K) each. Of a text they are the same at every step: `PixArt.read_text` keeps them."""
        k_BELK = self._split(self.to_k, tokens)
        return k_BELK if self.norm_k is None else self.norm_k(k_BELK), self._split(self.to_v, tokens)

    def _split(self, linear: nn.Linear, tokens: Tensor | Packed) -> Tensor:
        out_BLD = tokens.padded(linear(tokens.text_ND)) if isinstance(tokens, Packed) else linear(tokens)
        return out_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x_BPD: Tensor, context: BlockText | None = None, mask_B11L: Tensor | None = None) -> Tensor:
        """Return (B, P, D). `mask_B11L`: True where a token of `context` is read; None: everywhere."""
        kind = x_BPD.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):  # once, not for each of the three products
            x_BPD = x_BPD.to(torch.get_autocast_dtype(kind))
        q_BEPK = self._split(self.to_q, x_BPD)
        if self.norm_q is not None:
            q_BEPK = self.norm_q(q_BEPK)
        if isinstance(context, tuple):
            k_BELK, v_BELK = context
        else:
            k_BELK, v_BELK = self.keys_and_values(x_BPD if context is None else context)
        if _small_on_cpu(q_BEPK, k_BELK):
            if mask_B11L is not None:
                v_BELK = v_BELK.masked_fill(~mask_B11L.transpose(-1, -2), 0)  # a row without tokens reads nothing
            with torch.autocast("cpu", enabled=False):
                out_BEPK = plain_attention(q_BEPK, k_BELK, v_BELK, mask_B11L)
        else:
            out_BEPK = F.scaled_dot_product_attention(q_BEPK, k_BELK, v_BELK, attn_mask=mask_B11L)
        return self.to_out[0](out_BEPK.transpose(1, 2).flatten(2))


def _small_on_cpu(q_BEPK: Tensor, k_BELK: Tensor) -> bool:
    # Torch's fused attention has a slow backward pass on CPU in bfloat16: at 64 x 64 tokens it takes five times the time of
    # three plain operations, at 256 x 256 1.6 times. Larger maps than 64 MB cost too much memory; on a GPU the fused one wins.
    few = q_BEPK.shape[:3].numel() * k_BELK.shape[2] <= 2**25
    return few and q_BEPK.device.type == "cpu" and q_BEPK.dtype == torch.bfloat16 and torch.is_grad_enabled()


def plain_attention(
    q_BEPK: Tensor, k_BELK: Tensor, v_BELK: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend by plain matrix products. `mask`: True where a key is read, or what is added to the scores."""
    scores_BEPL = (q_BEPK * (q_BEPK.shape[-1] ** -0.5 if scale is None else scale)) @ k_BELK.transpose(-1, -2)
    if mask is not None:
        scores_BEPL = scores_BEPL.masked_fill(~mask, -1e4) if mask.dtype == torch.bool else scores_BEPL + mask
    return scores_BEPL.softmax(-1).to(v_BELK.dtype) @ v_BELK


class Gelu(nn.Module):
    """A layer and GELU, by its approximation with tanh."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., inner)."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is diffusers' dropout, which PixArt sets to 0; it has no weights.
        self.net = nn.ModuleList([Gelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width)."""
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    """Self-attention and feed-forward under the time's shift, scale and gate; cross-attention between them."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        width, heads = config.hidden, config.num_attention_heads
        self.scale_shift_table = nn.Parameter(torch.empty(6, width))
        self.attn1 = Attention(width, heads, config.qk_norm)
        self.attn2 = Attention(width, heads, config.qk_norm)
        self.ff = FeedForward(width)

    def forward(self, x_BPD: Tensor, text: BlockText, time_B6D: Tensor, mask_B11L: Tensor | None) -> Tensor:
        """Return the tokens (B, P, D) after this block."""
        table = (self.scale_shift_table + time_B6D).unsqueeze(2).unbind(1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = table
        x_BPD = x_BPD + gate_1 * self.attn1(modulate(x_BPD, shift_1, scale_1))
        # Several images of one text read it as one longer image: its keys and values are computed once.
        x_TPD = x_BPD.reshape(texts_in(text), -1, x_BPD.shape[-1])
        x_BPD = x_BPD + self.attn2(x_TPD, text, mask_B11L).reshape(x_BPD.shape)  # PixArt norms nothing here
        return x_BPD + gate_2 * self.ff(modulate(x_BPD, shift_2, scale_2))


def modulate(x_BPD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """Return the layer norm of every token, scaled and shifted."""
    out_BPD: Tensor = _Modulate.apply(x_BPD, shift_B1D, scale_B1D)
    return out_BPD


class _Modulate(torch.autograd.Function):
    """Keeps the tokens alone and norms them again in the backward pass: 8 bytes less a channel of each token in a block."""

    @staticmethod
    def forward(ctx: Any, x_BPD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x_BPD, x_BPD.shape[-1:], None, None, NORM_EPS)
        ctx.save_for_backward(x_BPD, mean, rstd, scale_B1D)
        return torch.addcmul(shift_B1D, normed, 1 + scale_B1D)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_BPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x_BPD, mean, rstd, scale_B1D = ctx.saved_tensors
        normed = (x_BPD - mean).mul_(rstd)
        grad_normed = (grad_BPD * (1 + scale_B1D)).to(x_BPD.dtype)
        by_x = torch.ops.aten.native_layer_norm_backward(
            grad_normed, x_BPD, x_BPD.shape[-1:], mean, rstd, None, None, [True, False, False]
        )[0]
        return by_x, grad_BPD.sum(1, keepdim=True), normed.mul_(grad_BPD).sum(1, keepdim=True)
