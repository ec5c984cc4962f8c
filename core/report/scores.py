"""What eval.json and mia.json say, as rows for a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.report.facts import Facts

HELD_OUT, TRAINED = "held-out captions", "captions of training images"
CAPTIONS = {"heldout": HELD_OUT, "train": TRAINED}  # by the split of eval.json
SCENES = {
    "color": "colour right", "shape": "shape right", "background": "background right", "place": "place right",
    "all": "colour, shape, background and place right", "size": "size right",
}  # fmt: skip


class Row(NamedTuple):
    """One score of the model."""

    metric: str
    lang: str
    prompts: str  # which prompts: whose captions, or the name of a set
    value: float
    low: float | None  # 95 % interval
    high: float | None
    images: int
    judge: str
    reference: float | None = None  # the same measure of the true images


def rows(facts: Facts) -> list[Row]:
    """Return the scores of the run's model: those of eval.json, which may compare several."""
    return [] if facts.evaluation is None else list(_rows(facts.evaluation, facts.name))


def _rows(evaluation: Mapping[str, Any], name: str) -> Iterator[Row]:
    scores = [score for score in evaluation.get("scores") or () if isinstance(score, dict)]
    models = {str(score.get("model") or "") for score in scores}
    for score in scores:
        if len(models) > 1 and Path(str(score.get("model") or "")).name != name:
            continue
        about = (
            str(score.get("lang") or ""),
            str(score.get("set") or CAPTIONS.get(str(score.get("split")), "captions")),
        )
        judge = str(score.get("judge") or score.get("mode") or "")
        if score.get("metric") == "scenes":
            for key, title in SCENES.items():
                if key in score:
                    yield Row(title, *about, float(score[key]), None, None, int(score["n"]), "pixels")
        elif isinstance(score.get("value"), int | float):
            bounds = score.get("low"), score.get("high")
            real = float(score["reference"]) if isinstance(score.get("reference"), int | float) else None
            yield Row(
                str(score["metric"]), *about, float(score["value"]), *bounds, int(score.get("n") or 0), judge, real
            )


def number(value: float) -> str:
    """Return a score with four digits."""
    return f"{value:.4g}"


def interval(row: Row) -> str:
    """Return the bounds of a score, or ""."""
    return "" if row.low is None or row.high is None else f"{number(row.low)} – {number(row.high)}"
