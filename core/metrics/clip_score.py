"""CLIP scores: how well pictures fit their prompts, by a dual encoder that was trained on other data.

    commonart eval pictures/ --clip clip-vit-b32 --clip-ja clip-japanese-base

Two conventions share one formula, w * max(cos, 0). Numbers of two judges or two conventions cannot be compared.

- `paper`: w = 100, the prompt as it is (CommonArt's table 2).
- `hessel`: w = 2.5, "A photo depicts " before the prompt (arXiv 2104.08718).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.device import pick_device
from commonart.core.registry import hub, lookup

Floats = NDArray[np.float64]

# convention -> (w, what stands before the prompt)
CONVENTIONS = {"paper": (100.0, ""), "hessel": (2.5, "A photo depicts ")}


@dataclass(slots=True)
class DualEncoder:
    """A CLIP-like judge. Make one with `DualEncoder.load`."""

    name: str
    revision: str
    device: torch.device
    embed_images: Callable[[list[Image.Image]], Tensor]
    embed_texts: Callable[[list[str]], Tensor]

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
        """Load a judge.

        Args:
            name: a name of the registry, a local folder or a hub id, in open_clip's or transformers' format.
            device: as `core.model.device.pick_device` takes it.
            accept_terms: names of models that are used on the user's word.
            trust_remote_code: run the code that a model brings along, at the commit that `name` gives.
            flag: the option that gave the name, for errors.

        Raises:
            UsageError: an unknown name, refused terms, remote code that is not trusted.
            CommonArtError: the hub is not there, or the folder holds no dual encoder.
        """
        row = lookup.find_model(name, "clip", flag)
        lookup.check_terms(row, accept_terms, flag)
        lookup.check_code(row, trust_remote_code, flag)
        where = pick_device(device)
        if row.remote_code:
            # Its own code has to be fetched with it, which `hub.resolve` never does.
            return _transformers(row.name, str(row.revision or ""), row.hub, where, remote=True, commit=row.revision)
        found = hub.resolve_model(row)
        if (found.folder / "open_clip_config.json").is_file():
            return _open_clip(found, where)
        return _transformers(found.name, found.revision, str(found.folder), where)

    @torch.inference_mode()
    def images(self, pictures: Iterable[Image.Image], batch: int = 64) -> Floats:
        """Unit features [N, D] of pictures in RGB."""
        return _rows(self.embed_images(part) for part in _batches(pictures, batch))

    @torch.inference_mode()
    def texts(self, texts: Iterable[str], batch: int = 256) -> Floats:
        """Unit features [N, D] of texts; what is longer than the judge's context is cut by its tokenizer."""
        return _rows(self.embed_texts(part) for part in _batches(texts, batch))


def scores(images_ND: Floats, texts_ND: Floats, convention: str = "paper") -> Floats:
    """The score [N] of each picture with its own text: w * max(cos, 0).

    Raises:
        UsageError: an unknown convention.
        ValueError: another number of pictures than of texts.
    """
    weight, _ = convention_of(convention)
    if images_ND.shape != texts_ND.shape:
        raise ValueError(f"features of {images_ND.shape} and {texts_ND.shape}")
    return weight * np.maximum(np.sum(images_ND * texts_ND, axis=1), 0)


def convention_of(name: str) -> tuple[float, str]:
    """(w, prefix of the prompt) of a convention."""
    if name not in CONVENTIONS:
        raise UsageError(f"--clip-mode {name}: there is no such mode.", f"Choose one of {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]


def score(
    judge: DualEncoder, pictures: Iterable[Image.Image], texts: Sequence[str], convention: str = "paper"
) -> Floats:
    """`scores` of pictures and texts."""
    _, prefix = convention_of(convention)
    return scores(judge.images(pictures), judge.texts([prefix + text for text in texts]), convention)


def _open_clip(found: hub.ResolvedModel, device: torch.device) -> DualEncoder:
    import open_clip

    config = json.loads((found.folder / "open_clip_config.json").read_text(encoding="utf-8"))
    if found.model.hub.endswith(".openai") and not config.get("model_cfg", {}).get("quick_gelu"):
        # open_clip only warns: the scores would be a little wrong, and nobody would notice.
        raise CommonArtError(
            f"{found.folder}: OpenAI's weights were trained with QuickGELU, and its config does not say so.",
            'Set "quick_gelu": true in the model_cfg of open_clip_config.json.',
        )
    source = f"local-dir:{found.folder}"
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(source, device=device)
        tokenizer = open_clip.get_tokenizer(source)
    except (RuntimeError, OSError, ValueError, TypeError, KeyError) as problem:
        raise _unloadable(str(found.folder), problem) from problem
    model.eval().requires_grad_(False)

    def embed_images(pictures: list[Image.Image]) -> Tensor:
        pixels = torch.stack([preprocess(picture.convert("RGB")) for picture in pictures])
        return model.encode_image(pixels.to(device))

    def embed_texts(texts: list[str]) -> Tensor:
        return model.encode_text(tokenizer(texts).to(device))

    return DualEncoder(found.name, found.revision, device, embed_images, embed_texts)


def _transformers(
    name: str, revision: str, source: str, device: torch.device, *, remote: bool = False, commit: str | None = None
) -> DualEncoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    options: dict[str, Any] = (
        {"trust_remote_code": remote, "revision": commit} if remote else {"trust_remote_code": False}
    )
    try:
        model = AutoModel.from_pretrained(source, use_safetensors=True, **options).to(device).eval()
        processor = AutoImageProcessor.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as problem:
        raise _unloadable(source, problem) from problem
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise _unloadable(source, TypeError(f"{type(model).__name__} has no image and text features"))
    model.requires_grad_(False)
    longest = getattr(getattr(model.config, "text_config", model.config), "max_position_embeddings", None)

    def embed_images(pictures: list[Image.Image]) -> Tensor:
        inputs = processor([picture.convert("RGB") for picture in pictures], return_tensors="pt").to(device)
        return _features(model.get_image_features(**inputs))

    def embed_texts(texts: list[str]) -> Tensor:
        cut = {} if remote else {"truncation": True, "max_length": longest, "padding": True}
        inputs = tokenizer(texts, return_tensors="pt", **cut).to(device)
        return _features(model.get_text_features(**inputs))

    return DualEncoder(name, revision, device, embed_images, embed_texts)


def _features(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _unloadable(source: str, problem: Exception) -> CommonArtError:
    reason = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
    return CommonArtError(
        f"{source}: no dual encoder can be loaded from here ({reason}).",
        "Name one from `commonart models`, or a folder in open_clip's or transformers' format.",
    )


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def _rows(parts: Iterable[Tensor]) -> Floats:
    rows = [torch.nn.functional.normalize(part.float(), dim=-1).cpu().numpy() for part in parts]
    if not rows:
        raise ValueError("nothing to embed")
    return np.concatenate(rows).astype(np.float64)
