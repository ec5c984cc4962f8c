"""PixArt, the diffusion transformer that is trained and sampled (arXiv 2310.00426, 2403.04692).

Weights, config.json and outputs are those of diffusers' `PixArtTransformer2DModel`, so what is trained here loads there,
and the other way round. Shape suffixes as in core/model/layers.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from commonart.core.errors import CommonArtError
from commonart.core.model import weights, x_prediction
from commonart.core.model.alignment import AlignmentHead
from commonart.core.model.config import CONFIG, PixArtConfig
from commonart.core.model.layers import (
    AdaLayerNormSingle,
    Block,
    BlockText,
    Packed,
    PatchEmbed,
    TextProjection,
    modulate,
    texts_in,
    unpatch,
)
from commonart.core.model.tread import Route


def stack_text(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack texts of (L_i, T) into text (B, L, T) and mask (B, L), True where a token is real; None where all are.

    Raises CommonArtError for a text without tokens.
    """
    lengths = [len(text) for text in texts]
    if not lengths or min(lengths) == 0:
        raise CommonArtError("A text has no tokens.", "Use the text encoder's null embedding for an empty text.")
    if min(lengths) == max(lengths):
        return torch.stack(list(texts)), None
    text_BLT = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    length_B = torch.tensor(lengths, device=text_BLT.device)
    return text_BLT, torch.arange(text_BLT.shape[1], device=text_BLT.device) < length_B[:, None]


class PixArt(nn.Module):
    """The transformer. `gradient_checkpointing` recomputes every block in the backward pass: less memory, a third slower."""

    FOLDER = "transformer"  # of a checkpoint or a pipeline

    def __init__(self, config: PixArtConfig, initialize: bool = True) -> None:
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
        self.alignment: AlignmentHead | None = None  # while training alone
        if initialize:
            initialize_weights(self)

    def read_text(self, text_BLT: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what every block's cross-attention makes of the text: `forward` takes it in place of `text_BLT`.

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
        route: Route | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the prediction (B, out_channels, H, W) for noisy latents (B, C, H, W) at timesteps (B,) in 0..1000.

        `text_BLT` and `mask_BL` (bool) as `stack_text` makes them; of an n-th as many texts as latents, each is that of n latents
        in a row, and read once. A row without any real token, which `stack_text` refuses, attends to nothing: its cross-attention
        adds the output bias alone (diffusers would attend to the padding). `route`: the tokens that pass the blocks in the middle
        (core.model.tread). While training with an `alignment` head, what it finds for each token, (B, P, O), comes as well.
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
        if B % texts_in(text_BLT if isinstance(text_BLT, Tensor) else text_BLT[0]):
            raise CommonArtError(
                f"{B} latents cannot share their texts alike.", "Give as many texts, or an n-th of them."
            )
        x_BPD = self.pos_embed(latents_BCHW)
        time_B6D, time_BD = self.adaln_single(timestep_B.expand(B))
        if isinstance(text_BLT, Tensor):
            texts: Sequence[BlockText] = [self._project(text_BLT, mask_BL)] * len(self.transformer_blocks)
        else:
            texts = text_BLT
        mask_B11L = None if mask_BL is None else mask_BL.bool()[:, None, None, :]
        whole_BPD = aligned_BPD = x_BPD
        head = self.alignment if self.training else None
        for n, (block, text) in enumerate(zip(self.transformer_blocks, texts, strict=True)):
            if route is not None and n == route.first:
                whole_BPD, x_BPD = x_BPD, route.leave(x_BPD)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_BPD = checkpoint(block, x_BPD, text, time_B6D, mask_B11L, use_reentrant=False)
            else:
                x_BPD = block(x_BPD, text, time_B6D, mask_B11L)
            if route is not None and n == route.stop - 1:
                x_BPD = route.rejoin(whole_BPD, x_BPD)
            if head is not None and n == head.block - 1:
                aligned_BPD = route.rejoin(whole_BPD, x_BPD) if route is not None and route.covers(n + 1) else x_BPD
        shift_B1D, scale_B1D = (self.scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        out_BPO = self.proj_out(modulate(x_BPD, shift_B1D, scale_B1D))
        out_BCHW = unpatch(out_BPO, H, W, p)
        if self.config.prediction == "x":
            out_BCHW = x_prediction.velocity(latents_BCHW, out_BCHW, timestep_B.expand(B) / 1000)
        if head is None:
            return out_BCHW
        return out_BCHW, head(aligned_BPD)

    def _project(self, text_BLT: Tensor, mask_BL: Tensor | None) -> Tensor | Packed:
        """The text in the blocks' width; on a CPU of its real tokens alone, whose number a GPU would have to be waited for."""
        if mask_BL is None or text_BLT.device.type != "cpu" or torch.compiler.is_compiling():
            return self.caption_projection(text_BLT)
        index_N = mask_BL.flatten().nonzero()[:, 0]
        text_ND = self.caption_projection(text_BLT.flatten(0, 1)[index_N])
        return Packed(text_ND, index_N, (text_BLT.shape[0], text_BLT.shape[1]))

    @property
    def parameters_count(self) -> int:
        """The number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> PixArt:
        """Read a diffusers folder, or a pipeline folder with `transformer/` in it: config.json and safetensors.

        `dtype` None keeps the precision of the file. Raises CommonArtError, which names the file and the key, where something
        is missing, unknown or of another shape.
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
        """Return the transformer with the weights `state` (of `folder`, for errors), which it takes as they are, not copied."""
        with torch.device("meta"):
            model = cls(config, initialize=False)
        weights.check(state, model.state_dict(), folder)
        model.load_state_dict(state, assign=True)
        embed = model.pos_embed
        embed.pos_embed = embed.positions((embed.base_size, embed.base_size), torch.device("cpu"))
        return model.requires_grad_(True)

    def save(
        self, folder: str | Path, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None
    ) -> Path:
        """Write config.json and the weights, or those in `state`, as diffusers does (in `dtype`, if given); return the folder."""
        folder, state = Path(folder), self.state_dict() if state is None else state
        weights.write({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}, folder)
        self.config.write(folder / CONFIG)
        return folder


def initialize_weights(model: PixArt) -> None:
    """Start from nothing: Xavier, which at the paper's widths is the 0.02 that PixArt gives its embedders; zero at the end.

    PixArt also begins with text cross-attention that adds nothing, for blocks trained on classes. None are loaded here: with
    half of Xavier, text is heard from the first step (at nano size twice as much of it is understood after 300 steps).
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
