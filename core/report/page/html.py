"""Pieces of HTML in two languages. Only what these functions return is markup: every text that they take is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from commonart.core.report.markdown import language_tag
from commonart.core.report.page.text import Pair

HTTP = ("http://", "https://")


def both(pair: Pair, tag: str = "span", kind: str = "", **values: object) -> str:
    """Return a text in English and in Japanese, of which the page shows one; `values` fill its `{names}`."""
    english, japanese = (text.format(**values) if values else text for text in pair)
    if english == japanese:
        return element(tag, escape(english), kind)
    made = ((english, f"en {kind}", "en"), (japanese, f"ja {kind}", "ja"))
    return "".join(element(tag, escape(text), each.strip(), lang) for text, each, lang in made)


def element(tag: str, inside: str, kind: str = "", lang: str = "") -> str:
    """Return an element; `inside` is markup."""
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in (("class", kind), ("lang", lang)) if value)
    return f"<{tag}{attributes}>{inside}</{tag}>"


def bdi(text: str, lang: str = "") -> str:
    """Return other people's text, which cannot turn the direction of its neighbours; a `lang` that is none is left out."""
    return element("bdi", escape(text), lang=language_tag(lang))


def isolated(text: str) -> str:
    """Return other people's text for the middle of a sentence (U+2068 and U+2069), not yet escaped."""
    return f"\u2068{text}\u2069"


def link(address: str, text: str, what: str = "") -> str:
    """Return a link where the address is one of the web, else the text alone; `text` is markup, `what` the id of a licence."""
    if not address.lower().startswith(HTTP):
        return text
    label = f' class="whole" title="{escape(what)}"' if what else ""
    return f'<a href="{escape(address)}" rel="noreferrer nofollow"{label}>{text}</a>'


def section(anchor: str, title: Pair, *parts: str) -> str:
    """Return a section with its heading; "" where nothing is in it."""
    inside = "\n".join(filter(None, parts))
    return f'<section id="{anchor}">\n{both_heading(title)}\n{inside}\n</section>' if inside else ""


def both_heading(title: Pair, level: int = 2) -> str:
    """Return a heading in both languages."""
    return f"<h{level}>{both(title)}</h{level}>"


def table(
    label: Pair,
    head: Sequence[str],
    rows: Iterable[str],
    numbers: Iterable[int] = (),
    caption: str = "",
    kind: str = "",
) -> str:
    """Return a table, which scrolls by itself where it is too wide.

    `label` says what it is; `head`, `rows` (see `row`) and `caption` are markup. `numbers`: which columns stand to the right.
    """
    right = set(numbers)
    cells = "".join(f'<th scope="col"{" class=n" if n in right else ""}>{cell}</th>' for n, cell in enumerate(head))
    named = f"<caption>{caption}</caption>" if caption else ""
    where = f'class="table" tabindex="0" role="region" aria-label="{escape(" / ".join(label))}"'
    look = f' class="{kind}"' if kind else ""
    return (
        f"<div {where}><table{look}>{named}<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(name: str, *cells: str, kind: str = "") -> str:
    """Return a row with its heading, and numbers beside it; all are markup."""
    values = "".join(f"<td class=n>{cell}</td>" for cell in cells)
    return f'<tr{f" class={kind}" if kind else ""}><th scope="row">{name}</th>{values}</tr>'


def facts(rows: Iterable[tuple[Pair, str]]) -> str:
    """Return a list of names and values; the values are markup, and those that are "" are left out."""
    items = "".join(f"<div><dt>{both(name)}</dt><dd>{value}</dd></div>" for name, value in rows if value)
    return f'<dl class="facts">{items}</dl>' if items else ""


def chart(svg: str, title: Pair, note: str, label: str) -> str:
    """Return a chart with its heading; `note` is markup, `label` says to those who do not see it what it shows."""
    return (
        f"<figure>{both_heading(title, 3)}<figcaption>{note}</figcaption>"
        f'<div class="chart" role="img" aria-label="{escape(label)}">{svg}</div></figure>'
    )
