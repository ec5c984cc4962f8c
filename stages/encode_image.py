"""Images to latents, stored beside the shards: `commonart encode-image shards/ --model sdxl-vae`.

Mean and standard deviation of the scaled latents, so that training samples the posterior anew each time it sees an
image. Crops of one size or aspect buckets: images of one size share a batch. Cost (SDXL, fp16): 16 KB an image at 256
pixels, 64 KB at 512.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data import threads
from commonart.core.data.drops import Drop, Summary
from commonart.core.data.features import format
from commonart.core.data.images.decode import DecodeError, decode, probe
from commonart.core.data.record import Record, is_changed
from commonart.core.data.shards.reader import read_bytes

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.feature_encoding import LoadedEncoder

WAITING = 4  # batches of pixels in memory that are not full yet


def encode_image(
    source: str,
    out: str | None = None,
    *,
    model: str = "sdxl-vae",
    store: str = "fp16",
    precision: str = "auto",
    batch: int = 16,
    **options: Any,
) -> Summary:
    """Write the latents of every image of SOURCE to `out` (SOURCE/image), one feature shard per image shard.

    Args:
        model: a name of the registry, a local folder or a hub id; a diffusers AutoencoderKL.
        store: fp16, bf16 or fp32.
        options: as `core.model.feature_encoding.encode_features` takes them. Raises as it does.
    """
    from commonart.core.model.autoencoder import Autoencoder, pick_precision
    from commonart.core.model.device import dtype_name
    from commonart.core.model.feature_encoding import LoadedEncoder, encode_features

    def pick(folder: Path, device: torch.device) -> dict[str, Any]:
        return {"precision": dtype_name(pick_precision(folder, precision, device))}

    def load(folder: Path, device: torch.device) -> LoadedEncoder:
        vae = Autoencoder.load(folder, pick_precision(folder, precision, device), device=device)
        return LoadedEncoder(
            vae.precision, vae.channels, {"factor": vae.factor, "scaling": vae.scaling, "shift": vae.shift}, None,
            lambda records: sizes(records, vae, store),
            lambda records, drop: latents(records, drop, autoencoder=vae, store=store, batch=batch),
        )  # fmt: skip

    return encode_features("encode-image", source, out, model=model, store=store, pick=pick, load=load, **options)


def latents(
    records: Iterable[Record], drop: Drop, *, autoencoder: Autoencoder, store: str, batch: int
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, member) for each image of a shard.

    Drops `size`, `changed` (no longer what was sharded), `not_finite`, and what `core.data.images.decode` refuses.
    The shard's records are taken by the size that they say, so that buckets fill whole batches, and decoded ahead; the
    members come in the records' order all the same.
    """
    import torch

    from commonart.core.model.autoencoder import to_pixels

    shard = list(records)
    rows = sorted(range(len(shard)), key=lambda n: (shard[n].get("width", 0), shard[n].get("height", 0), n))
    batches: defaultdict[tuple[int, int], dict[int, Image.Image]] = defaultdict(dict)  # size -> row -> pixels
    done: dict[int, bytes] = {}

    def encode(size: tuple[int, int]) -> None:
        alike = batches.pop(size)
        for n, mean, std in zip(alike, *autoencoder.encode(to_pixels(list(alike.values())), batch), strict=True):
            if not bool(torch.isfinite(mean).all() & torch.isfinite(std).all()):
                drop.failure(shard[n], "not_finite", f"{autoencoder.precision} overflows; try --precision fp32")
                continue
            try:
                done[n] = format.pack_latent(mean.cpu().numpy(), std.cpu().numpy(), shard[n], store)
            except OverflowError as error:
                drop.failure(shard[n], "not_finite", f"{error}; use --store bf16")

    for n, image in zip(
        rows, threads.map_ordered(_decoded, (shard[n] for n in rows), threads.cpu_count()), strict=True
    ):
        if isinstance(image, DecodeError):
            drop.failure(shard[n], image.reason, image.detail)
        elif any(side % autoencoder.factor for side in image.size):
            # Cropping here would part the latents from the size and the captions in the record.
            width, height = image.size
            problem = f"{width}x{height} is not a multiple of {autoencoder.factor}: run commonart shard first"
            drop.failure(shard[n], "size", problem)
        else:
            batches[image.size][n] = image
            if len(batches[image.size]) == batch:
                encode(image.size)
            elif sum(map(len, batches.values())) > WAITING * batch:  # records that do not say their sizes
                encode(max(batches, key=lambda size: len(batches[size])))
    for size in list(batches):
        encode(size)
    for n in sorted(done):
        yield shard[n]["key"], done[n]


def _decoded(record: Record) -> Image.Image | DecodeError:
    try:
        if not record.get("image"):
            return DecodeError("no_image", "the shard holds no image of it")
        data = read_bytes(record["image"])
        return DecodeError("changed", "it is not what was sharded") if is_changed(record, data) else decode(data)
    except DecodeError as error:
        return error


def sizes(records: list[Record], autoencoder: Autoencoder, store: str) -> list[int]:
    """Return the bytes that each record's member will have; 0 for an image that cannot be read."""
    sizes = []
    for record in records:
        try:
            side = record if "width" in record and "height" in record else probe(read_bytes(record["image"]))._asdict()
        except (DecodeError, KeyError):
            sizes.append(0)
            continue
        shape = (autoencoder.channels, side["height"] // autoencoder.factor, side["width"] // autoencoder.factor)
        sizes.append(format.latent_size(shape, record, store))
    return sizes
