"""Images to latents, stored beside the shards: `commonart encode-image shards/ --model sdxl-vae`.

Mean and standard deviation of the scaled latents, so that training samples the posterior anew each time it sees an
image. Cost (SDXL, fp16): 16 KB an image at 256 pixels, 64 KB at 512.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from commonart.core.data import feature_writer, features
from commonart.core.data.decode import DecodeError, decode
from commonart.core.data.record import Record
from commonart.core.data.shards import read_bytes
from commonart.core.data.stream import Drop, Summary
from commonart.core.data.tasks import Task, this_task
from commonart.core.registry import check_terms, find

if TYPE_CHECKING:
    from PIL import Image

    from commonart.core.model.autoencoder import Autoencoder

WINDOW = 4  # batches that are decoded and grouped by size together


def encode_image(
    source: str,
    out: str | None = None,
    *,
    model: str = "sdxl-vae",
    store: str = "fp16",
    precision: str = "auto",
    device: str = "auto",
    batch: int = 16,
    task: Task | None = None,
    overwrite: bool = False,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    rejects: str | None = None,
    max_failures: float = 0.5,
    quiet: bool = False,
) -> Summary:
    """Write the latents of every image of SOURCE to `out` (SOURCE/image), one feature shard per image shard.

    Args:
        model: a name of the registry, a local folder or a hub id; a diffusers AutoencoderKL.
        store: fp16, bf16 or fp32.

    Raises:
        CommonArtError: no shards; features that are stale or were made otherwise; a disk that is too small; a
            model that cannot be loaded.
        TooManyFailures: more than `max_failures` of the records failed.
    """
    from commonart.core.model.autoencoder import Autoencoder, pick_precision
    from commonart.core.model.device import dtype_name, pick_device
    from commonart.core.model.hub import resolve

    features.check_store("image", store)
    feature_writer.shards_of("encode-image", source)
    row = find(model, "autoencoder")
    check_terms(row, accept_terms)
    task = task or this_task()
    found = resolve(row, allow_pickle=allow_pickle)
    place = pick_device(device)
    dtype = pick_precision(found.folder, precision, place)
    settings = {
        "model": found.name, "revision": found.revision, "precision": dtype_name(dtype), "store": store,
    }  # fmt: skip
    work = feature_writer.plan("encode-image", "image", source, out, settings, task, overwrite)
    if not work.todo:
        return feature_writer.write(work, None, rejects=rejects, max_failures=max_failures, quiet=quiet)

    autoencoder = Autoencoder.load(found.folder, dtype, device=place)
    about = {"factor": autoencoder.factor, "scaling": autoencoder.scaling, "shift": autoencoder.shift}
    meta = features.Meta("image", found.name, found.revision, autoencoder.precision, store, autoencoder.channels, about)
    feature_writer.require_space(work.out, _estimate(work, autoencoder, store), "Latents of all shards")
    feature_writer.write_meta(work.out, meta, None, overwrite)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:

        def encode(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
            return latents(records, drop, autoencoder=autoencoder, store=store, batch=batch, pool=pool)

        return feature_writer.write(work, encode, rejects=rejects, max_failures=max_failures, quiet=quiet)


def latents(
    records: Iterable[Record],
    drop: Drop,
    *,
    autoencoder: Autoencoder,
    store: str,
    batch: int,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, member) for each image; drops `size`, `not_finite`, and what `core.data.decode` refuses."""
    import torch

    from commonart.core.model.autoencoder import to_pixels

    remaining = iter(records)
    while window := list(islice(remaining, WINDOW * batch)):
        by_size: defaultdict[tuple[int, int], dict[int, Image.Image]] = defaultdict(dict)
        for n, (record, image) in enumerate(zip(window, pool.map(_decoded, window), strict=True)):
            if isinstance(image, DecodeError):
                drop.failure(record, image.reason, image.detail)
            elif any(side % autoencoder.factor for side in image.size):
                # Cropping here would part the latents from the size and the captions in the record.
                width, height = image.size
                problem = f"{width}x{height} is no multiple of {autoencoder.factor}: run commonart shard first"
                drop.failure(record, "size", problem)
            else:
                by_size[image.size][n] = image
        done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for alike in by_size.values():
            means, stds = autoencoder.encode(to_pixels(list(alike.values())), batch)
            done.update(zip(alike, zip(means, stds, strict=True), strict=True))
        for n in sorted(done):
            mean, std = (t.cpu().numpy() for t in done[n])
            if not all(bool(torch.isfinite(t).all()) for t in done[n]):
                drop.failure(window[n], "not_finite", f"{autoencoder.precision} overflows; try --precision fp32")
                continue
            try:
                yield window[n]["key"], features.pack_latent(mean, std, window[n], store)
            except OverflowError as error:
                drop.failure(window[n], "not_finite", f"{error}; use --store bf16")


def _decoded(record: Record) -> Image.Image | DecodeError:
    try:
        if not record.get("image"):
            return DecodeError("no_image", "the shard holds no image of it")
        return decode(read_bytes(record["image"]))
    except DecodeError as error:
        return error


def _estimate(work: feature_writer.Plan, autoencoder: Autoencoder, store: str) -> int:
    """Bytes that all unfinished shards will take, if all are like the first."""
    records = work.first_records()
    cells = sum(r.get("width", 0) * r.get("height", 0) for r in records) // autoencoder.factor**2
    values = 2 * autoencoder.channels * cells
    return work.left * (values * features.BYTES[store] + len(records) * features.MEMBER_OVERHEAD)
