"""Records per second of license-filter on one core: `python tests/benchmarks/license_filter.py`.

The stage by itself (records that are in memory already), with a blocklist of 100,000 URLs, and the whole command over
200,000 full records (0.9 kB each) of several sources and licences, file to /dev/null; the normaliser over texts that it
has not seen. CPU seconds are counted, which other work on the machine stretches less than the clock; the best of five is
told.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data import stream
from commonart.core.data.blocklist import read_blocklist
from commonart.core.data.drops import Drop
from commonart.core.data.record import split_of
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.policies import load_policy
from commonart.stages import license_filter

COUNT, ROUNDS, TEXTS, BLOCKED = 200_000, 5, 20_000, 100_000
SAID = (
    ("coco2017", "http://creativecommons.org/licenses/by/2.0/", "Attribution License", "CC-BY-2.0"),
    ("coco2017", "http://creativecommons.org/licenses/by-nc/2.0/", "Attribution-NonCommercial License", "CC-BY-NC-2.0"),
    ("megalith-10m", "https://creativecommons.org/publicdomain/zero/1.0/", "Public Domain Dedication (CC0)", "CC0-1.0"),
    ("commoncatalog-cc-by", "https://creativecommons.org/licenses/by/2.0/", "Attribution License", "CC-BY-2.0"),
)


def record(number: int) -> dict[str, Any]:
    """A full record, as a source writes it; every fifth is under a licence that is refused."""
    source, url, raw, license = SAID[(number % 5) % len(SAID) if number % 5 != 4 else 0]
    sha256 = f"{number * 2654435761 % 2**32:08x}" * 8
    return {
        "key": f"k{number}", "image": "raw/00000.tar#coco2017_000000397133.jpg", "source": source, "source_id": "397133",
        "source_url": f"https://example.org/page/{number}", "image_url": f"https://example.org/{number}.jpg", "title": "",
        "author": "", "author_url": "", "license": license, "license_url": url, "license_raw": raw,
        "license_basis": "licence", "license_observed_at": "2026-11-22T00:00:00Z", "opt_out": [], "width": 640,
        "height": 427, "mime": "image/jpeg", "sha256": sha256, "phash": "0" * 16, "split": split_of(sha256),
        "captions": [{"text": "an elephant in the grass", "lang": "en", "model": "florence2", "synthetic": True}],
    }  # fmt: skip


def rate(run: Callable[[], object], count: int = COUNT) -> int:
    """Records per CPU second, the best of ROUNDS."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return round(count / best)


def main() -> None:
    """Print one JSON object."""
    strict = load_policy("strict")
    records = [record(number) for number in range(COUNT)]
    texts = iter([f"Creative Commons Attribution-ShareAlike {n}.0 International" for n in range(TEXTS * ROUNDS)])
    with tempfile.TemporaryDirectory() as folder:
        source, blocked = str(Path(folder) / "in.jsonl"), str(Path(folder) / "blocked.txt")
        with open(source, "wb") as file:
            file.writelines(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in records)
        Path(blocked).write_text("\n".join(f"https://example.org/blocked/{n}.jpg" for n in range(BLOCKED)))
        blocklist = read_blocklist(blocked)

        def stage(**options: Any) -> None:
            for _ in license_filter.license_filter(records, Drop(), license_filter.Criteria(strict, **options)):
                pass

        keep = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            found = {
                "the stage by itself": rate(stage),
                "the stage with a blocklist": rate(lambda: stage(blocklist=blocklist)),
                "pass-through": rate(lambda: stream.run("pass", lambda rs, drop: (r for r in rs), source=source)),
                "license-filter": rate(lambda: license_filter.run(source)),
                "normalise, new texts": rate(lambda: [normalize(next(texts)) for _ in range(TEXTS)], TEXTS),
            }
        finally:
            os.dup2(keep, 1)
    versions = {"python": platform.python_version(), "orjson": version("orjson")}
    print(json.dumps({"benchmark": "tests/benchmarks/license_filter.py", "per_cpu_second": found, **versions}))


if __name__ == "__main__":
    main()
