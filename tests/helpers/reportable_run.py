"""A run that can be reported: real images with odd authors, filtered and sharded by the real stages, trained on for a second."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import lookup_shards
import tiny_runs
from commands import call

COUNT = 24
HEBREW, HOSTILE, BIDI = "שלום עולם", "<img src=x onerror=alert(1)>|[x](javascript:y)", "\u202eevil\x1b[31m"
AUTHORS = ("Jane Doe", "山田 花子", HOSTILE, BIDI, HEBREW, "")
LICENSES = (
    ("CC-BY-2.0", "https://creativecommons.org/licenses/by/2.0/"),
    ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    ("CC-BY-NC-2.0", "https://creativecommons.org/licenses/by-nc/2.0/"),  # which the policy does not let in
)
SIDE = tiny_runs.SIDE * tiny_runs.FACTOR


def record(number: int, data: bytes, raw: Path, **fields: Any) -> dict[str, Any]:
    license, url = LICENSES[2] if number == 5 else LICENSES[number % 2]
    nano = {"model": "nano", "revision": "sha256:1234", "license": "Apache-2.0", "synthetic": True}
    captions = [
        {"text": f"stripes {number}", "lang": "en", **nano},
        {"text": "縞模様", "lang": "ja", **nano, "translated_from": "nano"},
    ]
    about = {
        "title": HOSTILE if number == 2 else f"work {number}", "author": AUTHORS[number % 6], "license": license,
        "license_url": url, "license_basis": "licence", "source": "museum", "captions": captions,
    }  # fmt: skip
    return lookup_shards.record(number, data, raw, **{**about, **fields})


def records(raw: Path) -> list[dict[str, Any]]:
    raw.mkdir(parents=True, exist_ok=True)
    images = [*lookup_shards.pictures(COUNT - 2), *lookup_shards.pictures(2, "heldout")]
    return [record(number, data, raw) for number, data in enumerate(images)]


def make(folder: Path, made: list[dict[str, Any]] | None = None, policy: str = "paper") -> tuple[Path, Path]:
    """`runs/tiny` and `shards/` in `folder`: 24 works, of which a licence is refused and two are held out."""
    raw = folder / "raw"
    lookup_shards.written(raw, records(raw) if made is None else made)
    assert call(folder, "license-filter", "raw/list.jsonl", "--policy", policy, "-o", "kept.jsonl", "-q") == 0
    assert call(folder, "shard", "kept.jsonl", "-o", "shards", "--size", str(SIDE), "--shard-size", "10", "-q") == 0
    shards = folder / "shards"
    tiny_runs.encode(shards, "text", tiny_runs.texts)
    tiny_runs.encode(shards, "image", tiny_runs.bright)
    tiny_runs.start(shards, folder / "runs" / "tiny")
    return folder / "runs" / "tiny", shards


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
