"""fetch: what every kind of source on this machine offers."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import fetched
from web_server import picture

from commonart.cli import main
from commonart.core.data import jsonl, stream
from commonart.core.data.drops import PassedOver
from commonart.core.data.record import Record
from commonart.core.data.shards import reader
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


@pytest.mark.parametrize("beside", ["{", "[]", '{"license": "CC0", "license": "CC BY 4.0"}', '{"title": 7}'])
def test_an_image_with_a_bad_sidecar_is_passed_over_and_named(photos: Path, beside: str) -> None:
    (photos / "b.json").write_text(beside)
    made, drop, refused = fetched(list(stage.listing(str(photos))))
    assert len(made) == 3 and drop.reasons["bad_sidecar"] == 1 and drop.failures == 1
    (bad,) = (record for record in refused if record["reason"] == "bad_sidecar")
    assert bad["source_id"] == "b.jpg" and ("b.json" in bad["reason_detail"] or "'title'" in bad["reason_detail"])


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


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="--images"):
        fetched([], images=str(tmp_path / "nowhere"))
