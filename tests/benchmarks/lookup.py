"""`commonart lookup` over 25 million records, which are simulated: `python tests/benchmarks/lookup.py`.

Real shards of that many records would take 75 GB. Ten shards are real; of the others there are empty files, for what the
command asks of the disk, and their records are made while the index is built, by the code that indexes real ones. Lookups
are whole commands, start included: the median of five, after one that warms the cache. `--compare` builds the two other
ways that were considered, from the same hashes: rows with indexes in SQLite, and parquet that DuckDB reads (pip install duckdb).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from PIL import Image

from commonart.core.data.images.phash import phash
from commonart.core.data.lookup import index as lookup
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import MadeFrom, write_manifest
from commonart.core.data.shards.writer import ShardWriter

RECORDS, SHARD, REAL = 25_000_000, 1000, 10
AUTHORS = 100_000
SPREAD = 0x9E3779B97F4A7C15  # makes hashes of numbers


def record(number: int) -> Record:
    """A record as `shard` writes it, with hashes of its number."""
    hashed = f"{number * SPREAD % 2**64:016x}"
    return {
        "key": f"k{number:09d}", "image_url": f"https://example.org/{number}.jpg",
        "source_url": f"https://example.org/p/{number}", "author": f"author {number % AUTHORS}",
        "author_url": f"https://example.org/a/{number % AUTHORS}", "license": "CC-BY-2.0", "sha256": hashed * 4,
        "shard_sha256": hashed[::-1] * 4, "phash": hashed, "captions": [{"text": "an elephant", "lang": "en"}],
    }  # fmt: skip


def records(shard: int) -> Iterator[Record]:
    return map(record, range(shard * SHARD, (shard + 1) * SHARD))


def picture() -> Image.Image:
    """A smooth image, as photographs are."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)


def real_shard(folder: Path, shard: int, looks: str) -> None:
    """A shard of this benchmark's records and a few bytes for each image; the first record looks like `picture`."""
    with ShardWriter(folder / f"{shard:05d}.tar") as writer:
        for each in records(shard):
            writer.add_record(
                each if shard or each["key"] != "k000000000" else {**each, "phash": looks}, b"-" * 500, "jpg"
            )
    write_manifest(
        writer.path, MadeFrom("shard", "", {}), read=SHARD, written=SHARD, dropped={}, failed=0, sha256=writer.sha256
    )


def build(folder: Path, count: int) -> dict[str, Any]:
    """Make the index: of real shards as `lookup` does, of the others from records that are made on the way."""
    began = time.process_time()
    lookup.LookupIndex(folder).__exit__()
    real = time.process_time() - began
    for shard in range(REAL, count // SHARD):
        (folder / f"{shard:05d}.tar").touch()
    stamps = lookup._shards(folder)
    began = time.process_time()
    for shard in range(100):
        list(records(shard))
    making = (time.process_time() - began) / 100  # of a shard's records, which is not the index's cost
    index = lookup.LookupIndex.__new__(lookup.LookupIndex)
    index.folder, index.path = folder, folder / lookup.NAME
    index._db = sqlite3.connect(index.path, isolation_level=None)
    clock, cpu = time.monotonic(), time.process_time()
    for start in range(REAL, count // SHARD, lookup.COMMIT):
        index._db.execute("BEGIN")
        for shard in range(start, min(start + lookup.COMMIT, count // SHARD)):
            index.add_shard(f"{shard:05d}.tar", stamps[f"{shard:05d}.tar"], f"{shard:064x}", records(shard))
        index._db.execute("COMMIT")
        if start % 1280 < lookup.COMMIT:
            print(f"{start * SHARD:,} records", file=sys.stderr)
    index._db.close()
    shards = count // SHARD - REAL
    return {
        "real_shards_cpu_s_per_million": round(real / (REAL * SHARD) * 1e6, 1),
        "simulated_clock_s": round(time.monotonic() - clock, 1),
        "simulated_cpu_s": round(time.process_time() - cpu - making * shards, 1),
        "size_mb": round(index.path.stat().st_size / 1e6, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def ask(folder: Path, *arguments: str) -> dict[str, Any]:
    """The medians of five commands, on the clock and in CPU seconds, and the memory that one took at most."""
    command = [sys.executable, "-m", "commonart.cli.main", "lookup", *arguments, str(folder)]
    # Modules are compiled once, as where a user installs them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds, cpu, peak = list[float](), list[float](), 0
    for number in range(6):
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as run:
            _, status, used = os.wait4(run.pid, 0)
            run.returncode = os.waitstatus_to_exitcode(status)
        seconds += [time.monotonic() - began] if number else []
        cpu += [used.ru_utime + used.ru_stime] if number else []
        peak = max(peak, used.ru_maxrss)
    return {
        "seconds": round(statistics.median(seconds), 3), "cpu_seconds": round(statistics.median(cpu), 3),
        "exit": run.returncode, "peak_mb": round(peak / 1024, 1),
    }  # fmt: skip


def compare(folder: Path) -> dict[str, Any]:
    """The URL hashes of the index in two other forms: how large, how long to build, how long to search once."""
    with closing(sqlite3.connect(folder / lookup.NAME)) as db:
        blobs = [np.frombuffer(blob, np.uint32).reshape(3, -1) for (blob,) in db.execute("SELECT hashes FROM url")]
    hashes = np.concatenate(blobs, axis=1)
    wanted = lookup.short_hash("url", record(1234)["image_url"])

    def timed(search: Callable[[], object]) -> float:
        seconds = []
        for _ in range(6):
            began = time.monotonic()
            search()
            seconds.append(time.monotonic() - began)
        return round(statistics.median(seconds[1:]), 4)

    found: dict[str, Any] = {}
    path = folder / "rows.sqlite"
    began = time.monotonic()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE url (hash INTEGER, row INTEGER)")
        for column in hashes:
            for start in range(0, len(column), 1_000_000):
                part = column[start : start + 1_000_000].tolist()
                db.executemany("INSERT INTO url VALUES (?, ?)", zip(part, range(start, start + len(part)), strict=True))
        db.execute("CREATE INDEX by_hash ON url (hash, row)")
        db.commit()
        seconds = timed(lambda: db.execute("SELECT row FROM url WHERE hash = ?", [wanted]).fetchall())
    found["sqlite_rows"] = {
        "build_s": round(time.monotonic() - began, 1),
        "size_mb": round(path.stat().st_size / 1e6),
        "query_s": seconds,
    }
    path.unlink()
    try:
        import duckdb
    except ImportError:
        return found
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, began = folder / "url.parquet", time.monotonic()
    pq.write_table(pa.table({name: column for name, column in zip("abc", hashes, strict=True)}), path)
    built, size = round(time.monotonic() - began, 1), round(path.stat().st_size / 1e6)
    where = f"SELECT file_row_number FROM read_parquet('{path}', file_row_number = true) WHERE {wanted} IN (a, b, c)"
    seconds = timed(lambda: duckdb.sql(where).fetchall())
    found["duckdb_parquet"] = {"build_s": built, "size_mb": size, "query_s": seconds, "version": duckdb.__version__}
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=RECORDS, help="how many, real ones among them")
    parser.add_argument("--compare", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        folder.mkdir()
        for shard in range(REAL):
            real_shard(folder, shard, phash(picture()))
        image = Path(temporary) / "copy.jpg"
        picture().resize((300, 300)).save(image, quality=70)
        built = build(folder, given.records)
        known = record(1234)
        asked = {
            "url": ("--url", known["image_url"]), "sha256": ("--sha256", known["sha256"]), "key": ("--key", known["key"]),
            "near copy of an image": ("--image", str(image)), "not there": ("--url", "https://example.org/nowhere"),
        }  # fmt: skip
        result = {
            "benchmark": "tests/benchmarks/lookup.py", "date": time.strftime("%Y-%m-%d"), "machine": processor(),
            "cpus": os.cpu_count(), "records": given.records, "simulated": given.records - REAL * SHARD, "index": built,
            "lookups": {name: ask(folder, *arguments) for name, arguments in asked.items()},
            "start-up": ask(folder, "--help"),
            **({"compare": compare(folder)} if given.compare else {}),
            "versions": {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "numpy": np.__version__},
        }  # fmt: skip
        print(json.dumps(result))


if __name__ == "__main__":
    main()
