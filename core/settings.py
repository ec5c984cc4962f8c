"""What a training run is started with, the options of `commonart train` as one value, and what it ends with.

No torch here: processes that start others pass it on as JSON.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commonart.core import launch, recipes
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.recipes import Recipe

QUANTIZERS = ("quanto-int8", "bnb-int8", "torchao-int8", "bnb-nf4")  # of text encoders: `core.model.quantize`
PRECISIONS = ("auto", "bf16", "fp8", "fp32")  # of matrix products in training: float16 gradients would underflow
CAPTION_LENGTHS = ("short", "long")  # the registry's LENGTHS, which stand above this layer
HELDOUT_EVERY = 1000
# Optimizers whose state `--fsdp` cannot cut, and why.
UNCUT = {
    "CAME": "it keeps means of whole columns, and a process would have some of their rows",
    "Muon": "it makes whole matrices orthogonal, and a process would have some of their rows",
    "AdamW8bit": "its 8-bit values share a scale over 256 of them, whatever the rows",
}


def check_quantizer(name: str) -> None:
    """Raise UsageError for a method that does not exist; "" is none."""
    if name and name not in QUANTIZERS:
        raise UsageError(f"--quantize {name} is not a known method.", f"Use {', '.join(QUANTIZERS)}, or leave it out.")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run is started with. Defaults are those of the command line."""

    stage: str
    data: str = "shards/"
    out: str = ""  # "": runs/STAGE
    init: str = ""  # weights to start from; "": the newest checkpoint of the stage before; "none": from nothing
    text_encoder: str = ""  # "": the one of the cached features, else the registry's default of the stage
    autoencoder: str = ""
    vision_tower: str = ""  # of a captioner ("": that of the run it starts from, else the recipe's), or of repa
    language_model: str = ""
    quantize: str = ""  # of the text encoder that runs on the fly
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    languages: Mapping[str, float] = dataclasses.field(default_factory=dict)  # weights; empty: all captions alike
    lengths: Mapping[str, float] = dataclasses.field(default_factory=dict)  # weights of short and long captions
    policy: str = "paper"  # what may be trained on: `core.data.admission.Rules`
    blocklist: str = ""
    skip_unlicensed: bool = False
    gpus: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # one of PRECISIONS; the weights stay float32
    max_seconds: float = 0.0  # time budget; the learning rate's schedule then follows the clock where it is ahead
    max_tokens: int = 300  # of texts that are encoded on the fly
    checkpoint_every: int = 1000  # steps, as the next three; 0 turns one off
    sample_every: int = 0
    heldout_every: int = HELDOUT_EVERY
    log_every: int = 10
    keep: int = 3
    workers: int = 2  # reading threads
    prompts: Sequence[str] = ()  # of the sample grid; empty: captions of held-out images
    clip: str = ""  # what scores the sample grid, as `core.metrics.prompt_following` takes it; "": the recipe's
    guidance: float = 4.5
    compile: bool = False
    checkpointing: bool = False  # recompute blocks in the backward pass: less memory, a third slower
    fsdp: bool = False
    track: str = ""  # wandb or trackio, beside metrics.jsonl
    accept_terms: Sequence[str] = ()
    quiet: bool = False

    @property
    def run(self) -> Path:
        return Path(self.out or f"runs/{self.stage}")

    @property
    def text_encoder_name(self) -> str:
        return self.text_encoder or self.recipe.text_encoder

    @property
    def autoencoder_name(self) -> str:
        return self.autoencoder or self.recipe.autoencoder

    @property
    def previous_run(self) -> Path:
        """The run of the stage that this one starts from."""
        return self.run.parent / self.recipe.init_from

    @property
    def float8(self) -> bool:
        """Whether the blocks' matrices are multiplied in 8 bits (core.training.float8)."""
        return self.precision == "fp8"

    @property
    def recipe(self) -> Recipe:
        return recipes.resolve(self.stage, self.overrides)

    def check(self) -> None:
        """Raise UsageError for an unknown stage, or a value that no run can have."""
        launch.check_gpus(self.gpus)
        check_quantizer(self.quantize)
        optimizer = self.recipe.optimizer  # raises for an unknown stage or a bad value
        for name in (
            "max_seconds",
            "checkpoint_every",
            "sample_every",
            "heldout_every",
            "log_every",
            "keep",
            "workers",
        ):
            if getattr(self, name) < 0:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} {getattr(self, name)} must be at least 0.", "Use 0 to turn it off.")
        apart = ("text_encoder", "autoencoder", "quantize", "prompts", "clip", "sample_every", "lengths")
        if self.recipe.repa and not self.vision_tower:
            what = f"--set repa={self.recipe.repa:g} aligns the transformer with a vision encoder, and none is named."
            raise UsageError(what, "Name one: --vision-tower siglip.")
        alone = ("language_model",) if self.recipe.repa else ("vision_tower", "language_model")
        for name in apart if self.recipe.trains else alone:
            if getattr(self, name):
                option = "--" + name.replace("_", "-").replace("prompts", "prompt").replace("lengths", "caption-length")
                kind = "a captioner" if self.recipe.trains else "the transformer"
                raise UsageError(
                    f"{option} does not apply to stage {self.stage}, which trains {kind}.", "Leave it out."
                )
        if self.precision not in PRECISIONS:
            what = f"--precision {self.precision} is not a precision of training."
            raise UsageError(what, f"Use one of {', '.join(PRECISIONS)}.")
        if self.float8 and self.recipe.trains:
            what = f"--precision fp8 does not apply to stage {self.stage}, which trains a captioner."
            raise UsageError(what, "Use bf16.")
        if self.float8 and find_spec("torchao") is None:
            raise CommonArtError(
                "--precision fp8 needs torchao, which is not installed.",
                "Install it (uv sync --extra torchao), or use --precision bf16.",
            )
        if self.recipe.trains and self.heldout_every not in (0, HELDOUT_EVERY):
            raise UsageError(
                f"--heldout-every {self.heldout_every} does not apply to stage {self.stage}, which trains a captioner.",
                "Leave it out.",
            )
        if unknown := sorted(set(self.lengths) - {*CAPTION_LENGTHS}):
            raise UsageError(
                f"--caption-length {unknown[0]} is not a length.", f"Weigh {' and '.join(CAPTION_LENGTHS)}."
            )
        for option, mix, fix in (
            ("--language", self.languages, "Name each language to train on, others are left out: --language ja=2 --language en=1."),
            ("--caption-length", self.lengths, "For example --caption-length long=3,short=1."),
        ):  # fmt: skip
            if mix and not (all(0 <= weight < math.inf for weight in mix.values()) and any(mix.values())):
                pairs = " ".join(f"{name}={weight:g}" for name, weight in mix.items())
                raise UsageError(f"{option} {pairs}: weights must be at least 0, and one of them above 0.", fix)
        if self.clip and not self.sample_every:
            raise UsageError(f"--clip {self.clip} needs a sample grid to score.", "Add --sample-every STEPS.")
        if self.fsdp and optimizer in UNCUT:
            raise UsageError(
                f"--fsdp cannot cut the state of {optimizer}: {UNCUT[optimizer]}.",
                "Leave --fsdp out, or train with --set optimizer=AdamW.",
            )


@dataclass(slots=True)
class TrainingSummary:
    """What training did; `as_json` is the last line of stderr."""

    run: Path
    checkpoint: Path | None
    step: int
    images: int
    skipped: int
    seconds: float  # of the run, earlier calls included
    loss: float  # mean of the last metrics line, or of all steps where none was written; NaN without a step
    images_per_second: float  # of this call, without checkpoints and samples
    stopped: str  # done, time
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)  # records
    captions_left_out: dict[str, int] = dataclasses.field(default_factory=dict)  # of a captioner's data

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": "train", "in": self.images, "out": self.images, "dropped": self.left_out,
            "seconds": round(self.seconds, 3), "run": str(self.run), "step": self.step, "loss": self.loss,
            "skipped_steps": self.skipped, "images_per_second": round(self.images_per_second, 2),
            **({"captions_left_out": self.captions_left_out} if self.captions_left_out else {}),
        }  # fmt: skip
