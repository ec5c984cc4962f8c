"""The download client against a web server that misbehaves: limits, reasons, retries, politeness, HTTP/2."""

from __future__ import annotations

import gzip
import select
import selectors
import shutil
import socket
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from web_server import Handler, Site, answer, picture

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import TRANSIENT, Download, DownloadError, Limits
from commonart.core.errors import CommonArtError

LOCAL = Limits(allow_private=True, seconds=3, attempts=2, pause=0.01)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


def get(*urls: str, limits: Limits = LOCAL) -> list[Download | str]:
    """What came, or the reason why not, of each URL, by one client."""
    found: list[Download | str] = []
    with DownloadClient(limits) as client:
        for pending in [client.submit(url) for url in urls]:
            try:
                found.append(pending.result())
            except DownloadError as error:
                found.append(error.reason)
    return found


def test_many_images_over_few_connections_in_the_order_asked(site: Site) -> None:
    urls = [site.image(f"/{n}.jpg", picture(n)) for n in range(60)]
    found = get(*urls, limits=replace(LOCAL, workers=8, per_host=4))
    assert found == [Download(picture(n), url, []) for n, url in enumerate(urls)]
    assert site.connections <= 4 and site.rules.count("/robots.txt") == 1
    assert "commonart" in site.headers["User-Agent"]
    assert site.headers["Accept-Encoding"] == "identity"


def test_memory_is_bounded_while_nobody_takes(site: Site) -> None:
    urls = [site.image(f"/{n}.jpg", bytes(10_000)) for n in range(100)]
    with DownloadClient(replace(LOCAL, buffer=100_000, per_host=2)) as client:
        submitted = [client.submit(url) for url in urls]
        time.sleep(0.5)
        assert 10 <= len(site.asked) <= 12  # what fits, and what was on its way
        for pending in reversed(submitted):  # even when the last ones are wanted first
            assert len(pending.result().data) == 10_000


def test_redirects_are_followed_and_a_loop_is_not(site: Site) -> None:
    site.image("/b%20c.jpg", picture(5))
    url = site.image("/a.jpg", b"", 301, Location="/b c.jpg")
    loop = site.image("/loop.jpg", b"", 302, Location="/loop.jpg")
    away = site.image("/away.jpg", b"", 302, Location="file:///etc/passwd")
    bad = site.image("/bad.jpg", b"", 302, Location="http://[::1/")
    found = get(url, loop, away, bad)
    assert found == [Download(picture(5), site.url("/b c.jpg"), []), "redirects", "bad_url", "bad_url"]
    assert site.asked.count("/loop.jpg") == 6


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(site: Site) -> None:
    shaky = site.in_turn("/shaky.jpg", (503, b""), (429, b""), (200, picture()))
    found = get(shaky, site.url("/gone.jpg"), limits=replace(LOCAL, attempts=3))
    assert isinstance(found[0], Download) and found[0].data == picture()
    assert found[1] == "http_404" and site.asked.count("/gone.jpg") == 1


def test_retry_after_is_honoured_and_a_long_one_is_left_for_later(site: Site) -> None:
    soon = site.in_turn("/soon.jpg", (429, b"", {"Retry_After": "1"}), (200, picture()))
    date = "Fri, 31 Dec 2100 23:59:59 GMT"
    late = [site.image(f"/{n}.jpg", b"", 429, Retry_After=after) for n, after in enumerate(("86400", date))]
    started = time.monotonic()
    found = get(soon, *late)
    assert isinstance(found[0], Download) and time.monotonic() - started >= 1
    assert found[1:] == ["http_429"] * 2 and site.asked.count("/0.jpg") == site.asked.count("/1.jpg") == 1


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    drip(handler)


def silent(handler: Handler) -> None:
    time.sleep(3)


@pytest.mark.parametrize("page", [drip, drip_headers, silent])
def test_a_slow_sender_cannot_hold_us(site: Site, page: Callable[[Handler], None]) -> None:
    site.pages["/slow.jpg"] = page
    with DownloadClient(replace(LOCAL, seconds=0.5)) as client:
        started = time.monotonic()
        with pytest.raises(DownloadError, match="timeout") as caught:
            client.submit(site.url("/slow.jpg")).result()
        assert caught.value.retry and time.monotonic() - started < 2


def test_a_redirect_does_not_give_a_slow_sender_new_time(site: Site) -> None:
    def slowly(to: str) -> Callable[[Handler], None]:
        def page(handler: Handler) -> None:
            time.sleep(0.3)
            answer(handler, 302, b"", Location=to)

        return page

    for n in range(5):
        site.pages[f"/{n}.jpg"] = slowly(f"/{n + 1}.jpg")
    assert get(site.url("/0.jpg"), limits=replace(LOCAL, seconds=0.8)) == ["timeout"]


def test_limits_of_bytes_hold_with_and_without_a_promise(site: Site) -> None:
    promised = site.image("/big.jpg", bytes(100), Content_Length="99999999999")

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(10_000))

    site.pages["/endless.jpg"] = endless
    assert get(promised, site.url("/endless.jpg"), limits=replace(LOCAL, max_bytes=50_000)) == ["too_many_bytes"] * 2


def raw(data: bytes) -> Callable[[Handler], None]:
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
    site.pages["/a.jpg"] = raw(data)
    (found,) = get(site.url("/a.jpg"), limits=replace(LOCAL, attempts=1))
    assert found in ((reason, "incomplete") if reason == "connection_lost" else (reason,))


DATA = picture(3)
RAW_DEFLATE = zlib.compress(DATA)[2:-4]
CODED = [  # (Content-Encoding, body): the image is what the body holds
    ("aws-chunked", DATA), ("none", DATA), ("binary", DATA), ("UTF-8", DATA), ("identity, identity", DATA), ("", DATA),
    ("8bit", DATA), ("image/jpeg", DATA), ("gzip", gzip.compress(DATA)), ("x-gzip", gzip.compress(DATA)),
    ("GZIP", gzip.compress(DATA)), ("aws-chunked,gzip", gzip.compress(DATA)), ("gzip, gzip", gzip.compress(gzip.compress(DATA))),
    ("gzip", gzip.compress(DATA[:500]) + gzip.compress(DATA[500:])), ("gzip", gzip.compress(DATA) + bytes(20)),
    ("deflate", zlib.compress(DATA)), ("deflate", RAW_DEFLATE), ("zstd", zstandard.compress(DATA)),
    ("deflate, gzip", gzip.compress(zlib.compress(DATA))),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "body"), CODED)
def test_content_encodings_that_real_hosts_state(site: Site, encoding: str, body: bytes) -> None:
    url = site.image("/a.jpg", body, Content_Encoding=encoding)
    assert get(url) == [Download(DATA, url, [])]


BAD_CODES = [
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


@pytest.mark.parametrize(("encoding", "body", "reason"), BAD_CODES)
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
def test_other_states_of_success(site: Site, status: int, content_range: str, reason: str) -> None:
    headers = {"Content_Range": content_range.format(last=len(DATA) - 1, size=len(DATA))} if content_range else {}
    url = site.image("/a.jpg", DATA, status, **headers)
    assert get(url) == [reason or Download(DATA, url, [])]


def test_a_range_is_taken_as_it_is_stored(site: Site) -> None:
    packed = gzip.compress(DATA)
    headers = {"Content_Range": f"bytes 0-9/{len(packed)}", "Content_Encoding": "gzip"}
    url = site.image("/a.zip", packed[:10], 206, **headers)
    with DownloadClient(LOCAL) as client:
        assert client.submit(url, "0-9").result() == Download(packed[:10], url, [], len(packed))


def test_early_hints_are_no_answer(site: Site) -> None:
    body = picture()
    early = b"HTTP/1.1 103 Early Hints\r\nX-Robots-Tag: noai\r\n\r\n"
    site.pages["/a.jpg"] = raw(early + OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert get(site.url("/a.jpg")) == [Download(body, site.url("/a.jpg"), [])]


def test_a_host_that_does_not_listen(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
        found = get(*(f"{closed}/{n}.jpg" for n in range(200)), site.image("/a.jpg", picture()))
    assert found[:200] == ["connect"] * 200 and isinstance(found[200], Download)


def test_transient_and_permanent_reasons_are_apart() -> None:
    assert {"timeout", "connect", "dns_temporary", "http_429", "http_503", "incomplete"} <= TRANSIENT
    assert (
        not {"http_404", "http_403", "dns_unknown", "private_address", "tls", "bad_url", "too_many_bytes"} & TRANSIENT
    )


@pytest.mark.parametrize("kind", [selectors.PollSelector, selectors.SelectSelector])
def test_every_selector_of_the_standard_library_will_do(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: type[selectors.BaseSelector]
) -> None:
    """epoll is Linux's alone, kqueue a Mac's; what they share with these two is the interface."""
    monkeypatch.setattr(selectors, "DefaultSelector", kind)
    for name in ("epoll", "kqueue"):
        monkeypatch.delattr(select, name, raising=False)
    urls = [site.image(f"/{n}.jpg", picture(n)) for n in range(60)]
    site.pages["/slow.jpg"] = silent
    shaky = site.in_turn("/shaky.jpg", (503, b""), (200, picture()))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg"
        found = get(*urls, shaky, closed, site.url("/slow.jpg"), limits=replace(LOCAL, seconds=1))
    assert [f.data if isinstance(f, Download) else f for f in found] == [
        *(picture(n) for n in range(60)), picture(), "connect", "timeout",
    ]  # fmt: skip


def test_nothing_starts_before_the_first_url() -> None:
    before = set(threading.enumerate())
    with DownloadClient(LOCAL) as client:
        assert set(threading.enumerate()) == before
        client.forget_errors()
        client.submit("http://127.0.0.1:1/")
        assert "commonart-fetch" in {thread.name for thread in threading.enumerate()}
    assert "commonart-fetch" not in {thread.name for thread in threading.enumerate()}


# --- politeness ------------------------------------------------------------------------------------------------------


def test_per_host_concurrency_and_delay(site: Site) -> None:
    lock, now, most = threading.Lock(), 0, 0
    starts: list[float] = []

    def page(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
            starts.append(time.monotonic())
        time.sleep(0.05)
        with lock:
            now -= 1
        answer(handler, 200, picture())

    urls = []
    for n in range(12):
        site.pages[f"/{n}.jpg"] = page
        urls.append(site.url(f"/{n}.jpg"))
    get(*urls, limits=replace(LOCAL, per_host=3))
    assert 2 <= most <= 3
    starts.clear()
    get(*urls[:4], limits=replace(LOCAL, delay=0.15))
    assert all(b - a > 0.12 for a, b in pairwise(starts))


def test_one_slow_host_does_not_stop_the_others(site: Site) -> None:
    with Site() as other:
        other.pages["/slow.jpg"] = silent
        urls = [other.url("/slow.jpg")] * 4 + [site.image(f"/{n}.jpg", picture()) for n in range(20)]
        with DownloadClient(replace(LOCAL, workers=4, per_host=2)) as client:
            submitted = [client.submit(url) for url in urls]
            started = time.monotonic()
            assert all(pending.result().data for pending in submitted[4:])
            assert time.monotonic() - started < 1.5


# --- names -----------------------------------------------------------------------------------------------------------


def answers(monkeypatch: pytest.MonkeyPatch, say: Callable[[str, int], Any]) -> list[str]:
    """Answer every look-up by `say`; returns the names that were asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **options: Any) -> Any:
        asked.append(host)
        found = say(host, port)
        if isinstance(found, Exception):
            raise found
        return real(found, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_is_resolved_once_for_many_urls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, lambda host, port: "127.0.0.1")
    urls = [site.image(f"/{n}.jpg", picture(n)).replace("127.0.0.1", "pictures.example") for n in range(30)]
    assert [found.data for found in get(*urls) if isinstance(found, Download)] == [picture(n) for n in range(30)]
    assert asked == ["pictures.example"]


def test_names_that_do_not_exist_and_names_that_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown, again = socket.gaierror(socket.EAI_NONAME, "unknown"), socket.gaierror(socket.EAI_AGAIN, "try again")
    answers(monkeypatch, lambda host, port: unknown if host.startswith("no") else again)
    assert get("http://no.example/a.jpg", "http://later.example/a.jpg") == ["dns_unknown", "dns_temporary"]


def test_a_silent_name_server_is_recognised_said_and_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = True
    again = socket.gaierror(socket.EAI_AGAIN, "try again")
    answers(monkeypatch, lambda host, port: again if down else "127.0.0.1")
    site.image("/a.jpg", picture())
    urls = [f"http://host{n}.example:{site.port}/a.jpg" for n in range(100)]
    with DownloadClient(LOCAL) as client:
        submitted = [client.submit(url) for url in urls]
        time.sleep(0.5)
        down = False
        came = 0
        for pending in submitted:
            try:
                came += bool(pending.result().data)
            except DownloadError as error:
                assert error.reason == "dns_temporary"
    assert came >= 70  # all but those that were needed to see it
    said = capsys.readouterr().err
    assert said.count("name server is silent") == 1 and said.count("answers again") == 1


def test_a_name_server_that_stays_silent_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, lambda host, port: socket.gaierror(socket.EAI_AGAIN, "try again"))
    with DownloadClient(replace(LOCAL, outage=0.3)) as client:
        submitted = [client.submit(f"http://host{n}.example/a.jpg") for n in range(100)]
        with pytest.raises(CommonArtError, match="No host name could be resolved") as caught:
            for pending in submitted:
                try:
                    pending.result()
                except DownloadError:
                    continue
    assert "same command" in caught.value.fix


# --- TLS and HTTP/2 --------------------------------------------------------------------------------------------------

NGINX = """daemon off; worker_processes 1; pid {at}/pid; error_log {at}/log; events {{ worker_connections 256; }}
http {{ access_log {at}/access; log_format v '$server_protocol $connection'; access_log {at}/access v;
client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3; uwsgi_temp_path {at}/4;
scgi_temp_path {at}/5; server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {at}/cert.pem;
ssl_certificate_key {at}/key.pem; root {at}/site; }} }}"""


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("openssl")), reason="needs nginx and openssl")
def test_http2_where_it_is_offered_and_certificates_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for n in range(30):
        (site / f"{n}.jpg").write_bytes(picture(n))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    for path in (tmp_path, *tmp_path.parents):  # nginx drops to a user of its own where it is started by root
        if path.owner() == tmp_path.owner() and path != path.parent and str(path) != "/tmp":
            path.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "conf").write_text(NGINX.format(at=tmp_path, port=port))
    server = subprocess.Popen(["nginx", "-c", str(tmp_path / "conf")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        urls = [f"https://localhost:{port}/{n}.jpg" for n in range(30)]
        assert get(urls[0]) == ["tls"]  # nobody vouches for this certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        found = get(*urls)
        assert [f.data if isinstance(f, Download) else f for f in found] == [picture(n) for n in range(30)]
        assert get(f"https://127.0.0.1:{port}/0.jpg") == ["tls"]  # vouched for, but under another name
        lines = {line for line in (tmp_path / "access").read_text().splitlines() if line.startswith("HTTP/")}
        assert len(lines) == 1 and lines.pop().startswith("HTTP/2.0")  # every image over one connection
    finally:
        server.terminate()
        server.wait()
