"""fetch: the sources by name: CommonCatalog, Megalith, ArtBench, the Smithsonian, PD12M, art museums, COCO and STAIR."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import LOCAL, Command, filtered
from hub_server import HubServer
from small_commoncatalog import BY2, PAGE, commoncatalog, hub, packed, parquet, photo
from web_server import Site, answer, picture

from commonart.core.data import stream
from commonart.core.data.shards import reader
from commonart.core.data.sources import named
from commonart.core.data.sources.named import COCO_SOURCES, HUB_SOURCES
from commonart.core.errors import CommonArtError
from commonart.stages import fetch as stage

__all__ = ["hub"]  # the fixture
FOUR = "One of: No known copyright restrictions; United States Government Work; CC0; Public Domain Mark"


def test_commoncatalog_is_listed_without_reading_an_image(hub: HubServer) -> None:
    commoncatalog(hub)
    listed = list(stage.listing("commoncatalog-cc-by"))
    assert len(listed) == 50 and hub.sent < 200_000 < 50 * len(photo(0)) / 10
    first = listed[1]
    assert (first["key"], first["source_id"], first["author"]) == ("commoncatalog-cc-by_9001", "9001", "Ada")
    assert (first["license"], first["license_url"], first["license_raw"]) == ("CC-BY-2.0", BY2, "Attribution License")
    assert first["source_url"] == "https://www.flickr.com/photos/1/9001/"
    assert [(c["text"], c["model"], c["synthetic"]) for c in first["captions"]] == [
        ("a photograph of 1", "blip-2", True), ("tag 1", "commoncatalog", False),
    ]  # fmt: skip
    assert not {"latitude", "longitude", "usertags", "exif", "jpg"} & set(first)
    assert listed[0]["license"] == "CC-BY-NC-2.0"  # whatever the repository's name says
    assert first["downloadurl"].startswith("https://live.staticflickr.com")
    assert len(list(stage.listing("commoncatalog-cc-by", limit=3))) == 3


@pytest.mark.parametrize("moved", [False, True])
def test_records_are_listed_filtered_then_fetched(hub: HubServer, tmp_path: Path, moved: bool) -> None:
    commoncatalog(hub)
    hub.moved = moved
    listed = [record for record in stage.listing("commoncatalog-cc-by") if record["license"] == "CC-BY-2.0"]
    (tmp_path / "kept.jsonl").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in listed))
    hub.sent = 0
    summary = stage.run(str(tmp_path / "kept.jsonl"), str(tmp_path / "raw"), shard_size=16, quiet=True)
    assert summary.written == 40
    for record in stream.read(str(tmp_path / "raw")):
        assert reader.read_bytes(record["image"]) == photo(int(record["source_id"]) - 9000)
    assert hub.sent < 2 * 50 * len(photo(0))
    assert not list(tmp_path.glob("hub*"))


def test_columns_that_are_not_known_stop_with_their_names(hub: HubServer) -> None:
    rows = [{"photo": f"https://live.staticflickr.com/{n}.jpg", "who": "Ada", "rights": "CC0"} for n in range(3)]
    hub.add("madebyollin/megalith-10m", {"a.parquet": parquet(rows)})
    with pytest.raises(CommonArtError, match="its columns are photo, who, rights") as caught:
        list(stage.listing("megalith-10m"))
    assert "--column-map" in caught.value.fix
    listed = list(stage.listing("megalith-10m", column_map={"image_url": "photo", "author": "who"}))
    assert [(r["image_url"], r["author"], r["license"]) for r in listed][2] == (rows[2]["photo"], "Ada", "CC0-1.0")
    assert len({record["key"] for record in listed}) == 3


def megalith(count: int, first: int = 50000000000) -> bytes:
    """Rows as Megalith-10M has them: three addresses, and nothing else."""
    server = "https://live.staticflickr.com/65535/"
    return parquet([
        {"url": f"{server}{n}_0a1b2c.jpg", "url_highres": f"{server}{n}_9f8e7d_o.jpg",
         "url_source": f"https://www.flickr.com/photos/ada/{n}"} for n in range(first, first + count)
    ])  # fmt: skip


def test_megalith_states_its_licence_for_the_set_alone(hub: HubServer) -> None:
    hub.add("madebyollin/megalith-10m", {"a.parquet": megalith(3)})
    records = list(stage.listing("megalith-10m"))
    first = records[0]
    assert (first["key"], first["source_id"]) == ("megalith-10m_50000000000", "50000000000")
    assert first["source_url"] == "https://www.flickr.com/photos/ada/50000000000"
    assert first["image_url"].endswith("_o.jpg") and first["fallback_url"].endswith("_0a1b2c.jpg")
    assert (first["license_basis"], first["license_url"], first["license_raw"]) == (
        "set", f"{PAGE}madebyollin/megalith-10m", FOUR,
    )  # fmt: skip
    assert (
        first["license_observed_at"] == named.LOOKED_AT
        and first["source_revision"] == hub.repos["madebyollin/megalith-10m"].sha
    )
    assert filtered(*records)[0] == []  # strict does not allow each of the four
    kept, _, _ = filtered(*records, policy="paper")
    assert [record["license_basis"] for record in kept] == ["set"] * 3


def test_a_row_that_states_its_licence_is_not_overruled_by_the_set(hub: HubServer) -> None:
    rows = [{"url_highres": f"https://live.staticflickr.com/65535/5000000000{n}_a_o.jpg", "license": license}
            for n, license in enumerate(["CC-BY-NC-2.0", "CC0", "", "?"])]  # fmt: skip
    hub.add("madebyollin/megalith-10m", {"a.parquet": parquet(rows)})
    records = list(stage.listing("megalith-10m"))
    assert [(record["license"][:20], record["license_basis"]) for record in records] == [
        ("CC-BY-NC-2.0", "licence"), ("CC0-1.0", "dedication"), ("LicenseRef-OneOf..Li", "set"), ("", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("gone", ["404", "410", "placeholder"])
def test_the_smaller_file_comes_where_the_larger_one_is_gone(tmp_path: Path, gone: str) -> None:
    with Site() as site:
        small = site.image("/small.jpg", picture(1))
        site.image("/img/photo_unavailable.png", picture(2, "PNG"))
        site.pages["/large.jpg"] = lambda handler: (
            answer(handler, 302, b"", Location=site.url("/img/photo_unavailable.png"))
            if gone == "placeholder"
            else answer(handler, int(gone), b"")
        )
        record = {"key": "a", "source": "s", "image_url": site.url("/large.jpg"), "fallback_url": small}
        (tmp_path / "list.jsonl").write_bytes(orjson.dumps(record) + b"\n")
        summary = stage.run(str(tmp_path / "list.jsonl"), str(tmp_path / "raw"), limits=LOCAL, quiet=True)
    assert summary.written == 1
    (arrived,) = stream.read(str(tmp_path / "raw"))
    assert reader.read_bytes(arrived["image"]) == picture(1)
    assert arrived["image_url"] == small and "fallback_url" not in arrived


def test_artbench_keeps_the_statement_of_its_set(hub: HubServer) -> None:
    image = [{"image": {"bytes": photo(n), "path": f"{n}.jpg"}, "captions": ["one", "two"], "artist": "Turner",
              "url": f"https://www.wikiart.org/{n}"} for n in range(12)]  # fmt: skip
    hub.add("alfredplpl/artbench-pd-256x256", {"data/train.parquet": parquet(image)})
    listed = list(stage.listing("artbench-pd"))
    assert listed[3]["author"] == "Turner" and listed[3]["source_url"] == "https://www.wikiart.org/3"
    assert [c["text"] for c in listed[3]["captions"]] == ["one", "two"]
    assert (listed[3]["license"], listed[3]["license_basis"]) == ("CC0-1.0", "set")
    assert listed[3]["license_url"] == f"{PAGE}alfredplpl/artbench-pd-256x256"
    kept, _, _ = filtered(*listed)
    assert {(record["license"], record["license_basis"]) for record in kept} == {("CC0-1.0", "set")}  # no work's own


def test_smithsonian_in_both_revisions(hub: HubServer, tmp_path: Path) -> None:
    alone = [{"image": {"bytes": photo(n), "path": None}} for n in range(12)]
    older = {"data/0.parquet": parquet(alone), "metadata.csv": b"caption\na\nb\n"}
    sha = hub.add("aipicasso/soa-full-florence2", older).sha
    listed = list(stage.listing("smithsonian-oa"))
    assert len({record["key"] for record in listed}) == 12
    assert not any("captions" in record for record in listed)  # a join by position is refused
    assert {record["source_revision"] for record in listed} == {sha}
    summary = stage.run("smithsonian-oa", str(tmp_path / "raw"), shard_size=5, quiet=True)
    assert summary.written == 12
    assert [reader.read_bytes(r["image"]) for r in stream.read(str(tmp_path / "raw"))] == [photo(n) for n in range(12)]
    rows = [{**row, "url_source": f"https://www.si.edu/object/{n}", "caption": f"a vase {n}", "width": 320, "height": 240}
            for n, row in enumerate(alone)]  # fmt: skip
    newer = hub.add("aipicasso/soa-full-florence2", {"data/0.parquet": parquet(rows)}).sha
    first = next(iter(stage.listing("smithsonian-oa")))
    assert (first["source_url"], first["source_revision"]) == ("https://www.si.edu/object/0", newer)
    assert [(c["text"], c["model"], c["synthetic"]) for c in first["captions"]] == [("a vase 0", "florence2", True)]
    assert (first["license"], first["license_basis"]) == ("CC0-1.0", "set")
    with pytest.raises(CommonArtError, match="no such revision"):
        list(stage.listing(f"smithsonian-oa@{'1' * 40}"))


@pytest.mark.parametrize("name", ["pd12m", "pd3m"])
def test_pd12m_checks_the_hash_on_arrival(hub: HubServer, tmp_path: Path, name: str) -> None:
    with Site() as site:
        rows = [
            {"id": f"{n:08x}", "url": site.image(f"/{n}.jpg", photo(n)), "caption": f"a lake {n}", "width": 320, "height": 240,
             "mime_type": "image/jpeg", "hash": hashlib.md5(photo(n if n != 2 else 9)).hexdigest(),
             "license": "https://creativecommons.org/publicdomain/" + ("mark/1.0/" if n == 1 else "zero/1.0/"),
             "source": "wikicommons"} for n in range(4)
        ]  # fmt: skip
        hub.add(f"Spawning/{name.upper()}", {"metadata/0.parquet": parquet(rows)})
        first, second, *_ = stage.listing(name)
        summary = stage.run(name, str(tmp_path / "raw"), limits=LOCAL, quiet=True)
    assert (first["key"], first["license"], second["license"]) == (f"{name}_00000000", "CC0-1.0", "CC-PDM-1.0")
    assert first["collection"] == "wikicommons" and first["license_basis"] == "dedication"
    caption = first["captions"][0]
    assert (caption["text"], caption["model"], caption["license"]) == ("a lake 0", "florence2", "CDLA-Permissive-2.0")
    assert (summary.written, dict(summary.dropped)) == (3, {"changed": 1})


def test_art_museums_and_a_set_whose_columns_only_the_user_knows(hub: HubServer) -> None:
    note = {"Title": "A Vase", "source": "met", "License": "CC0", "URL": "https://www.metmuseum.org/art/1"}
    hub.add("Mitsua/art-museums-pd-440k", {"a.tar": packed([("1.jpg", photo(1)), ("1.json", orjson.dumps(note))])})
    (record,) = stage.listing("art-museums-pd")
    assert (record["title"], record["license"], record["collection"]) == ("A Vase", "CC0-1.0", "met")
    assert record["source_url"] == note["URL"] and record["image_url"].startswith("hf://datasets/Mitsua/")
    rows = [
        {"image": {"bytes": photo(1), "path": None}, "what": "a pond", "terms": "CC0", "site": "https://c.example/1"}
    ]
    hub.add("Mitsua/safe-commons-pd-3m", {"a.parquet": parquet(rows)})
    columns = {"caption": "what", "license_raw": "terms", "source_url": "site"}
    (record,) = stage.listing("hf:Mitsua/safe-commons-pd-3m", column_map=columns)
    assert (record["license"], record["captions"][0]["text"], record["source_url"]) == (
        "CC0-1.0",
        "a pond",
        "https://c.example/1",
    )


# --- annotations in COCO's layout ------------------------------------------------------------------------------------


def annotations(ids: range, name: str) -> bytes:
    rights = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
    images = [{"id": n, "file_name": name % n, "license": 4, "coco_url": f"http://images.cocodataset.org/train2017/{n}.jpg"}
              for n in ids]  # fmt: skip
    notes = [{"image_id": n, "caption": f"草原の写真 {n}" if "COCO_" in name else f"a photograph {n}"} for n in ids]
    return orjson.dumps({"licenses": rights, "images": images, "annotations": notes})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_coco2017_reads_two_members_of_its_archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        file.writestr("annotations/captions_train2017.json", annotations(range(1, 6), "%012d.jpg"))
        file.writestr("annotations/instances_train2017.json", bytes(300_000))
        file.writestr("annotations/captions_val2017.json", annotations(range(6, 9), "%012d.jpg"))
    data, sent = out.getvalue(), 0

    def ranges(handler: Any) -> None:
        nonlocal sent
        start, _, end = handler.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1]
        sent += len(part)
        answer(handler, 206, part, Content_Range=f"bytes {start}-{end}/{len(data)}")

    monkeypatch.setattr(named, "RANGE", 4096)
    with Site() as site:
        site.pages["/a.zip"] = ranges
        monkeypatch.setitem(
            named.COCO_SOURCES, "coco2017", replace(named.COCO_SOURCES["coco2017"], archive=site.url("/a.zip"))
        )
        listed = list(stage.listing("coco2017", limits=LOCAL))
        requests = len(site.asked)
        assert list(stage.listing("coco2017", limits=LOCAL)) == listed and len(site.asked) == requests  # from the cache
    assert sent < 60_000
    assert [record["source_id"] for record in listed] == [str(n) for n in range(1, 9)]
    assert listed[0]["key"] == "coco2017_000000000001" and listed[0]["license"] == "CC-BY-2.0"
    assert listed[0]["captions"][0]["model"] == "coco-annotators"


def test_stair_has_captions_in_japanese(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for split, ids in (("train", range(1, 4)), ("val", range(4, 6))):
            data = annotations(ids, f"COCO_{split}2014_%012d.jpg")
            info = tarfile.TarInfo(f"stair/stair_captions_v1.2_{split}.json")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with Site() as site:
        archive = site.image("/stair.tar.gz", out.getvalue())
        monkeypatch.setitem(named.COCO_SOURCES, "stair", replace(named.COCO_SOURCES["stair"], archive=archive))
        listed = list(stage.listing("stair", limits=LOCAL))
    assert len(listed) == 5
    assert listed[0]["image_url"] == "http://images.cocodataset.org/train2014/COCO_train2014_000000000001.jpg"
    caption = listed[0]["captions"][0]
    assert (caption["lang"], caption["model"], caption["license"]) == ("ja", "stair-annotators", "CC-BY-4.0")


def test_an_archive_of_annotations_that_is_missing_is_an_error_with_a_fix(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site() as site:
        gone = replace(named.COCO_SOURCES["stair"], archive=site.url("/gone.tar.gz"))
        monkeypatch.setitem(named.COCO_SOURCES, "stair", gone)
        with pytest.raises(CommonArtError, match="http_404") as caught:
            list(stage.listing("stair", limits=LOCAL))
    assert "yourself" in caught.value.fix and not list(cache.rglob("*.json"))


def test_the_sources_by_name_are_printed_with_what_each_policy_says(commonart: Command) -> None:
    lines = commonart("fetch", "--list-sources").stdout.decode().splitlines()
    cells = {line.split()[0]: re.split("  +", line)[1:4] for line in lines[1:]}
    assert set(cells) == {*HUB_SOURCES, *COCO_SOURCES}
    assert cells["megalith-10m"] == ["10 M", "none", "all"] and cells["artbench-pd"] == ["46.3 k", "all", "all"]
    assert cells["commoncatalog-cc-by"] == ["14.6 M", "row by row", "row by row"]
