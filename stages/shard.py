"""Decode safely, put upright, to sRGB, resize, crop, and write reproducible shards.

`sha256` stays the hash of the *original* bytes, because the split and every later join hang on it; the hash of the
bytes in this shard is `shard_sha256`. `width`, `height`, `mime` and `quality` describe what `image` now points at; what
they were before is kept in `original`. The same input gives the same tars, whatever the number of workers or tasks.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from commonart.core import log
from commonart.core.data import jsonl, stream, threads
from commonart.core.data.blocklist import Blocklist, read_blocklist
from commonart.core.data.drops import Drop, Problem, Sample, Summary
from commonart.core.data.images import decode
from commonart.core.data.images.aspect_buckets import Size, bucket_sizes, nearest_bucket
from commonart.core.data.images.decode import MAX_PIXELS, RESAMPLES, DecodeError, ProbedImage
from commonart.core.data.images.dedup import FOLDER, Copies, Prints, find_copies
from commonart.core.data.images.phash import chroma, chroma_values, fingerprint, phash
from commonart.core.data.notes import Note
from commonart.core.data.record import Record, check_split, split_of
from commonart.core.data.shards import reader
from commonart.core.data.shards.chunks import SHARD_SIZE, chunks
from commonart.core.data.tasks import Task, this_task
from commonart.core.errors import CommonArtError, UsageError

MIMES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
LOSSLESS_UP_TO = 128  # pixels: below it JPEG's 8 x 8 blocks show, and PNG is small anyhow
BUCKET_STEP = 128  # of --size: each unit of the buckets is a multiple of 8 pixels
SMALLEST_BUCKETS = 64  # and so it is here, with fewer buckets
HASHED_AT = 64  # pixels: enough for a perceptual hash, and for most JPEGs an eighth of their size


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What images are made into. `sizes`: one, or the buckets; `least`: the shorter side (None: enough for its size)."""

    sizes: tuple[Size, ...]
    least: int | None
    format: str
    quality: int
    resample: str

    def size(self, width: int, height: int) -> Size:
        """Return what an image of `width` x `height` is cut to."""
        return self.sizes[0] if len(self.sizes) == 1 else nearest_bucket(width, height, self.sizes)

    def too_small(self, width: int, height: int) -> bool:
        """Return whether it would have to be enlarged, or is below the least side."""
        if self.least is not None:
            return min(width, height) < self.least
        across, down = self.size(width, height)
        return width < across or height < down


def shard(
    records: Iterable[Record],
    drop: Drop,
    *,
    spec: ImageSpec,
    copies: Copies | None = None,
    blocklist: Blocklist | None = None,
    workers: int | None = None,
) -> Iterator[Sample]:
    """Yield each record with its image in sRGB at its size: the centre, scaled.

    Drops what `copies` (`duplicate`) and `blocklist` (`blocklisted`) name.
    """

    def remaining() -> Iterator[Record]:
        for record in records if len(spec.sizes) == 1 else _by_bucket(records, spec):
            if blocklist is not None and (entry := blocklist.entry_of(record)):
                drop(record, "blocklisted", entry)
            elif copies is not None and (original := copies.of(record["key"])):
                drop(record, "duplicate", f"of {original}")
            else:
                yield record

    make = partial(_make, spec=spec)
    yield from drop.samples(threads.map_ordered(make, remaining(), threads.cpu_count() if workers is None else workers))


def run(
    source: str | None,
    out: str | None,
    *,
    size: int = 256,
    buckets: bool = False,
    min_size: int | None = None,
    format: str = "auto",
    quality: int = 95,
    resample: str = "lanczos",
    dedup: bool = False,
    blocklist: str = "",
    workers: int | None = None,
    task: Task | None = None,
    shard_size: int = SHARD_SIZE,
    quiet: bool = False,
    **options: Any,
) -> Summary:
    """`shard` from SOURCE to the folder `out`; `options` go to `stream.run`.

    Args:
        size: side in pixels; of a square of the same area, with buckets.
        min_size: drop images whose shorter side is less (`too_small`); None: those that would have to be enlarged.
        format: jpg, png, webp, or auto: png up to 128 pixels, jpg above.
        resample: lanczos or area, see `core.data.images.decode.resize_crop`.
    """
    if out is None or stream.takes_jsonl(out):
        raise UsageError("shard makes images, which do not go into JSONL.", "Give a folder: -o shards/.")
    if not 8 <= size <= 8192:
        raise UsageError(f"--size {size} is out of range.", "Give 8 to 8192 pixels.")
    if buckets and size % BUCKET_STEP and size != SMALLEST_BUCKETS:
        raise UsageError(
            f"--buckets cannot be made of --size {size}.",
            f"Give {SMALLEST_BUCKETS} or a multiple of {BUCKET_STEP}, such as 256 or 512.",
        )
    if format not in ("auto", *MIMES):
        raise UsageError(f"--format {format} is unknown.", "Give auto, jpg, png or webp.")
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality} is out of range.", "Give 1 to 100.")
    if resample not in RESAMPLES:
        raise UsageError(f"--resample {resample} is unknown.", f"Give {' or '.join(RESAMPLES)}.")
    if format == "auto":
        format = "png" if size <= LOSSLESS_UP_TO else "jpg"
    sizes = bucket_sizes(size) if buckets else ((size, size),)
    spec = ImageSpec(sizes, min_size, format, quality, resample)
    blocked = read_blocklist(blocklist) if blocklist else None
    task, workers = task or this_task(), threads.cpu_count() if workers is None else workers
    # What shows in an image's fingerprint, and what else its bytes depend on.
    blocked_by = blocked.sha256 if blocked is not None else ""
    seen = {"size": size, "buckets": buckets, "min_size": min_size, "max_pixels": MAX_PIXELS, "blocklist": blocked_by}
    settings = {**seen, "format": format, "quality": quality, "resample": resample, "dedup": dedup}
    with tempfile.TemporaryDirectory(prefix="commonart-") as spool:
        source, copies, notes = stream.source_or_stdin(source), None, list[Note]()
        if dedup:
            if source == "-":  # it is read twice, and need not fit into memory
                source = f"{spool}/stdin.jsonl.zst"
                with jsonl.JsonlWriter(source) as writer:
                    for record in jsonl.read("-", notes):
                        writer.write(record)
            one = partial(_fingerprint, spec=spec, blocklist=blocked)
            prints = partial(threads.map_ordered, one, workers=workers)
            with log.progress("hash", quiet=quiet) as tick:
                copies = find_copies(
                    partial(chunks, source, shard_size), Path(out) / FOLDER, prints, settings=seen, task=task, tick=tick
                )
        transform = partial(shard, spec=spec, copies=copies, blocklist=blocked, workers=workers)
        return stream.run(
            "shard", transform, source=source, out=out, settings=settings, task=task, shard_size=shard_size,
            quiet=quiet, inputs=notes, **options,
        )  # fmt: skip


def _by_bucket(records: Iterable[Record], spec: ImageSpec) -> list[Record]:
    """Bucket by bucket, so that whoever reads a shard in its order finds batches of one size."""

    def bucket_index(record: Record) -> int:
        width, height = record.get("width"), record.get("height")
        if not width or not height:
            try:
                width, height, _ = decode.probe(reader.read_bytes(record.get("image", "")))
            except (DecodeError, CommonArtError):
                return -1  # where it stands does not matter: it will not be used
        return spec.sizes.index(spec.size(width, height))

    return sorted(records, key=bucket_index)


def _fingerprint(record: Record, *, spec: ImageSpec, blocklist: Blocklist | None) -> Prints:
    """What to compare the image by; 0 for one that will be left out, so that it takes no other's place."""
    nothing = (record, 0, chroma_values(""))
    if blocklist is not None and blocklist.entry_of(record):
        return nothing
    seen = [record.get(name) for name in ("image", "width", "height", "shard_sha256", "phash", "chroma", "sha256")]
    if all(seen):  # sharded before: it was looked at then
        if spec.too_small(record["width"], record["height"]) or check_split(record, record["sha256"])[1]:
            return nothing
        return record, fingerprint(record["phash"], record["sha256"]), chroma_values(record["chroma"])
    got = _read(record, spec)
    if isinstance(got, Problem):
        return nothing
    _, opened, sha256 = got
    try:
        image = opened.pixels(HASHED_AT)
    except DecodeError:
        return nothing
    return record, fingerprint(phash(image), record.get("sha256") or sha256), chroma_values(chroma(image))


def _read(record: Record, spec: ImageSpec) -> tuple[bytes, ProbedImage, str] | Problem:
    """(bytes, the image in them, their sha256) of a record's image, or why it is not used."""
    if not record.get("image"):
        return Problem("no_image", "the record has no image")
    try:
        data = reader.read_bytes(record["image"])
        opened = ProbedImage(data)
    except DecodeError as error:
        return Problem(error.reason, error.detail)
    except CommonArtError as error:
        return Problem("unreadable", error.what)
    seen = opened.probe
    if spec.too_small(seen.width, seen.height):
        return Problem("too_small", f"{seen.width} x {seen.height}", rule=True)
    sha256 = hashlib.sha256(data).hexdigest()
    expected = record.get("shard_sha256") or record.get("sha256")
    if expected and str(expected).lower() != sha256:
        return Problem("changed", f"sha256 is {sha256}, the record says {expected}")
    if conflict := check_split(record, record.get("sha256") or sha256)[1]:
        return Problem("split_conflict", conflict, rule=True)
    return data, opened, sha256


def _make(record: Record, *, spec: ImageSpec) -> tuple[Record, Sample | Problem]:
    got = _read(record, spec)
    if isinstance(got, Problem):
        return record, got
    data, opened, sha256 = got
    width, height, mime = opened.probe
    size = spec.size(width, height)
    quality = {} if spec.format == "png" else {"quality": spec.quality}
    made: dict[str, Any] = {"width": size[0], "height": size[1], "mime": MIMES[spec.format], **quality}
    if record.get("shard_sha256") == sha256 and made == {name: record.get(name) for name in made}:
        return record, Sample(record, data, spec.format)  # as asked for already: coding it again would only cost
    try:
        image = opened.pixels(size)
    except DecodeError as error:
        return record, Problem(error.reason, error.detail)
    encoded = decode.encode(decode.resize_crop(image, size, spec.resample), spec.format, spec.quality)
    original = {"width": width, "height": height, "mime": mime}
    made = {
        **{name: value for name, value in record.items() if name != "quality"},
        **made,
        "sha256": record.get("sha256") or sha256,
        "shard_sha256": hashlib.sha256(encoded).hexdigest(),
        # Of the whole image, not of the crop, so that it hardly depends on the size that is made.
        "phash": record.get("phash") or phash(image),
        "chroma": record.get("chroma") or chroma(image),
        "original": record.get("original") or original,
    }
    made["split"] = split_of(made["sha256"])
    return record, Sample(made, encoded, spec.format)
