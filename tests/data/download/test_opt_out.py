"""Opt-out signals: robots.txt, X-Robots-Tag, TDMRep and IPTC Data Mining; obeyed by default, recorded in any case."""

from __future__ import annotations

import io
import random
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import orjson
import pytest
from commands import LOCAL, fetched
from download_site import site
from PIL import Image, PngImagePlugin
from web_server import Site, picture

from commonart.core.data.download import opt_out
from commonart.core.data.download.addresses import split_url
from commonart.core.data.download.opt_out import Rules, embedded_signals, header_signals, read_robots, read_tdmrep

__all__ = ["site"]  # the fixture


def check(site: Site, signals: list[str], *, asked: bool, data: bytes | None = None, **headers: str) -> None:
    """`/private/a.jpg` is dropped with these signals, and kept with them where the user says so."""
    record = {"key": "a", "image_url": site.image("/private/a.jpg", data or picture(), 200, **headers)}
    made, drop, refused = fetched([record])
    assert site.asked == (["/private/a.jpg"] if asked else [])
    kept, _, _ = fetched([record], replace(LOCAL, opt_outs=False))
    assert kept[0].record["opt_out"] == signals
    if signals:
        assert dict(drop.reasons) == {"opt_out": 1} and drop.failures == 0 and refused[0]["opt_out"] == signals
    else:
        assert made[0].record["opt_out"] == []


@pytest.mark.parametrize(
    ("headers", "signals"),
    [
        ({"X_Robots_Tag": "noai"}, ["x-robots-tag:noai"]),
        ({"X_Robots_Tag": "noimageai, NOML"}, ["x-robots-tag:noimageai", "x-robots-tag:noml"]),
        ({"X_Robots_Tag": "commonart: noindex"}, ["x-robots-tag:noindex"]),
        ({"X_Robots_Tag": "unavailable_after: 25 Jun 2010 15:00:00 PST"}, []),
        ({"X_Robots_Tag": "otherbot: noai"}, []),
        ({"X_Robots_Tag": "nofollow"}, []),
        ({"tdm_reservation": "1"}, ["tdm-reservation"]),
        ({"tdm_reservation": "0"}, []),
    ],
)
def test_headers(site: Site, headers: dict[str, str], signals: list[str]) -> None:
    check(site, signals, asked=True, **headers)


def test_several_headers_count_each() -> None:
    headers = {"x-robots-tag": ["otherbot: noindex", "noai", "max-snippet: 20, noml"]}
    assert header_signals(headers) == ["x-robots-tag:noai", "x-robots-tag:noml"]


def test_robots_txt_is_asked_before_the_image_and_once_for_a_host(site: Site) -> None:
    site.image("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    check(site, ["robots.txt"], asked=False)
    site.rules.clear()
    records = [{"key": f"k{n}", "image_url": site.image(f"/open/{n}.jpg", picture(n))} for n in range(30)]
    assert len(fetched(records)[0]) == 30
    assert sorted(site.rules) == ["/.well-known/tdmrep.json", "/robots.txt"]


def test_a_redirect_into_a_forbidden_path_is_not_followed(site: Site) -> None:
    with Site() as other:
        other.image("/robots.txt", b"User-agent: commonart\nDisallow: /\n")
        there = other.image("/a.jpg", picture())
        _, drop, _ = fetched([{"key": "a", "image_url": site.image("/a.jpg", b"", 302, Location=there)}])
        assert dict(drop.reasons) == {"opt_out": 1} and other.asked == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_to_give_its_robots_txt_is_asked_later(site: Site, status: int) -> None:
    site.image("/robots.txt", b"", status)
    _, drop, _ = fetched([{"key": "a", "image_url": site.image("/a.jpg", picture())}])
    assert dict(drop.reasons) == {"robots_unavailable": 1} and site.asked == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_server_without_robots_txt_forbids_nothing(site: Site, status: int) -> None:
    site.image("/robots.txt", b"", status)
    check(site, [], asked=True)


def test_a_robots_txt_without_end_is_read_to_its_limit(site: Site) -> None:
    site.image("/robots.txt", b"User-agent: *\nDisallow: /private\n" + b"# nothing\n" * 60_000)
    check(site, ["robots.txt"], asked=False)


def test_tdmrep(site: Site) -> None:
    rules = [{"location": "/private/*", "tdm-reservation": 1}, {"location": "/private/free/*", "tdm-reservation": 0}]
    site.image("/.well-known/tdmrep.json", orjson.dumps(rules))
    check(site, ["tdmrep.json"], asked=False)
    made, _, _ = fetched([{"key": "b", "image_url": site.image("/private/free/b.jpg", picture())}])
    assert made[0].record["opt_out"] == []


@pytest.mark.parametrize("bad", [b"", b"{", b"{}", b"[1, null, {}]", b'[{"location": 1, "tdm-reservation": 1}]'])
def test_a_damaged_tdmrep_says_nothing(bad: bytes) -> None:
    rules = Rules()
    read_tdmrep(bad, rules)
    assert rules.signals("/a.jpg") == []


ROBOTS = [  # (robots.txt, path, whether it may be asked): RFC 9309's rules
    ("User-agent: *\nDisallow: /a", "/a.jpg", False),
    ("User-agent: *\nDisallow: /a", "/b.jpg", True),
    ("User-agent: *\nDisallow:", "/a.jpg", True),
    ("User-agent: *\nDisallow: /", "/a.jpg", False),
    ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c.jpg", True),
    ("User-agent: *\nAllow: /a\nDisallow: /a", "/a/c.jpg", True),
    ("User-agent: *\nDisallow: /*.jpg$", "/x/a.jpg", False),
    ("User-agent: *\nDisallow: /*.jpg$", "/x/a.jpg?b", True),
    ("User-agent: *\nDisallow: /a*b*c", "/axxbyyc", False),
    ("User-agent: *\nDisallow: /a$", "/ab", True),
    ("User-agent: otherbot\nDisallow: /", "/a.jpg", True),
    ("User-agent: CommonArt\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a.jpg", False),
    ("User-agent: commonart/0.1\nDisallow: /", "/a.jpg", False),
    ("User-agent: *\nDisallow: /\n\nUser-agent: commonart\nAllow: /", "/a.jpg", True),
    ("User-agent: a\nUser-agent: *\nDisallow: /", "/a.jpg", False),
    ("User-agent: *\nDisallow: /x\nUser-agent: b\nDisallow: /", "/a.jpg", True),
    ("\ufeffUSER-AGENT : *\r\nDISALLOW : /a # why\r\n", "/a.jpg", False),
    ("User-agent: *\nSitemap: http://x/\nDisallow: /ü", "/%C3%BC.jpg", False),
    ("User-agent: *\nDisallow: /%70rivate/%c3%bc", "/private/%C3%BC.jpg", False),
    ("User-agent: *\nDisallow: /private/", "//private/4.jpg", False),  # one file to nginx and Apache
    ("User-agent: *\nDisallow: /x/private/", "/x///private/4.jpg?a", False),
    ("User-agent: *\nDisallow: //private/", "//private/4.jpg", False),
    ("User-agent: *\nDisallow: //private/", "/private/4.jpg", True),
    ("User-agent: *\nDisallow: /*?u=http:/x", "/a.jpg?u=http://x", True),  # a query is no path
    ("<html>not found</html>", "/a.jpg", True),
    ("Disallow: /", "/a.jpg", True),
    ("", "/a.jpg", True),
]


@pytest.mark.parametrize(("text", "path", "allowed"), ROBOTS)
def test_robots_txt(text: str, path: str, allowed: bool) -> None:
    rules = Rules()
    read_robots(text.encode(), rules)
    assert rules.signals(path) == ([] if allowed else ["robots.txt"])


SIMPLE = """User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""
LONGEST = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n"
MERGED = "User-Agent: examplebot\nDisallow: /foo\nDisallow: /bar\n\nUser-Agent: ExampleBot\nDisallow: /baz\n"
RFC_9309 = [  # (section, robots.txt, agent, path, whether it may be asked)
    ("5.1", SIMPLE, "other", "/a.gif", False),
    ("5.1", SIMPLE, "other", "/example/1", False),
    ("5.1", SIMPLE, "other", "/publications/1", True),
    ("5.1", SIMPLE, "other", "/", True),
    ("5.1", SIMPLE, "foobot", "/", False),
    ("5.1", SIMPLE, "foobot", "/example/page.html", True),
    ("5.1", SIMPLE, "foobot", "/example/allowed.gif", True),
    ("5.1", SIMPLE, "foobot", "/example/other", False),
    ("5.1", SIMPLE, "barbot", "/example/page.html", False),
    ("5.1", SIMPLE, "barbot", "/a.gif", True),
    ("5.1", SIMPLE, "bazbot", "/example/page.html", False),
    ("5.1", SIMPLE, "quxbot", "/example/page.html", True),
    ("5.1", SIMPLE, "quxbot", "/a.gif", True),
    ("5.2", LONGEST, "foobot", "/example/page/disallowed.gif", False),
    ("5.2", LONGEST, "foobot", "/example/page/a", True),
    ("2.2.1", MERGED, "examplebot", "/foo", False),
    ("2.2.1", MERGED, "examplebot", "/bar", False),
    ("2.2.1", MERGED, "examplebot", "/baz", False),
    ("2.2.1", MERGED, "examplebot", "/x", True),
    ("2.2.1", "User-agent: foo\nDisallow: /", "foobot", "/a", True),
    ("2.2.2", "User-agent: *\nDisallow: /foo/bar?baz=quz", "b", "/foo/bar?baz=quz", False),
    (
        "2.2.2",
        "User-agent: *\nDisallow: /foo/bar?baz=https://foo.bar",
        "b",
        "/foo/bar?baz=https%3A%2F%2Ffoo.bar",
        False,
    ),
    ("2.2.2", "User-agent: *\nDisallow: /foo/bar/\u30c4", "b", "/foo/bar/%E3%83%84", False),
    ("2.2.2", "User-agent: *\nDisallow: /foo/bar/%E3%83%84", "b", "/foo/bar/\u30c4", False),
    ("2.2.2", "User-agent: *\nDisallow: /foo/bar/%62%61%7A", "b", "/foo/bar/baz", False),
    ("2.2.3", "User-agent: *\nAllow: / # comment\nDisallow: /x # y", "b", "/x", False),
    ("2.2.3", "User-agent: *\nDisallow: /this/path/exactly$", "b", "/this/path/exactly", False),
    ("2.2.3", "User-agent: *\nDisallow: /this/path/exactly$", "b", "/this/path/exactly/a", True),
    ("2.2.3", "User-agent: *\nDisallow: /this/*/exactly", "b", "/this/path/exactly", False),
    ("2.2.3", "User-agent: *\nDisallow: /this/*/exactly", "b", "/this/a/b/exactly", False),
    ("2.2.3", "User-agent: *\nDisallow: /path/file-with-a-%2A.html", "b", "/path/file-with-a-*.html", False),
    ("2.2.3", "User-agent: *\nDisallow: /path/file-with-a-%2A.html", "b", "/path/file-with-a-b.html", True),
    ("2.2.3", "User-agent: *\nDisallow: /path/foo-%24", "b", "/path/foo-$", False),
    ("2.2.3", "User-agent: *\nDisallow: /path/foo-%24", "b", "/path/foo-%24", False),
    ("2.2.3", "User-agent: *\nDisallow: /a$b", "b", "/a$b", False),
    ("2.2.4", "User-agent: a\nSitemap: x\nUser-agent: b\nDisallow: /", "a", "/q", False),
]


@pytest.mark.parametrize(("section", "text", "agent", "path", "allowed"), RFC_9309)
def test_examples_of_rfc_9309(
    monkeypatch: pytest.MonkeyPatch, section: str, text: str, agent: str, path: str, allowed: bool
) -> None:
    monkeypatch.setattr(opt_out, "AGENT", agent)
    rules = Rules()
    read_robots(text.encode(), rules)
    assert rules.signals(split_url(f"http://example.org{path}").path) == ([] if allowed else ["robots.txt"])


def test_crawl_delay_and_hostile_patterns() -> None:
    rules = Rules()
    read_robots(b"User-agent: *\nCrawl-delay: 2.5\nDisallow: /" + b"*a" * 5000 + b"b\n", rules)
    assert rules.delay == 2.5 and rules.signals("/" + "a" * 20_000) == []
    read_robots(b"User-agent: *\nCrawl-delay: 99999\n", rules)
    assert rules.delay == 60


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="http://ns.useplus.org/ldf/vocab/%s"/>
</rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "PNG compressed"])
@pytest.mark.parametrize(
    "value", ["DMI-PROHIBITED", "DMI-PROHIBITED-AIMLTRAINING", "DMI-PROHIBITED-GENAIMLTRAINING", "DMI-ALLOWED"]
)
def test_iptc_data_mining(site: Site, format: str, value: str) -> None:
    xmp = XMP % value.encode()
    save: dict[str, Any] = {"xmp": xmp}
    if format.startswith("PNG"):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip="compressed" in format)
        save = {"pnginfo": info}
    elif format == "TIFF":
        tags = Image.Exif()
        tags[700] = xmp
        save = {"exif": tags}
    data = picture(1, format.split()[0], **save)
    signals = [] if value == "DMI-ALLOWED" else [f"iptc:{value}"]
    assert embedded_signals(data) == signals
    if format == "JPEG":
        check(site, signals, asked=True, data=data)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def profile(xmp: bytes) -> bytes:
    """As ImageMagick writes a profile into a PNG's text."""
    return b"\nxmp\n%8d\n" % len(xmp) + b"\n".join(xmp.hex().encode()[i : i + 72] for i in range(0, 2 * len(xmp), 72))


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        (b"iTXt", lambda xmp: b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
        (b"iTXt", lambda xmp: b"XML:com.adobe.xmp\0\1\0en\0XMP\0" + zlib.compress(xmp)),
        (b"zTXt", lambda xmp: b"Raw profile type xmp\0\0" + zlib.compress(profile(xmp))),
        (b"tEXt", lambda xmp: b"Raw profile type xmp\0" + profile(xmp)),
        (b"zTXt", lambda xmp: b"XML:com.adobe.xmp\0\0" + zlib.compress(xmp)),
    ],
)
@pytest.mark.parametrize("behind", [True, False])
def test_iptc_before_and_behind_the_pixels_of_a_png(kind: bytes, pack: Any, behind: bool) -> None:
    out = io.BytesIO()
    Image.frombytes("RGB", (200, 200), random.Random(1).randbytes(120_000)).save(out, "PNG")
    data = out.getvalue()
    at = data.rindex(b"IEND") - 4 if behind else 33
    assert at in (33, len(data) - 12) and len(data) > 100_000
    text = chunk(kind, pack(XMP % b"DMI-PROHIBITED-GENAIMLTRAINING"))
    found = data[:at] + text + data[at:]
    Image.open(io.BytesIO(found)).load()  # a PNG that opens
    assert embedded_signals(found) == ["iptc:DMI-PROHIBITED-GENAIMLTRAINING"]
    assert embedded_signals(data) == []


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_iptc_in_utf_16(format: str, encoding: str) -> None:
    xmp = (XMP % b"DMI-PROHIBITED-AIMLTRAINING").decode().encode(encoding)
    if format == "PNG":
        data = picture(1, "PNG")
        data = data[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)) + data[33:]
    else:
        data = picture(1, format, xmp=xmp)
    assert embedded_signals(data) == ["iptc:DMI-PROHIBITED-AIMLTRAINING"]


def test_what_a_png_unpacks_to_is_bounded() -> None:
    bomb = chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(bytes(1 << 26), 9)) * 20
    tracemalloc.start()
    assert embedded_signals(picture(1, "PNG")[:33] + bomb) == []
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_long_texts_before_the_metadata_hide_nothing() -> None:
    """As every diffusion UI writes them: a prompt and a workflow of many megabytes."""
    data = picture(1, "PNG")
    texts = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a prompt " * 3_000_000))
    texts += chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"[1]" * 6_000_000))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP % b"DMI-PROHIBITED"))
    assert embedded_signals(data[:33] + texts + xmp + data[33:]) == ["iptc:DMI-PROHIBITED"]
    assert embedded_signals(data[:33] + texts + data[33:]) == []


def test_hostile_bytes_have_no_signals() -> None:
    cut = chunk(b"zTXt", b"a\0\0" + zlib.compress(XMP)[:20]) + b"\xff\xff\xff\xffiTXt"
    assert embedded_signals(b"\x89PNG\r\n\x1a\n" + cut) == []
    assert embedded_signals(b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"Raw profile type xmp\0\nxmp\n 3\nzz")) == []
    assert embedded_signals(b"\x89PNG\r\n\x1a\n" + chunk(b"iTXt", b"") + chunk(b"zTXt", b"")) == []
    assert embedded_signals(b"\x89PNG\r\n\x1a\n" + b"iTXt" * 100) == []
    assert embedded_signals(b"") == []
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "GIF")
    assert embedded_signals(out.getvalue()) == []
