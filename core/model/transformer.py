"""PixArt, the diffusion transformer that is trained and sampled (arXiv 2310.00426, 2403.04692).

`commonart train` and `commonart sample` run it. Weights, config.json and outputs are those of diffusers'
`PixArtTransformer2DModel`, so what is trained here loads there, and the other way round.

Shape suffixes: B batch, C latent channels, H W latent height and width, P tokens of the image,
L tokens of the text, T channels of the text, D hidden width, E heads, K width of a head.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from commonart.core.errors import CommonArtError

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"
TIME_CHANNELS = 256  # width of the sinusoidal time embedding in DiT and PixArt
NORM_EPS = 1e-6

# Keys of diffusers' config.json that have one supported value here: what PixArt-Sigma and CommonArt use.
_FIXED: dict[str, Any] = {
    "_class_name": "PixArtTransformer2DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_eps": NORM_EPS,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_single",
    "num_embeds_ada_norm": 1000,
    "upcast_attention": False,
    "use_additional_conditions": False,
}
# The old class wrote more keys. They change nothing when they hold these values.
_OLD_CLASS: dict[str, Any] = {
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}
_IRRELEVANT = {"norm_num_groups", "num_embeds_ada_norm"}  # read by no layer of this architecture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixArtConfig:
    """The keys of config.json that give a size; the other keys are fixed by the architecture.

    `sample_size` is the latent side (32 at 256 px, 64 at 512 px). `interpolation_scale` left None becomes
    sample_size / 64, PixArt-Sigma's own values (0.5 at 256 px, 1 at 512 px); diffusers would take 1 at 256 px.
    `out_channels` is 2 * in_channels with learned variance (eps), in_channels without (flow).
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    num_layers: int = 28
    in_channels: int = 4
    out_channels: int = 8
    patch_size: int = 2
    sample_size: int = 32
    caption_channels: int = 4096
    interpolation_scale: float | None = None

    def __post_init__(self) -> None:
        if self.interpolation_scale is None:
            object.__setattr__(self, "interpolation_scale", self.sample_size / 64)
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name != "interpolation_scale"
            bad = isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value <= 0
            if bad:
                kind = "whole number" if whole else "number"
                raise CommonArtError(
                    f"The transformer's {field.name} is {value!r}.", f"Give a positive {kind} for {field.name}."
                )
        if self.hidden % 4 or self.sample_size % self.patch_size:
            raise CommonArtError(
                f"A transformer of width {self.hidden} with latents of {self.sample_size} in patches of "
                f"{self.patch_size} cannot be built.",
                "Take a width divisible by 4 and a sample_size divisible by patch_size.",
            )

    @property
    def hidden(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def to_dict(self) -> dict[str, Any]:
        """All keys of diffusers' config.json."""
        return {**_FIXED, **asdict(self), "cross_attention_dim": self.hidden}

    @classmethod
    def from_dict(cls, values: dict[str, Any], file: str | Path = CONFIG) -> PixArtConfig:
        """Reads diffusers' keys, of `PixArtTransformer2DModel` or of the older `Transformer2DModel`.

        Raises CommonArtError, naming `file` and the key, for a value that would need another architecture.
        """
        kind = values.get("_class_name", _FIXED["_class_name"])
        if kind not in (_FIXED["_class_name"], "Transformer2DModel"):
            raise CommonArtError(
                f"{file} describes a {kind}, which is not a PixArt transformer.",
                "Name the folder of a PixArt-Sigma or CommonArt transformer.",
            )
        fixed = {**_FIXED, **_OLD_CLASS}
        names = {field.name for field in fields(cls)}
        for key, value in values.items():
            if key.startswith("_") or key in names or key in _IRRELEVANT or key == "cross_attention_dim":
                continue
            if key not in fixed:
                log.warning("%s: the key %s is unknown here and was ignored", file, key)
            elif value is not None and value != fixed[key]:
                raise CommonArtError(
                    f"{file} has {key} = {value!r}; this transformer supports {fixed[key]!r} only.",
                    "Use a PixArt-Sigma checkpoint, or train one with `commonart train`.",
                )
        known = {key: value for key, value in values.items() if key in names}
        known["out_channels"] = known.get("out_channels") or known.get("in_channels", 4)
        if "caption_channels" not in known or known["caption_channels"] is None:
            raise CommonArtError(f"{file} has no caption_channels.", "Add the width of the text states to it.")
        if known.setdefault("sample_size", 128) and known.get("interpolation_scale") is None:
            log.warning(
                "%s has no interpolation_scale; PixArt-Sigma's %g is taken for a sample_size of %d",
                file, known["sample_size"] / 64, known["sample_size"],
            )  # fmt: skip
        config = cls(**known)
        if values.get("cross_attention_dim") not in (None, config.hidden):
            raise CommonArtError(
                f"{file} has cross_attention_dim = {values['cross_attention_dim']}, not the width {config.hidden}.",
                "Set it to num_attention_heads * attention_head_dim.",
            )
        return config

    @classmethod
    def read(cls, file: str | Path) -> PixArtConfig:
        """Reads a config.json."""
        try:
            values = json.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CommonArtError(f"{file} does not exist.", "Name the folder of a transformer.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CommonArtError(f"{file} is not JSON: {error}.", "Download or export the model again.") from None
        if not isinstance(values, dict):
            raise CommonArtError(f"{file} holds no JSON object.", "Download or export the model again.")
        return cls.from_dict(values, file)


# Named sizes. The rest (sample_size, out_channels, caption_channels) follows from the stage and the text encoder.
SIZES: dict[str, PixArtConfig] = {
    # PixArt-Sigma-XL/2 and CommonArt beta: 0.61 B parameters with CALM2-7B's 4096 channels of text
    "xl": PixArtConfig(num_layers=28, num_attention_heads=16, attention_head_dim=72, caption_channels=4096),
    # the embedded default, 64 px images as 16x16x4 latents
    "nano": PixArtConfig(num_layers=6, num_attention_heads=6, attention_head_dim=32, caption_channels=192,
                         sample_size=16, out_channels=4, interpolation_scale=1.0),
}  # fmt: skip


def named_config(size: str, **changes: Any) -> PixArtConfig:
    """A row of SIZES with some fields changed. A changed sample_size recomputes interpolation_scale."""
    if size not in SIZES:
        raise CommonArtError(f"There is no transformer size {size!r}.", f"Choose from {', '.join(SIZES)}.")
    if "sample_size" in changes and changes["sample_size"] != SIZES[size].sample_size:
        changes.setdefault("interpolation_scale", None)
    return replace(SIZES[size], **changes)


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


class AdaLayerNormSingle(nn.Module):
    """One table of six shifts, scales and gates for all blocks (PixArt-alpha, section 2.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = nn.Module()
        self.emb.timestep_embedder = TimestepEmbedder(width)
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


class Attention(nn.Module):
    """Self-attention, or cross-attention when `context` is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x_BPD: Tensor, context: Tensor | None = None, mask_B11L: Tensor | None = None) -> Tensor:
        def split(linear: nn.Linear, tokens: Tensor) -> Tensor:
            return linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        source = x_BPD if context is None else context
        q_BEPK, k_BELK, v_BELK = split(self.to_q, x_BPD), split(self.to_k, source), split(self.to_v, source)
        if _small_on_cpu(q_BEPK, k_BELK):
            out_BEPK = _attend_small(q_BEPK, k_BELK, v_BELK, mask_B11L)
        else:
            out_BEPK = F.scaled_dot_product_attention(q_BEPK, k_BELK, v_BELK, attn_mask=mask_B11L)
        return self.to_out[0](out_BEPK.transpose(1, 2).flatten(2))


def _small_on_cpu(q_BEPK: Tensor, k_BELK: Tensor) -> bool:
    # Torch's fused attention has a slow backward pass on CPU in bfloat16: at 64 x 64 tokens five times the time of
    # three plain operations. Large maps of attention would cost memory, and on a GPU the fused one is faster.
    few = q_BEPK.shape[2] * k_BELK.shape[2] <= 128 * 128
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

    def forward(self, x_BPD: Tensor, text_BLD: Tensor, time_B6D: Tensor, mask_B11L: Tensor | None) -> Tensor:
        table = (self.scale_shift_table + time_B6D).unsqueeze(2).unbind(1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = table
        x_BPD = x_BPD + gate_1 * self.attn1(modulate(x_BPD, shift_1, scale_1))
        x_BPD = x_BPD + self.attn2(x_BPD, text_BLD, mask_B11L)  # PixArt norms nothing here
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

    def forward(
        self, latents_BCHW: Tensor, timestep_B: Tensor, text_BLT: Tensor, mask_BL: Tensor | None = None
    ) -> Tensor:
        """Prediction (B, out_channels, H, W) for noisy latents (B, C, H, W) at timesteps (B,) in 0..1000.

        `text_BLT` are the text encoder's states; `mask_BL` (bool) is True where a token is real, None when all
        are. A row without any real token attends to nothing: its cross-attention adds the output bias alone
        (diffusers would attend to the padding). `stack_text` makes both and refuses such rows.
        """
        B, C, H, W = latents_BCHW.shape
        p = self.config.patch_size
        if C != self.config.in_channels or H % p or W % p:
            raise CommonArtError(
                f"Latents of {C} x {H} x {W} do not fit a transformer of {self.config.in_channels} channels and "
                f"patches of {p}.",
                "Use the autoencoder that the transformer was trained with, and sides divisible by the patch.",
            )
        if text_BLT.shape[-1] != self.config.caption_channels:
            raise CommonArtError(
                f"Text states of width {text_BLT.shape[-1]} do not fit a transformer of caption_channels "
                f"{self.config.caption_channels}.",
                "Use the text encoder that the transformer was trained with.",
            )
        x_BPD = self.pos_embed(latents_BCHW)
        time_B6D, time_BD = self.adaln_single(timestep_B.expand(B))
        text_BLD = self.caption_projection(text_BLT)
        mask_B11L = None if mask_BL is None else mask_BL.bool()[:, None, None, :]
        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_BPD = checkpoint(block, x_BPD, text_BLD, time_B6D, mask_B11L, use_reentrant=False)
            else:
                x_BPD = block(x_BPD, text_BLD, time_B6D, mask_B11L)
        shift_B1D, scale_B1D = (self.scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        out_BPO = self.proj_out(modulate(x_BPD, shift_B1D, scale_B1D))
        patches = out_BPO.reshape(B, H // p, W // p, p, p, self.config.out_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(B, self.config.out_channels, H, W)

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> PixArt:
        """Reads a diffusers folder, or a pipeline folder with `transformer/` in it: config.json and safetensors.

        `dtype` None keeps the precision of the file. Raises CommonArtError naming the file and the key where
        something is missing, unknown or of another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / CONFIG).exists() and (folder / "transformer" / CONFIG).exists():
            folder = folder / "transformer"
        config = PixArtConfig.read(folder / CONFIG)
        state: dict[str, Tensor] = {}
        for file in _weight_files(folder):
            try:
                state.update(load_file(file, device=str(device)))
            except (SafetensorError, OSError) as error:
                raise CommonArtError(f"{file} cannot be read: {error}.", "Download or export it again.") from error
        state.pop("pos_embed.pos_embed", None)  # older diffusers stored the positions; they are computed here
        with torch.device("meta"):
            model = cls(config, initialise=False)
        _check_state(state, model.state_dict(), folder)
        if dtype is not None:
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        model.load_state_dict(state, assign=True)
        embed = model.pos_embed
        embed.pos_embed = embed.positions((embed.base_size, embed.base_size), torch.device("cpu"))
        return model.to(device=device, dtype=dtype).requires_grad_(True)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Writes config.json and the weights (in `dtype`, if given) as diffusers does. Returns the folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self.state_dict().items()}
        # Written beside and renamed: no half-written weights ever stand under their final name.
        save_file(state, folder / (WEIGHTS + ".part"), metadata={"format": "pt"})
        os.replace(folder / (WEIGHTS + ".part"), folder / WEIGHTS)
        text = json.dumps(self.config.to_dict(), indent=2, sort_keys=True) + "\n"
        (folder / (CONFIG + ".part")).write_text(text, encoding="utf-8")
        os.replace(folder / (CONFIG + ".part"), folder / CONFIG)
        return folder


def initialise_weights(model: PixArt) -> None:
    """PixArt's start: Xavier, 0.02 for the embedders, and zero where a block or the model ends."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            nn.init.zeros_(module.bias)
    time, text = model.adaln_single, model.caption_projection
    embedder = time.emb.timestep_embedder
    for linear in (embedder.linear_1, embedder.linear_2, time.linear, text.linear_1, text.linear_2):
        nn.init.normal_(linear.weight, std=0.02)
    for block in model.transformer_blocks:
        nn.init.normal_(block.scale_shift_table, std=model.config.hidden**-0.5)
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.normal_(model.scale_shift_table, std=model.config.hidden**-0.5)
    nn.init.zeros_(model.proj_out.weight)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CommonArtError(f"{folder / INDEX} has no weight_map.", "Download the model again.") from error
        for name in names:
            if Path(name).name != name or not (folder / name).exists():
                raise CommonArtError(f"{folder / INDEX} names {name}, which is not there.", "Download it again.")
        return [folder / name for name in names]
    raise CommonArtError(
        f"{folder} has no {WEIGHTS}.", "Only safetensors are read: convert other formats, or name another folder."
    )


def _check_state(found: dict[str, Tensor], wanted: dict[str, Tensor], folder: Path) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise CommonArtError(f"{folder}: the weights lack {name}.", "Check num_layers in its config.json.")
        if found[name].shape != tensor.shape:
            raise CommonArtError(
                f"{folder}: {name} has the shape {tuple(found[name].shape)}; config.json means {tuple(tensor.shape)}.",
                "Use the config.json that belongs to the weights.",
            )
    for name in found:
        if name not in wanted:
            raise CommonArtError(
                f"{folder}: the weights hold {name}, which this transformer does not have.",
                "Name a PixArt-Sigma or CommonArt transformer.",
            )
