"""Signals by which a work asks not to be used: robots.txt, X-Robots-Tag, TDMRep, and IPTC/PLUS Data Mining in the file.

Each becomes one string of a record's `opt_out`. Sources: RFC 9309; the W3C community's TDM Reservation Protocol; IPTC
Photo Metadata Standard 2023.1 (`plus:DataMining`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import orjson

from commonart.core.data.download.addresses import plain_path

AGENT = "commonart"  # the product token that robots.txt and X-Robots-Tag may name
TAGS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# Rules of X-Robots-Tag that have a colon themselves, so that what stands before it is no user agent.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_MINING = re.compile(rb"\0?".join(re.escape(b"%c" % c) for c in b"DMI-PROHIBITED") + rb"(?:\0?[A-Z-])*")
_MAX_TEXT = 1 << 24  # bytes of a PNG's text that are unpacked: an XMP packet has a few thousand
_MAX_CHUNKS = 100_000
_PROFILES = (b"XML:com.adobe.xmp\0", b"Raw profile type")  # keywords of a PNG's texts that hold metadata
_IN_QUERY = re.compile("%(2F|3A|3F|40|21|27|28|29|2C|3B)")  # / : ? @ ! ' ( ) , ; separate nothing in a query
_SLASHES = re.compile(r"//+")
_MAX_RULES = 10_000


@dataclass(slots=True)
class Rules:
    """What one host's robots.txt and tdmrep.json say to us."""

    robots: list[tuple[str, bool]] = field(default_factory=list)  # (pattern, whether it allows)
    reservations: list[tuple[str, bool]] = field(default_factory=list)  # (pattern, whether it reserves)
    delay: float = 0.0  # Crawl-delay, in seconds

    def signals(self, path: str) -> list[str]:
        """Return the signals for a path, given with its query and percent-encoded as it is sent."""
        # To RFC 9309 `//private/` is not under `/private/`, but nginx and Apache serve the same file: either refuses.
        path, mark, query = _canonical(path).replace("*", "%2A").replace("$", "%24").partition("?")
        spellings = {path + mark + query, _SLASHES.sub("/", path) + mark + query}
        robots = [] if all(_longest(self.robots, spelling, True) for spelling in spellings) else ["robots.txt"]
        reserved = any(_longest(self.reservations, spelling, False) for spelling in spellings)
        return robots + (["tdmrep.json"] if reserved else [])


def _longest(rules: Sequence[tuple[str, bool]], path: str, default: bool) -> bool:
    """What the longest matching pattern says; of two equally long ones `default` wins for robots.txt (RFC 9309, 2.2.2)."""
    longest, answer = -1, default
    for pattern, value in rules:
        if (len(pattern) > longest or (len(pattern) == longest and value)) and _matches(pattern, path):
            longest, answer = len(pattern), value
    return answer


def _matches(pattern: str, path: str) -> bool:
    """`*` is any run of characters, a last `$` the end. No regular expression: strangers write these patterns."""
    ends = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    position = len(first)
    for number, literal in enumerate(rest):
        if ends and number == len(rest) - 1:
            return len(path) - len(literal) >= position and path.endswith(literal)
        position = path.find(literal, position)
        if position < 0:
            return False
        position += len(literal)
    return not ends or position == len(path)


def _pattern(text: str) -> str:
    body, end = text.removesuffix("$"), "$" if text.endswith("$") else ""
    return quote(_canonical(body).replace("$", "%24"), safe="/%:@!&'()*+,;=~-._?[]") + end


def _canonical(path: str) -> str:
    """The one spelling by which a path and a pattern are compared (RFC 9309, 2.2.2): in a query, `%3A%2F` is `:/`."""
    path, mark, query = plain_path(path).partition("?")
    return path + mark + _IN_QUERY.sub(lambda match: chr(int(match[1], 16)), query)


def read_robots(data: bytes, rules: Rules) -> None:
    """Add what a robots.txt says to `commonart`, or else to everybody (`*`)."""
    groups: dict[str, list[tuple[str, bool]]] = {}
    delays: dict[str, float] = {}
    agents: list[str] = []  # of the group that is being read
    in_head = False  # among the lines that name the agents of a group
    for line in data.decode("utf-8", errors="replace").removeprefix("\ufeff").splitlines()[: _MAX_RULES * 10]:
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            agents = [*agents, value.lower()] if in_head else [value.lower()]
            groups.setdefault(value.lower(), [])
            in_head = True
            continue
        if name in ("allow", "disallow", "crawl-delay"):
            in_head = False
        for agent in agents:
            if name in ("allow", "disallow") and value and len(groups[agent]) < _MAX_RULES:
                groups[agent].append((_pattern(value), name == "allow"))
            elif name == "crawl-delay" and re.fullmatch(r"\d+(\.\d+)?", value):
                delays[agent] = float(value)
    group = next((agent for agent in groups if agent.split("/")[0] == AGENT), "*")
    rules.robots = groups.get(group, [])
    rules.delay = min(delays.get(group, 0.0), 60.0)


def read_tdmrep(data: bytes, rules: Rules) -> None:
    """Add what `/.well-known/tdmrep.json` reserves; a file that is not such a list says nothing."""
    try:
        entries = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    for entry in entries[:_MAX_RULES] if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("location"), str) and "tdm-reservation" in entry:
            rules.reservations.append((_pattern(entry["location"]), str(entry["tdm-reservation"]) == "1"))


def header_signals(headers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the signals in an answer's headers (names in lower case): X-Robots-Tag, to all or to us, and `tdm-reservation`."""
    signals: list[str] = []
    for header in headers.get("x-robots-tag", ()):
        agent, colon, rest = header.lower().partition(":")
        named = bool(colon) and agent.strip() not in _WITH_VALUE and "," not in agent
        if named and agent.strip() not in (AGENT, "*"):
            continue
        rules = (rule.strip() for rule in (rest if named else header.lower()).split(","))
        signals += [f"x-robots-tag:{rule}" for rule in rules if rule in TAGS]
    if any(value.strip() == "1" for value in headers.get("tdm-reservation", ())):
        signals.append("tdm-reservation")
    return list(dict.fromkeys(signals))


def embedded_signals(data: bytes) -> list[str]:
    """`iptc:DMI-PROHIBITED...` where a file's XMP prohibits data mining, in UTF-8 or UTF-16, also in a PNG's compressed text."""
    values = _prohibitions(data)
    if data.startswith(b"\x89PNG") and not values:
        values = [value for text in _png_texts(data) for value in _prohibitions(text)]
    return list(dict.fromkeys(f"iptc:{value.decode()}" for value in values))


def _prohibitions(data: bytes) -> list[bytes]:
    if b"DMI-PROHIBITED" not in data and b"D\0M\0I\0-\0P" not in data:
        return []
    return [value.replace(b"\0", b"") for value in _MINING.findall(data)]


def _png_texts(data: bytes) -> Iterator[bytes]:
    """The metadata in a PNG's text that are compressed (iTXt, zTXt), or in the hexadecimal of `Raw profile type`.

    Chunks may stand behind the pixels, which are stepped over by their length. What is unpacked is bounded in sum.
    """
    offset, room = 8, _MAX_TEXT
    for _ in range(_MAX_CHUNKS):
        size, kind = int.from_bytes(data[offset : offset + 4]), data[offset + 4 : offset + 8]
        if kind in (b"", b"IEND") or room <= 0:
            return
        # Others hold prompts and workflows, megabytes of them, and no rights.
        if kind in (b"iTXt", b"zTXt", b"tEXt") and data.startswith(_PROFILES, offset + 8):
            keyword, _, text = data[offset + 8 : offset + 8 + size].partition(b"\0")
            if kind == b"zTXt":
                text = _unpacked(text[1:], room)  # behind the number of the method
            elif kind == b"iTXt":  # behind flag, method, language and the keyword's translation
                packed, text = text[:1] == b"\1", text[2:].partition(b"\0")[2].partition(b"\0")[2]
                text = _unpacked(text, room) if packed else text
            room -= len(text)
            yield text
            if keyword.startswith(b"Raw profile type"):  # as ImageMagick writes it: a name, a length, and digits
                digits = b"".join(text.split()[2:])
                with suppress(ValueError):
                    yield bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
        offset += size + 12


def _unpacked(data: bytes, most: int) -> bytes:
    with suppress(zlib.error):  # damaged: the decoder gives the reason
        return zlib.decompressobj().decompress(data, most)
    return b""
