"""What `commonart sample` and `commonart eval` ask of a model, whoever wrote its pipeline.

commonart sample "a red circle" --model nano                             # ours: core/generation/pipeline.py
commonart sample "a red circle" --model common-canvas/CommonCanvas-S-C   # diffusers': core/generation/diffusers_pipeline.py
"""

from __future__ import annotations

from commonart.core.generation.components import PipelineComponents
from commonart.core.generation.diffusers_pipeline import DiffusersPipeline, refuse_ours
from commonart.core.generation.pipeline import Pipeline

ImageGenerator = Pipeline | DiffusersPipeline  # both draw jobs as `Pipeline.draw` says


def open_generator(
    parts: PipelineComponents,
    *,
    device: str = "auto",
    precision: str = "auto",
    quantize: str | None = None,
    max_tokens: int | None = None,
    compiled: bool = False,
) -> ImageGenerator:
    """The engine that draws with `parts`; weights are loaded when they are needed. Raises as `Pipeline.open` does."""
    if parts.pipeline:
        refuse_ours(parts, {"--quantize": quantize, "--max-tokens": max_tokens, "--compile": compiled})
        return DiffusersPipeline.open(parts, device=device, precision=precision)
    return Pipeline.open(
        parts, device=device, precision=precision, quantize=quantize, max_tokens=max_tokens, compiled=compiled
    )
