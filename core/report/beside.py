"""What lies beside a run's weights: its curves, scores and audit, as JSON without the places of its maker's machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson

from commonart.core.errors import CommonArtError
from commonart.core.report import shape

METRICS, EVALUATION, AUDIT = "metrics.jsonl", "eval.json", "mia.json"
CURVE = 500  # rows of each kind in metrics.jsonl that are kept


def last_step(run: Any) -> float:
    """Return the step that run.json names, which its newest checkpoint has; infinite where it names none."""
    compute = run.get("compute") if isinstance(run, dict) else None
    step = compute.get("step") if isinstance(compute, dict) else None
    return step if isinstance(step, int) else math.inf


def curves(path: Path, last: float = math.inf) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl up to step `last`, those of training and all others thinned to CURVE each.

    What a training that was killed wrote after its last checkpoint, or has not finished writing, is left out.
    """
    rows = list[dict[str, Any]]()
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        step = row.get("step") if isinstance(row, dict) else None
        rows += [row] if isinstance(step, int) and step <= last else []
    training = [number for number, row in enumerate(rows) if "loss" in row]
    others = [number for number, row in enumerate(rows) if "loss" not in row]  # few: scores, and the held-out loss
    return [rows[number] for number in sorted(_thin(training) + _thin(others))]


def _thin(numbers: list[int]) -> list[int]:
    if len(numbers) <= CURVE:
        return numbers
    return [numbers[place * (len(numbers) - 1) // (CURVE - 1)] for place in range(CURVE)]


def without_places(value: Any) -> Any:
    """Return JSON whose absolute paths are names alone: a card is published, and the folders of its maker's machine are private."""
    if isinstance(value, dict):
        return {name: without_places(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if isinstance(value, str) and value.startswith("/"):
        return ",".join(Path(part).name for part in value.split(","))
    return value


def file_in(run: Path | None, name: str) -> Path | None:
    """Return a file in a run's folder; None where there is none."""
    return run / name if run is not None and (run / name).is_file() else None


def evaluation(path: Path | None) -> dict[str, Any] | None:
    """Return the content of an eval.json. Raises as `json`, also where a score lacks what each has."""
    value = json(path)
    if value is None:
        return None
    if "scores" not in value:
        other = ", it is an audit: give it to --mia" if "verdict" in value else ": it has no scores"
        raise CommonArtError(f"{path} is not what commonart eval writes{other}.", "Name an eval.json.")
    scores = value["scores"]
    for score in scores if isinstance(scores, list) else [None]:
        by_clip = isinstance(score, dict) and score.get("metric") == "CLIP"
        needed = ("metric", "lang", "n", *(("mode", "judge") if by_clip else ()))
        if missing := [name for name in needed if not isinstance(score, dict) or name not in score]:
            raise CommonArtError(
                f"{path} is not what commonart eval writes: a score has no {', '.join(missing)}.", "Name an eval.json."
            )
    return value


def audit(path: Path | None) -> dict[str, Any] | None:
    """Return the content of a mia.json. Raises as `json`, also where it has no verdict, or holds what an audit does not."""
    value = json(path)
    if value is None:
        return None
    if not isinstance(value.get("verdict"), str):
        other = ", it holds scores: give it to --eval" if "scores" in value else ": it has no verdict"
        raise CommonArtError(f"{path} is not what commonart mia writes{other}.", "Name a mia.json.")
    if wrong := shape.wrong(value, shape.AUDIT):
        raise CommonArtError(f"{path} is not what commonart mia writes: {wrong[0]}.", "Name a mia.json.")
    return value


def json(path: Path | None) -> dict[str, Any] | None:
    """Return the content of an eval.json or mia.json. Raises CommonArtError where it is none."""
    if path is None:
        return None
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not JSON"
        raise CommonArtError(f"{path} cannot be read: {why}.", "Name what commonart eval or mia wrote.") from None
    if not isinstance(value, dict):
        raise CommonArtError(f"{path} is not what commonart eval or mia write.", "Name an eval.json or a mia.json.")
    return dict(without_places(value))
