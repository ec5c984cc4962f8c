"""What encode-text and encode-image share: find the model, see what is left to do, measure the disk, write the features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commonart.core.data.drops import Summary
from commonart.core.data.features.format import Meta, check_store
from commonart.core.data.features.plan import (
    Encode,
    image_shards,
    plan_features,
    require_space,
    write_features,
    write_meta,
)
from commonart.core.data.files import check_writable
from commonart.core.data.record import Record
from commonart.core.data.stream import takes_jsonl
from commonart.core.data.tasks import Task, this_task
from commonart.core.errors import UsageError
from commonart.core.model.device import pick_device
from commonart.core.registry.hub import resolve_model
from commonart.core.registry.lookup import check_terms, find_model


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A loaded text encoder or autoencoder, as far as feature shards are concerned."""

    precision: str
    width: int  # D of a hidden state, C of a latent
    settings: dict[str, Any]  # what else the values depend on: `Meta.settings`
    null: np.ndarray | None  # the embedding of "no text" [1, D]
    sizes: Callable[[list[Record]], Sequence[int]]  # bytes of each record's member
    encode: Encode


def encode_features(
    stage: str,
    source: str,
    out: str | None,
    *,
    model: str,
    store: str,
    pick: Callable[[Path, torch.device], dict[str, Any]],
    load: Callable[[Path, torch.device], LoadedEncoder],
    device: str = "auto",
    task: Task | None = None,
    overwrite: bool = False,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    **options: Any,
) -> Summary:
    """Write the features of every shard of SOURCE to `out` (SOURCE/text or SOURCE/image), one feature shard for each.

    Args:
        pick: `precision` and other settings that the values depend on, known before the model is loaded, which a finished
            folder does not need. It and `load` take the model's folder and the device.
        options: `rejects`, `max_failures`, `quiet`, as `core.data.stream.run` takes them.

    Raises:
        UsageError: an unknown store, model or device; a SOURCE that is not a folder.
        CommonArtError: no shards, stale features or features made otherwise, a full disk, a model that cannot be loaded.
        TooManyFailures: more than `max_failures` of the records failed.
    """
    started = time.monotonic()
    kind = stage.removeprefix("encode-")
    check_store(kind, store)
    if out is not None and takes_jsonl(out):
        raise UsageError(f"{stage} makes features, which do not go into JSONL.", "Give a folder, or leave -o out.")
    image_shards(stage, source)
    row = find_model(model, "text-encoder" if kind == "text" else "autoencoder")
    check_terms(row, accept_terms)
    torch_device = pick_device(device)
    files = resolve_model(row, allow_pickle=allow_pickle)
    settings = {"revision": files.revision, **pick(files.folder, torch_device), "store": store}
    plan = plan_features(stage, kind, source, out, settings, task or this_task(), overwrite)
    encode = None
    if plan.todo or not plan.described:
        check_writable(plan.out)
        encoder = load(files.folder, torch_device)
        meta = Meta(kind, files.name, files.revision, encoder.precision, store, encoder.width, encoder.settings)
        if plan.todo:
            require_space(plan.out, plan.estimate(encoder.sizes), f"The {kind} features of all shards")
        write_meta(plan.out, meta, encoder.null, overwrite)
        encode = encoder.encode
    return write_features(plan, encode, started=started, **options)
