"""The reference system's table 2, and where a score of ours may stand in it.

Source: CommonArt beta, doi 10.51094/jxiv.936, table 2: 30,000 random pairs of COCO 2017 train, and of STAIR Captions
for the Japanese columns; CLIP score with w = 100 by ViT-B/32, in Japanese by clip-japanese-base. The paper states
neither how its FID resizes images nor the resolution of the reference; eval.json states both of ours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SOURCE = "doi 10.51094/jxiv.936, table 2"
COLUMNS = ("FID-30k", "CLIP", "ja FID-30k", "ja CLIP")
ROWS: tuple[tuple[str, tuple[float, float, float, float]], ...] = (
    ("Stable Diffusion 2.1 base", (15.6, 31.3, 74.2, 15.2)),
    ("Japanese Stable Diffusion", (56.2, 18.6, 19.5, 30.9)),
    ("CommonCanvas-S-C", (9.39, 31.3, 177.0, 11.7)),
    ("CommonArt beta", (22.8, 26.8, 19.4, 29.4)),
)
# Names of the registry -> the rows that the paper has for them.
MODELS = {
    "sd2.1-base": "Stable Diffusion 2.1 base", "japanese-stable-diffusion": "Japanese Stable Diffusion",
    "common-canvas-s-c": "CommonCanvas-S-C", "commonart-beta": "CommonArt beta",
}  # fmt: skip
PAIRS = 30_000
CLIP_MODELS = {"en": "clip-vit-b32", "ja": "clip-japanese-base"}
FORMATS = ("text", "markdown", "latex")
Score = Mapping[str, Any]


def cells(scores: Sequence[Score]) -> dict[str, float]:
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


def table(name: str, scores: Sequence[Score]) -> str:
    """Return table 2 with our row, in Markdown; "" when none of our scores is one of its metrics.

    "FID-30k" is what the paper measured; where ours is of another number of images, its cell says so.
    """
    ours = cells(scores)
    if not ours:
        return ""
    counts = {int(score["n"]) for score in scores if score["metric"] in ("FID", "CLIP")}
    other_counts = counts - {PAIRS}
    lines = [f"| model | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {model} | {' | '.join(f'{value:g}' for value in values)} |" for model, values in ROWS]
    mark = f" (FID-{min(other_counts):,})" if other_counts else ""
    row = [f"{ours[c]:.3g}{mark if 'FID' in c else ''}" if c in ours else "-" for c in COLUMNS]
    lines.append(f"| **{name}** | {' | '.join(row)} |")
    if other_counts:
        said = ", ".join(f"{n:,}" for n in sorted(other_counts))
        lines.append(f"\nOur row was measured on {said} pairs, not on {PAIRS:,}; its FID cannot be compared.")
    return "\n".join(lines)


class Grid(NamedTuple):
    """A table in words: two cells a column, ours and the paper's."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    notes: list[str]


def protocol_table(result: Mapping[str, Any], form: str = "text") -> str:
    """Return every model of a protocol's result beside the paper's values, as text, Markdown or LaTeX.

    Args:
        result: the content of eval.json, with a "protocol".
        form: one of FORMATS.
    """
    return {"text": _text, "markdown": _markdown, "latex": _latex}[form](_grid(result))


def _grid(result: Mapping[str, Any]) -> Grid:
    protocol = result["protocol"]
    measured = {(s["model"], s["lang"]) for s in result["scores"] if s["metric"] == "FID"}
    # Where FID was measured, a distance on other features does not stand in its column.
    scores = [
        s for s in result["scores"] if not (s["metric"].startswith("FD-") and (s["model"], s["lang"]) in measured)
    ]
    paper = dict(ROWS) if protocol["name"] == "paper" else {}
    places = [(lang, kind) for lang in protocol["langs"] for kind in ("distance", "CLIP")]
    first = {place: next((s for s in scores if _is(s, *place)), None) for place in places}
    columns = [_heading(first[place], *place) for place in places]
    rows = []
    names = list(dict.fromkeys(score["model"] for score in scores))
    for name in names:
        own = [score for score in scores if score["model"] == name]
        theirs = paper.pop(MODELS.get(name, ""), ()) or ("",) * len(places)
        pairs = []
        for place, value in zip(places, theirs, strict=True):
            score = next((s for s in own if _is(s, *place)), None)
            pairs.append((_value(score), f"{value:g}" if value != "" else "-"))
        rows.append((name, pairs))
    rows += [(name, [("-", f"{value:g}") for value in values]) for name, values in paper.items()]
    notes = []
    if paper or any(MODELS.get(name) for name in names):
        notes.append(f"paper: the paper's own values ({SOURCE}; FID-30k, CLIP by its two judges), not measured here.")
    judged = {(s["judge"], s.get("mode")) for s in scores if s["metric"] == "CLIP"}
    if any(judge not in CLIP_MODELS.values() for judge, _ in judged) or not any(s["metric"] == "FID" for s in scores):
        notes.append(
            "ours: by other judges than the paper's, as the columns say; they cannot be compared with its values."
        )
    counts = sorted({int(score["n"]) for score in scores if score["metric"] != "questions"})
    if counts != [protocol["n"]] and protocol["name"] == "paper":
        said = ", ".join(f"{n:,}" for n in counts)
        notes.append(
            f"ours: of {said} pairs, not {protocol['n']:,}; a distance of so few cannot be compared with FID-30k."
        )
    notes += [_choices(name, [s for s in scores if s["model"] == name]) for name in names]
    return Grid(columns, rows, notes)


def _is(score: Score, lang: str, kind: str) -> bool:
    if score["lang"] != lang or score.get("set", "unseen") != "unseen":
        return False
    if kind == "CLIP":
        return bool(score["metric"] == "CLIP")
    return bool(score["metric"] == "FID" or score["metric"].startswith("FD-"))


def _heading(score: Score | None, lang: str, kind: str) -> str:
    prefix = "" if lang == "en" else f"{lang} "
    if score is None:
        return f"{prefix}{'CLIP' if kind == 'CLIP' else 'FID'}"
    if kind == "CLIP":
        plain = score["judge"] == CLIP_MODELS.get(lang) and score["mode"] == "paper"
        return f"{prefix}CLIP" if plain else f"{prefix}CLIP ({score['judge']})"
    n = int(score["n"])
    return f"{prefix}{score['metric']}-30k" if n == PAIRS else f"{prefix}{score['metric']}, n {n:,}"


def _value(score: Score | None) -> str:
    if score is None:
        return "-"
    half = f" ± {max(score['high'] - score['value'], score['value'] - score['low']):.2f}" if "low" in score else ""
    return f"{score['value']:.2f}{half}"


def _choices(name: str, scores: Sequence[Score]) -> str:
    """All that the scores of one model depend on, in one sentence."""
    score = scores[0]
    parts = [f"{name} at {str(score['revision'])[:20]}", f"n {score['n']:,}", f"seed {score['seed']}"]
    levels = " at noise levels {:g} to {:g}".format(*score["guidance_interval"]) if "guidance_interval" in score else ""
    parts += [f"{score['steps']} steps", f"guidance {score['guidance']:g}{levels}", str(score["precision"])]
    parts += [f"split {score.get('split') or 'any'}", f"images {score['resolution']}"]
    parts += [f"reference {score.get('reference_resolution', '-')}"]
    parts += [f"both cut to {score['scaled_to']}" if score.get("scaled_to") else "neither scaled first"]
    modes = sorted({str(s["mode"]) for s in scores if s["metric"] == "FID"})
    parts += [f"FID {', '.join(modes)}"] if modes else []
    versions = score["versions"]
    return (
        ", ".join([*parts, *(f"{package} {versions[package]}" for package in ("torch", "diffusers", "clean-fid"))])
        + "."
    )


def _text(grid: Grid) -> str:
    heads = [cell for column in grid.columns for cell in (column, "paper")]
    lines = [["model", *heads]] + [[name, *(cell for pair in pairs for cell in pair)] for name, pairs in grid.rows]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(heads) + 1)]
    out = [
        "  ".join(
            cell + " " * (width - _width(cell)) if i == 0 else " " * (width - _width(cell)) + cell
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*out, "", *grid.notes])


def _markdown(grid: Grid) -> str:
    heads = [cell for column in grid.columns for cell in (column, "*paper*")]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{ours} | *{paper}*' for ours, paper in pairs)} |" for name, pairs in grid.rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in grid.notes)])


def _latex(grid: Grid) -> str:
    heads = [cell for column in grid.columns for cell in (_escape(column), r"\emph{paper}")]
    lines = [
        r"\begin{tabular}{l" + "rr" * len(grid.columns) + "}",
        r"\hline",
        " & ".join(["model", *heads]) + r" \\",
        r"\hline",
    ]
    for name, pairs in grid.rows:
        cells = [cell for ours, paper in pairs for cell in (_math(ours), rf"\emph{{{_math(paper)}}}")]
        lines.append(" & ".join([_escape(name), *cells]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", *(f"% {note}" for note in grid.notes)])


def _math(cell: str) -> str:
    return "--" if cell == "-" else "$" + cell.replace("±", r"\pm") + "$" if "±" in cell else cell


def _escape(text: str) -> str:
    for character in r"&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
