"""Every image's attack measures, on one model, kept in a file image by image so that a kill loses one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from PIL import Image
from torch import Tensor

from commonart.core.audit import attacks
from commonart.core.audit.attacks import PFAMI_CROPS, Denoiser, Floats, Measures
from commonart.core.errors import CommonArtError
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.prompts import text_of
from commonart.core.log import progress
from commonart.core.metrics import image_set
from commonart.core.metrics.image_set import ImageRef
from commonart.core.model.autoencoder import to_pixels
from commonart.core.model.transformer import stack_text


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the measures depend on besides model and image."""

    attacks: tuple[str, ...]
    times: int
    draws: int
    lang: str | None
    seed: int

    @property
    def timesteps(self) -> list[int]:
        """The times at which the losses are measured."""
        return attacks.even_times(self.times)

    def identity(self, engine: Pipeline, item: ImageRef) -> str:
        """Return sixteen digits over all that the measures of one image depend on."""
        record = item.record
        image = record.get("shard_sha256") or record.get("sha256") or item.pointer
        values = (
            engine.components.fingerprint, str(engine.dtype), engine.size, sorted(self.attacks), self.times, self.draws,
            self.seed, text_of(record, self.lang), image,
        )  # fmt: skip
        return hashlib.sha256(orjson.dumps(values)).hexdigest()[:16]


def score(
    engine: Pipeline,
    items: Sequence[ImageRef],
    scoring: Scoring,
    *,
    batch: int,
    cache: Path | None = None,
    label: str = "mia",
    quiet: bool = False,
) -> tuple[Measures, np.ndarray]:
    """Measure all items: (measures, [N] or [N, T] each, NaN for an unreadable image; which were readable, bool [N]).

    Members and others share the batches, in one shuffled order. What `cache` holds of the same model, image and settings
    is taken from there, and each batch is added to it.
    """
    texts: dict[str, Tensor] | None = None
    times = scoring.timesteps
    ids = [scoring.identity(engine, item) for item in items]
    known = _read(cache) if cache is not None else {}
    rows: list[dict[str, Any] | None] = [known.get(name) for name in ids]
    order = [row for row in np.random.default_rng(scoring.seed + 1).permutation(len(items)) if rows[row] is None]
    with progress(label, total=len(items), unit=" images", quiet=quiet) as tick:
        tick(len(items) - len(order))
        for start in range(0, len(order), batch):
            chosen, images = [], []
            for row in order[start : start + batch]:
                try:
                    images.append(image_set.open_square(items[row], engine.size))
                    chosen.append(row)
                except CommonArtError:
                    rows[row] = {}
            if chosen:
                texts = texts or engine.encode(["", *(text_of(item.record, scoring.lang) for item in items)])
                prompts = [texts[text_of(items[row].record, scoring.lang)] for row in chosen]
                found = _measure(engine, images, prompts, texts[""], scoring, times)
                for number, row in enumerate(chosen):
                    rows[row] = {name: values[number].tolist() for name, values in found.items()}
                if cache is not None:
                    _append(cache, [{"id": ids[row], "key": items[row].name, **(rows[row] or {})} for row in chosen])
            tick(min(batch, len(order) - start))
    readable = np.array([bool(row) for row in rows])
    names = next((list(row) for row in rows if row), [])
    nothing: dict[str, Any] = {}
    measures: Measures = {}
    for name in names:
        width = np.shape(next(row for row in rows if row)[name])
        blank = np.full(width, np.nan)
        measures[name] = np.array([(row or nothing).get(name, blank) for row in rows], dtype=np.float64)
    return measures, readable


def _measure(
    engine: Pipeline, images: list[Image.Image], prompts: list[Tensor], null: Tensor, scoring: Scoring, times: list[int]
) -> dict[str, Floats]:
    pixels = to_pixels(images)
    shares = (1.0, *PFAMI_CROPS) if "pfami" in scoring.attacks else (1.0,)
    whole, *crops = (
        engine.autoencoder()
        .encode(pixels if share == 1 else attacks.center_crop(pixels, share))[0]
        .to(engine.device, torch.float32)
        for share in shares
    )
    conditional, unconditional = denoiser(engine, prompts), denoiser(engine, [null] * len(images))
    return attacks.measure(
        scoring.attacks, conditional, unconditional, whole, crops, times=times, draws=scoring.draws, seed=scoring.seed
    )


def denoiser(engine: Pipeline, texts: Sequence[Tensor]) -> Denoiser:
    """Return the engine's transformer with one text for each image of a batch."""
    model = engine.transformer()
    text_BLT, mask_BL = stack_text([states.to(engine.device, engine.dtype) for states in texts])

    def predict(x: Tensor, t: int) -> Tensor:
        timestep_B = torch.full((len(x),), float(t), device=x.device)
        return model(x.to(engine.dtype), timestep_B, text_BLT, mask_BL)[:, : x.shape[1]].float()

    return Denoiser(predict, engine.components.objective)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the measures by identity. A line that a kill cut short is measured again."""
    known: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CommonArtError(
            f"{path} cannot be read: {error.strerror}.", "Move it away, or name another -o."
        ) from error
    for line in lines:
        try:
            values = orjson.loads(line)
            known[values["id"]] = {name: value for name, value in values.items() if name not in ("id", "key")}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            continue
    return known


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    data = b"\n".join(map(orjson.dumps, lines))
    with open(path, "ab") as file:
        file.write(b"\n" + data + b"\n")  # the first newline ends a line that was cut short
