"""The sample stage and pipelines with options as flat keywords, and a tiny model to call the stage with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image

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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model."""
    return str(tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def draw(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """`sample` of the tiny model in two steps on the CPU, inside an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(prompts: Any = (), **options: Any) -> list[dict[str, Any]]:
        return sample(
            prompts, **{"model": model, "steps": 2, "seed": 7, "device": "cpu", "precision": "fp32", **options}
        )

    return run


def array(path: str | Path) -> np.ndarray:
    """The pixels of a file, as integers."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def files(folder: str | Path = ".") -> list[str]:
    """The files of a folder and those in it, by name."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
