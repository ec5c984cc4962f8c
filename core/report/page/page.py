"""The card's `index.html`, for somebody who has nothing else: written from facts alone, the same bytes each time.

write(gather(Path("runs/256")), Path("card"))
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from commonart.core.data.files import write_bytes
from commonart.core.report.facts import Facts
from commonart.core.report.page import data, html, models, results, sample, text
from commonart.core.report.page.style import SCRIPT, STYLE

FILE = "index.html"
_SECTION = re.compile(r'<section id="(\w+)">\n<h2>(.*)</h2>')
# What HTML does not allow, and half of a character that cannot be written.
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def write(facts: Facts, folder: Path, files: Sequence[str] = ()) -> None:
    """Write the page into the card's folder, atomically. `files`: the card's others, to link to; of folders with a slash."""
    write_bytes(folder / FILE, render(facts, files).encode())


def render(facts: Facts, files: Sequence[str] = ()) -> str:
    """Return the page. Parts of which nothing is known are left out.

    Its bytes depend on `facts.run_folder`, too, where the preview lies, and on the versions of Pillow and matplotlib.
    """
    parts = [
        data.contents(facts), data.history(facts), results.training(facts), results.evaluation(facts), results.audit(facts),
        models.models(facts), models.cost(facts), sample.section(facts), models.files(files),
    ]  # fmt: skip
    body = "\n".join(
        [_head(facts, parts), "<main id=main>", data.sentences(facts), _contents(parts), *parts, "</main>"]
    )
    title = text.TITLE if facts.run is not None else text.TITLE_OF_DATA
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(f'{facts.name}: {title[0]} / {title[1]}')}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"{body}\n<script>{SCRIPT}</script>\n</body></html>\n"
    )
    return _NOT_TEXT.sub("\ufffd", page)


def _head(facts: Facts, parts: list[str]) -> str:
    kind = text.KIND if facts.run is not None else text.KIND_OF_DATA
    choices = "".join(
        f'<input type="radio" name="lang" id="lang-{code}"{" checked" if code == "en" else ""}>'
        f'<label for="lang-{code}" lang="{code}">{name}</label>'
        for code, name in (("en", "English"), ("ja", "日本語"))
    )
    return (
        f'<a class="skip" href="#main">{html.both(text.SKIP)}</a>\n'
        f"<header><div>{html.both(kind, 'p', 'kind')}<h1>{html.bdi(facts.name)}</h1></div>"
        f'<fieldset aria-label="{text.LANGUAGE}">{choices}</fieldset></header>'
    )


def _contents(parts: list[str]) -> str:
    found = (_SECTION.match(part) for part in parts)
    links = "".join(f'<li><a href="#{each[1]}">{each[2]}</a></li>' for each in found if each)
    return f'<nav aria-label="{text.CONTENTS}"><ul>{links}</ul></nav>' if links else ""
