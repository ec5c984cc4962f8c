"""Decode safely, put upright, to sRGB, resize, crop, and write reproducible shards.

    commonart shard raw/ -o shards/ --size 256

`sha256` stays the hash of the *original* bytes, because the split and every later join hang on it; the hash of the
bytes in this shard is `shard_sha256`. `width`, `height` and `mime` describe what `image` now points at; what they were
before is kept in `original`. The same input gives the same tars, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.data import jsonl, pool, shards, stream
from commonart.core.data.decode import MAX_PIXELS, DecodeError, decode, encode, phash, probe, resize_crop
from commonart.core.data.record import Record, split_of
from commonart.core.data.stream import Drop, Sample, Summary
from commonart.core.errors import CommonArtError, UsageError

MIMES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
LOSSLESS_UP_TO = 128  # pixels: below it JPEG's 8 x 8 blocks show, and PNG is small anyhow


class Problem(NamedTuple):
    """Why a record is left out. `rule`: by rule, not by failure."""

    reason: str
    detail: str
    rule: bool = False


def shard(
    records: Iterable[Record],
    drop: Drop,
    *,
    size: int = 256,
    min_size: int | None = None,
    format: str = "auto",
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    duplicates: Collection[str] = frozenset(),
    blocked: Collection[str] = frozenset(),
    workers: int | None = None,
) -> Iterator[Sample]:
    """Yield each record with its picture as `size` x `size` sRGB pixels: the centre, scaled with Lanczos.

    Args:
        size: side in pixels.
        min_size: drop pictures whose shorter side is less (`too_small`); None: than `size`, so that none is enlarged.
        format: jpg, png, webp, or auto: png up to 128 pixels, jpg above.
        quality: of jpg and webp, 1 to 100.
        duplicates: keys to drop as copies of an earlier record, see `find_duplicates`.
        blocked: keys, sha256 and URLs to drop, see `read_blocklist`.
    """
    if format == "auto":
        format = "png" if size <= LOSSLESS_UP_TO else "jpg"
    least = size if min_size is None else min_size
    make = partial(_make, size=size, least=least, format=format, quality=quality, max_pixels=max_pixels)

    def wanted() -> Iterator[Record]:
        for record in records:
            if record["key"] in duplicates:
                drop(record, "duplicate", record.get("sha256", ""))
            elif blocked and (entry := _blocked(record, blocked)):
                drop(record, "blocklisted", entry)
            else:
                yield record

    for record, got in pool.ordered(make, wanted(), pool.cpus() if workers is None else workers):
        if isinstance(got, Sample):
            yield got
        elif got.rule:
            drop(record, got.reason, got.detail)
        else:
            drop.failure(record, got.reason, got.detail)


def find_duplicates(records: Iterable[Record]) -> frozenset[str]:
    """The keys of records whose original bytes (`sha256`) an earlier record has already; the first one stays."""
    seen = set[bytes]()
    copies = set[str]()
    for record in records:
        sha256 = record.get("sha256") or hashlib.sha256(shards.read_bytes(record["image"])).hexdigest()
        short = bytes.fromhex(sha256[:32])  # 128 bits: a chance collision among 10^9 images is 10^-21
        if short in seen:
            copies.add(record["key"])
        seen.add(short)
    return frozenset(copies)


def read_blocklist(path: str) -> frozenset[str]:
    """Keys, sha256 and URLs to leave out, one a line; `#` begins a comment.

    Raises:
        CommonArtError: the file cannot be read. Silence here would let through what somebody asked to remove.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommonArtError(
            f"--blocklist {path} cannot be read: {error}.", "Give a text file, one entry a line."
        ) from error
    entries = (line.strip() for line in lines)
    return frozenset(entry for entry in entries if entry and not entry.startswith("#"))


def run(
    source: str | None,
    out: str | None = None,
    *,
    size: int = 256,
    min_size: int | None = None,
    format: str = "auto",
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    dedup: bool = False,
    blocklist: str | None = None,
    workers: int | None = None,
    **options: Any,
) -> Summary:
    """`shard` from SOURCE to the folder `out`; `options` go to `stream.run`.

    Raises:
        UsageError: a size, format or quality that does not exist.
        CommonArtError: as `stream.run`.
    """
    if not 8 <= size <= 8192:
        raise UsageError(f"--size {size} is no size for a picture.", "Give 8 to 8192 pixels.")
    if format not in ("auto", *MIMES):
        raise UsageError(f"--format {format} is unknown.", "Give auto, jpg, png or webp.")
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality} is out of range.", "Give 1 to 100.")
    blocked = read_blocklist(blocklist) if blocklist else frozenset[str]()
    # Which records are copies must not depend on which shards are finished, so the whole source is read first.
    source = stream.source_or_stdin(source)
    records: Iterable[Record] | None = None
    duplicates = frozenset[str]()
    if dedup:
        if source == "-":
            records = list(jsonl.read("-"))  # stdin cannot be read twice
        duplicates = find_duplicates(records if records is not None else stream.read(source))
    transform = partial(
        shard,
        size=size,
        min_size=min_size,
        format=format,
        quality=quality,
        max_pixels=max_pixels,
        duplicates=duplicates,
        blocked=blocked,
        workers=workers,
    )
    settings = {
        "size": size,
        "min_size": min_size,
        "format": format,
        "quality": quality,
        "max_pixels": max_pixels,
        "dedup": dedup,
        "blocklist": hashlib.sha256("\n".join(sorted(blocked)).encode()).hexdigest() if blocked else "",
    }
    return stream.run("shard", transform, source=source, records=records, out=out, settings=settings, **options)


def _blocked(record: Record, blocked: Collection[str]) -> str:
    """The blocklist's entry that this record falls under, or ""."""
    fields = ("key", "sha256", "shard_sha256", "image_url", "source_url")
    return next((record[field] for field in fields if record.get(field) in blocked), "")


def _make(
    record: Record, *, size: int, least: int, format: str, quality: int, max_pixels: int
) -> tuple[Record, Sample | Problem]:
    if not record.get("image"):
        return record, Problem("no_image", "the record has no image")
    try:
        data = shards.read_bytes(record["image"])
        seen = probe(data, max_pixels=max_pixels)
        if min(seen.width, seen.height) < least:
            return record, Problem("too_small", f"{seen.width} x {seen.height}", rule=True)
        sha256 = hashlib.sha256(data).hexdigest()
        expected = record.get("shard_sha256") or record.get("sha256")
        if expected and expected != sha256:
            return record, Problem("changed", f"sha256 is {sha256}, the record says {expected}")
        image = decode(data, max_pixels=max_pixels, at_least=size)
    except DecodeError as error:
        return record, Problem(error.reason, error.detail)
    except CommonArtError as error:
        return record, Problem("unreadable", error.what)
    pixels = resize_crop(image, size)
    encoded = encode(pixels, format, quality)
    made = {
        **record,
        "width": size,
        "height": size,
        "mime": MIMES[format],
        "sha256": record.get("sha256") or sha256,
        "shard_sha256": hashlib.sha256(encoded).hexdigest(),
        # Of the whole picture, not of the crop, so that it hardly depends on the size that is made.
        "phash": record.get("phash") or phash(image),
        "original": record.get("original") or {"width": seen.width, "height": seen.height, "mime": seen.mime},
    }
    made["split"] = record.get("split") or split_of(made["sha256"])
    return record, Sample(made, encoded, format)
