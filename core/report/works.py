"""The works of a training set, one by one, as the records of its shards say them: what a run was trained on, in its order.

    for work in works([Path("shards")], run): print(work.title, work.author, work.license)

A run leaves records out for what they say (split, licence, captions), and is followed in that here, by the rules in its run.json.
Of what it left out for other reasons (a blocklist, features that were not there), run.json names the keys by their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.admission import Judge, Rules, usable_captions
from commonart.core.data.record import (
    Caption,
    Record,
    attribution_hash,
    captions,
    check_split,
    key_hash,
    split_of_record,
)
from commonart.core.data.shards.reader import list_shards, read_shard
from commonart.core.licenses.parse import normalize

SAID = (
    "title", "author", "source", "license", "license_url", "license_basis", "license_observed_at",
)  # fmt: skip
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WebP"}


@dataclass(frozen=True, slots=True)
class Work:
    """One image of the training set. Strings are empty where its record does not say it."""

    key: str
    sha256: str  # of the original file
    license: str  # SPDX id: under which the run's policy takes it, or what the record states
    license_url: str  # as its record has it, else the canonical one
    license_basis: str  # licence | dedication | mark | statement | statute | set
    license_observed_at: str  # when the source stated it, ISO 8601
    title: str
    author: str
    source: str
    url: str  # the work's page, else its file
    downloaded: bool  # by `commonart fetch`, from the web
    width: int  # in the shards, pixels
    height: int
    captions: list[Caption]  # those that the run could take
    makers: list[str]  # of each caption: its model, of a translation "TRANSLATOR of ORIGINAL"
    changes: str  # what was changed of the original, in English
    split: str
    shard: str  # the name of its tar, as `tars` gives it
    attribution: int  # of its record: `data.record.attribution_hash`
    image: str  # pointer to the pixels in the shards, for `shards.reader.read_bytes`

    @property
    def captions_sha256(self) -> str:
        """The first 16 hexadecimal digits of the captions' SHA-256: by it a check names the work whose caption was edited."""
        return hashlib.sha256(orjson.dumps(self.captions, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def tars(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of each shard in the order of training; the name has its folder's in front where there are several."""
    for folder in folders:
        for path in list_shards(folder):
            yield (f"{folder.resolve().name}/{path.name}" if len(folders) > 1 else path.name), path


def works(folders: Sequence[Path], run: Mapping[str, Any] | None = None) -> Iterator[Work]:
    """Yield the works that a run was trained on, or all of the shards without one.

    Args:
        run: the content of run.json.

    Raises as `read_shard`.
    """
    judge = Judge(Rules.described(run["data"]["policy"]) if run is not None else Rules())
    hidden = (run["data"].get("left_out_keys") or {}) if run is not None else {}
    gone = frozenset(int(key, 16) for keys in hidden.values() for key in keys)
    for name, path in tars(folders):
        for record in read_shard(path):
            if gone and key_hash(record["key"]) in gone:
                continue
            work = _trained_on(record, judge, run, name) if run is not None else _work(record, judge, name)
            if work is not None:
                yield work


def _trained_on(record: Record, judge: Judge, run: Mapping[str, Any], shard: str) -> Work | None:
    """The work of a record; None where the run left it out: as `training_index` decides it."""
    sha256 = record.get("sha256")
    if (sha256 and check_split(record, sha256)[1]) or split_of_record(record) == "heldout" or not record.get("image"):
        return None
    fine = usable_captions(record, judge, run)
    if not any(fine):
        return None
    return _work(record, judge, shard, fine)


def _work(record: Record, judge: Judge, shard: str, fine: Sequence[bool] | None = None) -> Work:
    said = {name: str(record.get(name) or "").strip() for name in SAID}
    texts = captions(record)
    kinds = [judge.kinds[number] for number in judge.captions(texts)]
    kept = [n for n in range(len(texts)) if fine is None or fine[n]]
    license = judge.works[judge.work(record)].license or said["license"]
    known = normalize(license)
    return Work(
        key=record["key"], sha256=str(record.get("sha256") or "").lower(), license=license,
        license_url=said["license_url"] or (known.url if known else ""), license_basis=said["license_basis"],
        license_observed_at=said["license_observed_at"], title=said["title"], author=said["author"], source=said["source"],
        url=str(record.get("source_url") or record.get("image_url") or "").strip(),
        downloaded=bool(record.get("fetched_url")), width=record.get("width", 0), height=record.get("height", 0),
        captions=[texts[n] for n in kept], makers=[kinds[n].model for n in kept],
        changes=changes(record), split=split_of_record(record), shard=shard,
        attribution=attribution_hash(record), image=record.get("image", ""),
    )  # fmt: skip


def changes(record: Record) -> str:
    """Return what was made of the original file, for an attribution: licences ask for it. "" where it is as it was."""
    before, own = record.get("original"), record.get("shard_sha256")
    if not isinstance(before, dict) or (own and own == record.get("sha256")):
        return ""
    sizes = [f"{each.get('width', '?')} x {each.get('height', '?')}" for each in (before, record)]
    said = [f"scaled and cropped from {sizes[0]} to {sizes[1]} pixels"] if sizes[0] != sizes[1] else []
    mime, quality = str(record.get("mime") or ""), record.get("quality")
    lossy = f" at quality {quality}" if quality else ""
    said.append(f"encoded again as {FORMATS.get(mime, mime)}{lossy}")
    return ", ".join(said)
