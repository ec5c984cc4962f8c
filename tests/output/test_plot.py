"""Charts as SVG: lengths that are right, text that stays text, and the same bytes for the same data."""

from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree

import pytest

from commonart.core.output import plot

HOSTILE = "</text><script>alert(1)</script>&\"' $\\frac{ 赤い丸"
PATH = re.compile(r"M ([\d.]+) ([\d.]+) *\nL ([\d.]+) ")


def lengths(svg: str) -> list[float]:
    """The lengths of the bars, in points."""
    bars = re.findall(r'<path d="(M [^"]*)"[^>]*#0072b2', svg)
    return [float(found[3]) - float(found[1]) for found in map(PATH.match, bars) if found]


def test_bars_are_as_long_as_their_numbers_say() -> None:
    svg = plot.bars([("a", 400, ("400", "80 %")), ("b", 100, ("100", "20 %")), ("c", 0, ("0", "0 %"))])
    longest, shorter, *rest = lengths(svg)
    assert longest == pytest.approx(4 * shorter, rel=1e-4) and sum(rest) == 0
    assert all(f">{cell}</text>" in svg for cell in ("a", "400", "80 %", "0 %"))


def test_what_is_little_can_be_seen() -> None:
    assert lengths(plot.bars([("a", 10_000_000, ()), ("b", 1, ())]))[1] >= 1


def test_intervals_lie_on_their_scale() -> None:
    svg = plot.intervals([("a", (0.5, 0.25, 1.0), ("0.50",))], chance=0.5)
    (line,) = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*"[^>]*#0072b2', svg)
    places = {text: float(x) for x, text in re.findall(r'x="([\d.]+)"[^>]*>(0|0\.5|1)</text>', svg)}
    wide = places["1"] - places["0"]
    assert [(float(x) - places["0"]) / wide for x in line] == pytest.approx([0.25, 1.0], abs=1e-3)
    assert (places["0.5"] - places["0"]) / wide == pytest.approx(0.5, abs=1e-3)


def test_text_is_escaped_and_has_no_ids_that_come_again() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that matplotlib's own font lacks
        made = [
            plot.bars([(HOSTILE, 1, (HOSTILE,))]), plot.intervals([(HOSTILE, (0.5, 0.4, 0.6), (HOSTILE,))], 0.5),
            plot.lines({HOSTILE: [(0, 0), (1, 1)]}, HOSTILE, HOSTILE),
        ]  # fmt: skip
    for svg in made:
        texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert HOSTILE in texts and "<script" not in svg and plot.INK not in svg
        assert not re.search(r'id="[a-z_.0-9]*_\d+"', svg)


def test_the_same_data_give_the_same_bytes() -> None:
    assert plot.bars([("a", 1, ("1",))]) == plot.bars([("a", 1, ("1",))])
    assert plot.lines({"a": [(0, 0), (1, 1)]}, "x", "y") == plot.lines({"a": [(0, 0), (1, 1)]}, "x", "y")
