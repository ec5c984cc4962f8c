"""A sample of the works that is drawn by the hash of their keys, with small images, and what each licence asks to be said."""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Iterable
from html import escape

from PIL import Image

from commonart.core.data.admission import DEFAULT_POLICY
from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.record import key_hash
from commonart.core.data.shards.reader import read_bytes
from commonart.core.errors import CommonArtError
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.policies import POLICIES
from commonart.core.output.html import JAPANESE
from commonart.core.report.facts import Facts, works
from commonart.core.report.markdown import license_name
from commonart.core.report.page import charts, html, text
from commonart.core.report.works import Work

MOST = 500  # works
BYTES = 2_500_000  # of their HTML: where captions are long there are fewer works
SIDE, QUALITY = 128, 55  # of a small image: pixels of its longer side, and of WebP
CAPTIONS, LETTERS = 3, 160  # shown of a work, and of each text


def section(facts: Facts) -> str:
    """Return the part on the works, with a search that appears where scripts run; "" where there is none."""
    items: list[tuple[str, str]] = []
    size = 0
    for work in draw(works(facts.folders, facts.run)):
        item = _item(work)
        size += len(item.encode("utf-8", "replace"))
        if items and size > BYTES:
            break
        items.append((work.key, item))
    if not items:
        return ""
    count, total = f"{len(items):,}", f"{facts.works:,}"
    said = html.both(text.ALL_WORKS if count == total else text.SAMPLE, "p", shown=count, works=total)
    listed = "".join(item for _, item in sorted(items))
    return html.section(
        "works", text.SECTIONS["works"], said, SEARCH, f'<ul class="list works" id="list">{listed}</ul>', BUTTON
    )


_COUNTS = html.both(text.FOUND, found="{found}", shown="{shown}").format(
    found='<span class="found"></span>', shown='<span class="shown"></span>'
)
SEARCH = (
    f'<div class="search" id="search" role="search" hidden><label for="find" class="small">{html.both(text.FIND)}</label>'
    '<input type="search" id="find" autocomplete="off" spellcheck="false">'
    f'<span class="soft small" role="status">{_COUNTS}</span></div>'
)
BUTTON = f'<button type="button" id="more" hidden>{html.both(text.MORE)}</button>'


def draw(all_works: Iterable[Work]) -> list[Work]:
    """Return the MOST works with the smallest hashes of their keys, in that order: the same whatever the shards' order."""
    return heapq.nsmallest(MOST, all_works, key=lambda work: (key_hash(work.key), work.key))


def may_be_shown(license: str) -> bool:
    """Return whether a licence lets anyone make a small image of the work: those of the widest built-in policy do."""
    known = normalize(license)
    return known is not None and POLICIES[DEFAULT_POLICY].allows(known)


def thumbnail(work: Work) -> bytes | None:
    """Return a work as a small WebP; None where it cannot be decoded."""
    try:
        image = decode(read_bytes(work.image), at_least=SIDE)
    except (DecodeError, CommonArtError):
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()


def _item(work: Work) -> str:
    title = html.bdi(cut(work.title)) if work.title else html.both(text.UNTITLED)
    author = f"{html.both(text.BY)}{html.bdi(cut(work.author))}" if work.author else html.both(text.NO_AUTHOR)
    license = html.bdi(cut(license_name(work.license))) if work.license else html.both(text.NO_LICENSE)
    source = f" · {html.both(text.FROM)}{html.bdi(cut(work.source))}" if work.source else ""
    captions = [
        f"<p>{html.bdi(cut(str(caption['text'])), str(caption.get('lang') or ''))}"
        f"{f' <span class=soft>{escape(cut(charts.captioner(maker)))}</span>' if maker else ''}</p>"
        for caption, maker in list(zip(work.captions, work.makers, strict=True))[:CAPTIONS]
    ]
    if (further := len(work.captions) - CAPTIONS) > 0:
        captions.append(html.both(text.FURTHER, "p", "soft", count=further))
    changes = f'<p class="soft" lang="en">{escape(work.changes)}</p>' if work.changes else ""
    return (
        f"<li>{_picture(work)}<div><p class=title>{html.link(work.url, title)}</p>"
        f"<p>{author}{source} · {html.link(license_address(work), license, work.license)}</p>"
        f"{''.join(captions)}{changes}</div></li>"
    )


def _picture(work: Work) -> str:
    if not may_be_shown(work.license):
        return html.both(text.NO_THUMB, "div", "none")
    data = thumbnail(work)
    if data is None:
        return html.both(text.NO_PIXELS, "div", "none")
    said = escape(cut(work.title or next((str(each["text"]) for each in work.captions), work.key)))
    return f'<img src="data:image/webp;base64,{base64.b64encode(data).decode()}" alt="{said}" decoding="async">'


def license_address(work: Work) -> str:
    """Return the page of a work's licence; "" for one that is not known, with the address of one that is: it does not say so."""
    known = normalize(work.license)
    if known is not None and known.url:
        return known.url
    return "" if normalize(work.license_url) else work.license_url


def cut(said: str) -> str:
    """Return a text of at most LETTERS, of which Japanese ones are twice as wide."""
    most = LETTERS // 2 if JAPANESE.search(said) else LETTERS
    return said if len(said) <= most else f"{said[: most - 1]}…"
