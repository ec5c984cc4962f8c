"""What encode-text and encode-image share: find the model, see what is left to do, measure the disk, write the features.

summary = features_of("encode-image", "shards/", None, model="sdxl-vae", store="fp16", pick=..., load=...)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commonart.core.data.drops import Summary
from commonart.core.data.features import format, writer
from commonart.core.data.record import Record
from commonart.core.data.tasks import Task, this_task
from commonart.core.model.device import pick_device
from commonart.core.registry.hub import resolve_model
from commonart.core.registry.lookup import check_terms, find_model

ROLES = {"text": "text-encoder", "image": "autoencoder"}


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded encoder, as the shared part sees it."""

    precision: str
    width: int  # D of a hidden state, C of a latent
    about: dict[str, Any]  # what else the values depend on: `Meta.settings`
    null: np.ndarray | None  # [1, D]
    sizes: Callable[[list[Record]], Sequence[int]]  # bytes of each record's member
    encode: writer.Encode


def features_of(
    stage: str,
    source: str,
    out: str | None,
    *,
    model: str,
    store: str,
    pick: Callable[[Path, torch.device], dict[str, Any]],
    load: Callable[[Path, torch.device], Ready],
    device: str = "auto",
    task: Task | None = None,
    overwrite: bool = False,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    rejects: str | None = None,
    max_failures: float = 0.5,
    quiet: bool = False,
) -> Summary:
    """Write the features of every shard of SOURCE to `out` (SOURCE/text or SOURCE/image), one feature shard for each.

    Args:
        pick: `precision` and other settings that the values depend on, from the model's folder and the device; known
            before it is loaded, so that a finished folder needs no model.
        load: the encoder.

    Raises:
        UsageError: an unknown store, model or device; a SOURCE that is no folder.
        CommonArtError: no shards; features that are stale or were made otherwise; a disk that is too small; a model
            that cannot be loaded.
        TooManyFailures: more than `max_failures` of the records failed.
    """
    started = time.monotonic()
    kind = stage.removeprefix("encode-")
    format.check_store(kind, store)
    writer.shards_of(stage, source)
    row = find_model(model, ROLES[kind])
    check_terms(row, accept_terms)
    place = pick_device(device)
    found = resolve_model(row, allow_pickle=allow_pickle)
    settings = {
        "model": found.name, "revision": found.revision, **pick(found.folder, place), "store": store,
    }  # fmt: skip
    work = writer.plan(stage, kind, source, out, settings, task or this_task(), overwrite)
    encode = None
    if work.todo or not work.described:
        ready = load(found.folder, place)
        meta = format.Meta(kind, found.name, found.revision, ready.precision, store, ready.width, ready.about)
        if work.todo:
            writer.require_space(work.out, work.estimate(ready.sizes), f"The {kind} features of all shards")
        writer.write_meta(work.out, meta, ready.null, overwrite)
        encode = ready.encode
    return writer.write(work, encode, rejects=rejects, max_failures=max_failures, quiet=quiet, started=started)
