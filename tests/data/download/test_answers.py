"""What the download client takes for an image and what it refuses: broken answers, encodings, statuses, limits of bytes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard
from commands import LOCAL
from download_site import get, site
from web_server import Handler, Site, picture

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import Download

__all__ = ["site"]  # the fixture


def test_limits_of_bytes_hold_with_and_without_a_declared_length(site: Site) -> None:
    declared = site.image("/big.jpg", bytes(100), Content_Length="99999999999")

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(10_000))

    site.pages["/endless.jpg"] = endless
    assert get(declared, site.url("/endless.jpg"), limits=replace(LOCAL, max_bytes=50_000)) == ["too_many_bytes"] * 2


def send(data: bytes) -> Callable[[Handler], None]:
    def page(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return page


OK = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "incomplete": [OK + b"Content-Length: 5000\r\n\r\n" + bytes(100)],
    "bad_answer": [OK + b"Content-Length: -5\r\n\r\n", b"\x00\x01\x02 no http\r\n\r\n", OK + b"X: " + b"x" * 400_000 + b"\r\n\r\n",
                   OK + b"A: b\r\n" * 20_000],
    "connection_lost": [b"", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"],
    "encoded": [OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", OK + b"Content-Encoding: br\r\n\r\n"],
    "http_500": [b"HTTP/1.1 500 Down\r\nContent-Length: 0\r\n\r\n"],
    "http_410": [b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"],
    "http_204": [b"HTTP/1.1 204 Nothing\r\n\r\n"],
    "http_302": [b"HTTP/1.1 302 Nowhere\r\nContent-Length: 0\r\n\r\n"],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "data"), [(reason, data) for reason, all in BROKEN.items() for data in all])
def test_broken_answers_have_reasons(site: Site, reason: str, data: bytes) -> None:
    site.pages["/a.jpg"] = send(data)
    (found,) = get(site.url("/a.jpg"), limits=replace(LOCAL, attempts=1))
    assert found in ((reason, "incomplete") if reason == "connection_lost" else (reason,))


DATA = picture(3)
RAW_DEFLATE = zlib.compress(DATA)[2:-4]
ENCODED = [  # (Content-Encoding, body): the image is what the body holds
    ("aws-chunked", DATA), ("none", DATA), ("binary", DATA), ("UTF-8", DATA), ("identity, identity", DATA), ("", DATA),
    ("8bit", DATA), ("image/jpeg", DATA), ("gzip", gzip.compress(DATA)), ("x-gzip", gzip.compress(DATA)),
    ("GZIP", gzip.compress(DATA)), ("aws-chunked,gzip", gzip.compress(DATA)), ("gzip, gzip", gzip.compress(gzip.compress(DATA))),
    ("gzip", gzip.compress(DATA[:500]) + gzip.compress(DATA[500:])), ("gzip", gzip.compress(DATA) + bytes(20)),
    ("deflate", zlib.compress(DATA)), ("deflate", RAW_DEFLATE), ("zstd", zstandard.compress(DATA)),
    ("deflate, gzip", gzip.compress(zlib.compress(DATA))),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "body"), ENCODED)
def test_content_encodings_that_real_hosts_state(site: Site, encoding: str, body: bytes) -> None:
    url = site.image("/a.jpg", body, Content_Encoding=encoding)
    assert get(url) == [Download(DATA, url, [])]


BADLY_ENCODED = [
    ("gzip", gzip.compress(DATA)[:-20], "encoded"),
    ("gzip", DATA, "encoded"),
    ("deflate", zlib.compress(DATA)[:-20], "encoded"),
    ("zstd", DATA, "encoded"),
    ("br", DATA, "encoded"),
    ("gzip", gzip.compress(bytes(1 << 24)), "too_many_bytes"),
    ("gzip, gzip", gzip.compress(gzip.compress(bytes(1 << 24))), "too_many_bytes"),
    ("deflate", zlib.compress(bytes(1 << 24)), "too_many_bytes"),
    ("zstd", zstandard.compress(bytes(1 << 24)), "too_many_bytes"),
]


@pytest.mark.parametrize(("encoding", "body", "reason"), BADLY_ENCODED)
def test_damaged_and_swollen_encodings_have_reasons(site: Site, encoding: str, body: bytes, reason: str) -> None:
    url = site.image("/a.jpg", body, Content_Encoding=encoding)
    tracemalloc.start()
    assert get(url, limits=replace(LOCAL, max_bytes=1 << 20)) == [reason]
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("status", "content_range", "reason"),
    [
        (203, "", ""),
        (206, "bytes 0-{last}/{size}", ""),
        (206, "bytes 0-{last}/*", "http_206"),
        (206, "bytes 0-{last}/99999999", "http_206"),
        (206, "bytes 1-{last}/{size}", "http_206"),
        (206, "", "http_206"),
        (201, "", "http_201"),
    ],
)
def test_statuses_of_success_other_than_200(site: Site, status: int, content_range: str, reason: str) -> None:
    headers = {"Content_Range": content_range.format(last=len(DATA) - 1, size=len(DATA))} if content_range else {}
    url = site.image("/a.jpg", DATA, status, **headers)
    assert get(url) == [reason or Download(DATA, url, [])]


def test_a_range_is_taken_as_it_is_stored(site: Site) -> None:
    packed = gzip.compress(DATA)
    headers = {"Content_Range": f"bytes 0-9/{len(packed)}", "Content_Encoding": "gzip"}
    url = site.image("/a.zip", packed[:10], 206, **headers)
    with DownloadClient(LOCAL) as client:
        assert client.submit(url, "0-9").result() == Download(packed[:10], url, [], len(packed))


def test_early_hints_are_skipped(site: Site) -> None:
    body = picture()
    early = b"HTTP/1.1 103 Early Hints\r\nX-Robots-Tag: noai\r\n\r\n"
    site.pages["/a.jpg"] = send(early + OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert get(site.url("/a.jpg")) == [Download(body, site.url("/a.jpg"), [])]
