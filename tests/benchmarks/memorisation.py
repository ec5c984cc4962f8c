"""Does the paper's mitigation work, several synthetic captions for an image instead of one?

`python tests/benchmarks/memorisation.py -o memorisation/ --budget 3600`: nano models trained from nothing on the same
scenes, with everything equal but the captions (one or two an image, synthetic or the grammar's own), the objective, or the
times of training; audited by `mia`. Each arm has several seeds; the intervals are Student's over them. The same command goes
on where the budget, or a kill, ended it, and prints the summary of what is finished.

`--neighbours` measures the exact search for nearest neighbours and extrapolates it to 25 million images instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson
import torch
from machine import processor
from scipy import stats

from commonart.cli.main import run
from commonart.core.data.record import split_of_record
from commonart.core.data.stream import read
from commonart.core.model import diffusion
from commonart.core.model.times import TimeLaw

# arm -> (captions: by whom, how many an image), objective, times of flow
ARMS = {
    "synthetic-1": (("synthetic", 1), "flow", "logit-normal"),
    "synthetic-2": (("synthetic", 2), "flow", "logit-normal"),
    "grammar-1": (("grammar", 1), "flow", "logit-normal"),
    "grammar-2": (("grammar", 2), "flow", "logit-normal"),
    "eps": (("synthetic", 2), "eps", "uniform"),
    "u-shaped": (("synthetic", 2), "flow", "u-shaped"),
}
# A small model and AdamW, as quickstart trained when the table was measured.
SMALL = (
    "patch=4", "layers=3", "heads=4", "lr=3e-3", "warmup=50", "optimizer=AdamW", "batch=64", "micro_batch=64", "weight_decay=0.01",
)  # fmt: skip


def u_shaped(
    count: int, objective: str, generator: torch.Generator | None = None, law: TimeLaw | None = None
) -> torch.Tensor:
    """Times of the arcsine law, sin^2(pi u / 2): dense at both ends, thin where logit-normal ones dwell."""
    assert objective == "flow"
    u = torch.rand(count, generator=generator, device=None if generator is None else generator.device)
    return torch.sin(torch.pi / 2 * u).square()


def command(*arguments: str) -> None:
    """Run `commonart ...`, its records and tables kept from our stdout; stop where it fails."""
    with contextlib.redirect_stdout(sys.stderr):
        code = run([*arguments, "-q"])
    if code:
        raise SystemExit(f"commonart {' '.join(arguments)} ended with {code}")


def data(out: Path, captions: tuple[str, int], scenes: int, members: int) -> Path:
    """The same scenes with the captions of an arm, as shards with their features: `members` to train on, all held-out ones."""
    kind, count = captions
    folder = out / f"data-{kind}-{count}"
    shards, listed = folder / "shards", folder / "records.jsonl"
    if (folder / "done").exists():
        return shards
    raw, source, chosen = (out / name for name in (f"raw-{kind}", f"kept-{kind}.jsonl", f"chosen-{kind}.jsonl"))
    command("fetch", "scenes", "--limit", str(scenes), "-o", str(raw), *(["--bare"] if kind == "synthetic" else []))
    command("license-filter", str(raw), "--policy", "strict", "-o", str(source), "--overwrite")
    left = members
    with chosen.open("wb") as lines:  # few members are memorised soon, and many held-out images make intervals narrow
        for record in read(str(source)):
            held = split_of_record(record) == "heldout"
            if held or left > 0:
                left -= not held
                lines.write(orjson.dumps({**record, "image": str(Path(record["image"]).absolute())}) + b"\n")
    if kind == "synthetic":
        source, chosen = chosen, out / "captioned.jsonl"
        command("caption", str(source), "--model", "nano,nano-ja", "--batch", "64", "-o", str(chosen), "--overwrite")
    folder.mkdir(exist_ok=True)
    listed.write_bytes(
        b"".join(orjson.dumps({**r, "captions": r["captions"][:count]}) + b"\n" for r in read(str(chosen)))
    )
    command("shard", str(listed), "-o", str(shards), "--size", "64", "--overwrite")
    command("encode-text", str(shards), "--model", "nano", "--batch", "128")
    command("encode-image", str(shards), "--model", "nano", "--batch", "64")
    (folder / "done").touch()
    return shards


def trial(out: Path, arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Train and audit one seed of one arm; return its mia.json."""
    captions, objective, times = ARMS[arm]
    folder, shards = out / f"{arm}-{seed}", data(out, captions, options.scenes, options.members)
    found = folder / "mia.json"
    if not found.exists():
        chosen = (*SMALL, f"objective={objective}", f"steps={options.steps}")
        sets = [part for value in chosen for part in ("--set", value)]
        drawn = patch.object(diffusion, "draw_times", u_shaped) if times == "u-shaped" else contextlib.nullcontext()
        with drawn:
            command(
                "train", "--stage", "nano", *sets, "--data", str(shards), "-o", str(folder / "run"), "--seed", str(seed)
            )
        command(  # without a reference model: the arms are compared with each other, on the same images
            "mia", str(folder / "run"), "--data", str(shards), "-n", str(options.images), "--replicate",
            str(options.replicate), "--extract", str(options.extract), "--seed", str(seed), "-o", str(found),
        )  # fmt: skip
    return found


def measures(found_at: Path) -> dict[str, float]:
    """Memorisation by every measure of one audit, and the loss while it was trained."""
    result = json.loads(found_at.read_text())
    rows = {name: row.get("target", row)["auc"]["value"] for name, row in result["attacks"].items()}
    replication, prompts, extraction = (result[name] for name in ("replication", "memorised_prompts", "extraction"))
    found = {f"auc of {name}": value for name, value in rows.items()} | {
        "auc combined": result["combined"]["auc"]["value"],
        "replication beyond the control": replication["above_background"]["value"]
        - replication["control"]["above_background"]["value"],
        "similarity to the own image": replication["to_own_image"]["mean"],
    }
    if prompts:
        found |= {"prompts flagged": prompts["flagged"]["value"], "auc of prompts": prompts["auc"]["value"]}
    if extraction:
        found["extracted"] = extraction["extracted"]["value"]
    for line in (found_at.parent / "run" / "metrics.jsonl").read_text().splitlines():  # the last of them stays
        if "heldout_loss" in (row := json.loads(line)):
            found |= {"held-out loss": row["heldout_loss"], "training minus held-out loss": row["gap"]}
    return found


def over_seeds(values: list[float]) -> dict[str, float | None]:
    """The mean and Student's 95 % interval, which one seed does not have."""
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else None
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def summary(finished: dict[str, list[dict[str, float]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm with its seeds and measures."""
    for arm, rows in finished.items():
        names = dict.fromkeys(name for row in rows for name in row)
        yield arm, {"seeds": len(rows), **{n: over_seeds([row[n] for row in rows if n in row]) for n in names}}


def neighbours(images: int, width: int = 512) -> dict[str, Any]:
    """Time the exact search on a part, and estimate it for `images` training images: 1,000 queries, and the background."""
    from commonart.core.audit.neighbours import nearest
    from commonart.core.audit.replication import BACKGROUND

    base = np.random.default_rng(0).normal(size=(131_072, width)).astype(np.float32)
    started = time.perf_counter()
    nearest(base[:1024], base)
    rate = 1024 * len(base) / (time.perf_counter() - started)  # pairs per second
    return {
        "measured": {"images": len(base), "queries": 1024, "width": width, "pairs_per_second": round(rate)},
        "estimate": {
            "images": images, "features_float32_gb": images * width * 4 / 1e9, "block_mb": 1024 * 65_536 * 4 / 1e6,
            "hours_of_1000_queries": 1000 * images / rate / 3600,
            "hours_of_the_background": 2 * BACKGROUND * images / rate / 3600,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("memorisation"))
    parser.add_argument("--budget", type=float, default=3600, help="seconds; no trial starts after them")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    numbers = {
        "seeds": 3, "scenes": 4000, "members": 1000, "steps": 800, "images": 150, "replicate": 100, "extract": 10,
    }  # fmt: skip
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--neighbours", action="store_true")
    options = parser.parse_args()
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "neighbours", "budget")}
    result: dict[str, Any] = {"date": str(date.today()), "machine": processor(), "torch": torch.__version__}
    if options.neighbours:
        print(json.dumps({**result, **neighbours(25_000_000)}, indent=2))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    kept = {name: settings[name] for name in ("scenes", "members", "steps", "images", "replicate", "extract")}
    chosen = options.out / "settings.json"
    if chosen.exists() and json.loads(chosen.read_text()) != kept:
        raise SystemExit(f"{options.out} was begun with {chosen.read_text()}; name another -o.")
    chosen.write_text(json.dumps(kept))
    ends, finished = time.monotonic() + options.budget, dict[str, list[dict[str, float]]]()
    for seed in range(options.seeds):  # every arm once, then again: a short budget compares all of them
        for arm in options.arms:
            if (options.out / f"{arm}-{seed}" / "mia.json").exists() or time.monotonic() < ends:
                finished.setdefault(arm, []).append(measures(trial(options.out, arm, seed, options)))
    print(json.dumps({**result, "settings": settings, "arms": dict(summary(finished))}, indent=2))


if __name__ == "__main__":
    main()
