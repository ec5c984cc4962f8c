"""The page's first parts: what this is in three sentences, what it was trained on, and how that became of what was fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson

from commonart.core.licenses.table import known_licenses
from commonart.core.report import quantities
from commonart.core.report.facts import Facts
from commonart.core.report.markdown import license_name
from commonart.core.report.page import charts, html, reasons, text
from commonart.core.report.page.text import Pair

NAMED = 3  # licences of the second sentence
AUTHORS = 10


def sentences(facts: Facts) -> str:
    """Return what this is, in three sentences."""
    name = html.isolated(facts.name)
    about = {"works": f"{facts.works:,}", "captions": f"{sum(facts.captioners.values()):,}"}
    kinds = _licenses(facts)
    if facts.run is None:
        said = [text.filled(text.DATA, name=name, **about)]
        said += [text.filled(text.DATA_LICENSES, licenses=kinds)] if facts.works else []
        return html.both(_joined([*said, text.NO_RUN]), "p", "lead")
    run, compute = facts.run, facts.compute
    start = str((run.get("init") or {}).get("from") or "nothing")
    origin = text.FROM_NOTHING if start == "nothing" else text.filled(text.FROM_MODEL, start=html.isolated(start))
    recipe = run.get("recipe") or {}
    if parameters := (run.get("transformer") or {}).get("parameters"):
        what = text.filled(
            text.MODEL,
            name=name,
            parameters=quantities.rounded(parameters),
            side=recipe.get("resolution"),
            origin=origin,
        )
    else:
        what = text.filled(text.CAPTIONER, name=name, origin=origin)
    devices = ", ".join(devices_of(facts)) or "—"
    power = (
        text.filled(text.ENERGY, kwh=quantities.amount(facts.energy_kwh))
        if facts.energy_kwh is not None
        else text.NO_ENERGY
    )
    cost = text.filled(
        text.COST, steps=f"{compute.get('step', 0):,}", time=quantities.duration(facts.seconds or 0),
        devices=html.isolated(devices), flops=quantities.power(facts.flops or 0), energy=power,
    )  # fmt: skip
    return html.both(_joined([what, text.filled(text.LEARNED, licenses=kinds, **about), cost]), "p", "lead")


def contents(facts: Facts) -> str:
    """Return the part on the images and captions."""
    made = charts.of_data(facts)
    if not facts.works:
        return ""
    parts = [f'<div class="charts">{"".join(made)}</div>', _license_texts(facts), *_traces(facts)]
    return html.section("data", text.SECTIONS["contents" if facts.run is None else "data"], *parts)


def history(facts: Facts) -> str:
    """Return the funnel: a row for each step, and one below it for each reason why records got lost."""
    if not facts.history:
        return ""
    largest = max(max(step["in"], step["out"]) for step in facts.history) or 1
    rows = [row for step in facts.history for row in _step(step, largest)]
    heads = [
        html.both(text.STEP),
        html.both(text.IN),
        html.both(text.OUT),
        html.both(text.LOST),
        html.both(text.REMAINING),
    ]
    return html.section(
        "history", text.SECTIONS["history"], html.both(text.HISTORY, "p"), 
        html.table(text.SECTIONS["history"], heads, rows, numbers=(1, 2, 3), kind="many" if largest >= 1e6 else ""),
        _settings(facts),
    )  # fmt: skip


def _step(step: Mapping[str, Any], largest: int) -> Iterator[str]:
    if step.get("unknown_before"):
        yield _why(text.BEGINS, "", "why gap")
    if lost := step.get("lost"):
        yield _why(text.GAP if lost > 0 else text.ADDED, f"{abs(lost):,}", "why gap")
    lost = step["in"] - step["out"]
    bar = f'<span class="share" style="width:{100 * step["out"] / largest:.1f}%"></span>'
    numbers = (f"{step['in']:,}", f"{step['out']:,}", f"{lost:,}" if lost > 0 else "0")
    cells = "".join(f"<td class=n>{number}</td>" for number in numbers)
    name = html.both(reasons.STAGES.get(step["stage"], (step["stage"],) * 2))
    yield f'<tr class=step><th scope="row">{name}</th>{cells}<td class=shares>{bar}</td></tr>'
    for field, frame in (("dropped", None), ("missing", text.CAPTION_GONE), ("captions_removed", text.CAPTION_GONE)):
        counted: Mapping[str, int] = step.get(field) or {}
        for reason, count in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])):
            said = reason_text(reason)
            yield _why(text.filled(frame, reason=said) if frame else said, f"{count:,}")
    if step.get("changed"):
        yield _why(text.CHANGED, "")
    if step.get("shards_without_manifest"):
        yield _why(text.NOT_ALL, f"{step['shards_without_manifest']:,}")


def _why(reason: Pair, count: str, kind: str = "why") -> str:
    name = f'<th scope="row" colspan=3>{html.both(reason)}</th>'
    return f'<tr class="{kind}">{name}<td class=n>{count}</td><td class=shares></td></tr>'


def reason_text(reason: str) -> Pair:
    """Return why a record was left out in words; a code that has none as it is."""
    code, _, detail = reason.partition(":")
    detail = html.isolated(license_name(detail)) if detail else ""
    english, japanese = reasons.REASONS.get(code, (code.replace("_", " "),) * 2)
    return (f"{english}: {detail}", f"{japanese}：{detail}") if detail else (english, japanese)


def _settings(facts: Facts) -> str:
    parts = []
    for step in facts.history:
        if step.get("settings"):
            values = orjson.dumps(step["settings"], option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
            name = html.both(reasons.STAGES.get(step["stage"], (step["stage"],) * 2))
            parts.append(f"<h3>{name}</h3><pre>{escape(values)}</pre>")
    return f"<details><summary>{html.both(text.SETTINGS)}</summary>{''.join(parts)}</details>" if parts else ""


def _license_texts(facts: Facts) -> str:
    known = known_licenses()
    addresses = [(name, known[name.lower()].url) for name in facts.licenses if name.lower() in known]
    links = ", ".join(html.link(url, escape(license_name(name)), name) for name, url in addresses if url)
    return f"<p>{html.both(text.LICENSE_TEXTS)}{links}</p>" if links else ""


def _traces(facts: Facts) -> Iterator[str]:
    """What the records say, what they do not, and who made the most of them."""
    stated = [pair for name, pair in text.FIELDS.items() if not facts.untraced.get(name)]
    if stated:
        listed = (_listed([each[0] for each in stated], " and "), "、".join(each[1] for each in stated))
        yield html.both(text.filled(text.TRACED, works=f"{facts.works:,}", stated=listed), "p")
    rows = []
    for name, count in facts.untraced.items():
        label = text.FIELDS.get(name, (name,) * 2)
        rows.append(html.row(html.both(label), f"{count:,}", quantities.share(count / facts.works)))
    if rows:
        yield html.table(
            text.UNTRACED,
            [html.both(text.UNTRACED), html.both(text.COUNT), html.both(text.SHARE)],
            rows,
            numbers=(1, 2),
        )
    if facts.conflicting:
        yield html.both(text.CONFLICTS, "p", count=f"{facts.conflicting:,}")
    if facts.authors:
        names = ", ".join(f"{html.bdi(name[:80])} ({count:,})" for name, count in list(facts.authors.items())[:AUTHORS])
        yield f"<p>{html.both(text.AUTHOR_COUNT)}{names}</p>"


def _licenses(facts: Facts) -> Pair:
    named = [(name, count) for name, count in facts.licenses.items() if name]
    shown, rest = named[:NAMED], named[NAMED:]
    parts = [
        text.filled(text.UNDER, count=f"{count:,}", license=html.isolated(license_name(name))) for name, count in shown
    ]
    if rest:
        parts.append(text.filled(text.MORE_LICENSES, count=f"{sum(count for _, count in rest):,}", kinds=len(rest)))
    if missing := facts.licenses.get(""):
        parts.append(text.filled(text.UNLICENSED, count=f"{missing:,}"))
    return _listed([each[0] for each in parts], " and "), "、".join(each[1] for each in parts)


def devices_of(facts: Facts) -> list[str]:
    """Return what the run computed on: "8 × NVIDIA H100"."""
    return list(
        dict.fromkeys(f"{each['count']}\u00a0×\u00a0{each['name']}" for each in facts.compute.get("devices") or ())
    )


def _joined(sentences: list[Pair]) -> Pair:
    return " ".join(each[0] for each in sentences), "".join(each[1] for each in sentences)


def _listed(words: list[str], last: str) -> str:
    return ", ".join(words[:-1]) + last + words[-1] if len(words) > 1 else "".join(words)
