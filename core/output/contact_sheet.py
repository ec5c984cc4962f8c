"""Contact sheets: images in rows, their prompts under them.

Pillow's own font knows no Japanese: that of COMMONART_FONT is taken, or IPAexGothic of the package `matplotlib-fontja`, of
which only the font file is read. A label that neither can render becomes a number, and the caller gets the legend.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from commonart.core.errors import UsageError
from commonart.core.log import say, warn
from commonart.core.output import metadata

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND, FOREGROUND, SECONDARY = (255, 255, 255), (25, 25, 25), (110, 110, 110)
MARGIN = 8  # pixels around and between images
LABEL_SIZE = 13  # pixels
MAX_LINES = 4  # of one label; what is longer ends in an ellipsis
SMALLEST_CELL = 128  # pixels; smaller images are enlarged without smoothing, so that 64 px can be judged by eye


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet, and what the numbers on it stand for: {"1": prompt}; empty where every label could be rendered."""

    image: Image.Image
    legend: dict[str, str]


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[str], columns: int | None = None, heads: Sequence[str] = ()
) -> Sheet:
    """Arrange images of any sizes in rows of `columns` (default: about square), each with its label under it.

    Raises:
        ValueError: no images, or another number of labels.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    width, height = max(image.width for image in images), max(image.height for image in images)
    scale = max(1, math.ceil(SMALLEST_CELL / max(width, height)))
    width, height = width * scale, height * scale
    legend: dict[str, str] = {}
    lines = [wrap(_renderable(label, number, legend), width) for number, label in enumerate(labels, 1)]
    line_height = LABEL_SIZE + 5
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    row_lines = [max(len(lines[i]) for i in row) for row in rows]
    top = line_height + MARGIN if heads else 0
    total_height = MARGIN + top + sum(height + n * line_height + MARGIN for n in row_lines)
    sheet = Image.new("RGB", (MARGIN + columns * (width + MARGIN), total_height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads[:columns]):
        draw.text((MARGIN + column * (width + MARGIN), MARGIN), head, SECONDARY, font=font_for(head))
    y = MARGIN + top
    for row, count in zip(rows, row_lines, strict=True):
        for column, i in enumerate(row):
            x = MARGIN + column * (width + MARGIN)
            image = images[i].convert("RGB")
            image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
            sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
            for n, line in enumerate(lines[i]):
                draw.text((x, y + height + 3 + n * line_height), line, FOREGROUND, font=font_for(line))
        y += height + count * line_height + MARGIN
    return Sheet(sheet, legend)


def write_sheet(
    path: str,
    images: Sequence[Image.Image],
    labels: Sequence[str],
    *,
    columns: int | None = None,
    heads: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    marked: bool = True,
    overwrite: bool = False,
    finish: Callable[[bytes, str], bytes] | None = None,
) -> None:
    """Write a `contact_sheet` with its marks, and print the legend of the labels that no font here can render.

    `finish` and what it raises: as for `metadata.save`.
    """
    sheet = contact_sheet(images, labels, columns, heads)
    if sheet.legend:
        warn(
            f"no font here can render {len(sheet.legend)} of the labels on {path}: they are numbers. "
            "Name one that can with COMMONART_FONT."
        )
        for number, label in sheet.legend.items():
            say(f"  [{number}] {label}")
    metadata.save(sheet.image, path, settings=settings, marked=marked, overwrite=overwrite, finish=finish)


def wrap(text: str, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels: at spaces, and between any two characters of Japanese."""
    font = font_for(text)
    lines, line = [], ""
    for piece in _pieces(text[: width * (MAX_LINES + 1)]):  # no character is narrower than a pixel
        if line and font.getlength((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        if not line:
            piece = piece.lstrip()
        while font.getlength(piece.rstrip()) > width and len(piece) > 1:  # one word longer than the line
            fits = 1
            while fits < len(piece) and font.getlength(piece[: fits + 1]) <= width:
                fits += 1
            lines.append(piece[:fits])
            piece = piece[fits:]
        line += piece
    if line.strip():
        lines.append(line.rstrip())
    if len(lines) > MAX_LINES:
        lines = lines[:MAX_LINES]
        lines[-1] = lines[-1][:-1] + "…"
    return lines


def font_for(text: str) -> Font:
    """Return Pillow's own font where it can render `text`, else a Japanese one where there is one."""
    plain, path = _load(None), japanese_font()
    return plain if path is None or can_render(plain, text) else _load(path)


def japanese_font() -> str | None:
    """Return the file of a font that can render Japanese, or None. Raises UsageError for a COMMONART_FONT that is none."""
    chosen = os.environ.get("COMMONART_FONT")
    if chosen:
        try:
            ImageFont.truetype(chosen, LABEL_SIZE)
        except OSError:
            what = f"COMMONART_FONT={chosen} is not a font file."
            raise UsageError(what, "Name a .ttf, .otf or .ttc file.") from None
        return chosen
    return _found_font()


@lru_cache(maxsize=1)
def _found_font() -> str | None:
    package = importlib.util.find_spec("matplotlib_fontja")
    files = (
        (Path(folder) / "fonts/ipaexg.ttf" for folder in package.submodule_search_locations or ()) if package else ()
    )
    return next((str(file) for file in files if file.is_file()), None)


def can_render(font: Font, text: str) -> bool:
    """Tell whether the font has a glyph for every character: none looks like that of a character which no font has."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    missing = {bytes(font.getmask(mark)) for mark in ("\U0010fffe", "\uffff")}
    return all(not (shape := bytes(font.getmask(c))) or shape not in missing for c in set(text) if c.isprintable())


def _renderable(label: str, number: int, legend: dict[str, str]) -> str:
    label = " ".join(label.split())
    if can_render(font_for(label), label):
        return label
    legend[str(number)] = label
    return f"[{number}]"


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    for character in text:
        whole = pieces and ord(character) < 0x2E80 and ord(pieces[-1][-1]) < 0x2E80
        if (whole and (character != " " and pieces[-1][-1] != " ")) or (character == " " and pieces):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


@lru_cache(maxsize=8)
def _load(path: str | None) -> Font:
    return ImageFont.truetype(path, LABEL_SIZE) if path else ImageFont.load_default(LABEL_SIZE)
