"""Flickr's API through a local server of its shape: own licences for a set's statements, rate, cache, failures."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from web_server import Site

from commonart.core.data.download.limits import Limits
from commonart.core.data.drops import PassedOver
from commonart.core.data.record import Record
from commonart.core.data.sources import flickr
from commonart.core.errors import CommonArtError, UsageError
from commonart.stages import fetch

KEY = "0123456789abcdef0123456789abcdef"
NAMES = [  # as flickr.photos.licenses.getInfo lists them
    (0, "All Rights Reserved", ""),
    (4, "Attribution License", "https://creativecommons.org/licenses/by/2.0/"),
    (7, "No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
    (9, "Public Domain Dedication (CC0)", "https://creativecommons.org/publicdomain/zero/1.0/"),
    (11, "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
]
EXPECTED = {0: "LicenseRef-All-Rights-Reserved", 4: "CC-BY-2.0", 7: "LicenseRef-Flickr-No-Known-Restrictions", 9: "CC0-1.0",
            11: "CC-BY-4.0"}  # fmt: skip
LIMITS = Limits(allow_private=True, seconds=3, attempts=1, pause=0.01)


class Service:
    """Photo N has licence `licenses[N]`; a missing one is not found; `failures` are answered first, in turn."""

    def __init__(self) -> None:
        self.licenses: dict[int, int] = {}
        self.failures: list[bytes | None] = []
        self.asked: list[str] = []
        self.times: list[float] = []
        self.site = Site(every=self.answer)

    def answer(self, path: str) -> bytes | None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        self.times.append(time.monotonic())
        if query["api_key"] != KEY:
            return orjson.dumps({"stat": "fail", "code": 100, "message": "Invalid API Key (Key has invalid format)"})
        if query["method"] == "flickr.photos.licenses.getInfo":
            rows = [{"id": number, "name": name, "url": url} for number, name, url in NAMES]
            return orjson.dumps({"licenses": {"license": rows}, "stat": "ok"})
        assert (
            query["method"] == "flickr.photos.getInfo" and query["format"] == "json" and query["nojsoncallback"] == "1"
        )
        self.asked.append(query["photo_id"])
        if self.failures:
            return self.failures.pop(0)
        number = self.licenses.get(int(query["photo_id"]))
        if number is None:
            return orjson.dumps({"stat": "fail", "code": 1, "message": f'Photo "{query["photo_id"]}" not found'})
        owner = {"nsid": "12037949754@N01", "username": "bees", "realname": "Cal Henderson"}
        photo = {"id": query["photo_id"], "license": str(number), "owner": owner, "title": {"_content": "a title"}}
        return orjson.dumps({"photo": photo, "stat": "ok"})

    def run(self, records: list[Record], key: str = KEY) -> list[Record]:
        return list(self.iterate(records, key))

    def iterate(self, records: list[Record], key: str = KEY) -> Iterator[Record]:
        Path("key").write_text(f"{key}\n")
        return flickr.own_licenses(records, "key", LIMITS)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    service = Service()
    monkeypatch.setattr(flickr, "API", service.site.url("/services/rest/"))
    monkeypatch.setattr(flickr, "SECONDS_PER_QUERY", 0.0)
    monkeypatch.setattr(flickr, "PAUSE", 0.01)
    with service.site:
        yield service


def record(photo: int, **fields: Any) -> Record:
    return {
        "key": f"megalith-10m_{photo}", "source": "megalith-10m", "source_id": f"{photo}", "license": "LicenseRef-OneOf..",
        "source_url": f"https://www.flickr.com/photos/someone/{photo}/", "license_basis": "set", "license_raw": "One of: ...",
        "license_observed_at": "2026-11-28T00:00:00Z", **fields,
    }  # fmt: skip


def test_a_statement_of_a_set_becomes_that_of_the_work(service: Service) -> None:
    service.licenses = {100_000 + number: number for number in EXPECTED}
    given = [record(photo) for photo in service.licenses]
    found = service.run(given)
    assert [r["license"] for r in found] == list(EXPECTED.values())
    assert all(r["license_basis"] != "set" and r["license_observed_at"] > "2026-11-28" for r in found)
    by = found[1]
    assert (by["license_url"], by["license_raw"]) == (NAMES[1][2], NAMES[1][1])
    assert (by["title"], by["author"]) == ("a title", "Cal Henderson")
    assert by["author_url"] == "https://www.flickr.com/people/12037949754@N01/"
    assert given[0]["license_basis"] == "set", "what was given is not changed"
    assert KEY not in orjson.dumps(found).decode()


def test_what_a_record_knows_of_its_author_stays(service: Service) -> None:
    service.licenses = {100_000: 4}
    (found,) = service.run([record(100_000, title="mine", author="me", author_url="https://me.example/")])
    assert (found["title"], found["author"], found["author_url"]) == ("mine", "me", "https://me.example/")


@pytest.mark.parametrize(
    "address",
    [
        "https://www.flickr.com/photos/some.body@N00/1234567",
        "https://www.flickr.com/photos/someone/1234567/in/album-7",
        "http://farm9.staticflickr.com/8012/1234567_0123456789_b.jpg",
        "https://live.staticflickr.com/65535/1234567_0a1b2c3d4e_o.jpg",
        "https://www.flickr.com/photo.gne?id=1234567",
    ],
)
def test_photos_are_known_by_their_addresses(service: Service, address: str) -> None:
    service.licenses = {1_234_567: 9}
    for field in ("source_url", "image_url"):
        (found,) = service.run([record(0, **{"source_url": "", field: address}, source_id="row 1")])
        assert found["license"] == "CC0-1.0"


def test_others_pass_in_their_order_and_are_not_asked_for(service: Service) -> None:
    service.licenses = {100_000 + n: 9 for n in range(150)}
    others = [
        record(200_000, license_basis="licence"), record(200_001, source_url="https://example.org/photos/x/200001/"),
        record(200_002, source_url=""), PassedOver(record(200_003), "bad_row"),
    ]  # fmt: skip
    given = [*others[:2], *(record(photo) for photo in service.licenses), *others[2:]]
    found = service.run(given)
    assert [r["key"] for r in found] == [r["key"] for r in given]
    assert found[:2] == others[:2] and found[-2:] == others[2:] and isinstance(found[-1], PassedOver)
    assert sorted(service.asked) == [str(photo) for photo in service.licenses]


def test_a_photo_that_is_gone_is_passed_over(service: Service) -> None:
    service.licenses = {100_000: 4}
    denied = orjson.dumps({"stat": "fail", "code": 2, "message": "Permission denied"})
    gone, kept = service.run([record(999_999), record(100_000)])
    assert isinstance(gone, PassedOver) and gone.problem == ("gone_from_flickr", "photo not found", True)
    assert kept["license"] == "CC-BY-2.0"
    service.failures = [denied]
    (gone,) = service.run([record(888_888)])
    assert isinstance(gone, PassedOver) and gone.problem.detail == "no permission to see the photo"


def test_nothing_is_asked_twice(service: Service) -> None:
    service.licenses = {100_000 + n: 4 for n in range(10)}
    given = [record(photo) for photo in [*service.licenses, 999_999, 100_000]]
    first = service.run(given)
    assert len(service.asked) == 11
    service.site.server.shutdown()
    assert service.run(given) == first, "not even whether the service is there"


def test_an_interrupted_run_goes_on(service: Service) -> None:
    service.licenses = {100_000 + n: 4 for n in range(200)}
    given = [record(photo) for photo in service.licenses]
    begun = service.iterate(given)
    assert len(list(islice(begun, 70))) == 70
    begun.close()  # type: ignore[attr-defined]
    asked = len(service.asked)
    assert asked == 2 * flickr.BATCH
    assert len(service.run(given)) == 200 and len(service.asked) == len(set(service.asked)) == 200


def test_the_rate_is_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flickr, "SECONDS_PER_QUERY", 0.15)
    service.licenses = {100_000 + n: 4 for n in range(6)}
    service.run([record(photo) for photo in service.licenses])
    assert len(service.times) == 7 and service.times[-1] - service.times[0] > 6 * 0.14


UNAVAILABLE = orjson.dumps({"stat": "fail", "code": 105, "message": "Service currently unavailable"})


@pytest.mark.parametrize("failure", [UNAVAILABLE, None, b"<html>down</html>", b"[]", b'{"stat":"ok"}'])
def test_a_service_that_fails_for_a_while(service: Service, failure: bytes | None) -> None:
    service.licenses = {100_000 + n: 4 for n in range(3)}
    service.failures = [failure] * 4
    assert {r["license"] for r in service.run([record(photo) for photo in service.licenses])} == {"CC-BY-2.0"}


def test_a_service_that_stays_away_ends_the_run_and_keeps_its_answers(service: Service) -> None:
    service.licenses = {100_000 + n: 4 for n in range(60)}
    service.run([record(100_000)])
    service.failures = [UNAVAILABLE] * 1000
    given = [record(photo) for photo in service.licenses]
    with pytest.raises(CommonArtError, match=r"does not answer: Service currently unavailable \(code 105\)") as caught:
        service.run(given)
    assert "Run the same command again" in caught.value.fix and KEY not in str(caught.value)
    service.failures = []
    service.asked.clear()
    assert len(service.run(given)) == 60 and len(service.asked) == 59


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_text(""), "does not hold a key"),
        (lambda path: path.write_text("api_key=" + KEY), "does not hold a key"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_a_file_without_a_key(tmp_path: Path, make: Callable[[Path], object], problem: str) -> None:
    make(tmp_path / "key")
    with pytest.raises(UsageError, match=problem) as caught:
        flickr.own_licenses([], str(tmp_path / "key"))
    assert "--flickr-key-file" in caught.value.what and KEY not in str(caught.value)


def test_a_key_that_flickr_does_not_accept(service: Service) -> None:
    service.licenses = {100_000: 4}
    with pytest.raises(UsageError, match="does not accept the key in --flickr-key-file key") as caught:
        service.run([record(100_000)], key="f" * 32)
    assert "f" * 32 not in str(caught.value)


def test_a_cache_that_cannot_be_used(service: Service, tmp_path: Path) -> None:
    (tmp_path / "cache" / "commonart").mkdir(parents=True)
    (tmp_path / "cache" / "commonart" / "flickr.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(CommonArtError, match=r"flickr\.sqlite3, which keeps Flickr's answers, cannot be used"):
        service.run([record(100_000)])


def test_processes_take_turns(service: Service, tmp_path: Path) -> None:
    """While another asks, this one waits; what the other was told is not asked again."""
    service.licenses = {100_000: 4}
    service.run([record(100_000)])
    database = sqlite3.connect(tmp_path / "cache" / "commonart" / "flickr.sqlite3", isolation_level=None)
    answer = database.execute("SELECT answer, observed_at FROM photos").fetchone()
    database.execute("BEGIN IMMEDIATE")
    service.licenses = {}
    found: list[Record] = []
    waiting = threading.Thread(target=lambda: found.extend(service.run([record(555_555)])))
    waiting.start()
    time.sleep(0.3)
    assert not found
    database.execute("INSERT INTO photos VALUES (555555, ?, ?)", answer)
    database.execute("COMMIT")
    waiting.join(10)
    assert [r["license"] for r in found] == ["CC-BY-2.0"] and service.asked == ["100000"]
    database.close()


def test_fetch_lists_works_with_the_licences_of_their_photos(service: Service, tmp_path: Path) -> None:
    service.licenses = {100_000: 4, 100_001: 0}
    (tmp_path / "key").write_text(KEY)
    lines = [orjson.dumps(record(photo)) for photo in (100_000, 100_001, 999_999)]
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(lines))
    fetch.run(
        "records.jsonl",
        "listed.jsonl",
        list_only=True,
        flickr_key_file="key",
        limits=LIMITS,
        quiet=True,
        rejects="no.jsonl",
    )
    listed = [orjson.loads(line) for line in (tmp_path / "listed.jsonl").read_bytes().splitlines()]
    assert [r["license"] for r in listed] == ["CC-BY-2.0", EXPECTED[0]]
    refused = orjson.loads((tmp_path / "no.jsonl").read_bytes())
    assert (refused["key"], refused["reason"]) == ("megalith-10m_999999", "gone_from_flickr")
