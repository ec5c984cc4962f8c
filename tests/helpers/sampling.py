"""The sample stage and pipelines with options as flat keywords."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from commonart.core.generation.request import GenerationConfig, ImageRequest, ModelSpec
from commonart.core.generation.session import ImageGenerator
from commonart.core.output.metadata import MarkOptions
from commonart.stages import sample as stage


def sample(prompts: Any = (), **options: Any) -> list[dict[str, Any]]:
    """Call the stage; the fields of ModelSpec, GenerationConfig and MarkOptions go into one of each."""
    values = []
    for kind in (ModelSpec, GenerationConfig, MarkOptions):
        names = {field.name for field in fields(kind)} & options.keys()
        values.append(kind(**{name: options.pop(name) for name in names}))
    return stage.sample(prompts, *values, **options)


def generate(generator: ImageGenerator, *requests: tuple[str, int], batch: int = 8, **config: Any) -> list[np.ndarray]:
    """Generate the images of (prompt, seed) as integers."""
    images = generator.generate([ImageRequest(*r) for r in requests], GenerationConfig(**config), batch=batch)
    return [np.asarray(image).astype(int) for image in images]
