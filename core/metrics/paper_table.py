"""The reference system's table 2, and where a score of ours may stand in it.

Source: CommonArt beta, doi 10.51094/jxiv.936, table 2: 30,000 random pairs of COCO 2017 train, and of STAIR Captions
for the Japanese columns; CLIP score with w = 100 by ViT-B/32, in Japanese by clip-japanese-base. The paper states
neither how its FID resizes images nor the resolution of the reference; eval.json states both of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("FID-30k", "CLIP", "ja FID-30k", "ja CLIP")
ROWS: tuple[tuple[str, tuple[float, float, float, float]], ...] = (
    ("Stable Diffusion 2.1 base", (15.6, 31.3, 74.2, 15.2)),
    ("Japanese Stable Diffusion", (56.2, 18.6, 19.5, 30.9)),
    ("CommonCanvas-S-C", (9.39, 31.3, 177.0, 11.7)),
    ("CommonArt beta", (22.8, 26.8, 19.4, 29.4)),
)
PAIRS = 30_000
CLIP_MODELS = {"en": "clip-vit-b32", "ja": "clip-japanese-base"}


def cells(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the columns that our scores may fill: the paper's metric by the paper's model, in the right language."""
    columns: dict[str, float] = {}
    for score in scores:
        lang = score.get("lang")
        if lang not in CLIP_MODELS:
            continue
        prefix = "" if lang == "en" else "ja "
        if score["metric"] == "FID":
            columns.setdefault(f"{prefix}FID-30k", float(score["value"]))
        if score["metric"] == "CLIP" and score["mode"] == "paper" and score["judge"] == CLIP_MODELS[lang]:
            columns.setdefault(f"{prefix}CLIP", float(score["value"]))
    return columns


def table(name: str, scores: Sequence[Mapping[str, Any]]) -> str:
    """Return table 2 with our row, in Markdown; "" when none of our scores is one of its metrics."""
    ours = cells(scores)
    if not ours:
        return ""
    other_counts = {int(score["n"]) for score in scores if score["metric"] in ("FID", "CLIP")} - {PAIRS}
    lines = [f"| model | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {model} | {' | '.join(f'{value:g}' for value in values)} |" for model, values in ROWS]
    row = [f"{ours[column]:.3g}" if column in ours else "-" for column in COLUMNS]
    lines.append(f"| **{name}** | {' | '.join(row)} |")
    if other_counts:
        counts = ", ".join(f"{n:,}" for n in sorted(other_counts))
        lines.append(f"\nOur row was measured on {counts} pairs, not on {PAIRS:,}; its FID cannot be compared.")
    return "\n".join(lines)
