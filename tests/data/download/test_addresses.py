"""Addresses that must never be asked: every way to smuggle one, with a trap on the other side that counts packets."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from web_server import Site, Trap, picture

from commonart.core.data.download import addresses
from commonart.core.data.download.addresses import is_public, resolve, split_url
from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import Download, DownloadError, Limits

PUBLIC_ONLY = Limits(attempts=1, seconds=3)

PRIVATE = """
    127.0.0.1 127.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 0.1.2.3
    192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254
    ::ffff:7f00:1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 2002:7f00:1:: 2002:a9fe:a9fe::
    2001:0:7f00:1:: not-an-address
    fec0::1 3fff::1 192.0.0.192 192.88.99.1 168.63.129.16 2001:470:1:1:0:5efe:7f00:1 2001:470:1:1:200:5efe:a00:1
    """


@pytest.mark.parametrize("private", PRIVATE.split())
def test_private_addresses(private: str) -> None:
    assert not is_public(private)


@pytest.mark.parametrize("public", ["8.8.8.8", "151.101.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(public: str) -> None:
    assert is_public(public)


# What stands for HOST:PORT is a trap on this machine: 56 ways to write it into a URL, or to hide it in one.
SMUGGLED = """
    http://127.0.0.1:PORT/a.jpg http://localhost:PORT/ http://LOCALHOST:PORT/ http://localhost.:PORT/
    http://localhost.localdomain:PORT/ http://127.1:PORT/ http://127.0.1:PORT/ http://0:PORT/ http://0.0.0.0:PORT/
    http://2130706433:PORT/ http://0x7f000001:PORT/ http://0x7f.1:PORT/ http://0x7f.0x0.0x0.0x1:PORT/
    http://0177.0.0.1:PORT/ http://0177.0.0.01:PORT/ http://017700000001:PORT/ http://00000177.1:PORT/
    http://0X7F000001:PORT/ http://127.0.0.1.:PORT/ http://127.000.000.001:PORT/ http://4294967297.0:PORT/
    http://[::1]:PORT/ http://[0:0:0:0:0:0:0:1]:PORT/ http://[::]:PORT/ http://[::ffff:127.0.0.1]:PORT/
    http://[::ffff:7f00:1]:PORT/ http://[::127.0.0.1]:PORT/ http://[64:ff9b::7f00:1]:PORT/ http://[2002:7f00:1::]:PORT/
    http://[::1%25lo]:PORT/ http://[fe80::1%25lo]:PORT/ http://[::ffff:0:127.0.0.1]:PORT/
    http://１２７.０.０.１:PORT/ http://127。0。0。1:PORT/ http://①②⑦.0.0.1:PORT/ http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:PORT/
    http://user@127.0.0.1:PORT/ http://user:pw@127.0.0.1:PORT/ http://example.org@127.0.0.1:PORT/
    http://example.org:80@127.0.0.1:PORT/ http://127.0.0.1:PORT@example.invalid/ http://:@127.0.0.1:PORT/
    http://example.invalid\\@127.0.0.1:PORT/ http://127.0.0.1:PORT\\@example.invalid/ http://exa%6dple.invalid:PORT/
    http://127.0.0.1:PORT#@example.invalid/ http://127.0.0.1:PORT?@example.invalid/ http://127%2e0%2e0%2e1:PORT/
    http://%31%32%37.0.0.1:PORT/ http:127.0.0.1:PORT/ http:/127.0.0.1:PORT/ http:///127.0.0.1:PORT/
    //127.0.0.1:PORT/ 127.0.0.1:PORT/ ftp://127.0.0.1:PORT/a gopher://127.0.0.1:PORT/_GET dict://127.0.0.1:PORT/x
    tftp://127.0.0.1:PORT/a ws://127.0.0.1:PORT/ telnet://127.0.0.1:PORT/ file://127.0.0.1:PORT/etc/passwd
    file:///etc/passwd data:image/png;base64,AA== javascript:1 http://169.254.169.254/latest/meta-data/
    http://[fd00:ec2::254]/ http://10.0.0.1/ http://192.168.0.1:8080/ http://metadata.google.internal/
    http:///a http://[::1 http://a:99999/ http://a:b/
    """
SPLIT = [
    "",
    "http://127.0.0.1 :PORT/",
    "http://127.0.0.1\t:PORT/",
    "http://a/\r\nHost: 127.0.0.1:PORT",
    "http://a\x00b/",
]
REFUSED = {"private_address", "bad_url", "dns_unknown", "dns_temporary"}


def outcome(*urls: str, limits: Limits = PUBLIC_ONLY) -> list[str]:
    """ "came" or the reason, of each."""
    found = []
    with DownloadClient(limits) as client:
        for pending in [client.submit(url) for url in urls]:
            try:
                found.append("came" if pending.result().data else "nothing")
            except DownloadError as error:
                found.append(error.reason)
    return found


@pytest.fixture(autouse=True)
def no_name_server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that the system does not know by itself are not asked of any server; returns those that were looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any, **options: Any) -> Any:
        asked.append(host)
        if any(c.isalpha() for c in host.lower().replace("0x", "")) and "localhost" not in host and ":" not in host:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize("url", [*SMUGGLED.split(), *SPLIT])
def test_no_way_of_writing_a_private_address_is_asked(url: str) -> None:
    with Trap() as trap:
        (reason,) = outcome(url.replace("PORT", str(trap.port)))
        assert reason in REFUSED and trap.visitors() == 0


def test_the_trap_works() -> None:
    with Trap() as trap:
        outcome(f"http://127.0.0.1:{trap.port}/", limits=Limits(attempts=1, seconds=0.2, allow_private=True))
        assert trap.visitors() >= 1
    assert len([*SMUGGLED.split(), *SPLIT]) >= 40


@pytest.fixture
def only_the_site_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 passes for a public address; everything else is judged as it is."""
    monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    monkeypatch.setattr(
        "commonart.core.data.download.transfer.is_public", lambda ip: ip == "127.0.0.1" or is_public(ip)
    )


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:PORT/", "//127.0.0.2:PORT/", "http://[::ffff:127.0.0.2]:PORT/", "http://0x7f000002:PORT/",
     "http://2130706434:PORT/", "http://0177.0.0.2:PORT/", "http://127.0.0.1@127.0.0.2:PORT/", "ftp://127.0.0.2:PORT/",
     "gopher://127.0.0.2:PORT/_", "http://[::1]:PORT/", "http://rebound.example:PORT/", "http:\\\\127.0.0.2:PORT/",
     "file:///etc/passwd", "http://169.254.169.254/latest/meta-data/"],
)  # fmt: skip
def test_a_redirect_is_judged_like_a_first_address(
    only_the_site_is_public: None, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real(host.replace("rebound.example", "127.0.0.2"), *a, **k)
    )
    with Trap("127.0.0.2") as trap, Site() as site:
        there = location.replace("PORT", str(trap.port))
        for status in (301, 302, 303, 307, 308):
            (reason,) = outcome(site.image(f"/{status}.jpg", b"", status, Location=there))
            assert reason in REFUSED and trap.visitors() == 0


def test_robots_txt_that_leads_to_a_private_address_is_not_followed(only_the_site_is_public: None) -> None:
    with Trap("127.0.0.2") as trap, Site() as site:
        site.image("/robots.txt", b"", 302, Location=f"http://127.0.0.2:{trap.port}/robots.txt")
        outcome(site.image("/a.jpg", picture()))
        assert trap.visitors() == 0


def test_rebinding_changes_nothing(only_the_site_is_public: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is checked and private a moment later: it is looked up once, and pinned."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def look_up(host: str, *args: Any, **options: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Trap("127.0.0.2") as trap, Site() as site:
        site.image("/a.jpg", picture())
        assert outcome(*[f"http://rebind.example:{site.port}/a.jpg"] * 3) == ["came"] * 3
        assert asked == ["rebind.example"] and trap.visitors() == 0


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **_: Any) -> list[Any]:
        kind = socket.SOCK_STREAM
        return [(2, kind, 6, "", ("93.184.216.34", port)), (2, kind, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1"):
        resolve("rebind.example.org", 80)


def test_a_socket_is_judged_even_when_the_name_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second line of defence: whatever got past the first, libcurl's own socket is refused."""
    monkeypatch.setattr(addresses, "resolve", lambda host, port, **_: ["127.0.0.1"])
    with Trap() as trap:
        assert outcome(f"http://anything.example:{trap.port}/a.jpg") == ["private_address"]
        assert trap.visitors() == 0


def test_a_proxy_from_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Trap() as trap, Site() as site:
        for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        assert outcome(site.image("/a.jpg", picture()), limits=Limits(allow_private=True)) == ["came"]
        assert trap.visitors() == 0


def test_url_is_taken_apart_as_it_is_sent() -> None:
    target = split_url("https://bücher.example:8443/a b/ü.jpg?q=ä&x=1#part")
    assert target == (True, "xn--bcher-kva.example", 8443, "/a%20b/%C3%BC.jpg?q=%C3%A4&x=1")
    with Site() as site, DownloadClient(Limits(allow_private=True)) as client:
        site.image("/b/x.jpg?q=%C3%A4", picture())
        found = client.submit(site.url("/ü/../b/./x.jpg?q=ä#part")).result()
        assert isinstance(found, Download) and site.asked == ["/b/x.jpg?q=%C3%A4"]


HOSTS = [  # as browsers and curl ask (UTS 46, non-transitional); "" is refused
    ("faß.de", "xn--fa-hia.de"), ("FAẞ.de", "xn--fa-hia.de"), ("βόλος.com", "xn--nxasmm1c.com"), ("βόλοσ.com", "xn--nxasmq6b.com"),
    ("نامه‌ای.com", "xn--mgba3gch31f060k.com"), ("ශ්‍රී.com", "xn--10cl1a0b660p.com"), ("bücher.example", "xn--bcher-kva.example"),
    ("BÜCHER.example.", "xn--bcher-kva.example."), ("日本語。ＪＰ", "xn--wgv71a119e.jp"), ("ｅｘ．com", "ex.com"),
    ("☃.net", "xn--n3h.net"),
    ("💩.la", "xn--ls8h.la"), ("my_host.ü.de", "my_host.xn--tda.de"), ("xn--fa-hia.de", "xn--fa-hia.de"),
    ("A_b-.Example", "a_b-.example"),
    ("a\u0300.com", "xn--0ca.com"), ("a\u200cb.com", ""), ("\u0300a.com", ""), ("xn--bücher.de", ""),
    (".ü.com", ""), ("ü..com", ""),
    ("\u00ad.com", ""), ("0א.com", ""), ("ü" * 60 + ".com", ""), ("a" * 64 + ".com", ""),
]  # fmt: skip


@pytest.mark.parametrize(("host", "asked"), HOSTS)
def test_no_name_is_asked_of_another_host(host: str, asked: str) -> None:
    if asked:
        assert split_url(f"https://{host}/x.jpg").host == asked
    else:
        with pytest.raises(DownloadError, match="bad_url"):
            split_url(f"https://{host}/x.jpg")


def test_a_redirect_to_another_alphabet_keeps_its_host(no_name_server: list[str]) -> None:
    with Site() as site:
        site.image("/a.jpg", b"", 302, Location="http://faß.example/a.jpg".encode().decode("latin-1"))
        assert outcome(site.url("/a.jpg"), limits=Limits(allow_private=True, attempts=1)) == ["dns_unknown"]
    assert "xn--fa-hia.example" in no_name_server and "fass.example" not in no_name_server


@pytest.mark.parametrize(
    "path", ["/%70rivate/1.jpg", "/ok/%2e%2e/private/1.jpg", "/ok/../private/1.jpg", "/privat%65/1.jpg"]
)
def test_robots_txt_is_asked_about_the_path_that_is_meant(path: str) -> None:
    assert split_url(f"http://example.org{path}").path == "/private/1.jpg"
    assert split_url(f"http://example.org//x{path}").path == "//x/private/1.jpg"
    assert split_url("http://example.org//private/../a.jpg").path == "//a.jpg"
    assert split_url("http://example.org/a%2fb%c3%bc").path == "/a%2Fb%C3%BC"  # these do not stand for themselves


def test_public_space_is_what_the_registries_say() -> None:
    """Our judgement against the standard library's, over the borders of every special block."""
    blocks = (
        "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 198.18.0.0/15 224.0.0.0/4"
    )
    for block in map(ipaddress.ip_network, blocks.split()):
        assert not is_public(str(block[0])) and not is_public(str(block[-1]))
