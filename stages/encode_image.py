"""Images to latents, stored beside the shards: mean and standard deviation, of which training samples anew each time.

Cost (fp16) of an image at 256 pixels, four times as much at 512: SDXL 16 KB, FLUX.2 128 KB, DC-AE, which has no deviation, 4 KB.
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

    `model`: an autoencoder of diffusers. `store`: fp16, bf16 or fp32. `options`: as `encode_features` takes them. Raises as it
    does.
    """
    from commonart.core.model.autoencoder import Autoencoder, pick_precision
    from commonart.core.model.device import dtype_name
    from commonart.core.model.feature_encoding import LoadedEncoder, encode_features

    def pick(folder: Path, device: torch.device) -> dict[str, Any]:
        return {"precision": dtype_name(pick_precision(folder, precision, device))}

    def load(folder: Path, device: torch.device) -> LoadedEncoder:
        vae = Autoencoder.load(folder, precision, device=device)
        return LoadedEncoder(
            vae.precision, vae.channels, vae.settings, None,
            lambda records: sizes(records, vae, store),
            lambda records, drop: latents(records, drop, autoencoder=vae, store=store, batch=batch),
        )  # fmt: skip

    return encode_features("encode-image", source, out, model=model, store=store, pick=pick, load=load, **options)


def latents(
    records: Iterable[Record], drop: Drop, *, autoencoder: Autoencoder, store: str, batch: int
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, member) for each image of a shard.

    Drops `size`, `changed` (no longer what was sharded), `not_finite`, and what `core.data.images.decode` refuses. Images of
    one size share a batch; the members come in the records' order all the same.
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
                deviation = None if autoencoder.deterministic else std.cpu().numpy()
                done[n] = format.pack_latent(mean.cpu().numpy(), deviation, shard[n], store)
            except OverflowError as error:
                drop.failure(shard[n], "not_finite", f"{error}; use --store bf16")

    images = threads.map_ordered(_decoded, (shard[n] for n in rows), threads.cpu_count())
    for n, image in zip(rows, images, strict=True):
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

    def size(record: Record) -> int:
        try:
            side = record if "width" in record and "height" in record else probe(read_bytes(record["image"]))._asdict()
        except (DecodeError, KeyError):
            return 0
        shape = (autoencoder.channels, side["height"] // autoencoder.factor, side["width"] // autoencoder.factor)
        return format.latent_size(shape, record, store, not autoencoder.deterministic)

    return [size(record) for record in records]
