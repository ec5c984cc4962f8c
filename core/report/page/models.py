"""The page's parts on the models that took part, on what it has cost, and on the card's other files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from commonart.core.report import model_card, quantities
from commonart.core.report.facts import Facts
from commonart.core.report.ledger import ModelUsed
from commonart.core.report.page import data, html, text
from commonart.core.report.page.text import Pair

PRESUMED = 1e23  # FLOP from which the EU presumes a general-purpose model (guidelines of July 2025)


def models(facts: Facts) -> str:
    """Return the component ledger: each model that took part, its terms, and what it was itself trained on."""
    if not facts.models:
        return ""
    items = "".join(_model(model) for model in facts.models)
    return html.section(
        "models", text.SECTIONS["models"], html.both(text.LEDGER, "p"), f'<ul class="list models">{items}</ul>'
    )


def _model(model: ModelUsed) -> str:
    role = html.both(text.ROLES.get(model.role, (model.role,) * 2))
    about = [
        escape(model.license or ""),
        html.both(text.filled(text.TERMS, terms=text.TERMS_OF.get(model.terms, (model.terms,) * 2)))
        if model.terms
        else "",
    ]
    about += [f"<code>{escape(model.revision[:24])}</code>" if model.revision else ""]
    what = html.both(text.filled(text.TRAINED_ON, what=(model.trained_on, model.trained_on_ja)))
    stated = html.link(model.source, html.both(text.STATED)) if model.source.startswith(html.HTTP) else ""
    return (
        f"<li><div><p><strong>{html.link(model.address, html.bdi(model.name))}</strong></p><p class=soft>{role}</p></div>"
        f'<div><p>{what}{f" {stated}" if stated else ""}</p><p class="soft small">{" · ".join(filter(None, about))}</p></div></li>'
    )


def cost(facts: Facts) -> str:
    """Return what the training has cost; "" where no run is known."""
    if facts.run is None or not facts.compute:
        return ""
    compute, recipe = facts.compute, facts.run.get("recipe") or {}
    steps = text.STEPS_VALUE
    if facts.energy_kwh is not None:
        energy = html.both(text.ENERGY_HOW, kwh=quantities.amount(facts.energy_kwh))
    else:
        energy = html.both(text.ENERGY_UNKNOWN)
    flops = facts.flops
    rows: list[tuple[Pair, str]] = [
        (text.STEPS, html.both(steps, steps=f"{compute.get('step', 0):,}", batch=f"{recipe.get('batch', 0):,}",
                               images=f"{compute.get('images', 0):,}")),
        (text.TIME, html.both(quantities.duration(facts.seconds)) if facts.seconds else ""),
        (text.DEVICES, "<br>".join(map(escape, data.devices_of(facts)))),
        (text.OPERATIONS, html.both(text.OPERATIONS_VALUE, flops=quantities.power(flops)) if flops else ""),
        (text.THRESHOLD, html.both(text.BELOW, share=_share(flops / PRESUMED)) if flops else ""),
        (text.ENERGY_HEAD, energy),
        (text.CODE, _code(facts)),
    ]  # fmt: skip
    return html.section("cost", text.SECTIONS["cost"], html.facts(rows))


def _share(part: float) -> str:
    return f"{quantities.power(100 * part)} %" if part < 1e-4 else f"{100 * part:.2f} %"


def _code(facts: Facts) -> str:
    code = (facts.run or {}).get("code") or {}
    version = f"commonart {escape(str(code.get('version') or ''))}"
    if code.get("commit"):
        version += f", <code>{escape(code['commit'][:12])}</code>"
    return version + (f" ({html.both(text.MODIFIED)})" if code.get("modified") else "")


def files(names: Sequence[str]) -> str:
    """Return links to the card's other files; those of folders end in a slash."""
    descriptions = {**model_card.FILES, model_card.NAME: text.CARD}
    rows = []
    for name in sorted(names):
        if name != "index.html":
            description = html.both(descriptions[name]) if name in descriptions else ""
            rows.append(f'<div><dt><a href="{escape(quote(name))}">{escape(name)}</a></dt><dd>{description}</dd></div>')
    return html.section("files", text.SECTIONS["files"], f'<dl class="facts">{"".join(rows)}</dl>' if rows else "")
