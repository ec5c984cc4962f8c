"""Charts as SVG, by matplotlib: readable in the light and in the dark, and the same bytes for the same data."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinct on white and on black, and for eyes that see fewer colours (after Okabe and Ito); dashes tell them apart as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
DASHES = ("-", "--", "-.", ":")
INK = "#123456"  # stands for the page's own colour until the SVG is finished
LETTER, GAP, ROW, BAR = (
    6.2,
    8,
    18,
    9,
)  # points: of rows a letter's width, the room between columns, the height; a bar's height
NAMED = re.compile(r' id="(?:figure|axes|patch|text|line2d|legend|matplotlib\.axis|[xy]tick|LineCollection)_\d+"')


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    *,
    chance: Sequence[tuple[float, float]] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = (0, 1),
    inches: tuple[float, float] = (6.4, 4.8),
    legend: bool = True,
) -> str:
    """Return an SVG element with one line for each name; `chance` is a thin line without a name.

    Without a `legend`, the page says by `COLORS` and `DASHES`, in this order, which line is which.
    """
    from matplotlib.ticker import MaxNLocator

    with _figure(f"{x} {y}", inches) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        if chance:
            axes.plot(*zip(*chance, strict=True), color=INK, linewidth=0.7, alpha=0.5)
        for number, (name, points) in enumerate(series.items()):
            color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
            axes.plot(*zip(*points, strict=True), dash, color=color, label=name, linewidth=1.8, clip_on=False, zorder=3)
        axes.set(xlabel=x, ylabel=y, xlim=x_range, ylim=y_range)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.spines[["top", "right"]].set_visible(False)
        if legend:
            figure.legend(loc="outside lower center", ncols=4)
        return _svg(figure)


def bars(rows: Sequence[tuple[str, float, Sequence[str]]], points: float = 330) -> str:
    """Return an SVG element with a horizontal bar for each (name, size, numbers at its right end), `points` wide."""
    with _rows([(name, cells) for name, _, cells in rows], points) as (figure, axes, left, wide):
        largest = max((size for _, size, _ in rows), default=0) or 1
        for number, (_, size, _) in enumerate(rows):
            length = max(wide * size / largest, 1 if size else 0)
            axes.barh((number + 0.5) * ROW, length, BAR, left=left, color=COLORS[0], linewidth=0, clip_on=False)
        return _svg(figure)


def intervals(
    rows: Sequence[tuple[str, tuple[float, float, float], Sequence[str]]], chance: float, points: float = 330
) -> str:
    """Return an SVG element with a dot and its interval for each (name, (value, low, high), numbers at its right end).

    The scale goes from 0 to 1 and is written below; `chance` is a thin line.
    """
    with _rows([*((name, cells) for name, _, cells in rows), ("", ())], points) as (figure, axes, left, wide):
        bottom = len(rows) * ROW
        axes.plot([left + wide * chance] * 2, [2, bottom], color=INK, linewidth=0.7, alpha=0.5, clip_on=False)
        for place in sorted({0, chance, 1}):
            axes.text(left + wide * place, bottom + ROW / 2, f"{place:g}", va="center_baseline", ha="center")
        for number, (_, (value, low, high), _) in enumerate(rows):
            middle = (number + 0.5) * ROW
            ends = [left + wide * low, left + wide * high]
            axes.plot(ends, [middle] * 2, color=COLORS[0], linewidth=1.8, clip_on=False)
            axes.plot([left + wide * value], [middle], "o", color=COLORS[0], markersize=5, clip_on=False)
        return _svg(figure)


@contextmanager
def _rows(rows: Sequence[tuple[str, Sequence[str]]], points: float) -> Iterator[tuple[Figure, Axes, float, float]]:
    """A figure of rows, each with its name at the left and numbers in columns at the right.

    Yields (figure, axes in points from the upper left corner, where the names end, room between names and numbers).
    """
    left = LETTER * max((_letters(name) for name, _ in rows), default=0) + GAP
    columns = max((len(cells) for _, cells in rows), default=0)
    widths = [LETTER * max(_letters(cells[n]) for _, cells in rows if len(cells) > n) + GAP for n in range(columns)]
    with _figure("rows", (points / 72, len(rows) * ROW / 72)) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, points), ylim=(len(rows) * ROW, 0))
        axes.axis("off")
        for number, (name, cells) in enumerate(rows):
            axes.text(0, (number + 0.5) * ROW, name, va="center_baseline")
            for column, cell in enumerate(cells):
                right = points - sum(widths[column + 1 :])
                axes.text(right, (number + 0.5) * ROW, cell, va="center_baseline", ha="right")
        yield figure, axes, left, points - left - sum(widths)


@contextmanager
def _figure(salt: str, inches: tuple[float, float]) -> Iterator[Figure]:
    """A figure in the pages' style. `salt`: of the ids of what its parts share."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.family": "sans-serif",
        "font.size": 11, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
        "ytick.color": INK, "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Of letters that its own font lacks: text stays text, and the reader's fonts have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=inches)
        FigureCanvasSVG(figure)
        yield figure


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    # Ids that number the parts would come again in the next chart of a page.
    return NAMED.sub("", text[text.index("<svg") :]).replace(INK, "currentColor").rstrip()


def _letters(text: str) -> int:
    """How many letters wide a text is, Japanese ones counted twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
