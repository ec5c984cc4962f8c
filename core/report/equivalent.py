"""Whether two files of a card say the same, though other versions of libraries wrote them.

The page is the same text around the same drawings: a chart has our chart's elements, attributes and labels in their order, and its
numbers within a point of ours; an image is a WebP whose pixels are those of ours. Nothing else is let through, for whatever stands
in a chart is on the page: words, styles, scripts, other images.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

DRAWN = re.compile(r"<svg\b.*?</svg>|(?<= src=\")data:[^\"]*", re.DOTALL)
WEBP = "data:image/webp;base64,"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
# Where something is drawn: up to 0.36 apart in matplotlib 3.9 to 3.11.
PLACES, POINTS = ("d", "x", "y", "transform"), 1.0
IDS = ("id", "{http://www.w3.org/1999/xlink}href")  # hashes of what matplotlib draws: other numbers give others
FONT = re.compile(r"(\d+px) (.+)")  # matplotlib 3.9 writes size and family as one
SIDE, LEVELS = 16, 16.0  # pixels of a tile, and how far it may be from ours of 255, as the root of the mean square
FRONT = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)


def same_page(one: str, other: str) -> bool:
    """Return whether two pages are the same but for the versions of matplotlib and Pillow that drew their charts and images."""
    if DRAWN.sub("", one) != DRAWN.sub("", other):
        return False
    drawn, again = DRAWN.findall(one), DRAWN.findall(other)
    return len(drawn) == len(again) and all(map(_same_drawing, drawn, again))


def _same_drawing(one: str, other: str) -> bool:
    if one == other:
        return True
    same: Callable[[str, str], bool] = _same_chart if other.startswith("<svg") else _same_image
    try:
        return same(one, other)
    except (ElementTree.ParseError, ValueError, OSError):  # it is neither XML nor an image
        return False


def _same_chart(one: str, other: str) -> bool:
    # Of what a parser does not show: comments, instructions, entities and declarations.
    if any(mark in one for mark in ("<!", "<?")):
        return False
    chart, ours = ElementTree.fromstring(one), ElementTree.fromstring(other)
    elements, own = list(chart.iter()), list(ours.iter())
    ids: tuple[dict[str, int], dict[str, int]] = ({}, {})
    return len(elements) == len(own) and all(
        here.tag == there.tag and len(here) == len(there)
        and (here.text or "").strip() == (there.text or "").strip() and not (here.tail or "").strip()
        and _same_attributes(_attributes(here, ids[0]), _attributes(there, ids[1]))
        for here, there in zip(elements, own, strict=True)
    )  # fmt: skip


def _attributes(element: ElementTree.Element, ids: dict[str, int]) -> dict[str, str]:
    """The attributes of an element, each property of its style among them, and ids as numbers in the order in which they come."""
    found = dict(element.attrib)
    for name in IDS:
        if name in found:
            found[name] = f"id {ids.setdefault(found[name].removeprefix('#'), len(ids))}"
    for each in found.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in each.partition(":"))
        if name == "font" and (font := FONT.fullmatch(value)):
            found |= {"style font-size": font[1], "style font-family": font[2]}
        elif each.strip():
            found[f"style {name}"] = value
    return found


def _same_attributes(one: dict[str, str], other: dict[str, str]) -> bool:
    return one.keys() == other.keys() and all(
        one[name] == other[name] or (name in PLACES and _same_place(one[name], other[name])) for name in one
    )


def _same_place(one: str, other: str) -> bool:
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    numbers, own = (list(map(float, NUMBER.findall(text))) for text in (one, other))
    return all(abs(a - b) <= POINTS for a, b in zip(numbers, own, strict=True))


def _same_image(one: str, other: str) -> bool:
    import numpy as np

    if not one.startswith(WEBP) or not other.startswith(WEBP):
        return False
    difference = _pixels(one) - _pixels(other)  # ValueError where the sizes differ
    tiles = (
        difference[y : y + SIDE, x : x + SIDE] for y in range(0, len(difference), SIDE)
        for x in range(0, difference.shape[1], SIDE)
    )  # fmt: skip
    return all(float(np.sqrt(np.mean(tile**2))) <= LEVELS for tile in tiles)


def _pixels(address: str) -> Any:
    """The pixels of a still WebP, (height, width, 3), float. Raises ValueError or OSError where it is none."""
    import numpy as np
    from PIL import Image

    data = base64.b64decode(address.removeprefix(WEBP), validate=True)
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
        if getattr(image, "n_frames", 1) != 1 or image.mode != "RGB" or image.info.get("icc_profile"):
            raise ValueError("it is not one opaque image in sRGB")
        return np.asarray(image, np.float64)


def same_card(one: str, other: str) -> bool:
    """Return whether two model cards are the same but for how a version of huggingface_hub writes their metadata as YAML."""
    import yaml

    cards = [FRONT.fullmatch(text) for text in (one, other)]
    if cards[0] is None or cards[1] is None or cards[0][2] != cards[1][2]:
        return False
    try:
        return _values(cards[0][1]) == _values(cards[1][1])
    except (yaml.YAMLError, ValueError):
        return False


def _values(text: str) -> Any:
    """The values of a YAML document, a key that comes twice among them. Raises ValueError for comments, anchors and tags."""
    import yaml

    rest = list(text)
    for token in yaml.scan(text):
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken | yaml.DirectiveToken):
            raise ValueError("it has anchors, tags or directives")
        for place in range(token.start_mark.index, token.end_mark.index):
            rest[place] = " "
    if "".join(rest).strip():  # comments are in no token
        raise ValueError("it has comments")
    return _plain(yaml.compose(text))


def _plain(node: Any) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return sorted((_plain(key), _plain(value)) for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each) for each in node.value]
    return node and (node.tag, node.value)
