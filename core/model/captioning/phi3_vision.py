"""Phi-3 Vision and Phi-3.5 Vision, whose own code does not run on transformers 5: a CLIP tower, a projector, Phi-3.

    commonart caption --model phi3-vision shards/

The image is cut into a grid of h x w tiles of 336 px, behind one view of all of it. Of each, CLIP ViT-L/14-336 makes
24 x 24 features of its last but one layer, of which each square of four becomes one of 4,096 numbers. They stand in the
prompt as they are read: the rows of all tiles together, each with a separator (`sub_GN`) at its end; another separator
(`glb_GN`); then the rows of the whole view. (Phi-3 Technical Report, arXiv 2404.14219, section 6.) That is
(h * w + 1) * 144 + 1 + (h + 1) * 12 tokens for an image.

Names of parameters are those of the published weights. N tiles and views, B images, T image tokens, C features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    Phi3Config,
    Phi3ForCausalLM,
)

from commonart.core.registry.lookup import read_json

TILE = 336
# openai/clip-vit-large-patch14-336: config.json names it, and leaves its sizes to the code.
VIT_L_14 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": TILE, "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGE, PLACEHOLDER = "<|image_1|>", "<|image|>"  # in a prompt, and among the tokens
PLACEHOLDER_ID = 32044  # in the published vocabulary
CHAT = "<|user|>\n{}<|end|>\n<|assistant|>\n"


class Phi3VConfig(Phi3Config):
    """Phi-3's configuration, with `img_processor` for the tower; its `clip` may hold other sizes than VIT_L_14."""

    model_type = "phi3_v"


class ImageEmbedding(nn.Module):
    """From tiles to the decoder's inputs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        image = config.img_processor
        width = image["image_dim_out"]
        tower = VIT_L_14 | {"hidden_size": width} | image.get("clip", {})
        # The layers behind the one whose output is used are not built.
        tower["num_hidden_layers"] += image.get("layer_idx", -2) + 1
        self.img_processor = nn.ModuleDict({"vision_model": CLIPVisionModel(CLIPVisionConfig(**tower))})
        hidden = config.hidden_size
        self.img_projection = nn.Sequential(nn.Linear(4 * width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, 4 * width))
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, 4 * width))

    def forward(self, tiles: Tensor, grids: Tensor) -> Tensor:
        """Return the features of all images, one after the other, [T, hidden].

        Args:
            tiles: [N, 3, 336, 336]; of each image the view of all of it, then its tiles, row by row.
            grids: [B, 2], rows and columns of tiles of each image.
        """
        features = self.img_processor["vision_model"](tiles).last_hidden_state[:, 1:]  # without the class token
        n, patches, width = features.shape
        side = math.isqrt(patches) // 2
        squares = features.view(n, side, 2, side, 2, width).transpose(2, 3).reshape(n, side, side, 4 * width)
        parts = []
        for (rows, columns), views in zip(
            grids.tolist(), squares.split([1 + h * w for h, w in grids.tolist()]), strict=True
        ):
            image = views[1:].view(rows, columns, side, side, -1).transpose(1, 2)
            image = image.reshape(rows * side, columns * side, -1)
            parts += [self._lines(image), self.glb_GN[0], self._lines(views[0])]
        projected: Tensor = self.img_projection(torch.cat(parts))
        return projected

    def _lines(self, image: Tensor) -> Tensor:
        """[rows, columns, C] -> [rows * (columns + 1), C], with a separator at the end of each row."""
        return torch.cat([image, self.sub_GN[0].expand(len(image), 1, -1)], 1).flatten(0, 1)


class Phi3VForCausalLM(Phi3ForCausalLM):
    """Phi-3 with images at the places of the token <|image|>."""

    config_class = Phi3VConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.vision_embed_tokens = ImageEmbedding(config)
        clip = config.img_processor.get("clip", {})
        last = clip.get("num_hidden_layers", VIT_L_14["num_hidden_layers"])
        unused = "|".join(str(last + layer) for layer in range(config.img_processor.get("layer_idx", -2) + 1, 0))
        self._keys_to_ignore_on_load_unexpected = [
            rf"vision_model\.encoder\.layers\.({unused})\.", r"embeddings\.position_ids$",
            r"vision_embed_tokens\.wte\.",  # the embeddings of words a second time
        ]  # fmt: skip
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """Load it as any model of transformers, but for weights that are missing: ValueError says which.

        The published config asks for an attention that few have installed.
        """
        loaded: Any = super().from_pretrained(
            *args, attn_implementation="sdpa", **{**options, "output_loading_info": True}
        )
        model, told = loaded
        if told["missing_keys"]:
            raise ValueError(f"the weights {', '.join(sorted(told['missing_keys']))} are missing")
        return loaded if options.get("output_loading_info") else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        tiles: Tensor | None = None,
        grids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Run the decoder; `tiles` and `grids` of `Phi3VProcessor` are looked at with the prompt, not at later tokens."""
        if input_ids is not None and inputs_embeds is None and input_ids.shape[1] > 1:
            places = input_ids == getattr(self.config, "image_token_id", PLACEHOLDER_ID)
            inputs_embeds = self.model.embed_tokens(input_ids)
            count = int(places.sum())
            if count:
                if tiles is None or grids is None:
                    raise ValueError("the prompt has places for an image, and there is none")
                features = self.model.vision_embed_tokens(tiles, grids)
                if len(features) != count:
                    raise ValueError(f"{len(features)} image features for {count} places in the prompt")
                inputs_embeds = inputs_embeds.masked_scatter(places[..., None], features.to(inputs_embeds.dtype))
            input_ids = None
        return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **options)


class Phi3VProcessor:
    """Prompts and images as the model's inputs."""

    def __init__(
        self,
        tokenizer: Any,
        num_crops: int = 16,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        """`num_crops`: the most tiles of an image; 16 in Phi-3 Vision, 4 in Phi-3.5 Vision."""
        self.tokenizer, self.num_crops = tokenizer, num_crops
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    @classmethod
    def from_pretrained(cls, folder: Path, **options: Any) -> Self:
        """Read the tokenizer and preprocessor_config.json of a folder."""
        told = read_json(folder / "preprocessor_config.json")
        known = {"num_crops": "num_crops", "mean": "image_mean", "std": "image_std"}
        given = {name: told[key] for name, key in known.items() if key in told}
        config = Phi3VConfig.from_pretrained(folder)
        return cls(AutoTokenizer.from_pretrained(folder, config=config, **options), **given)

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer: of a turn, and of a text."""
        return [self.tokenizer.convert_tokens_to_ids("<|end|>"), self.tokenizer.eos_token_id]

    def __call__(self, prompt: str, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask [B, L], padded on the left, tiles and grids of `ImageEmbedding`."""
        content = prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"
        chat = [{"role": "user", "content": content}]
        text = (
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            if self.tokenizer.chat_template
            else CHAT.format(content)
        )
        # As the model was trained: what stands before and behind the image is cut into tokens on its own.
        before, after = (self.tokenizer(part).input_ids for part in text.split(IMAGE, 1))
        place = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        cut = [self.cut(image) for image in images]
        rows = [before + [place] * image_tokens(*grid) + after for _, grid in cut]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        return {
            "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
            "tiles": torch.cat([tiles for tiles, _ in cut]),
            "grids": torch.tensor([grid for _, grid in cut]),
        }

    def cut(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """Return (the view of all of an image and its tiles, [1 + h * w, 3, 336, 336]; (h, w))."""
        upright = image.height > image.width
        if upright:
            image = image.transpose(Image.Transpose.TRANSPOSE)
        rows, columns, height = self._fit(image.width / image.height)
        width = columns * TILE
        canvas = Image.new("RGB", (width, rows * TILE), "white")
        canvas.paste(
            image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), (0, (rows * TILE - height) // 2)
        )
        if upright:
            canvas, rows, columns = canvas.transpose(Image.Transpose.TRANSPOSE), columns, rows
        pixels = torch.from_numpy((np.asarray(canvas, np.float32) / 255 - self.mean) / self.std).permute(2, 0, 1)
        whole = nn.functional.interpolate(pixels[None], (TILE, TILE), mode="bicubic")
        tiles = pixels.reshape(3, rows, TILE, columns, TILE).permute(1, 3, 0, 2, 4).flatten(0, 1)
        return torch.cat([whole, tiles]), (rows, columns)

    def _fit(self, ratio: float) -> tuple[int, int, int]:
        """(rows and columns of tiles, height in pixels before it is padded) of an image so many times as wide as high."""
        columns = max(n for n in range(1, self.num_crops + 1) if n * math.ceil(n / ratio) <= self.num_crops)
        height = max(1, int(columns * TILE / ratio))
        return math.ceil(height / TILE), columns, height

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[tuple[int, int]]) -> SimpleNamespace:
        """As processors of transformers tell it: the tokens of images of (height, width)."""
        counts = []
        for height, width in image_sizes:
            rows, columns, _ = self._fit(max(height, width) / min(height, width))
            counts.append(image_tokens(*((columns, rows) if height > width else (rows, columns))))
        return SimpleNamespace(num_image_tokens=counts)

    def batch_decode(self, *args: Any, **options: Any) -> list[str]:
        """Decode tokens, as a tokenizer does."""
        texts: list[str] = self.tokenizer.batch_decode(*args, **options)
        return texts


def image_tokens(rows: int, columns: int) -> int:
    """Return how many tokens an image of so many tiles takes in the prompt."""
    return (rows * columns + 1) * 144 + 1 + (rows + 1) * 12
