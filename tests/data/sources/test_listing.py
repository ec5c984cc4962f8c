"""fetch: what every kind of source on this machine offers."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Command, fetched, filtered
from web_server import picture

from commonart.cli import main
from commonart.core.data import jsonl, stream
from commonart.core.data.drops import PassedOver
from commonart.core.data.record import Record
from commonart.core.data.shards import reader
from commonart.core.data.sources.named import COCO_SOURCES, HUB_SOURCES
from commonart.core.data.text import language_of
from commonart.core.errors import CommonArtError, SchemaError, UsageError
from commonart.stages import fetch as stage

BY4 = "https://creativecommons.org/licenses/by/4.0/"


def listed(source: str, **options: Any) -> list[Record]:
    """The records of a source, without what it passes over."""
    return [record for record in stage.listing(source, **options) if not isinstance(record, PassedOver)]


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
    # Nothing of the folder goes without a word.
    assert (summary.read, summary.written, dict(summary.dropped)) == (6, 4, {"other_file": 1, "hidden": 1})
    by_id = {record["source_id"]: record for record in stream.read(str(tmp_path / "raw"))}
    assert list(by_id) == ["a.jpg", "a.png", "b.jpg", "deep/写真.webp"]
    assert by_id["b.jpg"]["key"] == "photos_b"
    assert reader.read_bytes(by_id["a.png"]["image"]) == picture(2, "PNG")  # original bytes
    b = by_id["b.jpg"]
    assert (b["title"], b["author"], b["license"], b["camera"]) == ("B", "Ada", "CC-BY-2.0", "x")
    assert "latitude" not in b  # where a person was is not kept
    assert b["captions"][0]["text"] == "a red circle" and b["captions"][0]["synthetic"] is False
    assert [c["lang"] for c in by_id["deep/写真.webp"]["captions"]] == ["ja", "en"]
    assert by_id["a.jpg"]["license"] == ""  # a folder says nothing about rights


def test_the_user_answers_for_a_folder_that_says_nothing(photos: Path) -> None:
    licenses = [record["license"] for record in listed(str(photos), license="CC BY 4.0")]
    assert licenses == ["CC-BY-4.0", "CC-BY-4.0", "CC-BY-2.0", "CC-BY-4.0"]
    with pytest.raises(UsageError, match="--license"):
        list(stage.listing(str(photos), license="free for all"))


def test_bad_files_in_a_folder_are_counted(photos: Path) -> None:
    (photos / "c.jpg").write_bytes(b"<html>404</html>")
    (photos / "d.jpg").write_bytes(b"")
    made, drop, _ = fetched(list(stage.listing(str(photos))))
    assert len(made) == 4 and drop.failures == 2
    assert dict(drop.reasons) == {"not_an_image": 1, "empty": 1, "other_file": 1, "hidden": 1}


@pytest.mark.parametrize("beside", ["{", "[]", '{"license": "CC0", "license": "CC BY 4.0"}', '{"opt_out": 7}'])
def test_an_image_with_a_bad_sidecar_is_passed_over_and_named(photos: Path, beside: str) -> None:
    (photos / "b.json").write_text(beside)
    made, drop, refused = fetched(list(stage.listing(str(photos))))
    assert len(made) == 3 and drop.reasons["bad_sidecar"] == 1 and drop.failures == 1
    (bad,) = (record for record in refused if record["reason"] == "bad_sidecar")
    assert bad["source_id"] == "b.jpg" and ("b.json" in bad["reason_detail"] or "'opt_out'" in bad["reason_detail"])


def test_a_sidecar_from_windows_is_read(photos: Path) -> None:
    (photos / "b.json").write_text('{"title": "B", "author": "Ada"}\r\n', "utf-8-sig")
    assert [record.get("author") for record in listed(str(photos)) if record["title"] == "B"] == ["Ada"]


def test_a_link_to_nowhere_and_a_name_that_is_no_utf8_are_failures_of_their_own(photos: Path, tmp_path: Path) -> None:
    (photos / "c.jpg").symlink_to("nowhere.jpg")
    os.link(photos / "a.jpg", os.fsencode(photos) + b"/caf\xe9.jpg")
    summary = stage.run(str(photos), str(tmp_path / "raw"), rejects=str(tmp_path / "no.jsonl"), quiet=True)
    assert (summary.written, summary.dropped["unreadable"], summary.failures) == (4, 2, 2)
    refused = [value for _, value in jsonl.read_values(str(tmp_path / "no.jsonl")) if value["reason"] == "unreadable"]
    assert [value["source_id"] for value in refused] == ["c.jpg", "caf\\xe9.jpg"]


def test_a_list_that_may_not_be_read_is_not_told_to_write_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> bytes:  # root may read everything, so that chmod would test nothing
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main.run(["fetch", str(coco(tmp_path)), "--list"]) == 1
    said = capsys.readouterr().err
    assert "captions.json: permission denied." in said and "write somewhere" not in said.lower()


@pytest.mark.parametrize("name", ["nowhere", "empty", "notes.md", "bad.json", "other.json", "commoncatalog"])
def test_no_such_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(CommonArtError, match=name) as caught:
        list(stage.listing(str(tmp_path / name)))
    assert caught.value.fix


def test_positions_and_user_tags_go_however_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    said = {
        "GPSLatitude": 1.2,
        "geo": {"lat": 1},
        "coordinates": [1, 2],
        "user_tags": ["me"],
        "E-Mail": "a@b.c",
        "camera": "X",
    }
    (tmp_path / "a.json").write_bytes(orjson.dumps(said))
    (record,) = stage.listing(str(tmp_path))
    assert set(said) & set(record) == {"camera"}


@pytest.mark.parametrize("name", ["y" * 300, "a\0b", "写" * 90])
def test_a_name_that_no_file_can_have_is_no_image(tmp_path: Path, name: str) -> None:
    made, drop, _ = fetched([{"key": "a", "source": "s", "file_name": name}], images=str(tmp_path))
    assert not made and dict(drop.reasons) == {"no_image": 1}


@pytest.mark.parametrize("name", ["../images-of-another/a.jpg", "{}/images-of-another/a.jpg", "link.jpg", "deep/a.jpg"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    for folder in ("images/deep", "images-of-another"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").write_bytes(picture(1))
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "images-of-another" / "a.jpg")
    record = {"key": "k", "source": "s", "file_name": name.format(tmp_path)}
    made, _, _ = fetched([record], images=str(tmp_path / "images"))
    assert len(made) == (1 if name == "deep/a.jpg" else 0)


@pytest.mark.parametrize("ending", ["tif", "gif", "JPG"])
def test_any_ending_of_a_picture_is_found_in_the_folder(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a.{ending}").write_bytes(picture(1))
    made, _, _ = fetched([{"key": "a", "source": "s"}], images=str(tmp_path))
    assert len(made) == 1


# --- what other tools leave in a folder


def passed_over(source: str, **options: Any) -> dict[str, tuple[str, str]]:
    """source_id -> (reason, detail) of what a source passes over."""
    records = [record for record in stage.listing(source, **options) if isinstance(record, PassedOver)]
    return {record["source_id"]: record.problem[:2] for record in records}


def test_images_are_known_by_any_suffix_or_by_how_they_begin(tmp_path: Path) -> None:
    names = ["plain.jpg", "chrome.jfif", "old.JPE", "twitter.jpg_large", "noext", "photo.jpg.png", "x.orig"]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(n, "PNG" if name.endswith("png") else "JPEG"))
    for name, data in {"cam.jxl": b"\xff\x0a" + bytes(100), "iphone.HEIC": b"\0\0\0\x18ftypheic" + bytes(200),
                       "scan.bmp": b"BM" + bytes(60), "unnamed": b"\0\0\0\x20ftypavif" + bytes(60)}.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    (tmp_path / "Thumbs.db").write_bytes(bytes(20))
    summary = stage.run(
        str(tmp_path), str(tmp_path.parent / "raw"), rejects=str(tmp_path.parent / "no.jsonl"), quiet=True
    )
    arrived = {record["source_id"] for record in stream.read(str(tmp_path.parent / "raw"))}
    refused = {value["source_id"] for _, value in jsonl.read_values(str(tmp_path.parent / "no.jsonl"))}
    assert set(names) <= arrived and summary.read == len(names) + 5 == len(arrived) + len(refused)
    assert "Thumbs.db" in refused and summary.dropped["other_file"] == 1


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "set" / "a" / "1.jpg").write_bytes(picture(1))
    (tmp_path / "store" / "2.jpg").write_bytes(picture(2))
    (tmp_path / "set" / "b").symlink_to("../store")
    (tmp_path / "set" / "c").symlink_to("../store")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    assert [record["source_id"] for record in listed(str(tmp_path / "set"))] == ["a/1.jpg", "b/2.jpg"]
    assert {name: reason for name, (reason, _) in passed_over(str(tmp_path / "set")).items()} == {
        "a/up": "linked_twice", "c": "linked_twice",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["X.txt", "X.TXT", "X.caption", "X.jpg.txt", "X.JPG.txt"])
def test_sidecars_by_every_name(tmp_path: Path, name: str) -> None:
    image = "X.JPG" if "JPG" in name else "X.jpg"
    (tmp_path / image).write_bytes(picture(1))
    (tmp_path / name).write_text("a lighthouse")
    (record,) = stage.listing(str(tmp_path))
    assert [caption["text"] for caption in record["captions"]] == ["a lighthouse"]


@pytest.mark.parametrize("way", ["folder", "tar"])
def test_what_img2dataset_wrote_keeps_the_address_of_the_work(tmp_path: Path, way: str) -> None:
    about = {
        "url": "https://example.org/cat.jpg", "page_url": "https://example.org/cat", "caption": "a cat", "key": "000000001",
        "status": "success", "error_message": None, "original_width": 640, "creator": "Ada", "LICENSE": "CC BY 4.0",
    }  # fmt: skip
    inside = tmp_path / "00000"
    inside.mkdir()
    (inside / "000000001.jpg").write_bytes(picture(1))
    (inside / "000000001.json").write_bytes(orjson.dumps(about))
    source = tmp_path
    if way == "tar":
        source = tmp_path / "00000.tar"
        with tarfile.open(source, "w") as tar:
            for file in sorted(inside.iterdir()):
                tar.add(file, file.name)
    stage.run(str(source), str(tmp_path / "raw"), quiet=True)
    (record,) = stream.read(str(tmp_path / "raw"))
    assert (record["image_url"], record["source_url"]) == (about["url"], about["page_url"])
    assert (record["author"], record["license"]) == ("Ada", "CC-BY-4.0")
    assert [caption["text"] for caption in record["captions"]] == ["a cat"]
    assert "title" not in record, "a number is no title"
    assert record["original_width"] == 640 and "url" not in record and "fetched_url" not in record


def test_fields_of_a_sidecar_that_differ_in_case_alone_are_not_guessed(photos: Path) -> None:
    (photos / "b.json").write_text('{"url": "https://example.org/1", "URL": "https://example.org/2"}')
    _, _, refused = fetched(list(stage.listing(str(photos))))
    (bad,) = (record for record in refused if record["reason"] == "bad_sidecar")
    assert "its sidecar has the columns 'url' and 'URL', which differ in case alone" in bad["reason_detail"]


TEXT = "砂浜に立つ赤い灯台"


@pytest.mark.parametrize(
    ("data", "captions"),
    [
        (TEXT.encode(), [TEXT]),
        (b"\xef\xbb\xbf" + TEXT.encode(), [TEXT]),
        (TEXT.encode("cp932"), [TEXT]),
        (TEXT.encode("utf-16"), [TEXT]),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), [TEXT]),
        (f"a red lighthouse\r\n{TEXT}\r\n".encode(), ["a red lighthouse", TEXT]),
        (b"one\rtwo", ["one", "two"]),
        (b"\xef\xbb\xbf\r\n", []),
        (b"a red lighthouse\x00\x00\x00", ["a red lighthouse"]),
        ("one caption with a\u2028separator and a \x0b tab".encode(), ["one caption with a separator and a   tab"]),
        ("un café près du phare".encode("latin-1"), None),
        ("deux cafés".encode("latin-1"), None),
        (b"\xff\xfe\x00", None),
    ],
)
@pytest.mark.parametrize("way", ["folder", "tar"])
def test_the_encoding_of_a_caption(tmp_path: Path, data: bytes, captions: list[str] | None, way: str) -> None:
    """Read, or passed over by name: never replacement characters."""
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "a.txt").write_bytes(data)
    source = tmp_path
    if way == "tar":
        source = tmp_path / "set.tar"
        with tarfile.open(source, "w") as tar:
            for name in ("a.jpg", "a.txt"):
                tar.add(tmp_path / name, name)
    (record,) = stage.listing(str(source))
    if captions is None:
        assert isinstance(record, PassedOver) and record.problem.reason == "bad_sidecar"
        assert (
            record.problem.detail == "a.txt: it is not UTF-8, UTF-16 or cp932 text" or "utf-16" in record.problem.detail
        )
    else:
        assert [caption["text"] for caption in record.get("captions", [])] == captions


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_image_folders_of_the_hub(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    names = ["0.jpg", "1.jpg", "gone.jpg", "../../outside.jpg", "2.jpg", "2.jpg"]
    for name in (*names, "3.jpg"):
        if name != "gone.jpg":
            (folder / name).write_bytes(picture(1))
    rows = [
        {"file_name": name, "text": f"noise {n}", "license": "CC BY 4.0" if n != 5 else "CC0"}
        for n, name in enumerate(names)
    ]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    else:
        lines = [orjson.dumps(row).decode() for row in rows] if kind == "jsonl" else [
            "file_name,text,license", *(",".join(row.values()) for row in rows)]  # fmt: skip
        (folder / f"metadata.{kind}").write_text("\n".join(lines))
    records = listed(str(tmp_path / "set"))
    assert [(record["source_id"], record["license"]) for record in records] == [
        ("train/0.jpg", "CC-BY-4.0"), ("train/1.jpg", "CC-BY-4.0"), ("train/3.jpg", ""),
    ]  # fmt: skip
    assert records[1]["captions"][0]["text"] == "noise 1" and "captions" not in records[2]
    reasons = {name: reason for name, (reason, _) in passed_over(str(tmp_path / "set")).items()}
    assert reasons == {
        f"train/metadata.{kind}:3": "no_image", f"train/metadata.{kind}:4": "no_image", "train/2.jpg": "bad_sidecar",
    }  # fmt: skip


@pytest.mark.parametrize("images", [None, "set"])
def test_a_table_of_file_names_is_a_list(tmp_path: Path, images: str | None) -> None:
    """As `metadata.jsonl` is, given by its name; without `--images` its files lie beside it."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.jpg").write_bytes(picture(1))
    (tmp_path / "secret.jpg").write_bytes(picture(2))
    path = tmp_path / ("set" if images is None else ".") / "metadata.jsonl"
    rows = [
        {"file_name": name, "text": "noise", "license": "CC0"}
        for name in ("0.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"))
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    folder = None if images is None else str(tmp_path / images)
    summary = stage.run(str(path), str(tmp_path / "raw"), images=folder, max_failures=1.0, quiet=True)
    assert (summary.written, dict(summary.dropped)) == (1, {"no_image": 2})
    (record,) = stream.read(str(tmp_path / "raw"))
    assert reader.read_bytes(record["image"]) == picture(1) and record["license"] == "CC0-1.0"


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("富士山", "ja"), ("東京駅夜景", "ja"), ("夕焼けの海", "ja"), ("ｶﾀｶﾅ", "ja"), ("カタカナ", "ja"), ("红色的圆", "zh"),
        ("빨간 원", "ko"), ("a red circle", "en"), ("Mt. Fuji (富士山)", "ja"), ("ein Kreis", "en"), ("", "en"),
    ],
)  # fmt: skip
def test_the_script_of_a_caption_tells_its_language(text: str, lang: str) -> None:
    assert language_of(text, "en") == lang


@pytest.mark.parametrize("column_map", [{"license": "terms"}, {"captions": "what"}, {"foo": "url"}])
def test_a_field_that_no_column_can_be_mapped_to_is_named(tmp_path: Path, column_map: dict[str, str]) -> None:
    (tmp_path / "list.csv").write_text("url,what,terms\nhttps://a.example/1.jpg,a dog,CC0\n")
    with pytest.raises(UsageError, match=f"{next(iter(column_map))!r} is not a field of a list") as caught:
        list(stage.listing(str(tmp_path / "list.csv"), column_map=column_map))
    assert "license_raw" in caught.value.fix and "caption" in caught.value.fix


def test_a_column_map_is_of_no_use_to_a_folder_of_images(photos: Path) -> None:
    with pytest.raises(UsageError, match="--column-map is for tables"):
        list(stage.listing(str(photos), column_map={"caption": "text"}))


def test_the_sources_by_name_are_printed_with_what_each_policy_says(commonart: Command) -> None:
    lines = commonart("fetch", "--list-sources").stdout.decode().splitlines()
    cells = {line.split()[0]: re.split("  +", line)[1:4] for line in lines[1:]}
    assert set(cells) == {*HUB_SOURCES, *COCO_SOURCES}
    assert cells["megalith-10m"] == ["10 M", "none", "all"] and cells["artbench-pd"] == ["46.3 k", "all", "all"]
    assert cells["commoncatalog-cc-by"] == ["14.6 M", "row by row", "row by row"]


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


def test_one_key_twice_in_a_coco_file_is_dropped(tmp_path: Path) -> None:
    path = coco(tmp_path)
    data = orjson.loads(path.read_bytes())
    data["images"] += [{"id": n, "file_name": f"{n}.jpg", "license": 4} for n in range(10, 13)] + [data["images"][0]]
    path.write_bytes(orjson.dumps(data))
    summary = stage.run(
        str(path), str(tmp_path / "l.jsonl"), list_only=True, rejects=str(tmp_path / "no.jsonl"), quiet=True
    )
    assert (summary.read, summary.written, dict(summary.dropped), summary.failures) == (6, 5, {"duplicate_key": 1}, 0)
    (refused,) = jsonl.read_values(str(tmp_path / "no.jsonl"))
    assert refused[1]["reason_detail"] == f"{path}:6: 'coco2017_000000000007' stands on line 1 too"


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


@pytest.mark.parametrize(
    ("part", "value"),
    [("annotations", ["x"]), ("annotations", {"a": 1}), ("annotations", [{"image_id": [], "caption": "x"}]), ("licenses", [1]),
     ("licenses", 7), ("images", [{"id": [1], "file_name": "a.jpg"}]), ("images", [{"id": 1, "file_name": "a", "license": [1]}])],
)  # fmt: skip
def test_a_coco_file_with_an_odd_part_is_named(tmp_path: Path, part: str, value: Any) -> None:
    path = coco(tmp_path)
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), part: value}))
    with pytest.raises(SchemaError, match=f"captions.json#{part}"):
        list(stage.listing(str(path)))


def test_a_coco_licence_of_nothing_is_none(tmp_path: Path) -> None:
    path = coco(tmp_path)
    nothing = {"licenses": [{"id": 4, "name": None, "url": None}]}
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **nothing}))
    first = next(iter(stage.listing(str(path))))
    assert not first["license"] and "None" not in str(first.get("license_raw")) + str(first.get("license_url"))


def test_ids_as_strings_and_as_numbers_are_the_same(tmp_path: Path) -> None:
    path = coco(tmp_path)
    data = orjson.loads(path.read_bytes())
    data["images"][0] |= {"id": "7", "license": "4"}
    data["annotations"][1]["image_id"] = 7.0
    path.write_bytes(orjson.dumps(data))
    first = next(iter(stage.listing(str(path))))
    assert (first["source_id"], first["license"]) == ("7", "CC-BY-2.0")
    assert [caption["text"] for caption in first["captions"]] == ["A man.", "草原"]


def test_a_coco_file_with_nan_is_read_and_doubled_ids_state_nothing(tmp_path: Path) -> None:
    path = coco(tmp_path)
    data = orjson.loads(path.read_bytes())
    data["licenses"].append({"id": 4, "name": "Attribution-NonCommercial License", "url": ""})
    data["images"].append({**data["images"][0], "file_name": "other.jpg"})
    path.write_text(json.dumps({**data, "info": {"score": float("nan")}}))
    first, _, again = stage.listing(str(path))
    assert first["license"] == "" and filtered(first)[1].reasons == {"license_unknown": 1}
    assert isinstance(again, PassedOver) and again.problem.reason == "duplicate_id"


@pytest.mark.parametrize("name", ["../private/passport.jpg", "{}/private/passport.jpg", "link.jpg"])
def test_no_file_name_of_a_coco_file_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    for folder in ("images/deep", "private"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("images/deep/1.jpg", "private/passport.jpg"):
        (tmp_path / file).write_bytes(picture(1))
    (tmp_path / "images" / "link.jpg").symlink_to("../private/passport.jpg")
    names = ["deep/1.jpg", name.format(tmp_path)]
    images = [{"id": n, "file_name": file, "license": 1} for n, file in enumerate(names)]
    path = tmp_path / "coco.json"
    path.write_bytes(orjson.dumps({"licenses": [{"id": 1, "name": "CC0-1.0"}], "images": images}))
    summary = stage.run(str(path), str(tmp_path / "raw"), images=str(tmp_path / "images"), quiet=True)
    assert (summary.written, dict(summary.dropped)) == (1, {"no_image": 1})


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="--images"):
        fetched([], images=str(tmp_path / "nowhere"))
