"""The page's parts on what came of it: training curves, scores, and the audit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from commonart.core.audit import page_names, page_text
from commonart.core.metrics import paper_table
from commonart.core.output import metadata, plot
from commonart.core.report import quantities
from commonart.core.report.facts import Facts
from commonart.core.report.page import charts, html, text
from commonart.core.report.page.text import Pair

LOSSES = ("loss", "training_loss", "heldout_loss")
FOLLOWED = ("color_en", "shape_en", "color_ja", "shape_ja")
INCHES = (4.6, 2.6)
DASHES = {"-": "none", "--": "6 3", "-.": "7 3 2 3", ":": "2 3"}
GRID = 1024  # pixels of the preview's longer side at most
HIGHER = ("CLIP", "precision", "recall", "questions")
Score = Mapping[str, Any]


def training(facts: Facts) -> str:
    """Return the part on the run's curves and its newest grid of samples."""
    if facts.run is None:
        return ""
    losses = _curve(facts.curves, LOSSES, text.LOSS, text.LOSS_UNIT)
    followed = _curve(facts.curves, FOLLOWED, text.FOLLOWED, text.FOLLOWED_UNIT, most=1)
    drawn = f'<div class="charts">{losses}{followed}</div>' if losses or followed else ""
    return html.section("training", text.SECTIONS["training"], drawn, _preview(facts.run_folder))


def _curve(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: Pair, unit: Pair, most: float | None = None
) -> str:
    """A chart of those fields of metrics.jsonl that are there; `most`: the end of its scale, else 1.05 of the largest value."""
    series = {n: [(float(r["step"]), float(r[n])) for r in rows if isinstance(r.get(n), int | float)] for n in names}
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return ""
    most = most or 1.05 * max(value for points in series.values() for _, value in points)
    svg = plot.lines(series, "", "", y_range=(0, most), inches=INCHES, legend=False)
    keys = ""
    if len(series) > 1:
        keys = f'<ul class="keys">{"".join(_key(number, name) for number, name in enumerate(series))}</ul>'
    ends = "; ".join(
        f"{text.SERIES[name][0]} / {text.SERIES[name][1]}: {points[0][1]:.3g} ({points[0][0]:,.0f}) → "
        f"{points[-1][1]:.3g} ({points[-1][0]:,.0f})" for name, points in series.items()
    )  # fmt: skip
    if len(series) == 1:
        svg = charts.colored(svg)
    return html.chart(svg, title, html.both(unit) + keys, f"{' / '.join(title)}: {ends}")


def _key(number: int, name: str) -> str:
    color, dash = plot.COLORS[number % len(plot.COLORS)], DASHES[plot.DASHES[number % len(plot.DASHES)]]
    line = f'<line x1="0" x2="32" y1="5" y2="5" stroke="{color}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
    return f'<li><svg viewBox="0 0 32 10" aria-hidden="true">{line}</svg>{html.both(text.SERIES[name])}</li>'


def _preview(run: Path | None) -> str:
    grids = sorted((run / "samples").glob("step-*.png")) if run is not None else []
    if not grids or not (number := grids[-1].stem.removeprefix("step-")).isdecimal():
        return ""
    path, step = grids[-1], f"{int(number):,}"
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:  # damaged, as a card that is verified may be
        return ""
    small.thumbnail((GRID, GRID), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80, method=4)
    prompts = "; ".join(map(str, (metadata.settings_of(path) or {}).get("prompts") or ()))
    alt = escape(text.PREVIEW_ALT.format(step=step, prompts=prompts))
    pixels = base64.b64encode(file.getvalue()).decode()
    size = f'width="{small.width}" height="{small.height}"'
    return (
        f"<figure>{html.both_heading(text.filled(text.PREVIEW, step=step), 3)}"
        f"<figcaption>{html.both(text.PREVIEW_UNIT)}</figcaption>"
        f'<img class="grid" src="data:image/webp;base64,{pixels}" {size} alt="{alt}"></figure>'
    )


def evaluation(facts: Facts) -> str:
    """Return the part on eval.json: every score with its interval, and the paper's table where ours may stand in it."""
    scores: list[Score] = list((facts.evaluation or {}).get("scores") or ())
    models = list(dict.fromkeys(str(score.get("model") or "") for score in scores))
    parts = []
    for model in models:
        own = [score for score in scores if str(score.get("model") or "") == model]
        parts += [_scores(model, own, named=len(models) > 1), _table_2(model, own)]
    return html.section("evaluation", text.SECTIONS["evaluation"], *parts)


def _scores(model: str, scores: Sequence[Score], named: bool) -> str:
    """One model's scores: a row for each measure, a column for each language of the prompts, a group for each kind of prompts."""
    langs = list(dict.fromkeys(str(score.get("lang") or "") for score in scores))
    groups: dict[str, dict[str, dict[str, str]]] = {}  # kind of prompts -> measure -> language -> cell
    counts: dict[str, dict[str, None]] = {}
    for score in scores:
        kind = str(score.get("set") or "")
        counts.setdefault(kind, {})[f"{score.get('n', 0):,}"] = None
        for name, cell in _score(score):
            groups.setdefault(kind, {}).setdefault(name, {})[str(score.get("lang") or "")] = cell
    rows = []
    for kind, measures in groups.items():
        said = text.filled(text.OF_IMAGES, kind=_prompts(kind, scores), count=", ".join(counts[kind]))
        rows.append(f'<tr class=group><th scope="colgroup" colspan="{len(langs) + 1}">{html.both(said)}</th></tr>')
        rows += [html.row(name, *(cells.get(lang, "—") for lang in langs)) for name, cells in measures.items()]
    heads = [html.both(text.METRIC), *(escape(charts.LANGUAGES.get(lang, lang)) or "—" for lang in langs)]
    about = {name: scores[0].get(name, "—") for name in ("steps", "guidance", "seed")}
    label = text.filled(text.SCORES, name=html.isolated(Path(model).name))
    told = html.both(text.SCORED, "p", "small soft", **about)
    if bounds := scores[0].get("guidance_interval"):
        told += html.both(text.GUIDED, "p", "small soft", low=bounds[0], high=bounds[1])
    caption = html.both(label) if named else ""
    return told + html.table(label, heads, rows, numbers=range(1, len(langs) + 1), caption=caption)


def _prompts(kind: str, scores: Sequence[Score]) -> Pair:
    """What the images of a kind of scores were made from."""
    if kind:
        return text.PROMPTS.get(kind, (kind,) * 2)
    split = str(next((score.get("split") for score in scores if not score.get("set")), None) or "")
    return text.SPLITS.get(split, text.SPLITS[""])


def _score(score: Score) -> Iterator[tuple[str, str]]:
    """Each measure of a score, and its cell; both are markup."""
    metric = str(score["metric"])
    if metric == "scenes":
        for fact, said in text.FACTS.items():
            if isinstance(score.get(fact), int | float):
                yield html.both(said), quantities.share(score[fact])
        return
    if not isinstance(score.get("value"), int | float):
        return
    better = text.HIGHER if metric in HIGHER else text.LOWER
    notes = (
        text.filled(text.JUDGED, better=better, judge=html.isolated(score["judge"])) if score.get("judge") else better
    )
    name = html.both(text.QUESTIONS) if metric == "questions" else escape(metric)
    digits = 4 if abs(score["value"]) < 1 else 2
    more = (
        [html.element("span", f"{score['low']:.{digits}f} – {score['high']:.{digits}f}", "whole")]
        if "low" in score
        else []
    )
    if isinstance(score.get("reference"), int | float):
        more.append(html.both(text.REAL, value=f"{score['reference']:.{digits}f}"))
    below = "".join(f'<span class="soft small">{each}</span>' for each in more)
    yield f'{name}<br><span class="soft small">{html.both(notes)}</span>', f"{score['value']:.{digits}f}{below}"


def _table_2(model: str, scores: Sequence[Score]) -> str:
    ours = paper_table.cells(scores)
    if not ours:
        return ""
    rows = [html.row(escape(name), *(f"{value:g}" for value in values)) for name, values in paper_table.ROWS]
    cells = (f"{ours[column]:.3g}" if column in ours else "—" for column in paper_table.COLUMNS)
    rows.append(html.row(html.bdi(Path(model).name), *cells, kind="ours"))
    counts = {int(score["n"]) for score in scores if score["metric"] in ("FID", "CLIP")} - {paper_table.PAIRS}
    note = text.TABLE_2_NOTE if counts else text.TABLE_2_SAME
    said = html.both(
        note, "p", "small soft", source=paper_table.SOURCE, count=", ".join(f"{count:,}" for count in sorted(counts))
    )
    heads = [html.both(text.MODEL_HEAD), *paper_table.COLUMNS]
    return html.table(text.TABLE_2, heads, rows, numbers=range(1, 5), caption=html.both(text.TABLE_2)) + said


def audit(facts: Facts) -> str:
    """Return the part on mia.json: the verdict in words, and the figures that it rests on."""
    found = facts.audit
    if not found or not found.get("verdict"):
        return ""
    attacks: dict[str, Any] = {**(found.get("attacks") or {}), "combined": found.get("combined")}
    attacks = {name: row for name, row in attacks.items() if row and row.get("auc")}
    said = [html.both(_verdict(found, str(found["verdict"])), "p", "lead")]
    if attacks:
        about = {name: f"{found.get(name) or 0:,}" for name in ("members", "heldout", "level")}
        called = _called(found)
        tested = text.filled(
            text.TESTED, attacks=len(attacks), called=(called["members"], called["members_ja"]), **about
        )
        said.append(html.both(tested, "p"))
    least = min((row["smallest_auc_found"] for row in attacks.values() if row.get("smallest_auc_found")), default=None)
    if least is not None and found["verdict"] == "no leak found":
        said.append(html.both(text.WOULD, "p", auc=f"{least:.2f}") if least < 1 else html.both(text.WOULD_NOT, "p"))
    if found.get("data_is_of_the_run") is False:
        said.append(html.both(text.NOT_OURS, "p"))
    return html.section("audit", text.SECTIONS["audit"], *said, _aucs(attacks, found), *_copies(found))


def _verdict(found: Mapping[str, Any], verdict: str) -> Pair:
    """What a verdict of an audit means, in its own words for the images in question."""
    return text.filled(page_text.VERDICTS.get(verdict, (verdict,) * 2), **_called(found))


def _called(found: Mapping[str, Any]) -> Mapping[str, str]:
    """What the images in question are called: with `mia --keys` they are no training images yet."""
    return page_names.TERMS[found.get("question", "training set") != "training set"]


def _aucs(attacks: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    rows = [(name, row["auc"], row.get("p_value")) for name, row in attacks.items()]
    blind = found.get("blind") or {}
    if blind.get("auc"):
        rows.append((" / ".join(text.BLIND), blind["auc"], blind.get("p_value")))
    if not rows:
        return ""
    shown = [
        (name, (auc["value"], auc["low"], auc["high"]), (f"{auc['value']:.2f}", "—" if p is None else f"{p:.3f}"))
        for name, auc, p in rows
    ]
    label = "; ".join(
        f"{name} {value:.2f} [{low:.2f}, {high:.2f}], p {cells[1]}" for name, (value, low, high), cells in shown
    )
    svg = charts.colored(plot.intervals(shown, 0.5))
    return html.chart(svg, text.AUC, html.both(text.AUC_UNIT), f"{' / '.join(text.AUC)}: {label}")


def _copies(found: Mapping[str, Any]) -> Iterator[str]:
    """What was made too like a training image, and what could be got out again; each with its verdict."""
    for name, numbers, fields in (
        ("replication", text.REPLICATION, ("copies", "generated")), ("extraction", text.EXTRACTION, ("captions",)),
    ):  # fmt: skip
        each = found.get(name) or {}
        if "verdict" in each and all(field in each for field in fields):
            counts = {field: f"{each[field]:,}" for field in fields}
            verdict = str(each["verdict"])
            about = {**_called(found), "level": found.get("level") or 0, "of": each.get("captions", 0)}
            said = text.filled(numbers, **counts)
            verdict_said = text.filled(page_text.PARTS.get(verdict, (verdict,) * 2), **about)
            yield html.both((f"{said[0]} {verdict_said[0]}", f"{said[1]}{verdict_said[1]}"), "p")
