"""LY Corporation's CLYPModel (clip-japanese-base), which reads its published weights and runs none of its code.

The layout is that of its repository (`configuration_clyp.py`, `model.py`, Apache-2.0): timm's EVA-02 B/16 without a head, and
the RoBERTa of rinna's Japanese CLIP; of either the first token goes through a linear layer without bias. Two more
repositories belong to it: one holds the shape of the text tower, the other the sentencepiece model.

Its own code does not load on transformers 5 (it never calls `post_init`), and its tokenizer would no longer turn text into
lower case there, without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from commonart.core.errors import CommonArtError, first_line
from commonart.core.registry import hub, lookup

TOKENIZER = "rinna/japanese-roberta-base"
VISION, TEXT = "eva02_base_patch16_clip_224.merged2b", "rinna/japanese-clip-vit-b-16"  # where config.json names none
# `normalization_type` of preprocessor_config.json -> mean and deviation of the channels
NORMALIZATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet_inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "openai_clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


class Clyp(nn.Module):
    """Both towers. Make one with `Clyp.load`."""

    def __init__(self, config: dict[str, Any], text_config: dict[str, Any]) -> None:
        """Build the towers of a config.json and of the `text_config` that its text tower names."""
        import timm
        from transformers import RobertaConfig, RobertaModel

        super().__init__()
        vision, text = (config.get(f"{tower}_encoder_config") or {} for tower in ("vision", "text"))
        named = vision.get("backbone_config") or {}
        eva: Any = timm.create_model(
            named.get("model_name", VISION), pretrained=False, **(named.get("extra_kwargs") or {})
        )
        eva.reset_classifier(0, "")
        shape = {key: value for key, value in text_config.items() if key != "model_type"}
        roberta = RobertaModel(RobertaConfig(**shape), add_pooling_layer=False)
        self.vision_encoder = _tower(vision, eva)
        self.text_encoder = _tower(text, nn.ModuleDict({"model": roberta}))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> tuple[Clyp, ClypTokenizer, ClypPreprocessor, tuple[str, ...]]:
        """Load a folder that holds config.json, preprocessor_config.json and the weights.

        Returns:
            the model, what prepares its texts and images, and the commits of the two other repositories.

        Raises:
            CommonArtError: a repository is missing, or the weights are those of another layout.
        """
        from safetensors.torch import load_file

        config = lookup.read_json(folder / "config.json")
        text = (config.get("text_encoder_config") or {}).get("backbone_config") or {}
        shape = _need(str(text.get("model_name", TEXT)), "config.json")
        words, settings = _need(TOKENIZER, "spiece.model"), _need(TOKENIZER, "tokenizer_config.json")
        try:
            model = cls(config, lookup.read_json(shape)["text_config"])
            longest = int(lookup.read_json(folder / "tokenizer_config.json")["max_length"])
            state = load_file(folder / "model.safetensors")
            state.pop("itc_loss_fn.temperature", None)  # scales the logits, not the cosine
            state.pop(
                "text_encoder.backbone.model.embeddings.position_ids", None
            )  # a constant that transformers 4 saved
            model.load_state_dict(state)
        except (RuntimeError, OSError, KeyError, TypeError) as problem:
            raise CommonArtError(
                f"{folder} does not hold the weights of a CLYPModel ({first_line(problem)}).",
                "Delete the folder; the same command downloads it again.",
            ) from problem
        tokenizer = ClypTokenizer(words, str(lookup.read_json(settings).get("cls_token", "[CLS]")), longest)
        pixels = ClypPreprocessor(lookup.read_json(folder / "preprocessor_config.json"))
        model.to(device).eval().requires_grad_(False)
        return model, tokenizer, pixels, (shape.parent.name, words.parent.name)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Return the features [B, D] of pixels [B, 3, H, W]."""
        features: Tensor = self.vision_encoder["neck"]["linear"](self.vision_encoder["backbone"](pixels)[:, 0])
        return features

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the features [B, D] of tokens [B, L]; positions count from 0, unlike RoBERTa's own."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        tower = self.text_encoder["backbone"]["model"]
        states = tower(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        features: Tensor = self.text_encoder["neck"]["linear"](states[:, 0])
        return features


class ClypTokenizer:
    """Texts -> ids of sentencepiece in lower case, behind one [CLS], cut at `longest` tokens."""

    def __init__(self, path: Path, cls_token: str, longest: int) -> None:
        import sentencepiece

        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.first, self.longest = self.pieces.piece_to_id(cls_token), longest

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids [B, L] and mask [B, L], padded to the longest text: a masked token changes nothing."""
        rows = [[self.first, *self.pieces.encode(text.lower())[: self.longest - 1]] for text in texts]
        length = max(map(len, rows))
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return torch.tensor([row + [self.first] * (length - len(row)) for row in rows]), mask


class ClypPreprocessor:
    """Images -> pixels: the longer side is scaled to `image_size`, and the rest is black, so that nothing is cut off."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.size = int(config.get("image_size", 224))
        mean, deviation = NORMALIZATION[config.get("normalization_type", "imagenet")]
        self.mean, self.deviation = torch.tensor(mean)[:, None, None], torch.tensor(deviation)[:, None, None]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return pixels [3, H, W]."""
        image = image.convert("RGB")
        scale = self.size / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        if scale != 1:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (self.size, self.size))
        square.paste(image, ((self.size - width) // 2, (self.size - height) // 2))
        values = torch.from_numpy(np.asarray(square, dtype=np.float32).transpose(2, 0, 1).copy()) / 255
        return (values - self.mean) / self.deviation


def _tower(config: dict[str, Any], backbone: nn.Module) -> Any:
    """A tower under the names of the published weights."""
    neck = config.get("neck_config") or {}
    linear = nn.Linear(neck.get("in_channels", 768), neck.get("out_channels", 512), bias=neck.get("bias", False))
    return nn.ModuleDict({"backbone": backbone, "neck": nn.ModuleDict({"linear": linear})})


def _need(repo: str, name: str) -> Path:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        file = hub.find_file(repo, name)
    except HfHubHTTPError:
        file = None
    if file is None:
        raise CommonArtError(
            f"clip-japanese-base needs {name} of {repo}, which is neither in the cache nor can it be downloaded.",
            f"Run `hf download {repo} {name}` where there is a network.",
        )
    return file
