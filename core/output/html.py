"""A page to look at: self-contained HTML, every string escaped, charts as inline SVG, no script.

page = Page("quickstart"); page.heading("Samples"); page.picture("samples.png", "the grid"); page.write(path)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from commonart.core.data.files import write_bytes

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --mark: #2a6fdb; }
body { font: 16px/1.55 system-ui, "Hiragino Sans", "Noto Sans CJK JP", "Noto Sans JP", sans-serif;
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { margin-top: 2.4rem; font-size: 1.2rem; }
p.lead, figcaption, .soft { color: var(--soft) }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right }
iframe { width: 100%; height: 75vh; border: 0 } .alert { border-left: 4px solid #c33; padding-left: .8rem }
figure { margin: 1rem 0 } img, svg { max-width: 100%; height: auto; border-radius: .3rem }
svg text { font-size: 11px; fill: var(--soft) } svg polyline { fill: none; stroke: var(--mark); stroke-width: 1.5 }
"""
FORM_STYLE = """
form { display: flex; flex-wrap: wrap; gap: .7rem 1rem; align-items: end; margin: 1.2rem 0 }
label { display: block; color: var(--soft); font-size: .85rem } label.long { flex: 1 0 100% }
input, textarea, button { font: inherit; padding: .35rem .5rem; border: 1px solid var(--line); border-radius: .4rem;
       background: transparent; color: inherit; box-sizing: border-box } textarea { width: 100% }
input[type=number] { width: 7.5rem } button { background: var(--mark); color: #fff; padding: .4rem 1.4rem; }
"""
FRAME_STYLE = """
body { margin: 0; padding: 0; max-width: none } figure { display: inline-block; width: 13rem; margin: .4rem 1rem 1rem 0;
       vertical-align: top } figure img { width: 100% } figcaption { font-size: .85rem; overflow-wrap: anywhere }
progress { width: 100% }
"""
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 220, 52, 24  # of a chart, in pixels


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form: its name, its label, what stands in it, and the type of its input."""

    name: str
    label: str
    value: str = ""
    kind: str = "text"
    long: bool = False  # several lines


class Page:
    """Builds the page from top to bottom. No method takes HTML: all text is escaped here."""

    def __init__(
        self, title: str, lead: str = "", lang: str = "en", refresh: int | None = None, framed: bool = False
    ) -> None:
        self._title = title
        self._lang = lang
        self._refresh = refresh  # seconds after which the page loads itself again
        self._style = STYLE + FRAME_STYLE if framed else STYLE
        self._parts = [] if framed else [f"<h1>{escape(title)}</h1>"]  # a frame stands in a page that has a title
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str, *, soft: bool = False, alert: bool = False) -> None:
        """One paragraph."""
        kind = ' class="alert" role="alert"' if alert else ' class="soft"' if soft else ""
        self._parts.append(f"<p{kind}>{escape(text)}</p>")

    def picture(self, path: str, caption: str, link: str = "") -> None:
        """A picture that lies beside the page; `path` is relative to it.

        With `link`, a path, its caption leads there, and the picture to its file, both outside of the frame.
        """
        alt = escape(caption, quote=True)
        file = escape(quote(path), quote=True)
        shown, said = f'<img src="{file}" alt="{alt}">', escape(caption)
        if link.startswith("/"):
            shown = f'<a href="{file}" target="_top">{shown}</a>'
            said = f'<a href="{escape(link, quote=True)}" target="_top">{said}</a>'
        self._parts.append(f"<figure>{shown}<figcaption>{said}</figcaption></figure>")

    def progress(self, done: int, most: int, label: str) -> None:
        """A bar of which `done` of `most` is filled."""
        self._parts.append(
            f'<progress value="{done}" max="{most}" aria-label="{escape(label, quote=True)}"></progress>'
        )

    def frame(self, path: str, title: str) -> None:
        """Another page inside this one; what is typed around it stays when it loads itself again."""
        self._parts.append(
            f'<iframe src="{escape(quote(path), quote=True)}" title="{escape(title, quote=True)}"></iframe>'
        )

    def form(self, action: str, fields: Sequence[Field], button: str, hidden: Mapping[str, str]) -> None:
        """A form that is posted to `action`, with values that the reader does not see."""
        self._style += "" if FORM_STYLE in self._style else FORM_STYLE

        def cell(field: Field) -> str:
            name, value = escape(field.name, quote=True), escape(field.value, quote=True)
            if field.long:  # a browser drops the first newline of a textarea
                inner = f'<textarea name="{name}" rows="3" autofocus>\n{escape(field.value)}</textarea>'
            else:
                step = ' step="any"' if field.kind == "number" else ""
                inner = f'<input name="{name}" type="{escape(field.kind, quote=True)}" value="{value}"{step}>'
            kind = ' class="long"' if field.long else ""
            return f"<label{kind}>{escape(field.label)}<br>{inner}</label>"

        secret = "".join(
            f'<input type="hidden" name="{escape(name, quote=True)}" value="{escape(value, quote=True)}">'
            for name, value in hidden.items()
        )
        self._parts.append(
            f'<form method="post" action="{escape(action, quote=True)}">{secret}'
            f"{''.join(map(cell, fields))}<button>{escape(button)}</button></form>"
        )

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table; numbers stand to the right."""

        def cell(tag: str, value: object) -> str:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            text = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if number else str(value)
            kind = ' class="number"' if number else ""
            return f"<{tag}{kind}>{escape(text)}</{tag}>"

        body = "".join(f"<tr>{''.join(cell('td', value) for value in row)}</tr>" for row in rows)
        self._parts.append(f"<table><tr>{''.join(cell('th', name) for name in head)}</tr>{body}</table>")

    def chart(self, points: Sequence[tuple[float, float]], x: str, y: str) -> None:
        """A line through (x, y) points, with the axes' names and ends."""
        if len(points) < 2:
            return
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        low, high = min(ys), max(ys)
        wide, tall = (max(xs) - min(xs)) or 1.0, (high - low) or 1.0

        def place(a: float, b: float) -> str:
            across = LEFT + (a - min(xs)) / wide * (WIDTH - LEFT - 8)
            down = 8 + (high - b) / tall * (HEIGHT - BOTTOM - 16)
            return f"{across:.1f},{down:.1f}"

        line = " ".join(place(a, b) for a, b in points)
        label = escape(f"{y} by {x}", quote=True)
        self._parts.append(
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{label}">'
            f'<polyline points="{line}"/>'
            f'<text x="2" y="14">{high:.4g}</text><text x="2" y="{HEIGHT - BOTTOM - 4}">{low:.4g}</text>'
            f'<text x="{LEFT}" y="{HEIGHT - 6}">{min(xs):g}</text>'
            f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{max(xs):g} {escape(x)}</text>'
            f'<text x="{LEFT + 4}" y="14">{escape(y)}</text></svg>'
        )

    def html(self) -> str:
        """The whole page."""
        policy = (
            "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; "
            "base-uri 'none'"
        )
        refresh = f'<meta http-equiv="refresh" content="{self._refresh}">\n' if self._refresh else ""
        return (
            f'<!doctype html>\n<html lang="{escape(self._lang, quote=True)}"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'{refresh}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title><style>{self._style}</style></head><body>\n"
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all."""
        write_bytes(path, self.html().encode())
