"""A page to look at: self-contained HTML, every string escaped, charts as inline SVG, no script.

It is read on a phone (tables scroll by themselves, by keyboard too), in the dark, and by a screen reader: text that is not
English says its language, and every image and chart has a description.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from commonart.core.data.files import write_bytes

if TYPE_CHECKING:
    from PIL import Image

# Japanese after the system's own font: macOS, Windows, then what Linux distributions install.
FONTS = (
    "system-ui", "Hiragino Sans", "Hiragino Kaku Gothic ProN", "Yu Gothic", "Meiryo", "Noto Sans CJK JP", "Noto Sans JP",
    "IPAexGothic", "IPAGothic", "VL Gothic", "TakaoGothic", "sans-serif",
)  # fmt: skip
JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
FONT_HINT = (
    '<p class="soft">Boxes (□) instead of Japanese? Install a Japanese font, for example fonts-noto-cjk (Debian, Ubuntu) or '
    "google-noto-sans-cjk-fonts (Fedora). / 日本語が四角（□）で表示される場合は、日本語フォントを入れてください。</p>"
)
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #666; --mark: #2a6fdb; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; --mark: #6aa3f5 } }
body { font: 16px/1.55 FONTS; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { margin-top: 2.4rem; font-size: 1.2rem; }
p.lead, figcaption, .soft { color: var(--soft) }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap } th.number { white-space: normal }
th, td:first-child { word-break: keep-all }
table.soft, caption { color: var(--soft) } caption { text-align: left; font-weight: bold }
figure { margin: 1rem 0 } img, svg { max-width: 100%; height: auto; border-radius: .3rem }
.scroll { overflow-x: auto } .row { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .8rem }
.row { margin-bottom: 1.4rem } .row figure { margin: 0 }
.row img { width: 100%; image-rendering: pixelated } .row figcaption { font-size: .85rem }
nav a { display: inline-block; margin-right: 1rem } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem }
strong.verdict { font-size: 1.25rem } .plot svg { width: min(100%, 40rem) }
.plot svg text { font-family: inherit !important }
body { overflow-wrap: break-word }
svg.chart text { font-size: 11px; fill: var(--soft) } svg.chart polyline { fill: none; stroke: var(--mark); stroke-width: 1.5 }
""".replace("FONTS", ", ".join(name if name.islower() else f'"{name}"' for name in FONTS))
MARK = {True: ' class="number"', False: ""}  # of a cell
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 220, 52, 24  # of a chart, in pixels


class Number(str):
    """A number that was written by the caller, or an interval: in a table it stands to the right, as numbers do."""


class Page:
    """Builds the page from top to bottom. No method takes HTML: all text is escaped here."""

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def heading(self, text: str, anchor: str = "") -> None:
        """Add the title of a section, which `contents` can lead to."""
        kind = f' id="{escape(anchor, quote=True)}"' if anchor else ""
        self._parts.append(f"<h2{kind}>{escape(text)}</h2>")

    def contents(self, links: Mapping[str, str]) -> None:
        """Add links to headings: anchor -> text."""
        made = (f'<a href="#{escape(quote(anchor), quote=True)}">{escape(text)}</a>' for anchor, text in links.items())
        self._parts.append(f"<nav>{' '.join(made)}</nav>")

    def text(self, text: str, *, soft: bool = False, strong: bool = False, lang: str = "") -> None:
        """Add a paragraph; `lang` where it is not English."""
        kind = (' class="soft"' if soft else "") + (f' lang="{escape(lang, quote=True)}"' if lang else "")
        inner = f'<strong class="verdict">{escape(text)}</strong>' if strong else escape(text)
        self._parts.append(f"<p{kind}>{inner}</p>")

    def row(self, images: Sequence[tuple[Image.Image, str]]) -> None:
        """Add images side by side, which become part of the page, each with its caption."""
        figures = []
        for image, caption in images:
            file = io.BytesIO()
            image.convert("RGB").save(file, "WEBP", quality=85)
            data = base64.b64encode(file.getvalue()).decode()
            figures.append(
                f'<figure><img src="data:image/webp;base64,{data}" alt="{escape(caption, quote=True)}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        self._parts.append(f'<div class="row">{"".join(figures)}</div>')

    def plot(
        self,
        series: Mapping[str, Sequence[tuple[float, float]]],
        x: str,
        y: str,
        *,
        chance: Sequence[tuple[float, float]] = (),
        x_range: tuple[float, float] | None = None,
    ) -> None:
        """Add a chart with several lines, as `core.output.plot.lines` takes them."""
        from commonart.core.output import plot

        label = escape(f"{y} by {x}: {', '.join(series)}", quote=True)
        svg = plot.lines(series, x, y, chance=chance, x_range=x_range)
        self._parts.append(f'<figure class="plot" role="img" aria-label="{label}">{svg}</figure>')

    def details(self, summary: str, text: str) -> None:
        """Add a long text that is folded until it is asked for."""
        self._parts.append(f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>")

    def image(self, path: str, caption: str) -> None:
        """Add an image that lies beside the page; `path` is relative to it."""
        file, alt = escape(quote(path), quote=True), escape(caption, quote=True)
        self._parts.append(f'<figure><img src="{file}" alt="{alt}"><figcaption>{escape(caption)}</figcaption></figure>')

    def table(
        self, head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", soft: bool = False
    ) -> None:
        """Add a table; numbers stand to the right, intervals too, and so does the head of a column of nothing else."""

        def text(value: object) -> str:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if number else str(value)
            return Number(shown) if number or isinstance(value, Number) else shown

        def row(tag: str, values: Sequence[str], right: Sequence[bool]) -> str:
            cells = zip(values, right, strict=True)
            return f"<tr>{''.join(f'<{tag}{MARK[number]}>{escape(value)}</{tag}>' for value, number in cells)}</tr>"

        shown = [[text(value) for value in values] for values in rows]
        numbers = [[isinstance(value, Number) for value in values] for values in shown]
        right = [all(column) for column in zip(*numbers, strict=True)] or [False] * len(head)
        body = "".join(row("td", *pair) for pair in zip(shown, numbers, strict=True))
        told = f"<caption>{escape(caption)}</caption>" if caption else ""
        kind = ' class="soft"' if soft else ""
        table = f"<table{kind}>{told}{row('th', head, right)}{body}</table>"
        label = escape(", ".join(filter(None, head)), quote=True)
        self._parts.append(f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>')

    def chart(self, points: Sequence[tuple[float, float]], x: str, y: str) -> None:
        """Add a line through (x, y) points, with the names and ends of the axes."""
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
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{label}">'
            f'<polyline points="{line}"/>'
            f'<text x="2" y="14">{high:.4g}</text><text x="2" y="{HEIGHT - BOTTOM - 4}">{low:.4g}</text>'
            f'<text x="{LEFT}" y="{HEIGHT - 6}">{min(xs):g}</text>'
            f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{max(xs):g} {escape(x)}</text>'
            f'<text x="{LEFT + 4}" y="14">{escape(y)}</text></svg>'
        )

    def html(self) -> str:
        """Return the page."""
        body = "\n".join(self._parts)
        if JAPANESE.search(body):  # the hint stands before what cannot be read without it
            body = f"{FONT_HINT}\n{body}"
        policy = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page atomically."""
        write_bytes(path, self.html().encode())
