"""Images per second of `shard` beside a bare loop of the same library calls, and memory: `python tests/benchmarks/shard.py`.

Generated JPEGs of 640 x 480 pixels in shards as fetch leaves them, cut to 256. The bare loop opens, decodes, scales and encodes
bytes that lie in memory, on as many threads; the stage also reads and writes shards, checks, hashes and describes. Rounds take
turns, so that other work on the machine falls on both, and medians are told; CPU seconds too, which it stretches less. Memory is
the peak of a process of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
from machine import processor
from PIL import Image, features

from commonart.core.data import threads
from commonart.core.data.images.phash import copies
from commonart.core.data.record import split_of
from commonart.core.data.shards.manifest import MadeFrom, write_manifest
from commonart.core.data.shards.writer import ShardWriter
from commonart.stages import shard

COUNT, DIFFERENT, ROUNDS, PER_SHARD = 1000, 40, 7, 500
CROP = (80, 0, 560, 480)


def jpeg(seed: int) -> bytes:
    """Soft shapes at four scales under a little noise, 640 x 480."""
    rng = np.random.default_rng(seed)
    total = rng.normal(0, 4, (480, 640, 3))
    for cells, strength in ((4, 90), (16, 50), (64, 25), (240, 10)):
        coarse = Image.fromarray((rng.random((cells, cells + 1, 3)) * 255).astype(np.uint8))
        total += (np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), float) - 128) * strength / 128
    out = io.BytesIO()
    Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def bare(data: bytes) -> bytes:
    """The same library calls, and nothing else."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        small = image.resize((256, 256), Image.Resampling.LANCZOS, box=CROP)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """(seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed() -> dict[str, object]:
    """The medians of ROUNDS of each, in turns; of the parts, the medians of each round's."""
    pictures = [jpeg(seed) for seed in range(DIFFERENT)]
    data = [pictures[n % DIFFERENT] for n in range(COUNT)]
    workers = threads.cpu_count()
    rounds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as executor:
        raw = Path(folder) / "raw"
        for number in range(0, COUNT, PER_SHARD):
            tar = raw / f"{number:05d}.tar"
            with ShardWriter(tar) as writer:
                for n in range(number, number + PER_SHARD):
                    sha256 = hashlib.sha256(data[n]).hexdigest()
                    record = {"key": f"k{n:06d}", "width": 640, "height": 480, "mime": "image/jpeg", "sha256": sha256}
                    writer.add_record({**record, "split": split_of(sha256)}, data[n], "jpg")
            counts: dict[str, Any] = {"read": PER_SHARD, "written": PER_SHARD, "dropped": {}, "failed": 0}
            write_manifest(tar, MadeFrom("fetch", "", {}), **counts, sha256=writer.sha256)
        ways: dict[str, Callable[[str], object]] = {
            "bare loop": lambda out: sum(map(len, executor.map(bare, data))),
            "shard": lambda out: shard.run(str(raw), out, size=256, workers=workers, quiet=True),
            "shard --buckets": lambda out: shard.run(
                str(raw), out, size=256, buckets=True, workers=workers, quiet=True
            ),
            "shard --dedup": lambda out: shard.run(str(raw), out, size=256, dedup=True, workers=workers, quiet=True),
        }
        for turn in range(ROUNDS):
            for name, way in ways.items():
                out = f"{folder}/{name.replace(' ', '')}{turn}"
                rounds.setdefault(name, []).append(timed(partial(way, out)))
                shutil.rmtree(out, ignore_errors=True)
    took = {name: [median(column) for column in zip(*told, strict=True)] for name, told in rounds.items()}
    parts = [
        [bare / full for bare, full in zip(*turn, strict=True)]
        for turn in zip(rounds["bare loop"], rounds["shard"], strict=True)
    ]
    return {
        "images": COUNT,
        "workers": workers,
        "images_per_second": {name: round(COUNT / wall, 1) for name, (wall, _) in took.items()},
        "cpu_ms_per_image": {name: round(1000 * cpu / COUNT, 2) for name, (_, cpu) in took.items()},
        "part_of_bare_loop": {
            "by the clock": round(median(wall for wall, _ in parts), 3),
            "by CPU time": round(median(cpu for _, cpu in parts), 3),
            "by CPU time, each round": sorted(round(cpu, 3) for _, cpu in parts),
        },
        "cpu_hours_per_million": {name: round(cpu / COUNT * 1e6 / 3600, 2) for name, (_, cpu) in took.items()},
    }


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def records(count: int) -> dict[str, float]:
    """Peak memory and CPU time of the stage over `count` records that all point at one small picture."""
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (16, 16), "red").save(f"{folder}/a.png")
        with open(f"{folder}/in.jsonl", "wb") as file:
            for n in range(count):
                caption = {"text": "a red square " * 8, "lang": "en"}
                record = {
                    "key": f"k{n:08d}",
                    "image": "a.png",
                    "source_url": "https://example.org/" * 5,
                    "captions": [caption] * 3,
                }
                file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        _, cpu = timed(lambda: shard.run(f"{folder}/in.jsonl", f"{folder}/out", size=16, quiet=True))
    return {"records": count, "peak_mb": peak_mb(), "cpu_seconds": round(cpu, 1)}


def hashes(count: int) -> dict[str, float]:
    """The search for near-duplicates among `count` hashes, 3 % of them copies with up to four bits changed."""
    rng = np.random.default_rng(0)
    prints = rng.integers(1, 2**64, count, dtype=np.uint64)
    later = rng.choice(np.arange(count // 2, count), count // 33, replace=False)
    of = rng.integers(0, count // 2, len(later))
    changed = prints[of]
    for _ in range(4):
        flipped = np.uint64(1) << rng.integers(0, 64, len(later)).astype(np.uint64)
        changed ^= np.where(rng.random(len(later)) < 0.5, flipped, np.uint64(0))
    prints[later] = changed
    before = peak_mb()
    started = time.process_time()
    found = copies(prints)
    cpu = time.process_time() - started
    return {"hashes": count, "peak_mb": peak_mb(), "above_start_mb": round(peak_mb() - before, 1), "cpu_seconds": round(cpu, 1),
            "copies_found": round(float((found[later] == of).mean()), 4)}  # fmt: skip


def alone(kind: str, count: int) -> dict[str, float]:
    """One measurement in a process of its own, so that its peak is its own."""
    said = subprocess.run([sys.executable, __file__, kind, str(count)], capture_output=True, check=True).stdout
    return dict(json.loads(said))


def main() -> None:
    """Print one JSON object; with `speed`, `records N` or `hashes N`, that measurement alone."""
    if sys.argv[1:] == ["speed"]:
        print(json.dumps(speed(), indent=1))
        return
    if len(sys.argv) > 2:
        print(json.dumps({"records": records, "hashes": hashes}[sys.argv[1]](int(sys.argv[2]))))
        return
    result = {
        "benchmark": "tests/benchmarks/shard.py",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{threads.cpu_count()} virtual cores of an {processor()}",
        "versions": {
            "python": platform.python_version(), "pillow": Image.__version__, "numpy": np.__version__,
            "libjpeg-turbo": features.version("libjpeg_turbo"),
        },
        **speed(),
        "memory_of_the_stage": [alone("records", count) for count in (1_000, 10_000, 100_000)],
        "memory_of_the_search": [alone("hashes", count) for count in (10_000, 1_000_000, 4_000_000)],
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
