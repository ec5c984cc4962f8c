"""Line charts as SVG, by matplotlib: readable in the light and in the dark, and the same bytes for the same data."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

# Distinct on white and on black, and for eyes that see fewer colours (after Okabe and Ito); dashes tell them apart as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
DASHES = ("-", "--", "-.", ":")
INK = "#123456"  # stands for the page's own colour until the SVG is finished


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    *,
    chance: Sequence[tuple[float, float]] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = (0, 1),
) -> str:
    """Return an SVG element with one line for each name; `chance` is a thin line without a name."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": f"{x} {y}", "text.parse_math": False, "font.family": "sans-serif",
        "font.size": 11, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
        "ytick.color": INK, "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if chance:
            axes.plot(*zip(*chance, strict=True), color=INK, linewidth=0.7, alpha=0.5)
        for number, (name, points) in enumerate(series.items()):
            color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
            axes.plot(*zip(*points, strict=True), dash, color=color, label=name, linewidth=1.8, clip_on=False, zorder=3)
        axes.set(xlabel=x, ylabel=y, xlim=x_range, ylim=y_range)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=4)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():  # the reader's fonts have what matplotlib's own lacks
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").rstrip()
