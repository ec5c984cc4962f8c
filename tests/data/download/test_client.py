"""The download client against a web server that misbehaves: connections, redirects, retries, politeness, names, HTTP/2."""

from __future__ import annotations

import select
import selectors
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from commands import LOCAL
from download_site import get, site
from web_server import Handler, Site, answer, picture

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import TRANSIENT, Download, DownloadError
from commonart.core.errors import CommonArtError

__all__ = ["site"]  # the fixture


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


def test_transient_failures_are_tried_again_and_permanent_ones_are_not(site: Site) -> None:
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
def test_a_slow_sender_is_given_up_after_the_time_limit(site: Site, page: Callable[[Handler], None]) -> None:
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


def test_a_host_that_does_not_listen_fails_all_its_urls(site: Site) -> None:
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
def test_downloads_work_with_every_selector_of_the_standard_library(
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


def test_the_thread_starts_with_the_first_url() -> None:
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


def resolve_by(monkeypatch: pytest.MonkeyPatch, lookup: Callable[[str, int], Any]) -> list[str]:
    """Answer every look-up by `lookup`; returns the names that were asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **options: Any) -> Any:
        asked.append(host)
        found = lookup(host, port)
        if isinstance(found, Exception):
            raise found
        return real(found, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_is_resolved_once_for_many_urls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve_by(monkeypatch, lambda host, port: "127.0.0.1")
    urls = [site.image(f"/{n}.jpg", picture(n)).replace("127.0.0.1", "pictures.example") for n in range(30)]
    assert [found.data for found in get(*urls) if isinstance(found, Download)] == [picture(n) for n in range(30)]
    assert asked == ["pictures.example"]


def test_names_that_do_not_exist_differ_from_names_that_cannot_be_resolved_now(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown, again = socket.gaierror(socket.EAI_NONAME, "unknown"), socket.gaierror(socket.EAI_AGAIN, "try again")
    resolve_by(monkeypatch, lambda host, port: unknown if host.startswith("no") else again)
    assert get("http://no.example/a.jpg", "http://later.example/a.jpg") == ["dns_unknown", "dns_temporary"]


def test_a_silent_name_server_is_recognised_reported_and_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = True
    again = socket.gaierror(socket.EAI_AGAIN, "try again")
    resolve_by(monkeypatch, lambda host, port: again if down else "127.0.0.1")
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
    err = capsys.readouterr().err
    assert err.count("name server is silent") == 1 and err.count("answers again") == 1


def test_a_name_server_that_stays_silent_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_by(monkeypatch, lambda host, port: socket.gaierror(socket.EAI_AGAIN, "try again"))
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
