"""Sources that are asked again: what a page and an image say now against what the record says, against a server of this machine."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import Command
from web_server import Site, picture

from commonart.core.data.download.recheck import POLITE, Rechecked, recheck
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError
from commonart.stages import lookup

LIMITS = replace(POLITE, allow_private=True, delay=0.0, seconds=5, pause=0.01)
BY = "https://creativecommons.org/licenses/by/2.0/"
NC = "https://creativecommons.org/licenses/by-nc/2.0/"


def record(site: Site, number: int, page: str = "", data: bytes | None = None, **fields: Any) -> dict[str, Any]:
    data = picture(number) if data is None else data
    found = {
        "key": f"k{number}", "license": "CC-BY-2.0", "license_url": BY, "license_observed_at": "2026-01-02T00:00:00Z",
        "image_url": site.image(f"/{number}.jpg", data), "sha256": hashlib.sha256(data).hexdigest(), "opt_out": [],
    }  # fmt: skip
    if page:
        found["source_url"] = site.image(f"/page/{number}", page.encode(), Content_Type="text/html")
    return {**found, **fields}


def ask(*records: dict[str, Any]) -> list[Rechecked]:
    return list(recheck(records, LIMITS))


@pytest.mark.parametrize(
    ("page", "license", "stated"),
    [
        (f'<a href="{BY}">some rights reserved</a> <a rel="license" href="{NC}">footer</a>', "", True),
        (f'<a rel="license" href="{BY}deed.de">CC BY</a>', "", True),
        (f'<a rel="nofollow license" href="{NC}">CC BY-NC</a>', "CC-BY-NC-2.0", True),
        (f'<link rel="LICENSE" href="{NC}">', "CC-BY-NC-2.0", True),
        (f'<script type="application/ld+json">{{"@graph": [{{"license": "{NC}"}}]}}</script>', "CC-BY-NC-2.0", True),
        (f'<script type="application/ld+json">{{"license": {{"@id": "{BY}"}}}}</script>', "", True),
        ('<script type="application/ld+json">{"license": </script> <a href="/">home</a>', "", False),
        (f'<a href="{NC}">a link to a licence is no statement</a>', "", False),
        ("<p>nothing", "", False),
    ],
)  # fmt: skip
def test_the_licence_that_a_page_states(page: str, license: str, stated: bool) -> None:
    with Site() as site:
        (found,) = ask(record(site, 1, page))
    assert (found.license_now, found.stated, found.opt_out, found.gone, found.failed) == (
        license,
        stated,
        [],
        False,
        [],
    )
    assert found.changes == ([f"licence CC-BY-2.0 -> {license}"] if license else [])


def test_opt_outs_that_came_later() -> None:
    reserved = picture(5) + b"<plus:DataMining>http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"
    with Site() as site:
        records = [
            record(site, 1),
            record(site, 2),
            record(site, 3, '<meta name="robots" content="index, noai"><meta name="tdm-reservation" content="1">'),
            record(site, 4, opt_out=["x-robots-tag:noai"]),
            record(site, 5, data=reserved),
            record(site, 6),
        ]
        site.image("/2.jpg", picture(2), X_Robots_Tag="noai")
        site.image("/4.jpg", picture(4), X_Robots_Tag="noai", tdm_reservation="1")
        site.image("/robots.txt", b"User-agent: *\nDisallow: /6.jpg\n")
        found = ask(*records)
        assert "/6.jpg" not in site.asked, "what robots.txt forbids is not asked for"
    assert [each.opt_out for each in found] == [
        [], ["x-robots-tag:noai"], ["meta:noai", "tdm-reservation"], ["tdm-reservation"],
        ["iptc:DMI-PROHIBITED-AIMLTRAINING"], ["robots.txt"],
    ]  # fmt: skip
    assert found[1].changes == ["opt-out x-robots-tag:noai"]


def test_what_is_gone_and_what_did_not_answer() -> None:
    with Site() as site:
        records = [record(site, n, "<p>") for n in range(5)]
        site.image("/0.jpg", b"", 404)
        site.image("/page/1", b"", 410)
        site.image("/2.jpg", b"", 503)
        site.image("/page/3", b"", 403)
        site.image("/4.jpg", picture(99))
        found = ask(*records)
    assert [each.gone for each in found] == [True, True, False, False, False]
    assert [each.failed for each in found] == [[], [], ["image: http_503"], ["page: http_403"], []]
    assert [each.other_bytes for each in found] == [False, False, False, False, True]
    assert [each.changes for each in found] == [["gone"], ["gone"], [], [], ["another file"]]


def test_one_request_a_second_and_host() -> None:
    assert POLITE.per_host == 1 and POLITE.delay >= 1 and not POLITE.allow_private
    with Site() as site:
        records = [record(site, n, "<p>") for n in range(3)]
        began = time.monotonic()
        list(recheck(records, replace(LIMITS, delay=0.2)))
        assert time.monotonic() - began >= 5 * 0.2 and site.headers["User-Agent"].startswith("commonart")


def shards(folder: Path, records: list[dict[str, Any]]) -> Path:
    for start in range(0, len(records), 4):
        with ShardWriter(folder / f"{start:05d}.tar") as writer:
            for each in records[start : start + 4]:
                writer.add_record(each, b"x", "jpg")
    return folder


def test_the_command_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Site() as site:
        records = [record(site, n, f'<a rel="license" href="{NC if n == 3 else BY}">') for n in range(9)]
        records += [{"key": "drawn", "license": "CC0-1.0"}]
        site.image("/5.jpg", b"", 404)
        site.image("/6.jpg", picture(6), X_Robots_Tag="noai")
        folder = str(shards(tmp_path / "shards", records))
        summary = lookup.recheck(100, [folder], limits=LIMITS)
        text = capsys.readouterr().out.splitlines()
        assert text == [
            "k3: licence CC-BY-2.0 -> CC-BY-NC-2.0", "k5: gone", "k6: opt-out x-robots-tag:noai",
            "3 of 9 works that were asked for changed, of 10 records; 1 are not on the web and were not asked for.",
        ]  # fmt: skip
        assert summary.as_json()["dropped"] == {"gone": 1, "licence": 1, "not_on_the_web": 1, "opt_out": 1, "same": 6}
        assert (summary.read, summary.written) == (9, 3)
        site.asked.clear()
        lookup.recheck(4, [folder], json=True, limits=LIMITS)
        lines = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert 3 <= len(lines) <= 4 and len(set(site.asked)) == 2 * len(lines), "no more are asked than are wanted"
        assert set(lines[0]) == {
            "key", "license", "license_observed_at", "opt_out", "stated", "gone", "other_bytes", "failed"
        } | {"license_now"}  # fmt: skip


def test_a_sample_of_which_nobody_answered_is_no_good_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Site() as site:
        records = [record(site, n) for n in range(3)]
        folder = str(shards(tmp_path / "shards", records))
        for n in range(2):
            site.image(f"/{n}.jpg", b"", 503)
        lookup.recheck(3, [folder], limits=LIMITS)
        said = (
            "0 of 3 works that were asked for changed, of 3 records; 2 did not answer; 1 do not state their licence.\n"
        )
        assert capsys.readouterr().out == said
        site.image("/2.jpg", b"", 503)
        with pytest.raises(CommonArtError, match="No source answered") as error:
            lookup.recheck(3, [folder], limits=LIMITS)
        assert error.value.code == 2 and "; 3 did not answer." in capsys.readouterr().out
        assert error.value.summary.as_json()["dropped"] == {"not_answered": 3}


def test_the_command_asks_private_addresses_only_where_it_may(tmp_path: Path, in_process: Command) -> None:
    with Site() as site:
        folder = str(shards(tmp_path / "shards", [record(site, 1)]))
        refused = in_process("lookup", "--recheck", "1", folder)
        assert refused.returncode == 2 and b"need --allow-private" in refused.stderr and not site.asked
        done = in_process("lookup", "--recheck", "1", folder, "--allow-private")
        assert done.returncode == 0 and site.asked == ["/1.jpg"]
    assert in_process("lookup", "--key", "k1", folder, "--allow-private").returncode == 2
