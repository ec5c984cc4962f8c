"""Shards that are looked into: twelve smooth images of four authors, sharded by the real stage, with features and a run."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tiny_runs
from PIL import Image

from commonart.core.data.record import split_of
from commonart.core.data.training_index import read_index
from commonart.stages import shard as stage

AUTHORS = ("Jane Doe", "山田 花子", "<b>Bob</b>", "\u202eevil\x1b[31m")


def picture(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pictures(number: int, split: str = "train") -> list[bytes]:
    """JPEGs whose hashes fall into one split."""
    made = (encoded(picture(seed), quality=92) for seed in count())
    fitting = (data for data in made if split_of(hashlib.sha256(data).hexdigest()) == split)
    return [next(fitting) for _ in range(number)]


def record(number: int, data: bytes, folder: Path, **fields: Any) -> dict[str, Any]:
    (folder / f"{number}.jpg").write_bytes(data)
    return {
        "key": f"k{number:02d}", "image": f"{number}.jpg", "sha256": hashlib.sha256(data).hexdigest(),
        "title": f"work {number}", "author": AUTHORS[number % 4], "license": "CC-BY-2.0",
        "license_url": "https://creativecommons.org/licenses/by/2.0/", "license_observed_at": "2026-01-02T00:00:00Z",
        "source_url": f"https://example.org/works/{number}", "image_url": f"https://img.example.org/{number}.jpg",
        "author_url": f"https://example.org/by/{number % 4}", "opt_out": [],
        "captions": [{"text": f"stripes {number}", "lang": "en", "model": "nano"}], **fields,
    }  # fmt: skip


def written(folder: Path, records: list[dict[str, Any]], name: str = "list.jsonl") -> str:
    """A JSONL of records beside their images."""
    (folder / name).write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in records))
    return str(folder / name)


def make(folder: Path, records: list[dict[str, Any]] | None = None, features: bool = True) -> Path:
    """`shards/` in `folder`, four records a shard: eleven to train on, and one that is held out."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    if records is None:
        images = [*pictures(11), *pictures(1, "heldout")]
        records = [record(number, data, raw) for number, data in enumerate(images)]
    shards = folder / "shards"
    stage.run(written(raw, records), str(shards), size=64, format="jpg", shard_size=4, dedup=True, quiet=True)
    if features:
        tiny_runs.encode(shards, "text", tiny_runs.texts)
        tiny_runs.encode(shards, "image", tiny_runs.bright)
    return shards


def run(path: Path, shards: str = "shards", checkpoint: bool = True, **data: Any) -> Path:
    """What a training run leaves behind of its data: run.json, and a checkpoint."""
    path.mkdir(parents=True)
    index = read_index(path.parent.parent / shards)
    about = {"folder": shards, "fingerprint": index.fingerprint, "left_out": {}, **data}
    (path / "run.json").write_bytes(orjson.dumps({"schema": 1, "data": about}))
    if checkpoint:
        (path / "checkpoints" / "step-00000001").mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, and runs/one that was trained on them."""
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "runs" / "one")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """The JSON that a command wrote, line by line."""
    return [orjson.loads(line) for line in done.stdout.splitlines()]
