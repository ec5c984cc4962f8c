"""Long captions in pieces that a translator takes at once: sentences, and as many of them as it is good at.

split("A cat. A dog.\\nA bird.", 0)    # [("A cat.", ""), ("A dog.", "\\n"), ("A bird.", "")]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_END = re.compile(
    r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9\u00c0-\u00de])|(?<=[。！？])(?![」』）。！？])\s*|(?<=[。！？][」』）])(?![とはがをにでもの、。])\s*"
)
# No sentence ends after these, nor after a single letter (J. S. Bach).
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Mt|No|vs|Jr|Sr|Prof|approx|ca|cf|e\.g|i\.e|etc)|(?<!\w)[A-Z])\.$")
_LINES = re.compile(r"(\s*\n\s*)")
_WITHOUT_SPACES = ("ja", "zh", "th")


def split(text: str, most: int) -> list[tuple[str, str]]:
    """Return the pieces of a text, each with the line break that follows it ("" inside a line).

    Args:
        most: characters of a piece of several sentences; 0: every sentence is a piece. A single one may be longer.
    """
    parts = _LINES.split(text.strip())
    pieces = []
    for line, line_break in zip(parts[::2], [*parts[1::2], ""], strict=True):
        packed = [""]
        for sentence in _sentences(line):
            if packed[-1] and len(packed[-1]) + len(sentence) > most:
                packed.append("")
            packed[-1] += sentence
        pieces += [(piece.strip(), "") for piece in packed[:-1]]
        pieces.append((packed[-1].strip(), re.sub(r"[^\n]", "", line_break)))
    return pieces


def join(pieces: Sequence[tuple[str, str]], lang: str) -> str:
    """Put (piece, line break) together, with a space between sentences where the language has one."""
    space = "" if lang in _WITHOUT_SPACES else " "
    return "".join(piece + (line_break or space) for piece, line_break in pieces).strip()


def _sentences(line: str) -> Iterator[str]:
    """Yield the sentences of a line, each with the space after it."""
    start = 0
    for end in _END.finditer(line):
        if end.end() > start and not _ABBREVIATION.search(line[: end.start()]):
            yield line[start : end.end()]
            start = end.end()
    if start < len(line) or not line:
        yield line[start:]
