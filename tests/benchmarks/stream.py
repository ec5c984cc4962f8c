"""Records per second through the data plane on one core: `python tests/benchmarks/stream.py`.

A pass-through and license-filter over 200,000 full records (0.9 kB each), file to /dev/null. CPU seconds are counted, which
other work on the machine stretches less than the clock; the best of three is told.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from commonart.core.data import stream
from commonart.stages import license_filter

COUNT, ROUNDS = 200_000, 3
RECORD = {
    "image": "raw/00000.tar#coco2017_000000397133.jpg", "source": "coco2017", "source_id": "397133",
    "source_url": "https://example.org/page", "image_url": "https://example.org/image.jpg", "title": "", "author": "",
    "author_url": "", "license": "CC-BY-2.0", "license_url": "http://creativecommons.org/licenses/by/2.0/",
    "license_raw": "Attribution License", "license_basis": "licence", "license_observed_at": "2026-11-22T00:00:00Z",
    "opt_out": [], "width": 640, "height": 427, "mime": "image/jpeg", "sha256": "1" * 64, "phash": "0" * 16,
    "split": "train",
    "captions": [{"text": "an elephant in the grass", "lang": "en", "model": "florence2", "synthetic": True}],
}  # fmt: skip


def rate(run: Callable[[], object]) -> float:
    """Records per CPU second, the best of ROUNDS."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return round(COUNT / best)


def main() -> None:
    """Print one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        source = str(Path(folder) / "in.jsonl")
        with open(source, "wb") as file:
            for i in range(COUNT):
                file.write(orjson.dumps({"key": f"k{i}", **RECORD}, option=orjson.OPT_APPEND_NEWLINE))
        lines = Path(source).read_bytes().splitlines()
        keep = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            found = {
                "orjson alone": rate(lambda: [orjson.dumps(orjson.loads(line)) and None for line in lines]),
                "pass-through": rate(lambda: stream.run("pass", lambda rs, drop: (r for r in rs), source=source)),
                "license-filter": rate(lambda: license_filter.run(source)),
            }
        finally:
            os.dup2(keep, 1)
    print(
        json.dumps(
            {"records_per_cpu_second": found, "python": platform.python_version(), "machine": platform.machine()}
        )
    )


if __name__ == "__main__":
    main()
