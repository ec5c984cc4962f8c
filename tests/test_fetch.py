"""fetch: every kind of source, a real local web server that misbehaves, and addresses that must never be asked."""

from __future__ import annotations

import hashlib
import http.server
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command
from PIL import Image

from commonart.core.data import shards, stream
from commonart.core.data.address import AddressError, is_public, resolve, split_url
from commonart.core.data.download import DownloadError, Limits, download
from commonart.core.data.record import Record, split_of
from commonart.core.data.stream import Drop
from commonart.core.errors import CommonArtError, SchemaError, UsageError
from commonart.core.nano import scenes
from commonart.stages import fetch as stage

BY4 = "https://creativecommons.org/licenses/by/4.0/"
LOCAL = Limits(allow_private=True, seconds=3, attempts=2, pause=0.01)


def picture(seed: int = 0, format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def fetched(records: list[Record], **options: Any) -> tuple[list[Any], Drop, list[Record]]:
    refused: list[Record] = []
    drop = Drop(refused.append)
    return list(stage.fetch(records, drop, **{"workers": 2, "limits": LOCAL, **options})), drop, refused


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_scenes_carry_their_truth_and_do_not_depend_on_the_limit(tmp_path: Path) -> None:
    few, many = (list(stage.listing("scenes", limit=limit, seed=3)) for limit in (5, 40))
    assert many[:5] == few
    assert len({record["key"] for record in many}) == 40
    assert many != list(stage.listing("scenes", limit=40, seed=4))
    summary = stage.run("scenes", str(tmp_path / "raw"), limit=5, seed=3, quiet=True)
    assert summary.written == 5
    for record in stream.read(str(tmp_path / "raw")):
        data = shards.read_bytes(record["image"])
        truth = scenes.render(scenes.scene_from_json(record["scene"]), 64)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), truth)
        assert record["sha256"] == hashlib.sha256(data).hexdigest()
        assert record["split"] == split_of(record["sha256"])
        assert (record["mime"], record["width"], record["opt_out"]) == ("image/png", 64, [])
        assert [caption["lang"] for caption in record["captions"]] == ["en", "ja"]


def test_some_scenes_have_licences_that_the_filter_must_reject() -> None:
    licenses = [record["license"] for record in stage.listing("scenes", limit=2000, captions=False)]
    refused = sum(license not in ("CC0-1.0", "CC-BY-4.0", "LicenseRef-CC-BY-2.1-JP") for license in licenses)
    assert 0.04 < refused / 2000 < 0.11
    assert {"CC-BY-NC-4.0", "CC-BY-SA-4.0", "LicenseRef-All-Rights-Reserved", ""} < set(licenses)


def test_scenes_at_another_size_without_captions(tmp_path: Path) -> None:
    stage.run("scenes", str(tmp_path / "raw"), limit=2, size=96, captions=False, quiet=True)
    for record in stream.read(str(tmp_path / "raw")):
        assert record["width"] == 96 and "captions" not in record


def test_a_scene_can_be_listed_filtered_and_fetched_from_stdin(commonart: Command, tmp_path: Path) -> None:
    listed = commonart("fetch", "scenes", "--list", "--limit", "60")
    assert listed.returncode == 0 and b'"image"' not in listed.stdout
    kept = commonart("license-filter", "-", input=listed.stdout)
    done = commonart("fetch", "-", "-o", "raw", input=kept.stdout)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stderr.splitlines()[-1])["out"] == len(kept.stdout.splitlines()) < 60


# --- a folder of images ----------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture(1))
    (folder / "a.png").write_bytes(picture(2, "PNG"))
    (folder / "b.jpg").write_bytes(picture(3))
    beside = {
        "title": "B",
        "author": "Ada",
        "license": "CC BY 2.0",
        "caption": "a red circle",
        "latitude": 1.5,
        "camera": "x",
    }
    (folder / "b.json").write_bytes(orjson.dumps(beside))
    (folder / "deep" / "写真.webp").write_bytes(picture(4, "WEBP"))
    (folder / "deep" / "写真.txt").write_text("赤い丸のある草原\na second line\n", "utf-8")
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.jpg").write_bytes(b"no")
    return folder


def test_folder(photos: Path, tmp_path: Path) -> None:
    summary = stage.run(str(photos), str(tmp_path / "raw"), quiet=True)
    assert (summary.read, summary.written) == (4, 4)
    by_id = {record["source_id"]: record for record in stream.read(str(tmp_path / "raw"))}
    assert list(by_id) == ["a.jpg", "a.png", "b.jpg", "deep/写真.webp"]
    assert by_id["b.jpg"]["key"] == "photos_b"
    assert shards.read_bytes(by_id["a.png"]["image"]) == picture(2, "PNG")  # original bytes
    b = by_id["b.jpg"]
    assert (b["title"], b["author"], b["license"], b["camera"]) == ("B", "Ada", "CC-BY-2.0", "x")
    assert "latitude" not in b  # where a person was is not kept
    assert b["captions"][0]["text"] == "a red circle" and b["captions"][0]["synthetic"] is False
    assert [c["lang"] for c in by_id["deep/写真.webp"]["captions"]] == ["ja", "en"]
    assert by_id["a.jpg"]["license"] == ""  # a folder says nothing about rights


def test_the_user_answers_for_a_folder_that_says_nothing(photos: Path) -> None:
    licenses = [record["license"] for record in stage.listing(str(photos), license="CC BY 4.0")]
    assert licenses == ["CC-BY-4.0", "CC-BY-4.0", "CC-BY-2.0", "CC-BY-4.0"]
    with pytest.raises(UsageError, match="--license"):
        list(stage.listing(str(photos), license="free for all"))


def test_bad_files_in_a_folder_are_counted(photos: Path) -> None:
    (photos / "c.jpg").write_bytes(b"<html>404</html>")
    (photos / "d.jpg").write_bytes(b"")
    made, drop, _ = fetched(list(stage.listing(str(photos))))
    assert len(made) == 4 and dict(drop.reasons) == {"not_an_image": 1, "empty": 1} and drop.failures == 2


def test_bad_sidecar_is_named(photos: Path) -> None:
    (photos / "b.json").write_text("{")
    with pytest.raises(SchemaError, match=r"b\.json"):
        list(stage.listing(str(photos)))


@pytest.mark.parametrize("name", ["nowhere", "empty", "notes.md", "bad.json", "other.json", "commoncatalog"])
def test_no_such_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(CommonArtError, match=name) as caught:
        list(stage.listing(str(tmp_path / name)))
    assert caught.value.fix


# --- COCO's format ---------------------------------------------------------------------------------------------------


def coco(folder: Path) -> Path:
    data = {
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
        "images": [
            {
                "id": 7, "file_name": "000000000007.jpg", "license": 4, "width": 40, "height": 30,
                "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
                "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
            },
            {"id": 8, "file_name": "../8.jpg", "license": 99},
        ],
        "annotations": [{"image_id": 7, "caption": " A man. "}, {"image_id": 7, "caption": "草原"}, {"image_id": 7}],
    }  # fmt: skip
    path = folder / "captions.json"
    path.write_bytes(orjson.dumps(data))
    return path


def test_coco(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "000000000007.jpg").write_bytes(picture(7))
    (tmp_path / "8.jpg").write_bytes(picture(8))
    first, second = stage.listing(str(coco(tmp_path)))
    assert (first["key"], first["source"], first["source_id"]) == ("coco2017_000000000007", "coco2017", "7")
    assert first["license"] == "CC-BY-2.0" and first["license_raw"] == "Attribution License"
    assert first["source_url"] == "https://www.flickr.com/photo.gne?id=8119368305"
    assert [c["text"] for c in first["captions"]] == ["A man.", "草原"]
    assert first["captions"][0] | {} == {
        "text": "A man.", "lang": "en", "model": "coco-annotators", "revision": "", "license": "CC-BY-4.0",
        "synthetic": False, "translated_from": None,
    }  # fmt: skip
    assert second["license"] == ""
    made, drop, _ = fetched([first, second], images=str(images))
    assert [sample.data for sample in made] == [picture(7)]
    assert dict(drop.reasons) == {"no_image": 1}  # a name that leads out of the folder is not followed


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="--images"):
        fetched([], images=str(tmp_path / "nowhere"))


# --- lists of URLs ---------------------------------------------------------------------------------------------------

ROWS = [
    {
        "URL": "http://example.org/1.jpg",
        "TEXT": "one, with a comma",
        "license": "CC BY 4.0",
        "author": "Ada",
        "width": 5,
    },
    {"URL": "http://example.org/2.jpg", "TEXT": "", "license": "", "author": "", "width": 6},
    {"URL": "http://example.org/1.jpg", "TEXT": "赤い丸", "license": "CC BY-NC 4.0", "author": "", "width": 7},
]


def write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "jpg": b"pixels"} for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    else:
        tab = "\t" if path.suffix == ".tsv" else ","
        lines = [columns, *([f'"{row[c]}"' if "," in str(row[c]) else str(row[c]) for c in columns] for row in rows)]
        path.write_text("\n".join(tab.join(line) for line in lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_lists_of_urls_say_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = write_list(tmp_path / f"urls.{suffix}", ROWS)
    records = list(stage.listing(str(path)))
    assert [record["image_url"] for record in records] == [row["URL"] for row in ROWS]
    assert [record["license"] for record in records] == ["CC-BY-4.0", "", "CC-BY-NC-4.0"]
    assert records[0]["author"] == "Ada" and records[0]["captions"][0]["text"] == "one, with a comma"
    assert "captions" not in records[1] and records[2]["captions"][0]["lang"] == "ja"
    assert len({record["key"] for record in records}) == 3  # one URL twice is two rows
    assert not any("jpg" in record for record in records)
    assert list(stage.listing(str(path), limit=2)) == records[:2]


def test_other_column_names(tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", [{"Bild": "http://example.org/1.jpg", "Recht": BY4, "id": "x7"}])
    with pytest.raises(CommonArtError, match="Bild, Recht, id") as caught:
        list(stage.listing(str(path)))
    assert "--column-map" in caught.value.fix
    (record,) = stage.listing(str(path), column_map={"image_url": "Bild", "license_url": "Recht"})
    assert (record["key"], record["license"]) == ("list_x7", "CC-BY-4.0")
    with pytest.raises(CommonArtError, match="'Foto'"):
        list(stage.listing(str(path), column_map={"image_url": "Foto"}))


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "b.csv").write_bytes(b"url\n\xff\xfe\n")
    (tmp_path / "c.jsonl").write_bytes(b'{"url": \n')
    for name in ("a.parquet", "b.csv", "c.jsonl"):
        with pytest.raises(CommonArtError, match=name):
            list(stage.listing(str(tmp_path / name)))


# --- a web server that misbehaves ------------------------------------------------------------------------------------

Handler = http.server.BaseHTTPRequestHandler


class Site:
    """A web server on this machine: path -> what it does; `asked` holds the paths that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.pages: dict[str, Callable[[Handler], None]] = {}
        site = self

        class Page(Handler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.headers = dict(self.headers)
                page = site.pages.get(self.path)
                if page is None:
                    self.send_error(404)
                else:
                    page(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: stderr belongs to the test."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def image(self, path: str, data: bytes, status: int = 200, **headers: str) -> str:
        def page(handler: Handler) -> None:
            handler.send_response(status)
            sent = {"Content-Length": str(len(data)), **{k.replace("_", "-"): v for k, v in headers.items()}}
            for name, value in sent.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)

        self.pages[path] = page
        return self.url(path)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_download_of_a_list(site: Site, tmp_path: Path) -> None:
    rows = [{"url": site.image(f"/{n}.jpg", picture(n)), "license": "CC BY 4.0"} for n in range(20)]
    rows.insert(7, {"url": site.url("/gone.jpg"), "license": "CC0"})
    path = write_list(tmp_path / "list.csv", rows)
    summary = stage.run(str(path), str(tmp_path / "raw"), limits=LOCAL, workers=5, shard_size=8, quiet=True)
    assert (summary.read, summary.written, dict(summary.dropped)) == (21, 20, {"http_404": 1})
    records = list(stream.read(str(tmp_path / "raw")))
    assert [shards.read_bytes(record["image"]) for record in records] == [picture(n) for n in range(20)]
    asked = len(site.asked)
    stage.run(str(path), str(tmp_path / "raw"), limits=LOCAL, workers=5, shard_size=8, quiet=True)
    assert len(site.asked) == asked  # finished shards are not asked for again
    assert "commonart" in site.headers["User-Agent"]


def test_a_private_address_is_refused_with_no_packet_sent(site: Site) -> None:
    url = site.image("/a.jpg", picture())
    made, drop, _ = fetched([{"key": "a", "image_url": url}], limits=Limits(attempts=1))
    assert made == [] and dict(drop.reasons) == {"private_address": 1} and site.asked == []


def test_a_redirect_is_judged_like_a_first_address(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.image("/a.jpg", b"", 302, Location="http://169.254.169.254/latest/meta-data/")
    real = resolve

    def only_the_site(host: str, port: int, *, allow_private: bool = False) -> list[str]:
        return real(host, port, allow_private=host == "127.0.0.1")

    monkeypatch.setattr("commonart.core.data.download.resolve", only_the_site)
    with pytest.raises(DownloadError) as caught:
        download(site.url("/a.jpg"), Limits(attempts=1))
    assert caught.value.reason == "private_address"


def test_redirects_are_followed_and_recorded(site: Site) -> None:
    site.image("/b c.jpg", picture(5))
    site.pages["/b%20c.jpg"] = site.pages["/b c.jpg"]
    url = site.image("/a.jpg", b"", 301, Location="/b c.jpg")
    made, _, _ = fetched([{"key": "a", "image_url": url}])
    assert made[0].data == picture(5) and made[0].record["fetched_url"] == site.url("/b c.jpg")
    loop = site.image("/loop.jpg", b"", 302, Location="/loop.jpg")
    with pytest.raises(DownloadError) as caught:
        download(loop, LOCAL)
    assert caught.value.reason == "redirects" and site.asked.count("/loop.jpg") == 6


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(site: Site) -> None:
    states = iter([503, 429])

    def shaky(handler: Handler) -> None:
        status = next(states, 200)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(picture())) if status == 200 else "0")
        handler.end_headers()
        handler.wfile.write(picture() if status == 200 else b"")

    site.pages["/shaky.jpg"] = shaky
    waits: list[float] = []
    got = download(site.url("/shaky.jpg"), Limits(allow_private=True, attempts=3), sleep=waits.append)
    assert got.data == picture() and waits == [0.5, 1.0]
    with pytest.raises(DownloadError, match="http_404"):
        download(site.url("/gone.jpg"), LOCAL)
    assert site.asked.count("/gone.jpg") == 1


def test_retry_after_is_honoured_up_to_a_limit(site: Site) -> None:
    soon = site.image("/soon.jpg", b"", 429, Retry_After="2")
    never = site.image("/never.jpg", b"", 429, Retry_After="86400")
    waits: list[float] = []
    for url in (soon, never):
        with pytest.raises(DownloadError, match="http_429"):
            download(url, Limits(allow_private=True, attempts=2), sleep=waits.append)
    assert waits == [2.0] and site.asked == ["/soon.jpg", "/soon.jpg", "/never.jpg"]


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
    drip(handler)


@pytest.mark.parametrize("page", [drip, drip_headers])
def test_a_sender_of_one_byte_at_a_time_cannot_hold_us(site: Site, page: Callable[[Handler], None]) -> None:
    site.pages["/slow.jpg"] = page
    started = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        download(site.url("/slow.jpg"), Limits(allow_private=True, seconds=0.5, attempts=1))
    assert caught.value.reason == "timeout" and time.monotonic() - started < 2


def test_limits_of_bytes_hold_with_and_without_a_promise(site: Site) -> None:
    promised = site.image("/big.jpg", bytes(100), Content_Length="99999999999")

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(10_000))

    site.pages["/endless.jpg"] = endless
    for url in (promised, site.url("/endless.jpg")):
        with pytest.raises(DownloadError) as caught:
            download(url, Limits(allow_private=True, max_bytes=50_000, attempts=1))
        assert caught.value.reason == "too_many_bytes"


def test_broken_answers_have_reasons(site: Site) -> None:
    site.image("/short.jpg", picture()[:100], Content_Length="5000")
    site.image("/packed.jpg", picture(), Content_Encoding="gzip")
    site.image("/page.jpg", b"<!DOCTYPE html><title>Not here</title>")
    site.pages["/junk.jpg"] = lambda handler: handler.wfile.write(b"\x00\x01\x02 no http\r\n\r\n")  # type: ignore[assignment]
    records = [{"key": name, "image_url": site.url(f"/{name}.jpg")} for name in ("short", "packed", "page", "junk")]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg"
        made, drop, refused = fetched([*records, {"key": "closed", "image_url": closed}])
    assert made == [] and drop.failures == 5
    assert [record["reason"] for record in refused] == ["incomplete", "encoded", "not_an_image", "connect", "connect"]


@pytest.mark.parametrize(
    ("headers", "signals"),
    [
        ({"X_Robots_Tag": "noai"}, ["x-robots-tag:noai"]),
        ({"X_Robots_Tag": "noimageai, NOML"}, ["x-robots-tag:noimageai", "x-robots-tag:noml"]),
        ({"X_Robots_Tag": "commonart: noindex"}, ["x-robots-tag:noindex"]),
        ({"X_Robots_Tag": "otherbot: noai"}, []),
        ({"X_Robots_Tag": "nofollow"}, []),
        ({"tdm_reservation": "1"}, ["tdm-reservation"]),
        ({"tdm_reservation": "0"}, []),
    ],
)
def test_opt_out_signals_are_obeyed_and_recorded(site: Site, headers: dict[str, str], signals: list[str]) -> None:
    record = {"key": "a", "image_url": site.image("/a.jpg", picture(), 200, **headers)}
    made, drop, refused = fetched([record])
    kept, _, _ = fetched([record], opt_outs=False)
    assert kept[0].record["opt_out"] == signals
    if signals:
        assert dict(drop.reasons) == {"opt_out": 1} and drop.failures == 0 and refused[0]["opt_out"] == signals
    else:
        assert made[0].record["opt_out"] == []


def test_an_image_that_changed_since_it_was_listed(site: Site) -> None:
    record = {"key": "a", "image_url": site.image("/a.jpg", picture(1)), "sha256": hashlib.sha256(b"x").hexdigest()}
    _, drop, _ = fetched([record])
    assert dict(drop.reasons) == {"changed": 1}


# --- addresses -------------------------------------------------------------------------------------------------------

PRIVATE = """
    127.0.0.1 127.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 0.1.2.3
    192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254
    ::ffff:7f00:1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 2002:7f00:1:: 2002:a9fe:a9fe::
    2001:0:7f00:1:: not-an-address
    """


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "151.101.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


SMUGGLED = """
    http://127.0.0.1/ http://localhost/ http://127.1/ http://2130706433/ http://0x7f000001/ http://0x7f.1/
    http://0177.0.0.1/ http://017700000001/ http://0/ http://[::1]/ http://[::ffff:127.0.0.1]/ http://[::]/
    http://169.254.169.254/ http://[fd00:ec2::254]/ http://[::ffff:a9fe:a9fe]/ http://１２７.0.0.1/ http://127。0。0。1/
    http://ⓛocalhost/ http://LOCALHOST:80/ https://10.0.0.1/ http://192.168.0.1:8080/
    http://user@127.0.0.1/ http://example.org@127.0.0.1/ http://127.0.0.1:80@example.org/ http://:@example.org/
    ftp://example.org/a file:///etc/passwd gopher://127.0.0.1/ data:image/png;base64,AA== javascript:1
    http:///a http:127.0.0.1 //example.org/a example.org/a http://exa\\mple.org/ http://[::1 http://a:99999/ http://a:b/
    """


@pytest.mark.parametrize(
    "url", [*SMUGGLED.split(), "", "http://exam ple.org/", "http://a/\r\nHost: b", "http://a\x00b/"]
)
def test_smuggled_addresses_are_refused(url: str) -> None:
    with pytest.raises(AddressError) as caught:
        target = split_url(url)
        resolve(target.host, target.port)
    assert caught.value.reason in ("bad_url", "private_address", "dns")


def test_a_name_is_resolved_once_and_one_private_address_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **_: Any) -> list[Any]:
        kind = socket.SOCK_STREAM
        return [(2, kind, 6, "", ("93.184.216.34", port)), (2, kind, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(AddressError, match=r"127\.0\.0\.1"):
        resolve("rebind.example.org", 80)


def test_url_is_taken_apart_as_it_is_sent() -> None:
    target = split_url("https://bücher.example:8443/a b/ü.jpg?q=ä&x=1#part")
    assert target == (True, "xn--bcher-kva.example", 8443, "/a%20b/%C3%BC.jpg?q=%C3%A4&x=1")


# --- the command -----------------------------------------------------------------------------------------------------


def test_nothing_to_list_on_stdin(commonart: Command) -> None:
    done = commonart("fetch", "-", "--list")
    assert done.returncode == 2 and b"--list" in done.stderr


def test_a_missing_source_is_one_sentence(commonart: Command) -> None:
    done = commonart("fetch", "nowhere/", "-o", "raw")
    assert done.returncode == 1 and b"nowhere" in done.stderr and b"Traceback" not in done.stderr
