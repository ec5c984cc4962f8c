"""fetch FOLDER: images, the sidecars beside them, and what other tools leave in a folder."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import fetched
from web_server import picture

from commonart.core.data import jsonl, stream
from commonart.core.data.drops import PassedOver
from commonart.core.data.record import Record
from commonart.core.data.shards import reader
from commonart.core.errors import UsageError
from commonart.stages import fetch as stage


def listed(source: str, **options: Any) -> list[Record]:
    """The records of a source, without what it passes over."""
    return [record for record in stage.listing(source, **options) if not isinstance(record, PassedOver)]


def passed_over(source: str, **options: Any) -> dict[str, tuple[str, str]]:
    """source_id -> (reason, detail) of what a source passes over."""
    records = [record for record in stage.listing(source, **options) if isinstance(record, PassedOver)]
    return {record["source_id"]: record.problem[:2] for record in records}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture(1))
    (folder / "a.png").write_bytes(picture(2, "PNG"))
    (folder / "b.jpg").write_bytes(picture(3))
    sidecar = {
        "title": "B",
        "author": "Ada",
        "license": "CC BY 2.0",
        "caption": "a red circle",
        "latitude": 1.5,
        "camera": "x",
    }
    (folder / "b.json").write_bytes(orjson.dumps(sidecar))
    (folder / "deep" / "写真.webp").write_bytes(picture(4, "WEBP"))
    (folder / "deep" / "写真.txt").write_text("赤い丸のある草原\na second line\n", "utf-8")
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.jpg").write_bytes(b"no")
    return folder


def test_images_and_sidecars_of_a_folder_become_records(photos: Path, tmp_path: Path) -> None:
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


def test_the_license_option_fills_in_what_a_folder_does_not_state(photos: Path) -> None:
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


@pytest.mark.parametrize("sidecar", ["{", "[]", '{"license": "CC0", "license": "CC BY 4.0"}', '{"opt_out": 7}'])
def test_an_image_with_a_bad_sidecar_is_passed_over_and_named(photos: Path, sidecar: str) -> None:
    (photos / "b.json").write_text(sidecar)
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


def test_positions_and_user_tags_are_dropped_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    sidecar = {
        "GPSLatitude": 1.2,
        "geo": {"lat": 1},
        "coordinates": [1, 2],
        "user_tags": ["me"],
        "E-Mail": "a@b.c",
        "camera": "X",
    }
    (tmp_path / "a.json").write_bytes(orjson.dumps(sidecar))
    (record,) = stage.listing(str(tmp_path))
    assert set(sidecar) & set(record) == {"camera"}


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
def test_a_caption_file_is_found_by_every_usual_name(tmp_path: Path, name: str) -> None:
    image = "X.JPG" if "JPG" in name else "X.jpg"
    (tmp_path / image).write_bytes(picture(1))
    (tmp_path / name).write_text("a lighthouse")
    (record,) = stage.listing(str(tmp_path))
    assert [caption["text"] for caption in record["captions"]] == ["a lighthouse"]


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_what_img2dataset_wrote_keeps_the_address_of_the_work(tmp_path: Path, container: str) -> None:
    about = {
        "url": "https://example.org/cat.jpg", "page_url": "https://example.org/cat", "caption": "a cat", "key": "000000001",
        "status": "success", "error_message": None, "original_width": 640, "creator": "Ada", "LICENSE": "CC BY 4.0",
    }  # fmt: skip
    inside = tmp_path / "00000"
    inside.mkdir()
    (inside / "000000001.jpg").write_bytes(picture(1))
    (inside / "000000001.json").write_bytes(orjson.dumps(about))
    source = tmp_path
    if container == "tar":
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
@pytest.mark.parametrize("container", ["folder", "tar"])
def test_a_caption_file_is_decoded_or_passed_over(
    tmp_path: Path, data: bytes, captions: list[str] | None, container: str
) -> None:
    """Read, or passed over by name: never replacement characters."""
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "a.txt").write_bytes(data)
    source = tmp_path
    if container == "tar":
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
def test_the_metadata_file_of_an_image_folder_describes_its_images(tmp_path: Path, kind: str) -> None:
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


def test_a_column_map_is_of_no_use_to_a_folder_of_images(photos: Path) -> None:
    with pytest.raises(UsageError, match="--column-map is for tables"):
        list(stage.listing(str(photos), column_map={"caption": "text"}))
