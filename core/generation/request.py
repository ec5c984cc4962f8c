"""What a call generates with: the model, the settings of its images, and the prompt and seed of each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonart.core.data.images.aspect_buckets import WIDEST, bucket_sizes, nearest_bucket
from commonart.core.errors import UsageError
from commonart.core.registry import lookup
from commonart.core.registry.catalogue import Model

MAX_SIDE = 4096  # pixels
SIZE_FORM = "Give pixels: --size 512 or --size 640x384."
MAX_STEPS = 999  # one fewer than the timesteps of training
MAX_SEED = 2**63 - 1
Callback = Callable[[int], Any]  # what it raises stops the generation


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model generates, and how its components are loaded.

    Without `quantize` (as `TextEncoder.load` takes it; "none" for none), the text encoder is stored as in training, where
    a run says so, else as the least that fits into memory.
    """

    model: str = "commonart-beta"  # a name of the registry, a run, a local folder or a hub id
    text_encoder: str | None = None  # another than the model's own, by name, folder or hub id
    autoencoder: str | None = None  # likewise
    accept_terms: Sequence[str] = ()  # names of models that are used on the user's word
    allow_pickle: bool = False
    device: str = "auto"
    precision: str = "auto"  # of the transformer; the text encoder has that of its training, where a run says so
    quantize: str | None = None
    max_tokens: int | None = None  # of a prompt; None: as in training
    compiled: bool = False
    flag: str = "--model"  # the option or argument that gave `model`, for errors

    def find(self) -> Model | None:
        """Find the model by its name alone, before torch is imported; None for a run.

        Raises UsageError for an unknown name or refused terms, of the model and of what takes the place of its own parts.
        """
        for role, name in (("text-encoder", self.text_encoder), ("autoencoder", self.autoencoder)):
            if name:
                lookup.check_terms(lookup.find_model(name, role, f"--{role}"), self.accept_terms, f"--{role}")
        folder = Path(self.model)
        if (folder / "run.json").is_file() or (folder / "checkpoints").is_dir():
            return None
        row = lookup.find_model(self.model, "transformer", self.flag)
        lookup.check_terms(row, self.accept_terms, self.flag)
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How the images of a call are generated; `core.model.sampler.sample` explains the fields."""

    steps: int = 20
    guidance: float = 4.5
    negative: str = ""
    sampler: str = "dpm++"
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    size: str | int | tuple[int, int] | None = None  # pixels, 512 or "640x384"; None: the model's own
    aspect: str | None = None  # "3:2" takes the nearest bucket of that area

    def check(self) -> None:
        """Raise UsageError for a number that no model can use."""
        if not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(f"--steps {self.steps} must be from 1 to {MAX_STEPS}.", "20 is usual.")
        if not 0 <= self.guidance <= 100:
            raise UsageError(f"--guidance {self.guidance} must be from 0 to 100.", "4.5 is usual.")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise UsageError(
                f"--interval {low:g},{high:g} must be two rising numbers from 0 to 1.",
                "For example --interval 0.2,0.8.",
            )
        if not 0 <= self.rescale <= 1:
            raise UsageError(f"--rescale {self.rescale} must be from 0 to 1.", "0.7 is usual.")
        if self.size is not None:
            sides = _sides("--size", SIZE_FORM, self.size)
            if not all(0 < side <= MAX_SIDE for side in sides):
                raise UsageError(f"--size {self.size} must be from 1 to {MAX_SIDE} pixels.", SIZE_FORM)

    def as_settings(self) -> dict[str, Any]:
        """Return what an image's marks say of it: steps, guidance and negative always, the rest where not the default."""
        settings: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance, "negative": self.negative}
        for name in ("sampler", "interval", "rescale"):
            value = getattr(self, name)
            if value != getattr(DEFAULT_CONFIG, name):
                settings[name] = list(value) if isinstance(value, tuple) else value
        return settings


DEFAULT_CONFIG = GenerationConfig()


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image: the same request gives the same image, in whatever batch and order it is generated."""

    prompt: str
    seed: int


def pixels(
    size: str | int | tuple[int, int] | None, default: int, multiple: int, aspect: str | None = None
) -> tuple[int, int]:
    """Return the width and height of an image: `size`, else `default` on both sides; with `aspect`, of about that area.

    Raises:
        UsageError: a size or aspect that cannot be read, or sides that are too large or not multiples of `multiple`.
    """
    width, height = (default, default) if size is None else _sides("--size", SIZE_FORM, size)
    if aspect is not None:
        across, down = _sides("--aspect", "Give two numbers: --aspect 3:2.", aspect)
        if not 1 / WIDEST <= across / down <= WIDEST:
            raise UsageError(
                f"--aspect {aspect}: models are trained from 1:{WIDEST} to {WIDEST}:1.",
                "Give one between, or the pixels themselves: --size 1024x128.",
            )
        return nearest_bucket(across, down, bucket_sizes(max(multiple, math.isqrt(width * height)), multiple))
    if width % multiple or height % multiple or not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE:
        near = "x".join(
            str(max(multiple, min(round(s / multiple), MAX_SIDE // multiple) * multiple)) for s in (width, height)
        )
        raise UsageError(
            f"--size {width}x{height}: both sides must be multiples of {multiple}, up to {MAX_SIDE}, for this model.",
            f"The nearest is --size {near}.",
        )
    return width, height


def _sides(flag: str, fix: str, text: str | int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(text, tuple):
        return text
    match = re.fullmatch(r"(\d{1,6})(?:[x×:](\d{1,6}))?", str(text).strip().lower())
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not match or (flag == "--aspect" and not (match[2] and all(sides))):
        raise UsageError(f"{flag} {text} is not a valid {flag.removeprefix('--')}.", fix)
    return sides
