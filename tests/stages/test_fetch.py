"""fetch: the stage and its command; downloads into shards, the last pass, and kill -9."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from commands import LOCAL, Command, fetched
from download_site import site
from PIL import Image
from web_server import Site, picture

from commonart.core.data import stream
from commonart.core.data.record import split_of
from commonart.core.data.shards import reader
from commonart.core.nano import scenes
from commonart.stages import fetch as stage

__all__ = ["site"]  # the fixture

# --- scenes ----------------------------------------------------------------------------------------------------------


def test_scenes_carry_their_truth_and_do_not_depend_on_the_limit(tmp_path: Path) -> None:
    few, many = (list(stage.listing("scenes", limit=limit, seed=3)) for limit in (5, 40))
    assert many[:5] == few
    assert len({record["key"] for record in many}) == 40
    assert many != list(stage.listing("scenes", limit=40, seed=4))
    summary = stage.run("scenes", str(tmp_path / "raw"), limit=5, seed=3, quiet=True)
    assert summary.written == 5
    for record in stream.read(str(tmp_path / "raw")):
        data = reader.read_bytes(record["image"])
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


# --- downloads into shards -------------------------------------------------------------------------------------------


def url_list(path: Path, urls: list[str]) -> str:
    path.write_text("url,license\n" + "".join(f"{url},CC BY 4.0\n" for url in urls))
    os.utime(path, (1_700_000_000, 1_700_000_000))  # the licences were seen then
    return str(path)


def files(folder: Path) -> dict[str, str]:
    """Every file of a folder by its hash; hidden ones are what a killed run left."""
    found = (p for p in sorted(folder.iterdir()) if not p.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_download_of_a_list(site: Site, tmp_path: Path) -> None:
    urls = [site.image(f"/{n}.jpg", picture(n)) for n in range(20)]
    urls.insert(7, site.url("/gone.jpg"))
    source, raw = url_list(tmp_path / "list.csv", urls), tmp_path / "raw"
    summary = stage.run(source, str(raw), limits=LOCAL, shard_size=8, quiet=True)
    assert (summary.read, summary.written, dict(summary.dropped)) == (21, 20, {"http_404": 1})
    records = list(stream.read(str(raw)))
    assert [reader.read_bytes(record["image"]) for record in records] == [picture(n) for n in range(20)]
    asked = len(site.asked)
    stage.run(source, str(raw), limits=LOCAL, shard_size=8, quiet=True)
    assert len(site.asked) == asked  # neither finished shards nor what will not pass


def test_a_doubled_key_is_dropped_and_not_asked_for(site: Site, tmp_path: Path) -> None:
    rows = [(site.image(f"/{n}.jpg", picture(n)), key) for n, key in enumerate("abcadb")]
    source, raw, no = tmp_path / "list.csv", tmp_path / "raw", tmp_path / "no.jsonl"
    source.write_text("url,id\n" + "".join(f"{url},{key}\n" for url, key in rows))
    for _ in range(2):  # the second time with the shards of the first
        summary = stage.run(str(source), str(raw), limits=LOCAL, shard_size=2, rejects=str(no), quiet=True)
        assert (summary.read, summary.written, dict(summary.dropped)) == (6, 4, {"duplicate_key": 2})
    assert sorted(site.asked) == ["/0.jpg", "/1.jpg", "/2.jpg", "/4.jpg"]
    assert [orjson.loads(line)["row"] for line in no.read_bytes().splitlines()] == [1, 1]
    assert [reader.read_bytes(r["image"]) for r in stream.read(str(raw))] == [picture(n) for n in (0, 1, 2, 4)]


def test_a_private_address_is_refused_with_no_packet_sent(site: Site, tmp_path: Path) -> None:
    source = url_list(tmp_path / "list.csv", [site.image("/a.jpg", picture())])
    summary = stage.run(source, str(tmp_path / "raw"), quiet=True, max_failures=1.0)
    assert dict(summary.dropped) == {"private_address": 1} and site.connections == 0


def test_where_a_redirect_led_is_recorded(site: Site) -> None:
    site.image("/b.jpg", picture(5))
    made, _, _ = fetched([{"key": "a", "image_url": site.image("/a.jpg", b"", 301, Location="/b.jpg")}])
    assert made[0].data == picture(5) and made[0].record["fetched_url"] == site.url("/b.jpg")
    direct, _, _ = fetched([{"key": "b", "image_url": site.url("/b.jpg")}])
    assert direct[0].record["fetched_url"] == site.url("/b.jpg"), "what has it came from the web"


def test_what_did_not_come_from_the_web_says_no_address(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(5))
    made, _, _ = fetched([{"key": "a", "image": str(tmp_path / "a.jpg"), "image_url": "https://example.org/a.jpg"}])
    assert made[0].data == picture(5) and "fetched_url" not in made[0].record


def bomb() -> bytes:
    """A PNG of 144 megapixels in 17 KB."""
    out = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(out, "PNG")
    return out.getvalue()


def test_what_is_no_image_is_refused_whatever_its_name_and_type(site: Site) -> None:
    bodies = {
        "not_an_image": b"<!DOCTYPE html><title>Not here</title>",
        "empty": b"",
        "too_many_pixels": bomb(),
        "too_many_bytes": bytes(300_000),
    }
    records = [
        {"key": reason, "image_url": site.image(f"/{reason}.jpg", data, Content_Type="image/jpeg")}
        for reason, data in bodies.items()
    ]
    made, drop, refused = fetched(records, replace(LOCAL, max_bytes=200_000))
    assert made == [] and drop.failures == 4
    assert [record["reason"] for record in refused] == list(bodies) == [record["key"] for record in refused]


def test_an_image_that_changed_since_it_was_listed(site: Site) -> None:
    record = {"key": "a", "image_url": site.image("/a.jpg", picture(1)), "sha256": hashlib.sha256(b"x").hexdigest()}
    _, drop, _ = fetched([record])
    assert dict(drop.reasons) == {"changed": 1}


def test_other_schemes_are_no_images(tmp_path: Path) -> None:
    records = [{"key": f"k{n}", "image_url": url} for n, url in enumerate(("ftp://a/b.jpg", "file:///etc/passwd", ""))]
    _, drop, _ = fetched(records)
    assert dict(drop.reasons) == {"bad_url": 2, "no_image": 1}


def test_a_slow_host_does_not_stop_the_next_shards(site: Site, tmp_path: Path) -> None:
    """While shard 0 waits for its last image, those of shards 1 and 2 come in."""
    came_first: list[int] = []
    last = site.image("/last.jpg", picture())
    page = site.pages["/last.jpg"]

    def slow(handler: Any) -> None:
        time.sleep(1)
        came_first.append(len(site.asked))
        page(handler)

    site.pages["/last.jpg"] = slow
    urls = [site.image(f"/{n}.jpg", picture(n)) for n in range(12)]
    urls.insert(3, last)
    stage.run(url_list(tmp_path / "l.csv", urls), str(tmp_path / "raw"), limits=LOCAL, shard_size=4, quiet=True)
    assert came_first[0] >= 12
    assert len(list(stream.read(str(tmp_path / "raw")))) == 13


# --- the last pass ---------------------------------------------------------------------------------------------------


def ill(site: Site, times: int) -> list[str]:
    """30 images, of which 5 answer 503 so many times first, and one is gone."""
    urls = [site.image(f"/{n}.jpg", picture(n)) for n in range(29)]
    for n in (0, 7, 8, 15, 28):
        site.in_turn(f"/{n}.jpg", *[(503, b"")] * times, (200, picture(n)))
    return [*urls[:9], site.url("/gone.jpg"), *urls[9:]]


def test_what_may_pass_is_asked_for_again_at_the_end_and_put_into_its_place(site: Site, tmp_path: Path) -> None:
    source, limits = url_list(tmp_path / "list.csv", ill(site, 0)), replace(LOCAL, attempts=1)
    stage.run(source, str(tmp_path / "well"), limits=limits, shard_size=8, quiet=True)
    ill(site, 1)
    summary = stage.run(source, str(tmp_path / "ill"), limits=limits, shard_size=8, quiet=True)
    assert (summary.written, dict(summary.dropped), summary.failures) == (29, {"http_404": 1}, 1)
    assert files(tmp_path / "ill") == files(tmp_path / "well")  # bytes, notes and rejects


def test_a_host_that_was_ill_is_asked_again_at_the_end(site: Site, tmp_path: Path) -> None:
    site.in_turn("/robots.txt", (503, b""), (404, b""))
    source = url_list(tmp_path / "list.csv", [site.image(f"/{n}.jpg", picture(n)) for n in range(9)])
    summary = stage.run(source, str(tmp_path / "raw"), limits=replace(LOCAL, attempts=1), shard_size=4, quiet=True)
    assert (summary.written, dict(summary.dropped)) == (9, {})


def test_a_second_call_asks_again_for_exactly_what_may_pass(site: Site, tmp_path: Path) -> None:
    source, limits = url_list(tmp_path / "list.csv", ill(site, 0)), replace(LOCAL, attempts=1)
    stage.run(source, str(tmp_path / "well"), limits=limits, shard_size=8, quiet=True)
    ill(site, 3)
    raw, no = str(tmp_path / "ill"), str(tmp_path / "no.jsonl")
    first = stage.run(source, raw, limits=limits, shard_size=8, quiet=True, rejects=no)
    assert (first.written, dict(first.dropped)) == (24, {"http_404": 1, "http_503": 5})
    rejected = [orjson.loads(line) for line in Path(no).read_bytes().splitlines()]
    assert len(rejected) == 6 and {record["reason"] for record in rejected} == {"http_404", "http_503"}
    site.asked.clear()
    second = stage.run(source, raw, limits=limits, shard_size=8, quiet=True, rejects=no)
    assert sorted(site.asked) == [f"/{n}.jpg" for n in (0, 15, 28, 7, 8)]
    assert (second.written, dict(second.dropped)) == (24, {"http_404": 1, "http_503": 5})  # the third 503
    third = stage.run(source, raw, limits=limits, shard_size=8, quiet=True, rejects=no)
    assert (third.written, dict(third.dropped)) == (29, {"http_404": 1})
    assert files(tmp_path / "ill") == files(tmp_path / "well")
    assert len(Path(no).read_bytes().splitlines()) == 1


def test_rejects_can_be_fetched_as_records(site: Site, commonart: Command, tmp_path: Path) -> None:
    rejected = {"key": "a", "image_url": site.image("/a.jpg", picture()), "reason": "timeout", "row": 7}
    done = commonart("fetch", "-", "-o", "raw", "--allow-private", input=orjson.dumps(rejected) + b"\n")
    assert done.returncode == 0, done.stderr
    (record,) = stream.read(str(tmp_path / "raw"))
    assert not {"reason", "row"} & set(record)


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def killed(tmp_path: Path, count: int, shard_size: int, kills: int, seed: int) -> None:
    """Kill the command at `kills` random moments, let it finish, and compare with a run that was left alone."""
    bodies = [picture(n, size=(8, 8)) for n in range(100)]
    shaky = set(random.Random(seed).sample(range(count), count // 100))  # these fail once, then come

    def serve(path: str) -> bytes | None:
        n = int(path.strip("/").removesuffix(".jpg"))
        if n in shaky:
            shaky.discard(n)
            return None if n % 7 == 0 else bodies[n % 100]
        return bodies[n % 100] if n % 50 else None  # one in fifty is gone

    with Site(every=serve) as site:
        source = url_list(tmp_path / "list.csv", [site.url(f"/{n}.jpg") for n in range(count)])
        command = [sys.executable, "-m", "commonart.cli.main", "fetch", source, "--allow-private", "-q"]
        command += ["--shard-size", str(shard_size), "--rejects"]
        shaky.clear()
        started = time.monotonic()
        subprocess.run([*command, "well.jsonl", "-o", "well"], cwd=tmp_path, check=True, capture_output=True)
        seconds = time.monotonic() - started
        moments = random.Random(seed)
        for _ in range(kills):
            with subprocess.Popen([*command, "ill.jsonl", "-o", "ill"], cwd=tmp_path, stderr=subprocess.DEVNULL) as run:
                try:
                    run.wait(moments.uniform(0.0, min(seconds, 8.0)))
                except subprocess.TimeoutExpired:
                    run.send_signal(signal.SIGKILL)
            for tar in (tmp_path / "ill").glob("*.tar") if (tmp_path / "ill").exists() else ():
                reader.members(tar)  # never half-written under its final name
        subprocess.run([*command, "ill.jsonl", "-o", "ill"], cwd=tmp_path, check=True, capture_output=True)
    assert files(tmp_path / "ill") == files(tmp_path / "well")
    well, ill = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("well", "ill"))
    assert ill == well and len(well.splitlines()) == len(range(0, count, 50))
    keys = [record["key"] for record in stream.read(str(tmp_path / "ill"))]
    assert len(keys) == len(set(keys)) == count - len(range(0, count, 50))


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    killed(tmp_path, count=400, shard_size=50, kills=3, seed=1)


@pytest.mark.slow
def test_kill_9_at_50_moments_over_10_000_urls(tmp_path: Path) -> None:
    killed(tmp_path, count=10_000, shard_size=250, kills=50, seed=2)


# --- the command -----------------------------------------------------------------------------------------------------


NO_NETWORK = """
import select, sys
sys.modules["pycurl"] = None
for name in ("epoll", "kqueue", "poll"):
    if hasattr(select, name):
        delattr(select, name)
from commonart.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("scenes", "--limit", "3"),
        ("photos", "--license", "CC0-1.0"),
        ("coco.json", "--images", "photos"),
        ("-",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_on_this_machine_needs_no_network(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """No libcurl and none of the system's event queues, which differ from one system to the next."""
    (tmp_path / "photos").mkdir()
    for n in range(3):
        (tmp_path / "photos" / f"{n}.jpg").write_bytes(picture(n))
    images = [{"id": n, "file_name": f"{n}.jpg", "license": 1, "width": 40, "height": 30} for n in range(3)]
    licenses = [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}]
    (tmp_path / "coco.json").write_bytes(orjson.dumps({"images": images, "annotations": [], "licenses": licenses}))
    records = (orjson.dumps({"key": f"k{n}", "image": f"photos/{n}.jpg", "license": "CC0-1.0"}) for n in range(3))
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, "fetch", *arguments, "-o", "raw"],
        cwd=tmp_path,
        input=b"\n".join(records),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(list(reader.read_shard(tmp_path / "raw" / "00000.tar"))) == 3


def test_nothing_to_list_on_stdin(commonart: Command) -> None:
    done = commonart("fetch", "-", "--list")
    assert done.returncode == 2 and b"--list" in done.stderr


def test_a_missing_source_is_one_sentence(commonart: Command) -> None:
    done = commonart("fetch", "nowhere/", "-o", "raw")
    assert done.returncode == 1 and b"nowhere" in done.stderr and b"Traceback" not in done.stderr


def test_a_list_can_be_thrown_away(commonart: Command) -> None:
    done = commonart("fetch", "scenes", "--list", "--limit", "2", "-o", "/dev/null")
    assert done.returncode == 0 and orjson.loads(done.stderr)["out"] == 2
    done = commonart("fetch", "scenes", "--limit", "2", "-o", "/dev/null")
    assert done.returncode == 2 and b"fetch brings images" in done.stderr


def test_images_do_not_go_into_jsonl(commonart: Command) -> None:
    done = commonart("fetch", "scenes", "--limit", "1")
    assert done.returncode == 2 and b"-o raw/" in done.stderr and done.stdout == b""


def test_a_seed_and_a_limit_count_from_0(commonart: Command) -> None:
    for flag in ("--seed", "--limit"):
        done = commonart("fetch", "scenes", "--list", flag, "-1")
        assert done.returncode == 2 and flag.encode() in done.stderr and b"Traceback" not in done.stderr


def test_an_empty_list_is_named(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_bytes(b"")
    done = in_process("fetch", "list.jsonl", "--list", "-o", "out.jsonl")
    assert (done.returncode, b"there are no records in list.jsonl." in done.stderr) == (0, True), done.stderr
    assert b"there are no records in stdin." in in_process("fetch", "-", "-o", "raw").stderr
