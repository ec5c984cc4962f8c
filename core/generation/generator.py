"""What generates images, whichever pipeline the model has.

commonart sample "a red circle" --model nano                             # ours: core/generation/pipeline.py
commonart sample "a red circle" --model common-canvas/CommonCanvas-S-C   # diffusers': core/generation/diffusers_pipeline.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from commonart.core.generation.components import PipelineComponents, locate
from commonart.core.generation.diffusers_pipeline import DiffusersPipeline
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import DEFAULT_CONFIG, GenerationConfig, ImageRequest, ModelSpec


class ImageGenerator(Protocol):
    """A model that is open; weights are loaded when they are needed.

    Attributes:
        quantize: the method by which the text encoder is quantized, None or "none" where it is not.
        size: pixels on a side that the model was trained for.
        multiple: pixels; an image's sides must be multiples of it.
    """

    components: PipelineComponents
    device: torch.device
    dtype: torch.dtype
    quantize: str | None

    @property
    def size(self) -> int: ...

    @property
    def multiple(self) -> int: ...

    def generate(
        self,
        requests: Sequence[ImageRequest],
        config: GenerationConfig = DEFAULT_CONFIG,
        *,
        batch: int = 8,
        on_batch: Callable[[int], Any] = lambda count: None,
        on_step: Callable[[int], Any] = lambda number: None,
    ) -> Iterator[Image.Image]:
        """Yield the image of each request, in order, each batch as soon as it is finished.

        Args:
            on_batch: called with the number of images after each batch of the transformer.
            on_step: called with the number of each step, from 0, of each batch; what it raises stops the generation.
        """


def open_generator(spec: ModelSpec) -> ImageGenerator:
    """Find and open a model. Raises as `locate`, `Pipeline.open` and `DiffusersPipeline.open` do."""
    components = locate(spec)
    return (DiffusersPipeline if components.pipeline else Pipeline).open(components, spec)
