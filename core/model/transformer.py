"""PixArt, the diffusion transformer that is trained and sampled (arXiv 2310.00426, 2403.04692).

`commonart train` and `commonart sample` run it. Weights, config.json and outputs are those of diffusers'
`PixArtTransformer2DModel`, so what is trained here loads there, and the other way round.

Shape suffixes: B batch, C latent channels, H W latent height and width, P tokens of the image,
L tokens of the text, T channels of the text, D hidden width, E heads, K width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from commonart.core.errors import CommonArtError
from commonart.core.model import weights
from commonart.core.model.config import CONFIG, NORM_EPS, TIME_CHANNELS, PixArtConfig


def stack_text(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stacks texts of (L_i, T) into text (B, L, T) and mask (B, L), True where a token is real.

    L is the longest length; the mask is None when all have that length. A text without tokens is an error:
    use the text encoder's null embedding.
    """
    lengths = [len(text) for text in texts]
    if not lengths or min(lengths) == 0:
        raise CommonArtError("A text has no tokens.", "Use the text encoder's null embedding for an empty text.")
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(list(texts)), None
    text_BLT = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    length_B = torch.tensor(lengths, device=text_BLT.device)
    return text_BLT, torch.arange(longest, device=text_BLT.device) < length_B[:, None]


def position_embedding(
    width: int, grid: tuple[int, int], base_size: int, interpolation_scale: float, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines of the two positions of every patch, (1, rows * columns, width), float32.

    Positions run over 0..base_size / interpolation_scale whatever the grid is (PixArt-alpha, section 2.4), so
    the same weights serve every size. First half of the channels: the column; second half: the row.
    """
    rows, columns = (
        torch.arange(n, dtype=torch.float32, device=device) / (n / base_size) / interpolation_scale for n in grid
    )
    # diffusers takes the angles in float64; so must we, to draw the same picture.
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64, device=device) / (width / 4))

    def encode(position: Tensor) -> Tensor:
        angle = torch.outer(position.double(), frequencies)
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    by_column = encode(columns)[None, :, :].expand(grid[0], -1, -1)
    by_row = encode(rows)[:, None, :].expand(-1, grid[1], -1)
    return torch.cat([by_column, by_row], dim=2).reshape(1, grid[0] * grid[1], width).float()


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
        width = self.proj.out_channels
        return position_embedding(width, grid, self.base_size, self.interpolation_scale, device)

    def forward(self, latents_BCHW: Tensor) -> Tensor:
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


class TimestepEmbedder(nn.Module):
    """A timestep in 0..1000, whole or not, to a vector: sines and cosines, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timestep_B: Tensor) -> Tensor:
        half = TIME_CHANNELS // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timestep_B.device) / half
        angle = timestep_B[:, None].float() * torch.exp(-math.log(10000) * exponent)
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(wave)))


class TimeEmbedding(nn.Module):
    """A level of names that diffusers' state dict has: `emb.timestep_embedder`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)


class AdaLayerNormSingle(nn.Module):
    """One table of six shifts, scales and gates for all blocks (PixArt-alpha, section 2.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = TimeEmbedding(width)
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        time_BD = self.emb.timestep_embedder(timestep_B)
        return self.linear(F.silu(time_BD)).unflatten(1, (6, -1)), time_BD


class TextProjection(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, text_BLT: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(text_BLT), approximate="tanh"))


@dataclass(slots=True)
class Packed:
    """The real tokens of B texts, one after the other. `place_N`: where each of them stands among B * L."""

    text_ND: Tensor
    place_N: Tensor
    shape: tuple[int, int]  # B, L

    def padded(self, values_ND: Tensor) -> Tensor:
        """(B, L, D) with zeros where no token is."""
        B, L = self.shape
        return values_ND.new_zeros(B * L, values_ND.shape[-1]).index_copy(0, self.place_N, values_ND).view(B, L, -1)


class Attention(nn.Module):
    """Self-attention, or cross-attention when `context` is given: tokens (B, L, D), or their keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def keys_and_values(self, tokens: Tensor | Packed) -> tuple[Tensor, Tensor]:
        """(B, E, L, K) each. Of a text they are the same at every step: `PixArt.read_text` keeps them."""
        return self._split(self.to_k, tokens), self._split(self.to_v, tokens)

    def _split(self, linear: nn.Linear, tokens: Tensor | Packed) -> Tensor:
        out_BLD = tokens.padded(linear(tokens.text_ND)) if isinstance(tokens, Packed) else linear(tokens)
        return out_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        x_BPD: Tensor,
        context: Tensor | Packed | tuple[Tensor, Tensor] | None = None,
        mask_B11L: Tensor | None = None,
    ) -> Tensor:
        kind = x_BPD.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):  # once, not for each of the three products
            x_BPD = x_BPD.to(torch.get_autocast_dtype(kind))
        q_BEPK = self._split(self.to_q, x_BPD)
        if isinstance(context, tuple):
            k_BELK, v_BELK = context
        else:
            k_BELK, v_BELK = self.keys_and_values(x_BPD if context is None else context)
        if _small_on_cpu(q_BEPK, k_BELK):
            out_BEPK = _attend_small(q_BEPK, k_BELK, v_BELK, mask_B11L)
        else:
            out_BEPK = F.scaled_dot_product_attention(q_BEPK, k_BELK, v_BELK, attn_mask=mask_B11L)
        return self.to_out[0](out_BEPK.transpose(1, 2).flatten(2))


def _small_on_cpu(q_BEPK: Tensor, k_BELK: Tensor) -> bool:
    # Torch's fused attention has a slow backward pass on CPU in bfloat16: at 64 x 64 tokens it takes five times the time of
    # three plain operations, at 256 x 256 1.6 times. Larger maps than 64 MB cost too much memory; on a GPU the fused one wins.
    few = q_BEPK.shape[:3].numel() * k_BELK.shape[2] <= 2**25
    return few and q_BEPK.device.type == "cpu" and q_BEPK.dtype == torch.bfloat16 and torch.is_grad_enabled()


def _attend_small(q_BEPK: Tensor, k_BELK: Tensor, v_BELK: Tensor, mask_B11L: Tensor | None) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        scores_BEPL = torch.matmul(q_BEPK * q_BEPK.shape[-1] ** -0.5, k_BELK.transpose(-1, -2))
        if mask_B11L is not None:
            scores_BEPL = scores_BEPL.masked_fill(~mask_B11L, -1e4)
            v_BELK = v_BELK.masked_fill(~mask_B11L.transpose(-1, -2), 0)  # a row without tokens reads nothing
        return torch.matmul(scores_BEPL.softmax(-1), v_BELK)


class Gelu(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is diffusers' dropout, which PixArt sets to 0; it has no weights.
        self.net = nn.ModuleList([Gelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    """Self-attention and feed-forward under the time's shift, scale and gate; cross-attention between them."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        width, heads = config.hidden, config.num_attention_heads
        self.scale_shift_table = nn.Parameter(torch.empty(6, width))
        self.attn1 = Attention(width, heads)
        self.attn2 = Attention(width, heads)
        self.ff = FeedForward(width)

    def forward(
        self,
        x_BPD: Tensor,
        text: Tensor | Packed | tuple[Tensor, Tensor],
        time_B6D: Tensor,
        mask_B11L: Tensor | None,
    ) -> Tensor:
        table = (self.scale_shift_table + time_B6D).unsqueeze(2).unbind(1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = table
        x_BPD = x_BPD + gate_1 * self.attn1(modulate(x_BPD, shift_1, scale_1))
        x_BPD = x_BPD + self.attn2(x_BPD, text, mask_B11L)  # PixArt norms nothing here
        return x_BPD + gate_2 * self.ff(modulate(x_BPD, shift_2, scale_2))


def modulate(x_BPD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    normed = F.layer_norm(x_BPD, x_BPD.shape[-1:], eps=NORM_EPS)
    return normed * (1 + scale_B1D) + shift_B1D


class PixArt(nn.Module):
    """The transformer. State-dict names and config.json are those of diffusers' PixArtTransformer2DModel.

    `gradient_checkpointing = True` recomputes every block in the backward pass: less memory, a third slower.
    """

    def __init__(self, config: PixArtConfig, initialise: bool = True) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width = config.hidden
        self.pos_embed = PatchEmbed(config)
        self.transformer_blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.scale_shift_table = nn.Parameter(torch.empty(2, width))
        self.proj_out = nn.Linear(width, config.patch_size**2 * config.out_channels)
        self.adaln_single = AdaLayerNormSingle(width)
        self.caption_projection = TextProjection(config.caption_channels, width)
        if initialise:
            initialise_weights(self)

    def read_text(self, text_BLT: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What every block's cross-attention makes of the text: `forward` takes it in place of `text_BLT`.

        A sampler calls this once, and spares two products of matrices a block at each step.
        """
        text_BLD = self.caption_projection(text_BLT)
        return [cast(Block, block).attn2.keys_and_values(text_BLD) for block in self.transformer_blocks]

    def forward(
        self,
        latents_BCHW: Tensor,
        timestep_B: Tensor,
        text_BLT: Tensor | list[tuple[Tensor, Tensor]],
        mask_BL: Tensor | None = None,
    ) -> Tensor:
        """Prediction (B, out_channels, H, W) for noisy latents (B, C, H, W) at timesteps (B,) in 0..1000.

        `text_BLT` are the text encoder's states; `mask_BL` (bool) is True where a token is real, None when all
        are. A row without any real token attends to nothing: its cross-attention adds the output bias alone
        (diffusers would attend to the padding). `stack_text` makes both and refuses such rows.
        """
        B, C, H, W = latents_BCHW.shape
        p = self.config.patch_size
        if self.config.in_channels != C or H % p or W % p:
            raise CommonArtError(
                f"Latents of {C} x {H} x {W} do not fit a transformer of {self.config.in_channels} channels and "
                f"patches of {p}.",
                "Use the autoencoder that the transformer was trained with, and sides divisible by the patch.",
            )
        if isinstance(text_BLT, Tensor) and text_BLT.shape[-1] != self.config.caption_channels:
            raise CommonArtError(
                f"Text states of width {text_BLT.shape[-1]} do not fit a transformer of caption_channels "
                f"{self.config.caption_channels}.",
                "Use the text encoder that the transformer was trained with.",
            )
        x_BPD = self.pos_embed(latents_BCHW)
        time_B6D, time_BD = self.adaln_single(timestep_B.expand(B))
        texts: Sequence[Tensor | Packed | tuple[Tensor, Tensor]] = (
            [self._project(text_BLT, mask_BL)] * len(self.transformer_blocks)
            if isinstance(text_BLT, Tensor)
            else text_BLT
        )
        mask_B11L = None if mask_BL is None else mask_BL.bool()[:, None, None, :]
        for block, text in zip(self.transformer_blocks, texts, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_BPD = checkpoint(block, x_BPD, text, time_B6D, mask_B11L, use_reentrant=False)
            else:
                x_BPD = block(x_BPD, text, time_B6D, mask_B11L)
        shift_B1D, scale_B1D = (self.scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        out_BPO = self.proj_out(modulate(x_BPD, shift_B1D, scale_B1D))
        patches = out_BPO.reshape(B, H // p, W // p, p, p, self.config.out_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(B, self.config.out_channels, H, W)

    def _project(self, text_BLT: Tensor, mask_BL: Tensor | None) -> Tensor | Packed:
        """The text in the blocks' width; on a CPU of its real tokens alone, whose number a GPU would have to be waited for."""
        if mask_BL is None or text_BLT.device.type != "cpu" or torch.compiler.is_compiling():
            return self.caption_projection(text_BLT)
        place_N = mask_BL.flatten().nonzero()[:, 0]
        text_ND = self.caption_projection(text_BLT.flatten(0, 1)[place_N])
        return Packed(text_ND, place_N, (text_BLT.shape[0], text_BLT.shape[1]))

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> PixArt:
        """Reads a diffusers folder, or a pipeline folder with `transformer/` in it: config.json and safetensors.

        `dtype` None keeps the precision of the file. Raises CommonArtError naming the file and the key where
        something is missing, unknown or of another shape.
        """
        folder = Path(folder)
        if not (folder / CONFIG).exists() and (folder / "transformer" / CONFIG).exists():
            folder = folder / "transformer"
        config = PixArtConfig.read(folder / CONFIG)
        state = weights.read(folder, device)
        state.pop("pos_embed.pos_embed", None)  # older diffusers stored the positions; they are computed here
        if dtype is not None:
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        return cls.of(config, state, folder).to(device=device, dtype=dtype)

    @classmethod
    def of(cls, config: PixArtConfig, state: dict[str, Tensor], folder: Path = Path()) -> PixArt:
        """The transformer with the weights `state` (of `folder`, for errors), which it takes as they are, not copied."""
        with torch.device("meta"):
            model = cls(config, initialise=False)
        weights.check(state, model.state_dict(), folder)
        model.load_state_dict(state, assign=True)
        embed = model.pos_embed
        embed.pos_embed = embed.positions((embed.base_size, embed.base_size), torch.device("cpu"))
        return model.requires_grad_(True)

    def save(
        self, folder: str | Path, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None
    ) -> Path:
        """Writes config.json and the weights, or others of the same names in `state`, as diffusers does (in `dtype`, if given).

        Returns the folder.
        """
        folder = Path(folder)
        state = self.state_dict() if state is None else state
        state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
        weights.write(state, folder)
        self.config.write(folder / CONFIG)
        return folder


def initialise_weights(model: PixArt) -> None:
    """A start from nothing: Xavier, which at the paper's widths is the 0.02 that PixArt gives its embedders; zero at the end.

    PixArt also begins with text cross-attention that adds nothing, so that blocks trained on classes go on unharmed. No
    such blocks are loaded here: with half of Xavier, text is heard from the first step (at nano size twice as much of it
    is understood after 300 steps).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.adaln_single.linear.weight, std=0.02)
    for block in cast(Iterable[Block], model.transformer_blocks):
        nn.init.normal_(block.scale_shift_table, std=model.config.hidden**-0.5)
        nn.init.xavier_uniform_(cast(nn.Linear, block.attn2.to_out[0]).weight, gain=0.5)
    nn.init.normal_(model.scale_shift_table, std=model.config.hidden**-0.5)
    nn.init.zeros_(model.proj_out.weight)
