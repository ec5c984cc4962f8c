"""What a training run is started with: the options of `commonart train`, as one value.

No torch here: processes that start others pass it on as JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commonart.core import recipes
from commonart.core.recipes import Recipe

QUANTIZERS = ("quanto-int8", "bnb-int8", "torchao-int8", "bnb-nf4")  # of text encoders: `core.model.quantize`


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run is started with. Defaults are those of the command line."""

    stage: str
    data: str = "shards/"
    out: str = ""  # "": runs/STAGE
    init: str = ""  # weights to start from; "": the newest checkpoint of the stage before; "none": from nothing
    text_encoder: str = ""  # "": the one of the cached features, else the registry's default of the stage
    autoencoder: str = ""
    quantize: str = ""  # of the text encoder that runs on the fly
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    languages: Mapping[str, float] = dataclasses.field(default_factory=dict)  # weights; empty: all captions alike
    gpus: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    max_seconds: float = 0.0
    max_tokens: int = 300  # of texts that are encoded on the fly
    checkpoint_every: int = 1000
    sample_every: int = 0
    log_every: int = 10
    keep: int = 3
    workers: int = 2
    prompts: Sequence[str] = ()  # of the sample grid; empty: captions of held-out images
    guidance: float = 4.5
    compile: bool = False
    checkpointing: bool = False
    track: str = ""  # wandb or trackio
    accept_terms: Sequence[str] = ()
    quiet: bool = False

    @property
    def run(self) -> Path:
        return Path(self.out or f"runs/{self.stage}")

    @property
    def recipe(self) -> Recipe:
        return recipes.resolve(self.stage, self.overrides)
