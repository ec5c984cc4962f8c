"""Bring images in: records with the original bytes, their licence as the source stated it, and proof of what came.

    commonart fetch scenes --limit 1000 -o raw/
    commonart fetch photos/ --license "CC BY 4.0" -o raw/
    commonart fetch captions.json --list | commonart license-filter | commonart fetch - --images photos/ -o raw/

Two halves: `listing` says what a source offers, without pixels; `fetch` brings the pixels of any such records. Pixels
come from the embedded renderer (`scene`), from `--images FOLDER`, from a local `image`, or from `image_url`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.data import pool, shards, stream
from commonart.core.data.decode import EXTENSIONS, MAX_PIXELS, DecodeError, probe
from commonart.core.data.download import DownloadError, Limits, download
from commonart.core.data.fetching.origin import state_license
from commonart.core.data.record import Record, split_of
from commonart.core.data.fetching.sources import list_source
from commonart.core.data.stream import Drop, Sample, Summary
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses import normalise

SCENES = 1000  # records of `scenes` without --limit
WORKERS = 16  # downloads at a time; they wait far more than they work

# What the generator says about rights, by the hundredth that a record's hash falls into. All scenes are ours and free:
# the others stand for what real sources mix in, so that the licence filter has work on the embedded default too.
SCENE_LICENSES: tuple[tuple[int, str], ...] = (
    (60, "https://creativecommons.org/publicdomain/zero/1.0/"),
    (28, "https://creativecommons.org/licenses/by/4.0/"),
    (5,  "https://creativecommons.org/licenses/by/2.1/jp/deed.ja"),
    (2,  "https://creativecommons.org/licenses/by-nc/4.0/"),
    (2,  "https://creativecommons.org/licenses/by-sa/4.0/"),
    (2,  "All rights reserved"),
    (1,  "see the author's page"),
)  # fmt: skip
SCENES_OBSERVED_AT = "2026-01-01T00:00:00Z"  # a constant: the generator's answer does not depend on the day


class Problem(NamedTuple):
    """Why a record's image did not come. `rule`: it was refused by rule, not by failure."""

    reason: str
    detail: str
    rule: bool = False


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
) -> Iterator[Record]:
    """Yield what SOURCE offers, as records without pixels, in a fixed order.

    Args:
        limit: at most so many records; `scenes` has 1000 without it.
        seed, size, captions: of `scenes`: which ones, their side in pixels, whether the grammar describes them.
        images, license, lang, column_map: see `core.data.fetching.sources.list_source`.

    Raises:
        CommonArtError: no such source.
        UsageError: `license` names none that is known.
    """
    if license and normalise(license) is None:
        raise UsageError(
            f"--license {license!r} names no licence that is known.", 'Give an SPDX id or a URL, such as "CC-BY-4.0".'
        )
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit} is less than nothing.", "Give a positive number.")
    if source == "scenes":
        yield from _scenes(SCENES if limit is None else limit, seed, size, captions)
        return
    for number, record in enumerate(
        list_source(source, license=license, lang=lang, column_map=column_map, images=images)
    ):
        if number == limit:
            return
        yield record


def fetch(
    records: Iterable[Record],
    drop: Drop,
    *,
    images: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    max_pixels: int = MAX_PIXELS,
    opt_outs: bool = True,
    workers: int = WORKERS,
) -> Iterator[Sample]:
    """Bring the original bytes of each record, with sha256, size, MIME type and split; order is kept.

    Args:
        images: a folder in which `file_name`, `source_id` or `key` (with any image suffix) names the file.
        opt_outs: drop what asks not to be used (`X-Robots-Tag`, `tdm-reservation`); recorded in `opt_out` either way.
    """
    if images is not None and not os.path.isdir(images):
        raise CommonArtError(f"--images {images} is no folder.", "Give the folder that holds the image files.")
    bring = partial(_bring, images=images, limits=limits, max_pixels=max_pixels, opt_outs=opt_outs)
    for record, got in pool.ordered(bring, records, workers):
        if isinstance(got, Sample):
            yield got
        elif got.rule:
            drop(record, got.reason, got.detail)
        else:
            drop.failure(record, got.reason, got.detail)


def run(
    source: str | None,
    out: str | None = None,
    *,
    list_only: bool = False,
    limit: int | None = None,
    seed: int = 0,
    size: int = 64,
    captions: bool = True,
    images: str | None = None,
    license: str = "",
    lang: str = "en",
    column_map: Mapping[str, str] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    max_pixels: int = MAX_PIXELS,
    opt_outs: bool = True,
    workers: int | None = None,
    **options: Any,
) -> Summary:
    """`listing` (when `list_only`) or `listing` and `fetch`, from SOURCE (`-`: records on stdin) to `out`."""
    piped = source is None or source == "-"
    if piped and list_only:
        raise UsageError("--list has nothing to list on stdin.", "Name a source, or leave --list out.")
    records: Iterable[Record] | None = None
    if not piped:
        assert source is not None
        records = listing(
            source,
            limit=limit,
            seed=seed,
            size=size,
            captions=captions,
            images=images,
            license=license,
            lang=lang,
            column_map=column_map,
        )
    if list_only:
        return stream.run("fetch", _as_listed, records=records, out=out, **options)
    if workers is None:
        workers = 1 if source == "scenes" else WORKERS
    transform = partial(fetch, images=images, limits=limits, max_pixels=max_pixels, opt_outs=opt_outs, workers=workers)
    settings = {"max_bytes": limits.max_bytes, "max_pixels": max_pixels, "opt_outs": opt_outs}
    return stream.run("fetch", transform, source=source, records=records, out=out, settings=settings, **options)


def _as_listed(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
    yield from records


# --- the embedded generator ------------------------------------------------------------------------------------------


def _scenes(count: int, seed: int, size: int, captions: bool) -> Iterator[Record]:
    import numpy as np

    from commonart.core.nano import grammar, scenes

    if not 8 <= size <= 4096:
        raise UsageError(f"--size {size} is no size for a scene.", "Give 8 to 4096 pixels.")
    for index in range(count):
        rng = np.random.default_rng([seed, index])  # so that a record does not depend on how many there are
        scene = scenes.random_scene(rng)
        record: Record = {
            "key": f"scenes_{seed}-{index:07d}",
            "source": "scenes",
            "source_id": f"{seed}-{index}",
            "title": f"scene {index} of seed {seed}",
            "author": "commonart",
            "width": size,
            "height": size,
            "scene": scenes.scene_to_json(scene),
        }
        raw = _scene_license(f"{seed}/{index}")
        state_license(record, raw, raw if "://" in raw else "", SCENES_OBSERVED_AT)
        if captions:
            record["captions"] = [
                {
                    "text": grammar.caption(scene, lang, rng),
                    "lang": lang,
                    "model": "scenes-grammar",
                    "revision": "1",
                    "license": "CC0-1.0",
                    "synthetic": True,
                    "translated_from": None,
                }
                for lang in ("en", "ja")
            ]
        yield record


def _scene_license(name: str) -> str:
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100
    for share, raw in SCENE_LICENSES:
        place -= share
        if place < 0:
            return raw
    raise AssertionError("SCENE_LICENSES adds up to 100")


def _render(record: Record) -> bytes:
    from PIL import Image

    from commonart.core.nano import scenes

    out = io.BytesIO()
    pixels = scenes.render(scenes.scene_from_json(record["scene"]), record.get("width", 64))
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


# --- one record ------------------------------------------------------------------------------------------------------


def _bring(
    record: Record, *, images: str | None, limits: Limits, max_pixels: int, opt_outs: bool
) -> tuple[Record, Sample | Problem]:
    signals: list[str] = []
    try:
        if record.get("source") == "scenes" and "scene" in record:
            data = _render(record)
        elif images is not None and (path := _in_folder(record, images)) is not None:
            data = path.read_bytes()
        elif record.get("image"):
            data = shards.read_bytes(record["image"])
        elif record.get("image_url"):
            data, final, signals = download(record["image_url"], limits)
            if final != record["image_url"]:
                record = {**record, "fetched_url": final}
        else:
            return record, Problem(
                "no_image", "neither image nor image_url" + (f", and no file in {images}" if images else "")
            )
        if signals:
            record = {**record, "opt_out": sorted({*record.get("opt_out", []), *signals})}
        if opt_outs and record.get("opt_out"):
            return record, Problem("opt_out", ", ".join(record["opt_out"]), rule=True)
        if len(data) > limits.max_bytes:
            return record, Problem("too_many_bytes", f"{len(data):,}")
        seen = probe(data, max_pixels=max_pixels)
    except (DownloadError, DecodeError) as error:
        return record, Problem(error.reason, error.detail)
    except CommonArtError as error:  # a file or shard that a record names and that is not there
        return record, Problem("unreadable", error.what)
    except (OSError, ValueError) as error:
        return record, Problem("unreadable", str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if record.get("sha256") not in (None, "", sha256):
        return record, Problem("changed", f"sha256 is {sha256}, the record says {record['sha256']}")
    made = {**record, "width": seen.width, "height": seen.height, "mime": seen.mime, "sha256": sha256}
    made.setdefault("opt_out", [])
    made.setdefault("split", split_of(sha256))
    return record, Sample(made, data, EXTENSIONS[seen.mime])


def _in_folder(record: Record, images: str) -> Path | None:
    """The file of a record in `--images`; a name that leads out of the folder is not followed."""
    folder = Path(images).resolve()
    names = [record.get("file_name"), record.get("source_id"), record["key"]]
    for name in names:
        if not isinstance(name, str) or not name:
            continue
        for suffix in ("", ".jpg", ".jpeg", ".png", ".webp"):
            path = (folder / f"{name}{suffix}").resolve()
            if path.is_file() and path.is_relative_to(folder):
                return path
    return None
