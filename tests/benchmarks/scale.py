"""Memory and cost of the data commands from 10 thousand to 10 million generated records: `python tests/benchmarks/scale.py`.

Records are made while they are read, through a pipe, so that nothing but the command holds them. Each measurement is a process
of its own: its peak of resident memory, and its CPU seconds for a million records, start included. `fetch`: one small local
picture again and again into shards, which costs disk and is not taken to ten million; `shard` is in shard.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
from PIL import Image

COUNTS = (10_000, 1_000_000, 10_000_000)
BRINGS = (10_000, 100_000, 600_000)
AT_ONCE = 1000
URLS = ("https://creativecommons.org/licenses/by/2.0/", "https://creativecommons.org/publicdomain/zero/1.0/",
        "https://creativecommons.org/licenses/by-nc/2.0/")  # fmt: skip


def records(count: int) -> Iterator[bytes]:
    """Lines of JSON, as a source lists works."""
    caption = {"text": "an elephant in the tall grass", "lang": "en", "model": "blip2", "synthetic": True}
    for n in range(count):
        record = {"key": f"k{n:09d}", "source": "s", "source_id": str(n), "source_url": f"https://example.org/p/{n}",
                  "image_url": f"https://example.org/{n}.jpg", "title": f"photograph {n}", "author": f"author {n % 1000}",
                  "license_url": URLS[n % 3], "license_observed_at": "2026-11-01T00:00:00Z", "file_name": "a.png",
                  "sha256": f"{n * 2654435761 % 2**32:08x}" * 8, "captions": [caption]}  # fmt: skip
        if count in BRINGS:
            del record["sha256"]
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def rows(count: int) -> Iterator[bytes]:
    """Lines of a CSV of URLs."""
    yield b"url,licenseurl,title,photoid\n"
    for n in range(count):
        yield b"https://example.org/%d.jpg,%s,photograph %d,%d\n" % (n, URLS[n % 3].encode(), n, n)


def measured(command: list[str], lines: Iterator[bytes], count: int, folder: str, fifo: str = "") -> dict[str, object]:
    """Run one command over `lines` (on stdin, or through the named pipe that its SOURCE is)."""
    stdin = None if fifo else subprocess.PIPE
    with (
        open(os.devnull, "wb") as nowhere,
        subprocess.Popen(
            [sys.executable, "-m", "commonart.cli.main", *command], cwd=folder, stdin=stdin, stdout=nowhere
        ) as run,
    ):

        def feed() -> None:
            with open(f"{folder}/{fifo}", "wb") if fifo else run.stdin as out:  # type: ignore[union-attr]
                part: list[bytes] = []
                for line in lines:
                    part.append(line)
                    if len(part) == AT_ONCE:
                        out.write(b"".join(part))
                        part.clear()
                out.write(b"".join(part))

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed")
    cpu = used.ru_utime + used.ru_stime
    return {"records": count, "peak_mb": round(used.ru_maxrss / 1024, 1), "cpu_seconds": round(cpu, 1),
            "cpu_seconds_per_million": round(cpu / count * 1e6, 1)}  # fmt: skip


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="leave out what is larger")
    parser.add_argument("--only", default="", help="license-filter, list or fetch")
    given = parser.parse_args()
    found: dict[str, list[dict[str, object]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/list.csv")
        (Path(folder) / "images").mkdir()
        Image.new("RGB", (16, 16), "red").save(f"{folder}/images/a.png")
        work = (
            ("license-filter", COUNTS, ["license-filter", "-", "-q"], records, ""),
            ("list", COUNTS, ["fetch", "list.csv", "--list", "-q"], rows, "list.csv"),
            ("fetch", BRINGS, ["fetch", "-", "--images", "images", "--overwrite", "-o", "raw", "-q"], records, ""),
        )
        for name, counts, command, made, fifo in work:
            if given.only not in ("", name):
                continue
            for count in (count for count in counts if count <= given.most):
                found.setdefault(name, []).append(measured(command, made(count), count, folder, fifo))
                print(name, found[name][-1], file=sys.stderr)
    print(json.dumps({
        "benchmark": "tests/benchmarks/scale.py", "date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(),
        "machine": platform.machine(), "versions": {"python": platform.python_version(), "orjson": orjson.__version__},
        **found,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
