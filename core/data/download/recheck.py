"""Ask the sources of records again: has a work opted out, or its page another licence, since the record was made?

The image is asked for as `fetch` does (robots.txt, tdmrep.json, headers, the file itself), and its page for the licences that it
links to and the robots and TDM reservation that its head states. A page that names the record's licence anywhere is taken to
state it still; one that names others as its own (`rel="license"`, schema.org's `license`) may have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from html.parser import HTMLParser
from typing import Any, NamedTuple

import orjson

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import Download, DownloadError, Limits
from commonart.core.data.download.opt_out import TAGS, embedded_signals
from commonart.core.data.download.request import Request
from commonart.core.data.record import Record
from commonart.core.licenses.parse import normalize

POLITE = Limits(attempts=2, workers=16, per_host=1, delay=1.0)
GONE = ("http_404", "http_410")
AHEAD = 256  # records that are asked for at a time


class Rechecked(NamedTuple):
    """What a source says now. `changes` are told to people; `failed`: what could not be asked, and why."""

    record: Record
    opt_out: list[str]  # signals that the record does not have
    license_now: str  # what the page names instead of the record's licence; ""
    stated: bool  # the page names the record's licence, or another one
    gone: bool  # the image or its page is no longer there
    other_bytes: bool  # the address holds another file now
    failed: list[str]

    @property
    def changes(self) -> list[str]:
        """Return what changed, a phrase each."""
        return [
            *(f"opt-out {signal}" for signal in self.opt_out),
            *([f"licence {self.record.get('license', '')} -> {self.license_now}"] if self.license_now else []),
            *(["gone"] if self.gone else []),
            *(["another file"] if self.other_bytes else []),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the line of `--json`."""
        known = {name: self.record.get(name, "") for name in ("key", "license", "license_observed_at")}
        return {**known, **{name: value for name, value in self._asdict().items() if name != "record"}}


def on_the_web(record: Record) -> bool:
    """Return whether a record says where its image was downloaded."""
    return str(record.get("image_url", "")).lower().startswith(("http:", "https:"))


def recheck(records: Iterable[Record], limits: Limits = POLITE) -> Iterator[Rechecked]:
    """Yield what the sources of records say now, in order; each has an `image_url` (`on_the_web`)."""
    remaining = iter(records)
    with DownloadClient(limits) as client:
        while part := [record for record, _ in zip(remaining, range(AHEAD), strict=False)]:
            asked = [(record, client.submit(record["image_url"]), _page(record, client)) for record in part]
            for record, image, page in asked:
                yield _compare(record, image, page)


def _page(record: Record, client: DownloadClient) -> Request | None:
    url = str(record.get("source_url", ""))
    is_page = url.lower().startswith(("http:", "https:")) and url != record["image_url"]
    return client.submit(url) if is_page else None


def _compare(record: Record, image: Request, page: Request | None) -> Rechecked:
    failed, gone, signals = list[str](), False, list[str]()
    license, stated, other_bytes = "", False, False
    answers = dict[str, Download]()
    for name, request in (("image", image), ("page", page)):
        if request is None:
            continue
        try:
            answers[name] = request.result()
            signals += answers[name].opt_out
        except DownloadError as error:
            gone = gone or error.reason in GONE
            failed += [] if error.reason in GONE else [f"{name}: {error.reason}"]
    if "image" in answers and (data := answers["image"].data):
        signals += embedded_signals(data)
        expected = record.get("sha256")
        other_bytes = bool(expected) and hashlib.sha256(data).hexdigest() != str(expected).lower()
    if "page" in answers and answers["page"].data:
        head = _Page(answers["page"].data)
        signals += head.signals
        license, stated = _other_license(record, head)
    new = sorted({*signals} - {*record.get("opt_out", [])})
    return Rechecked(record, new, license, stated, gone, other_bytes, failed)


def _other_license(record: Record, page: _Page) -> tuple[str, bool]:
    """(what the page names as its own licence instead of the record's or "", whether it names one at all)."""
    known = {found.id for text in (record.get("license"), record.get("license_url")) if (found := normalize(text))}
    linked = {found.id for text in page.links if (found := normalize(text))}
    own = {found.id for text in page.licenses if (found := normalize(text))}
    if known & (linked | own):
        return "", True
    return (" or ".join(sorted(own)), True) if own and known else ("", False)


class _Page(HTMLParser):
    """The links of an HTML page, the licences that it names as its own, and the opt-outs in its head."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.links: list[str] = []
        self.licenses: list[str] = []
        self.signals: list[str] = []
        self._json: list[str] | None = None  # of a script with structured data
        self.feed(data.decode("utf-8", "replace"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("a", "area", "link") and (href := values.get("href")):
            own = "license" in values.get("rel", "").lower().split() or values.get("itemprop") == "license"
            (self.licenses if own else self.links).append(href)
        elif tag == "meta":
            name, content = values.get("name", "").lower(), values.get("content", "").lower()
            if name in ("robots", "commonart"):
                self.signals += [f"meta:{rule}" for rule in map(str.strip, content.split(",")) if rule in TAGS]
            if name == "tdm-reservation" and content.strip() == "1":
                self.signals.append("tdm-reservation")
        elif tag == "script" and values.get("type", "").lower() == "application/ld+json":
            self._json = []

    def handle_data(self, data: str) -> None:
        if self._json is not None:
            self._json.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._json is not None:
            with suppress(orjson.JSONDecodeError, RecursionError):
                self._find(orjson.loads("".join(self._json)))
            self._json = None

    def _find(self, value: Any) -> None:
        """Take `license` out of structured data, wherever it stands: an address, or an object that has one."""
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                continue
            for name, inner in each.items():
                if name == "license":
                    told = [one.get("@id") or one.get("url") if isinstance(one, dict) else one for one in
                            (inner if isinstance(inner, list) else [inner])]  # fmt: skip
                    self.licenses += [one for one in told if isinstance(one, str)]
                elif isinstance(inner, dict | list):
                    self._find(inner)
