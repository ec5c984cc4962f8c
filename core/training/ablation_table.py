"""What the trials of `commonart ablate` say: a table with intervals, and a chart."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from commonart.core.data.files import write_bytes, write_json
from commonart.core.output import plot
from commonart.core.training.ablation import Grid, Trial

LEVEL = 0.95  # of the intervals
# Of prompt following, in the table: name -> (scale, digits, unit); the others are in the JSON.
FOLLOWING = {"color": (100, 0, " %"), "shape": (100, 0, " %"), "clip": (1, 2, ""), "fd": (1, 3, "")}
LANGS = ("en", "ja")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high): Student's interval of LEVEL for the mean; NaN bounds of one value."""
    mean, n = fmean(values), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def summarize(grid: Grid, trials: Iterable[Trial]) -> dict[str, Any]:
    """Return the result as ablation.json has it: of each arm its trials, and mean and interval of each score."""
    by_arm: dict[str, list[Trial]] = {arm.name: [] for arm in grid.arms}
    for trial in trials:
        by_arm[trial.arm].append(trial)
    rows = []
    for arm in grid.arms:
        done = sorted(by_arm[arm.name], key=lambda trial: trial.seed)
        good = [trial for trial in done if not trial.failed]
        scores = {}
        for name in dict.fromkeys(name for trial in good for name in trial.scores()):
            values = [trial.scores()[name] for trial in good if name in trial.scores()]
            mean, low, high = interval(values)
            scores[name] = {"mean": mean, "low": low, "high": high, "n": len(values)}
        rows.append({
            "arm": arm.name, "set": dict(arm.overrides), "seeds": [trial.seed for trial in good],
            "failed": {str(trial.seed): trial.failed for trial in done if trial.failed},
            "steps": fmean(trial.steps for trial in good) if good else None,
            "seconds": fmean(trial.seconds for trial in good) if good else None,
            "scores": scores, "trials": [asdict(trial) for trial in done],
        })  # fmt: skip
    return {
        "schema": 1, "recipe": grid.recipe, "budget": grid.budget, "seeds": list(grid.seeds),
        "images": grid.images, "clip": grid.clip, "interval": f"{LEVEL:.0%}, Student's t over the seeds", "arms": rows,
    }  # fmt: skip


def table(result: Mapping[str, Any], markdown: bool = False) -> str:
    """Return a result as text, or as a table of Markdown."""
    columns = {f"{score}_{lang}": form for score, form in FOLLOWING.items() for lang in LANGS}
    columns = {name: form for name, form in columns.items() if any(name in row["scores"] for row in result["arms"])}
    titles = [re.sub("^(clip|fd) ", lambda match: match[0].upper(), name.replace("_", " ")) for name in columns]
    columns = {"heldout_loss": (1, 4, ""), "gap": (1, 4, ""), **columns}
    head = ["arm", "seeds", "steps", "seconds", "held-out loss", "gap", *titles]
    rows = [head]
    for row in result["arms"]:
        failed = f", {len(row['failed'])} failed" if row["failed"] else ""
        seeds = f"{len(row['seeds'])} of {len(result['seeds'])}{failed}"
        steps, seconds = (f"{row[name]:,.0f}" if _finite(row[name]) else "-" for name in ("steps", "seconds"))
        cells = (_cell(row["scores"].get(name), len(row["seeds"]), *form) for name, form in columns.items())
        rows.append([row["arm"], seeds, steps, seconds, *cells])
    if markdown:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _cell(score: Mapping[str, float] | None, seeds: int, scale: float, digits: int, unit: str) -> str:
    if score is None:
        return "-"
    half = (score["high"] - score["mean"]) * scale
    fewer = f" (of {score['n']})" if score["n"] < seeds else ""
    return f"{score['mean'] * scale:.{digits}f}" + (f" ± {half:.{digits}f}" if _finite(half) else "") + unit + fewer


def chart(result: Mapping[str, Any]) -> str:
    """Return the held-out loss of each arm over seconds of training, mean over its seeds, as SVG; "" without any."""
    series = {}
    for row in result["arms"]:
        curves = [trial["curve"] for trial in row["trials"] if not trial["failed"]]
        fewest = min((len(curve) for curve in curves), default=0)
        if fewest:
            points = zip(*(curve[-fewest:] for curve in curves), strict=True)
            series[row["arm"]] = [(fmean(x for x, _ in each), fmean(y for _, y in each)) for each in points]
    return plot.lines(series, "seconds of training", "held-out loss", y_range=None) if series else ""


def write(result: Mapping[str, Any], folder: Path) -> None:
    """Write ablation.json, ablation.md and ablation.svg."""
    write_json(folder / "ablation.json", result)
    by = (
        f"; CLIP score and Fréchet distance of {result['images']:,} images by {result['clip']}"
        if result["images"]
        else ""
    )
    lines = [
        f"Recipe {result['recipe']}, {_budget(result)} a trial{by}; ± is {result['interval']}.",
        "",
        table(result, True),
        "",
    ]
    if svg := chart(result):
        write_bytes(folder / "ablation.svg", svg.encode())
        lines += ["![held-out loss over seconds](ablation.svg)", ""]
    write_bytes(folder / "ablation.md", "\n".join(lines).encode())


def _budget(result: Mapping[str, Any]) -> str:
    ((name, value),) = result["budget"].items()
    return f"{value:g} {name}"
