"""What storing and quantising cost, and how large the index of training data is: `python tests/benchmarks/encode.py`.

400 captions of scenes by the embedded text encoder (or `--model NAME`: calm2-7b where it is at hand). Errors are relative,
|a - b| / |b| over all values, against float32; `largest` is that of the worst caption. Sizes of files are those on disk; the
estimate is what encode-text says before the first byte. Bytes at CALM2's width are computed: 120 tokens of 4096 channels.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from commonart.core.data.features import format
from commonart.core.data.shards.reader import read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError
from commonart.core.model import feature_encoding
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.nano import grammar, scenes
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model
from commonart.core.settings import QUANTIZERS
from commonart.stages.encode_text import encode_text

ROWS = 50_000  # of the index


def shards(folder: Path, count: int, each: int) -> Path:
    """Records of random scenes with a caption in English and one in Japanese."""
    draw = np.random.default_rng(0)
    for number in range(0, count, each):
        with ShardWriter(folder / f"{number // each:05d}.tar") as writer:
            for n in range(number, min(number + each, count)):
                scene = scenes.random_scene(draw)
                said = [{"text": grammar.caption(scene, lang, draw), "lang": lang} for lang in ("en", "ja")]
                record = {"key": f"scene_{n:07d}", "captions": said, "width": 256, "height": 256, "split": "train"}
                record["license"] = "CC0-1.0"
                writer.add_record(record, b"no pixels are read here", "jpg")
    return folder


def errors(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> dict[str, float]:
    each = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, exact, strict=True)]
    whole = np.linalg.norm(np.concatenate(found) - np.concatenate(exact)) / np.linalg.norm(np.concatenate(exact))
    return {"error": round(float(whole), 5), "largest": round(max(each), 5)}


def stores(folder: Path, model: str, exact: Sequence[np.ndarray]) -> dict[str, Any]:
    found = {}
    for store in format.STORES["text"]:
        asked: list[int] = []
        real = feature_encoding.require_space
        feature_encoding.require_space = lambda out, needed, what: asked.append(needed)  # type: ignore[assignment]  # noqa: B023
        try:
            encode_text(
                str(folder), str(folder / store), model=model, store=store, precision="fp32", device="cpu", quiet=True
            )
        finally:
            feature_encoding.require_space = real
        size = sum(path.stat().st_size for path in (folder / store).glob("*.tar"))
        read = format.Features(folder / store)
        states: list[np.ndarray] = []
        for shard in sorted(path.stem for path in folder.glob("*.tar")):
            for span in read.spans(shard).values():
                states += format.unpack_text(read.read(shard, span))[0]
        calm = format.text_size([120], 4096, {"key": "k", "captions": [{"text": "", "lang": "en"}]}, store)
        found[store] = {
            **errors(states, exact), "bytes_per_caption": round(size / len(states)), "estimate": round(asked[0] / size, 4),
            "bytes_at_calm2": calm,
        }  # fmt: skip
    return found


def quantised(folder: Path, texts: Sequence[str], exact: Sequence[np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in (None, *QUANTIZERS):
        try:
            encoder = TextEncoder.load(folder, "bf16", method, device="cpu")
        except CommonArtError as error:
            found[str(method)] = {"skipped": error.what}
            continue
        encoder.encode(texts[:32])
        started = time.perf_counter()
        states = [s.float().numpy() for s in encoder.encode(texts)]
        seconds = time.perf_counter() - started
        found[encoder.precision] = {**errors(states, exact), "captions_per_second": round(len(texts) / seconds)}
    return found


def index(folder: Path) -> dict[str, Any]:
    """Reading the index of ROWS images, in a process without torch."""
    code = (
        "import sys, time; from commonart.core.data.training_index import read_index\n"
        "start = time.process_time(); found = read_index(sys.argv[1]); spent = time.process_time() - start\n"
        "held = sum(c.nbytes for c in (*found.columns.values(), found.languages, found.kinds))\n"
        "held += len(found.keys._text) + found.keys._ends.itemsize * len(found.keys._ends)\n"
        "print(len(found.keys), held, spent)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout
    rows, held, spent = (float(value) for value in said.split())
    return {"bytes_per_image": round(held / rows, 1), "images_per_cpu_second": round(rows / spent)}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nano")
    model = parser.parse_args().model
    found = hub.resolve_model(find_model(model, "text-encoder"))
    with tempfile.TemporaryDirectory() as place:
        folder = shards(Path(place) / "shards", 200, 90)
        texts = [c["text"] for path in sorted(folder.glob("*.tar")) for r in read_shard(path) for c in r["captions"]]
        exact = [s.numpy() for s in TextEncoder.load(found.folder, "fp32", device="cpu").encode(texts)]
        told = {
            "model": found.name, "captions": len(texts), "tokens": sum(map(len, exact)) / len(texts), "width": exact[0].shape[1],
            "store": stores(folder, model, exact), "encoder": quantised(found.folder, texts, exact),
            "index": index(shards(Path(place) / "many", ROWS, 1000)),
            "python": platform.python_version(), "machine": platform.machine(),
        }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
