"""fetch: what every kind of source on this machine offers."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_fetch import fetched
from test_license_filter import filtered
from web_server import picture

from commonart.cli import main
from commonart.core.data import jsonl, shards, stream
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, SchemaError, UsageError
from commonart.stages import fetch as stage

BY4 = "https://creativecommons.org/licenses/by/4.0/"


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


def test_a_sidecar_from_windows_is_read(photos: Path) -> None:
    (photos / "b.json").write_text('{"title": "B", "author": "Ada"}\r\n', "utf-8-sig")
    assert [record.get("author") for record in stage.listing(str(photos)) if record["title"] == "B"] == ["Ada"]


def test_a_link_to_nowhere_and_a_name_that_is_no_utf8_are_failures_of_their_own(photos: Path, tmp_path: Path) -> None:
    (photos / "c.jpg").symlink_to("nowhere.jpg")
    os.link(photos / "a.jpg", os.fsencode(photos) + b"/caf\xe9.jpg")
    summary = stage.run(str(photos), str(tmp_path / "raw"), rejects=str(tmp_path / "no.jsonl"), quiet=True)
    assert (summary.written, dict(summary.dropped), summary.failures) == (4, {"unreadable": 2}, 2)
    names = [value["source_id"] for _, value in jsonl.read_values(str(tmp_path / "no.jsonl"))]
    assert names == ["c.jpg", "caf\\xe9.jpg"]


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


@pytest.mark.parametrize(
    ("said", "license"),
    [
        ({"license_name": "CC0", "license": "https://creativecommons.org/licenses/by-nc/4.0/"}, ""),
        ({"license": "CC-BY-NC-4.0", "license_name": "CC0"}, ""),
        ({"rights": "All rights reserved", "license": "CC0"}, ""),
        ({"license_name": "CC BY 4.0", "license": "CC-BY-4.0"}, "CC-BY-4.0"),
        ({"license_name": "CC0", "rights": ""}, "CC0-1.0"),
    ],
)
def test_every_statement_of_a_licence_must_agree(tmp_path: Path, said: dict[str, str], license: str) -> None:
    path = write_list(tmp_path / "list.csv", [{"url": "https://a.example/1.jpg", **said}])
    (photo,) = stage.listing(str(path))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture(1))
    (folder / "a.json").write_bytes(orjson.dumps(said))
    (beside,) = stage.listing(str(folder))
    kept, _, _ = filtered(photo, beside)
    assert [record["license"] for record in (photo, beside)] == [license] * 2
    assert len(kept) == (2 if license else 0)


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


def test_each_row_of_a_jsonl_list_is_read_by_its_own_names(tmp_path: Path) -> None:
    rows = [
        {"url": "http://example.org/1.jpg", "license": "CC0-1.0"},
        {
            "url": "http://example.org/2.jpg",
            "license": "CC0-1.0",
            "license_url": "https://creativecommons.org/licenses/by-nc/4.0/",
        },
        {
            "url": "http://example.org/3.jpg",
            "license_url": "https://creativecommons.org/licenses/by/4.0/",
            "author": "Ann",
        },
        {"title": "no address"},
    ]
    for order in (rows, rows[2::-1] + rows[3:]):
        path = tmp_path / "sparse.jsonl"
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in order))
        found = {record.get("image_url", "")[-5:]: record for record in stage.listing(str(path))}
        assert found["1.jpg"]["license"] == "CC0-1.0" and found["3.jpg"]["license"] == "CC-BY-4.0"
        assert found["2.jpg"]["license"] == "" and "by-nc" in found["2.jpg"]["license_url"]
        assert found["3.jpg"]["author"] == "Ann" and found[""]["title"] == "no address"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "folder"])
def test_one_key_twice_in_a_list_is_dropped_whoever_makes_its_shard(tmp_path: Path, suffix: str) -> None:
    rows = [{"url": f"http://example.org/{n}.jpg", "id": f"x{n}"} for n in (1, 2, 3, 1, 4)]
    if suffix == "folder":  # of tables with keys of their own, as img2dataset leaves them
        path = tmp_path
        for name, part in (("0.parquet", rows[:3]), ("1.parquet", rows[3:])):
            write_list(path / name, [{"url": row["url"], "key": row["id"]} for row in part])
    else:
        path = write_list(tmp_path / f"list.{suffix}", rows)
    read, written = 0, []
    for index in range(2):
        out = str(tmp_path / "l.jsonl")
        summary = stage.run(str(path), out, list_only=True, shard_size=2, task=Task(index, 2), quiet=True)
        written += [record["key"].removeprefix("list_") for record in jsonl.read(Task(index, 2).own_file(out))]
        read += summary.read
        # The first x1 is in task 0's part, the second in task 1's.
        assert dict(summary.dropped) == ({"duplicate_key": 1} if index == 1 else {})
    assert (read, sorted(written)) == (5, ["x1", "x2", "x3", "x4"])


def test_keys_can_be_made_of_places_instead(tmp_path: Path) -> None:
    rows = [{"url": f"http://example.org/{n}.jpg", "id": "same"} for n in range(4)]
    path = write_list(tmp_path / "list.csv", rows)
    assert len({record["key"] for record in stage.listing(str(path), column_map={"source_id": ""})}) == 4


def test_a_doubled_key_in_a_file_of_records_is_an_error_and_the_shards_before_it_stay(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [{"key": f"k{n}", "source": "s", "image": str(tmp_path / "a.png")} for n in (*range(9), 3, 10)]
    path, out = write_list(tmp_path / "records.jsonl", rows), tmp_path / "raw"
    with pytest.raises(SchemaError, match="records.jsonl:10: field 'key' 'k3' stands on line 4 too"):
        stage.run(str(path), str(out), shard_size=2, quiet=True)
    tars = {tar.name: tar.stat().st_mtime_ns for tar in out.glob("*.tar")}
    assert sorted(tars) == [f"0000{n}.tar" for n in range(4)]  # the fifth was not whole
    write_list(path, [*rows[:9], rows[10]])
    assert stage.run(str(path), str(out), shard_size=2, quiet=True).written == 10
    assert {name: (out / name).stat().st_mtime_ns for name in tars} == tars


FLICKR = {"image_url": "https://live.staticflickr.com/65535/1_a.jpg"}
MUSEUM = {"image_url": "https://example.org/1.jpg"}
BY_NC = "https://creativecommons.org/licenses/by-nc/2.0/"


@pytest.mark.parametrize(
    ("row", "license"),
    [
        ({**FLICKR, "license": 4}, "CC-BY-2.0"),
        ({**FLICKR, "license": "9.0"}, "CC0-1.0"),
        ({**FLICKR, "license": 4, "licensename": "Attribution License"}, "CC-BY-2.0"),
        ({**FLICKR, "license": 4, "licensename": "Attribution-NonCommercial License"}, ""),
        ({**FLICKR, "license": 4, "license_url": BY_NC}, ""),
        ({**FLICKR, "license": 2}, "CC-BY-NC-2.0"),
        ({**FLICKR, "license": 12, "license_url": BY4}, "CC-BY-4.0"),
        ({**FLICKR, "license": 12}, ""),
        ({**MUSEUM, "license": 4}, ""),  # not Flickr's: another list's number 4 is another licence
        ({**MUSEUM, "page": "https://evil.example/https://www.flickr.com/", "license": 4}, ""),
        ({**MUSEUM, "usage": {"access": "CC0"}}, "CC0-1.0"),
        ({**MUSEUM, "usage": {"access": "Usage conditions apply"}, "license": "CC0"}, ""),
        ({**MUSEUM, "usage": {"codes": ""}, "license": "CC0"}, ""),
        ({**MUSEUM, "edmRights": {"def": [BY4]}}, "CC-BY-4.0"),
        ({**MUSEUM, "edmRights": [BY4], "webResourceEdmRights": "http://rightsstatements.org/vocab/InC/1.0/"},
         "LicenseRef-RightsStatements-InC-1.0"),
        ({**MUSEUM, "extmetadata": {"License": {"value": "cc-by-4.0"}, "LicenseUrl": {"value": BY4}}}, "CC-BY-4.0"),
        ({**MUSEUM, "extmetadata": {"License": "cc-by-4.0", "Restrictions": "personality"}, "license_url": BY4}, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["list", "sidecar"])
def test_what_flickr_museums_and_wikimedia_say_in_fields_of_their_own(
    tmp_path: Path, row: dict[str, Any], license: str, way: str
) -> None:
    if way == "list":
        (tmp_path / "list.jsonl").write_bytes(orjson.dumps(row))
        (record,) = stage.listing(str(tmp_path / "list.jsonl"))
    else:
        (tmp_path / "a.jpg").write_bytes(picture(1))
        said = {**row, "source_url": row.get("page", "")}
        if "licensename" in said:  # a sidecar has the names of the schema
            said |= {"license_raw": said.pop("licensename")}
        (tmp_path / "a.json").write_bytes(orjson.dumps(said))
        (record,) = stage.listing(str(tmp_path))
    assert record["license"] == license
    kept, _, _ = filtered(record)  # the filter judges again, by what the record says, and comes to the same
    assert [after["license"] for after in kept] == [license] * (license in ("CC0-1.0", "CC-BY-2.0", "CC-BY-4.0"))


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


def test_the_output_of_img2dataset_is_a_list_too(tmp_path: Path) -> None:
    """Its parquet files lie beside its shards; what it could not download is asked for like the rest."""
    for shard in range(2):
        rows = [
            {
                "url": f"https://example.org/{shard}-{n}.jpg", "caption": f"text {n}", "key": f"{shard:05d}{n:04d}",
                "status": "success" if n else "failed_to_download", "error_message": None, "width": 256, "height": 256,
                "original_width": 640, "original_height": 480, "exif": "{}", "sha256": "ab" * 32,
            }
            for n in range(3)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{shard:05d}.parquet")
        (tmp_path / f"{shard:05d}.tar").write_bytes(b"")
    listed = list(stage.listing(str(tmp_path)))
    assert [record["image_url"] for record in listed][3] == "https://example.org/1-0.jpg"
    assert len({record["key"] for record in listed}) == 6 == len(listed)
    # Size and hash are those of what img2dataset wrote or saw, not of what will come.
    assert not {"width", "sha256", "exif"} & set(listed[0]) and listed[0]["captions"][0]["text"] == "text 0"
