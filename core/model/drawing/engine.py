"""What `commonart sample` and `commonart eval` ask of a model, whoever wrote its pipeline.

commonart sample "a red circle" --model nano                             # ours: core/model/drawing/pipeline.py
commonart sample "a red circle" --model common-canvas/CommonCanvas-S-C   # diffusers': core/model/drawing/foreign.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from commonart.core.errors import UsageError
from commonart.core.model.drawing.foreign import Foreign
from commonart.core.model.drawing.parts import Parts
from commonart.core.model.drawing.pipeline import Job, Pipeline


class Engine(Protocol):
    """Draws jobs; `size` and `multiple` are pixels, as `Pipeline` describes them."""

    parts: Parts
    device: torch.device
    dtype: torch.dtype  # of the transformer
    quantize: str | None  # of the text encoder

    @property
    def size(self) -> int: ...

    @property
    def multiple(self) -> int: ...

    def draw(
        self,
        jobs: Sequence[Job],
        *,
        size: tuple[int, int] | None = None,
        steps: int = 20,
        guidance: float = 4.5,
        batch: int = 8,
        sampler: str = "dpm++",
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        tick: Callable[[int], Any] = lambda n: None,
    ) -> Iterator[tuple[int, Image.Image]]: ...


def open_engine(
    parts: Parts,
    *,
    device: str = "auto",
    precision: str = "auto",
    quantize: str | None = None,
    max_tokens: int | None = None,
    compiled: bool = False,
) -> Engine:
    """The engine that draws with `parts`; weights are loaded when they are needed. Raises as `Pipeline.open` does."""
    if parts.pipeline:
        for flag, given in (("--quantize", quantize), ("--max-tokens", max_tokens), ("--compile", compiled)):
            if given:
                raise UsageError(f"{flag} is for our own models; {parts.name} is a {parts.pipeline}.", "Leave it out.")
        return Foreign.open(parts, device=device, precision=precision)
    return Pipeline.open(
        parts, device=device, precision=precision, quantize=quantize, max_tokens=max_tokens, compiled=compiled
    )
