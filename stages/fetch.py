"""Bring images in: records with the original bytes, their licence as the source stated it, and proof of what came.

Two halves: `listing` says what a source offers, without pixels; `fetch` brings the pixels of any such records. Pixels
come from the embedded renderer (`scene`), from `--images FOLDER`, from a local `image`, or from `image_url`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from commonart.core.data import jsonl, stream, threads
from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import Limits
from commonart.core.data.download.prefetch import Pair, Prefetcher, as_listed, on_the_web, retry_failed
from commonart.core.data.download.request import Request
from commonart.core.data.download.resolve_image import in_folder, resolve_image
from commonart.core.data.drops import Drop, PassedOver, Problem, Sample, Summary
from commonart.core.data.images.decode import MAX_PIXELS
from commonart.core.data.notes import Note, taken_out
from commonart.core.data.record import Record
from commonart.core.data.shards.chunks import SHARD_SIZE
from commonart.core.data.shards.manifest import finished
from commonart.core.data.sources.attribution import SourceOptions
from commonart.core.data.sources.embedded_images import EmbeddedImages, embedded_address
from commonart.core.data.sources.hub import CARD
from commonart.core.data.sources.listing import list_source, notes_of
from commonart.core.data.sources.named import NAMES
from commonart.core.data.tasks import this_task
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.parse import normalize

SCENES = 1000  # records of `scenes` without --limit
READERS = 2  # threads that hash and judge what came; libcurl has its own
FILE_READERS = 16  # for files, which may lie on a slow disk
GONE = ("http_404", "http_410", "placeholder")  # an image for whose `fallback_url` it is time
_PLACEHOLDER = re.compile(r"/photo_unavailable\w*\.\w+$")  # the picture to which Flickr leads where a photo is gone


def listing(
    source: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    size: int = 64,
    captions: bool = True,
    images: str | None = None,
    license: str = "",
    lang: str = "en",
    column_map: Mapping[str, str] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[Record]:
    """Yield what SOURCE offers, as records without pixels, in a fixed order; what is passed over as `PassedOver`.

    Args:
        limit: the most records; `scenes` has 1000 without it.
        seed, size, captions: of `scenes`: which ones, their side in pixels, whether the grammar describes them.
        images, license, lang, column_map, limits: see `core.data.sources.attribution.SourceOptions`.
    """
    if license and license != CARD and normalize(license) is None:
        fix = 'Give an SPDX id or a URL, such as "CC-BY-4.0".'
        raise UsageError(f"--license {license!r} is not a known licence.", fix)
    for flag, number in (("--limit", limit), ("--seed", seed)):
        if number is not None and number < 0:
            raise UsageError(f"{flag} {number} must be at least 0.", "Give a positive number.")
    if source == "scenes":
        if column_map:
            raise UsageError("--column-map is for tables, and scenes is none.", "Leave it out.")
        from commonart.core.nano.scene_source import list_scenes

        yield from list_scenes(SCENES if limit is None else limit, seed, size, captions)
        return
    left, options = limit, SourceOptions(license, lang, column_map or {}, images, limits)
    for record in list_source(source, options):
        if left == 0:
            return
        if left is not None and not isinstance(record, PassedOver):
            left -= 1
        yield record


def fetch(
    pairs: Iterable[Pair],
    drop: Drop,
    rows: Iterable[int] | None = None,
    *,
    images: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    workers: int = READERS,
    embedded: EmbeddedImages | None = None,
    submit: Callable[[str], Request] | None = None,
) -> Iterator[Sample]:
    """Bring the original bytes of each record, with sha256, size, MIME type and split; order is kept.

    Args:
        rows: each record's place in its shard, which a dropped one keeps for the last pass; from 0 when not given. A sample
            of given rows carries its own as `row`.
        images: a folder in which `file_name`, `source_id` or `key` (with any image suffix) names the file.
        embedded: what reads embedded images; one for a whole run does not read a row group twice.
        submit: starts the download of a record's `fallback_url`, where its image is gone.
    """
    if images is not None and not os.path.isdir(images):
        kind, what = (UsageError, "is not a folder") if os.path.exists(images) else (CommonArtError, "does not exist")
        raise kind(f"--images {images} {what}.", "Give the folder that holds the image files.")
    reader = embedded or EmbeddedImages()

    def source_bytes(record: Record) -> bytes | None:
        if "scene" in record and record.get("source") == "scenes":
            from commonart.core.nano.scene_source import render

            return render(record)
        address = embedded_address(record)
        return reader.read(address) if address else None

    def resolve(record: Record, pending: Request | None) -> tuple[Record, Sample | Problem]:
        record, got = resolve_image(record, pending, images=images, limits=limits, source_bytes=source_bytes)
        if isinstance(got, Sample) and _PLACEHOLDER.search(got.record.get("fetched_url", "")):
            return record, Problem("placeholder", got.record["fetched_url"])
        return record, got

    def one(item: tuple[int, Pair]) -> tuple[Record, Sample | Problem]:
        row, (record, pending) = item
        if isinstance(record, PassedOver):
            return {**record, "row": row}, record.problem
        tried, got = resolve(record, pending)
        if submit is not None and isinstance(got, Problem) and got.reason in GONE and record.get("fallback_url"):
            record = {name: value for name, value in record.items() if name != "fallback_url"}
            record["image_url"] = tried["fallback_url"]
            tried, got = resolve(record, submit(record["image_url"]))
        if rows is not None and isinstance(got, Sample):
            got.record["row"] = row
        return {**tried, "row": row}, got

    numbered = zip(count() if rows is None else rows, pairs, strict=False)
    yield from drop.samples(threads.map_ordered(one, numbered, workers))


def run(
    source: str | None,
    out: str | None = None,
    *,
    list_only: bool = False,
    images: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    shard_size: int = SHARD_SIZE,
    limit: int | None = None,
    seed: int = 0,
    size: int = 64,
    captions: bool = True,
    license: str = "",
    lang: str = "en",
    column_map: Mapping[str, str] | None = None,
    flickr_key_file: str = "",
    **options: Any,
) -> Summary:
    """`listing` (when `list_only`) or `listing` and `fetch`, from SOURCE (`-`: records on stdin) to `out`.

    What failed for a reason that may pass is asked for once more at the end, and by every further call.
    """
    piped = source is None or source == "-"
    if piped:
        stream.source_or_stdin(source)
    if piped and list_only:
        raise UsageError("--list has nothing to list on stdin.", "Name a source, or leave --list out.")
    if not list_only and (out is None or stream.takes_jsonl(out)):
        raise UsageError("fetch brings images, which do not go into JSONL.", "Give a folder: -o raw/; or add --list.")
    records: Iterable[Record]
    notes: list[Note] = []
    if piped:
        records = map(as_listed, jsonl.read(stream.source_or_stdin(source), notes))
        if limit is not None:
            records = (record for record, _ in zip(records, range(limit), strict=False))
    else:
        assert source is not None
        records = listing(
            source, limit=limit, seed=seed, size=size, captions=captions, images=images, license=license, lang=lang,
            column_map=column_map, limits=limits,
        )  # fmt: skip
        if source not in ("scenes", *NAMES):  # what an earlier stage has written says what came before it
            notes += notes_of(source)
            records = taken_out(records, notes)
    if flickr_key_file:
        from commonart.core.data.sources.flickr import own_licenses

        records = own_licenses(records, flickr_key_file, limits)
    options |= {"out": out, "shard_size": shard_size, "inputs": notes, "listed": "stdin" if piped else source}
    if list_only:
        return stream.run("fetch", lambda records, drop: drop.listed(records), records=records, **options)
    assert out is not None
    task, overwrite, folder = options.get("task") or this_task(), options.get("overwrite", False), Path(out)

    def needs_shard(number: int) -> bool:
        return task.owns(number) and (overwrite or not finished(folder / f"{number:05d}.tar"))

    def needs_download(record: Record) -> bool:
        local = images is not None and in_folder(record, images) is not None
        refused = isinstance(record, PassedOver) or (limits.opt_outs and record.get("opt_out"))
        return on_the_web(record) and not local and not refused

    with DownloadClient(limits) as client:
        prefetcher = Prefetcher(records, client, shard_size, needs_shard, needs_download)
        resolve = partial(fetch, images=images, limits=limits, embedded=EmbeddedImages(), submit=client.submit)

        def transform(records: Iterable[Record], drop: Drop) -> Iterator[Sample]:
            workers = 1 if source == "scenes" else FILE_READERS if images else READERS
            return resolve(map(prefetcher.pair, records), drop, workers=workers)

        return stream.run(
            "fetch", transform, records=prefetcher,
            settings={"max_bytes": limits.max_bytes, "max_pixels": MAX_PIXELS, "opt_outs": limits.opt_outs},
            finish=lambda tars, summary: retry_failed(tars, summary, client, resolve), **options,
        )  # fmt: skip
