"""CLIP scores: how well images fit their prompts, according to a CLIP model trained on other data.

Two conventions share one formula, w * max(cos, 0). Scores of two models or of two conventions cannot be compared.

- `paper`: w = 100, the prompt unchanged (CommonArt's table 2).
- `hessel`: w = 2.5, "A photo depicts " before the prompt (arXiv 2104.08718).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from commonart.core.errors import CommonArtError, first_line
from commonart.core.metrics.protocols import convention_of
from commonart.core.model import weights
from commonart.core.model.device import pick_device
from commonart.core.registry import hub, lookup

Floats = NDArray[np.float64]
Item = TypeVar("Item")

CLYP = "CLYPModel"  # LY Corporation's, which no library has


@dataclass(slots=True)
class DualEncoder:
    """A model like CLIP: one encoder for images and one for texts. Make one with `DualEncoder.load`."""

    name: str
    revision: str
    prepare: Callable[[Image.Image], Tensor]  # an image -> pixels [3, H, W], on any thread
    embed_pixels: Callable[[Tensor], Tensor]  # [B, 3, H, W] -> [B, D]
    embed_texts: Callable[[list[str]], Tensor]
    embedded: bool = False  # in the package: knows the generated scenes and nothing else

    @classmethod
    def load(
        cls,
        name: str = "nano",
        *,
        device: str = "auto",
        accept_terms: Sequence[str] = (),
        trust_remote_code: bool = False,
        flag: str = "--clip",
    ) -> DualEncoder:
        """Load a model in open_clip's or transformers' format.

        Args:
            name: of the registry, a local folder or a hub id.
            accept_terms, trust_remote_code, flag: as `lookup.check_terms` and `lookup.check_code` take them.

        Raises:
            UsageError: an unknown name, refused terms, remote code that is not trusted.
            CommonArtError: the hub cannot be reached, or the folder holds no dual encoder.
        """
        row = lookup.find_model(name, "clip", flag)
        lookup.check_terms(row, accept_terms, flag)
        lookup.check_code(row, trust_remote_code, flag)
        on = pick_device(device)
        if row.remote_code:
            # Its own code has to be fetched with it, which `hub.resolve_model` never does.
            return _transformers(row.name, row.revision or "", row.hub, on, remote=True)
        resolved = hub.resolve_model(row)
        if (resolved.folder / "open_clip_config.json").is_file():
            return _open_clip(resolved, on)
        if resolved.model.cls == CLYP:
            return _clyp(resolved, on)
        return _transformers(resolved.name, resolved.revision, str(resolved.folder), on)

    @torch.inference_mode()
    def encode_images(self, images: Iterable[Image.Image], batch: int = 64) -> Floats:
        """Return unit features [N, D] of RGB images."""
        return _unit_rows(lambda part: self.embed_pixels(torch.stack(list(map(self.prepare, part)))), images, batch)

    @torch.inference_mode()
    def encode_texts(self, texts: Iterable[str], batch: int = 256) -> Floats:
        """Return unit features [N, D] of texts; the tokenizer truncates them to the model's context."""
        return _unit_rows(self.embed_texts, texts, batch)


def scores(images_ND: Floats, texts_ND: Floats, convention: str = "paper") -> Floats:
    """Return the score [N] of each image with its own text: w * max(cos, 0). Raises as `convention_of` does."""
    weight, _ = convention_of(convention)
    if images_ND.shape != texts_ND.shape:
        raise ValueError(f"features of {images_ND.shape} and {texts_ND.shape}")
    return weight * np.maximum(np.sum(images_ND * texts_ND, axis=1), 0)


def _open_clip(resolved: hub.ResolvedModel, device: torch.device) -> DualEncoder:
    import open_clip

    config = json.loads((resolved.folder / "open_clip_config.json").read_text(encoding="utf-8"))
    if resolved.model.hub.endswith(".openai") and not config.get("model_cfg", {}).get("quick_gelu"):
        # open_clip only warns, and the scores would be slightly wrong.
        raise CommonArtError(
            f"{resolved.folder}: OpenAI's weights were trained with QuickGELU, which this config does not set.",
            'Set "quick_gelu": true in the model_cfg of open_clip_config.json.',
        )
    source = f"local-dir:{resolved.folder}"
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(source, device=device)
        tokenizer = open_clip.get_tokenizer(source)
    except (RuntimeError, OSError, ValueError, TypeError, KeyError) as problem:
        raise _unloadable(str(resolved.folder), problem) from problem
    model.eval().requires_grad_(False)

    def prepare(image: Image.Image) -> Tensor:
        pixels: Tensor = preprocess(image.convert("RGB"))
        return pixels

    def embed_pixels(pixels: Tensor) -> Tensor:
        return model.encode_image(pixels.to(device))

    def embed_texts(texts: list[str]) -> Tensor:
        return model.encode_text(tokenizer(texts).to(device))

    about = (resolved.name, resolved.revision)
    return DualEncoder(*about, prepare, embed_pixels, embed_texts, resolved.model.embedded)


def _clyp(resolved: hub.ResolvedModel, device: torch.device) -> DualEncoder:
    from commonart.core.model.clyp import Clyp

    model, tokenizer, prepare, others = Clyp.load(resolved.folder, device)

    def embed_pixels(pixels: Tensor) -> Tensor:
        return model.image_features(pixels.to(device))

    def embed_texts(texts: list[str]) -> Tensor:
        ids, mask = tokenizer(texts)
        return model.text_features(ids.to(device), mask.to(device))

    return DualEncoder(resolved.name, "+".join((resolved.revision, *others)), prepare, embed_pixels, embed_texts)


def _transformers(name: str, revision: str, source: str, device: torch.device, *, remote: bool = False) -> DualEncoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": remote, **({"revision": revision} if remote else {})}
    try:
        variant = None if remote else weights.variant(Path(source), "model")
        model = AutoModel.from_pretrained(source, use_safetensors=True, variant=variant, **options).to(device).eval()
        processor = AutoImageProcessor.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as problem:
        raise _unloadable(source, problem) from problem
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise _unloadable(source, TypeError(f"{type(model).__name__} has no image and text features"))
    model.requires_grad_(False)
    longest = getattr(getattr(model.config, "text_config", model.config), "max_position_embeddings", None)

    def prepare(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels

    def embed_pixels(pixels: Tensor) -> Tensor:
        return _features(model.get_image_features(pixel_values=pixels.to(device)))

    def embed_texts(texts: list[str]) -> Tensor:
        truncate = {} if remote else {"truncation": True, "max_length": longest, "padding": True}
        inputs = tokenizer(texts, return_tensors="pt", **truncate).to(device)
        return _features(model.get_text_features(**inputs))

    return DualEncoder(name, revision, prepare, embed_pixels, embed_texts)


def _features(output: Any) -> Tensor:
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def _unloadable(source: str, problem: Exception) -> CommonArtError:
    return CommonArtError(
        f"{source} holds no dual encoder that can be loaded ({first_line(problem)}).",
        "Name one from `commonart models`, or a folder in open_clip's or transformers' format.",
    )


def _unit_rows(embed: Callable[[list[Item]], Tensor], items: Iterable[Item], batch: int) -> Floats:
    remaining, rows = iter(items), []
    while part := list(islice(remaining, batch)):
        rows.append(torch.nn.functional.normalize(embed(part).float(), dim=-1).cpu().numpy())
    if not rows:
        raise ValueError("nothing to embed")
    return np.concatenate(rows).astype(np.float64)
