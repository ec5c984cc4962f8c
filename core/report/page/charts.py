"""The charts of the works and their captions: one horizontal bar for each kind, with its count and share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from commonart.core.data.text import printable
from commonart.core.output import plot
from commonart.core.report import quantities
from commonart.core.report.facts import Facts
from commonart.core.report.makers import people
from commonart.core.report.markdown import license_name
from commonart.core.report.page import html, text
from commonart.core.report.page.text import Pair

MOST = 10  # bars of a chart; the rest is one more
NAME = 26  # characters of a bar's name
WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the bins of a length
LANGUAGES = {
    "en": "English",
    "ja": "日本語",
    "zh": "中文",
    "ko": "한국어",
    "de": "Deutsch",
    "fr": "Français",
    "es": "Español",
}
Counts = Sequence[tuple[str, int]]


def of_data(facts: Facts) -> list[str]:
    """Return the charts of what is in the data, as HTML."""
    counts: dict[str, Counts] = {
        "licenses": [(license_name(name), count) for name, count in facts.licenses.items()],
        "sources": list(facts.sources.items()),
        "languages": [(LANGUAGES.get(name, name), count) for name, count in facts.languages.items()],
        "captioners": [(captioner(name) or text.NOT_STATED, count) for name, count in facts.captioners.items()],
        "caption_words": lengths({int(words): count for words, count in facts.caption_words.items()}),
        "sizes": [(name.replace("x", " × "), count) for name, count in facts.sizes.items()],
    }
    notes = {"captioners": note} if (note := _on_makers(facts)) else {}
    if len(facts.sizes) > MOST:
        longer = Counter[int]()
        for name, count in facts.sizes.items():
            longer[max(map(int, name.split("x")))] += count
        counts["sizes"], notes["sizes"] = lengths(longer), text.LONGER
    return [histogram(name, rows, notes.get(name)) for name, rows in counts.items() if rows]


def _on_makers(facts: Facts) -> Pair | None:
    """What the names of those who wrote captions mean: which of them are people, and what an arrow says."""
    persons = [name for name in facts.captioners if name and name in people(facts.makers)]
    notes = [text.TRANSLATED] if any(" of " in name for name in facts.captioners) else []
    if persons:
        notes.append(text.filled(text.BY_PEOPLE, names=", ".join(map(printable, persons))))
    return ("; ".join(note[0] for note in notes), "。".join(note[1] for note in notes)) if notes else None


def histogram(name: str, counts: Counts, note: Pair | None = None) -> str:
    """Return one chart of `text.CHARTS`. `counts`: the most frequent first, or in an order of their own."""
    title, unit = text.CHARTS[name]
    total = sum(count for _, count in counts)
    shown = [(short(each), count) for each, count in counts[:MOST]]
    if rest := counts[MOST:]:
        shown.append((f"+ {len(rest):,}", sum(count for _, count in rest)))
    rows = [(each, count, (f"{count:,}", quantities.share(count / total))) for each, count in shown]
    label = f"{' / '.join(title)}: " + "; ".join(f"{each} {cells[0]} ({cells[1]})" for each, _, cells in rows)
    caption = (f"{unit[0]}; {note[0]}", f"{unit[1]}。{note[1]}") if note else unit
    return html.chart(colored(plot.bars(rows)), title, html.both(caption), label)


def lengths(words: Mapping[int, int]) -> Counts:
    """Return how many have which length, in at most MOST bins of one width."""
    if not words:
        return []
    longest = max(words)
    width = next((width for width in WIDTHS if longest // width < MOST), longest // MOST + 1)
    bins = [0] * (longest // width + 1)
    for length, count in words.items():
        bins[length // width] += count
    first = next((number for number, count in enumerate(bins) if count), 0)
    return [(str(n) if width == 1 else f"{n * width}–{(n + 1) * width - 1}", bins[n]) for n in range(first, len(bins))]


def captioner(name: str) -> str:
    """Return who wrote a caption: "TRANSLATOR of ORIGINAL" in the order in which they worked."""
    writer, _, origin = name.partition(" of ")
    return f"{origin} → {writer}" if origin else writer


def short(name: str) -> str:
    """Return a name that fits beside a bar, and steers nothing."""
    name = printable(name) or text.NOT_STATED
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def colored(svg: str) -> str:
    """Give a chart of one color the page's own, which is another one in the dark."""
    return svg.replace(plot.COLORS[0].lower(), "var(--mark)")
