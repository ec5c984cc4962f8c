"""Shards of scenes, which the embedded models know, and what a folder holds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from commonart.core.data.shards.writer import ShardWriter
from commonart.core.nano import scenes


def shards_of_scenes(folder: Path, shards: int, each: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(shards):
        with ShardWriter(folder / f"{number:05d}.tar") as writer:
            for n in range(each):
                file = io.BytesIO()
                Image.fromarray(scenes.render(scenes.random_scene(rng))).save(file, "png")
                writer.add_record({"key": f"s{number}-{n}"}, file.getvalue(), "png")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
