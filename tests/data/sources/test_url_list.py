"""fetch: lists of URLs, in every format and under every name that their columns have; rows that are records already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import filtered
from web_server import picture

from commonart.core.data import jsonl
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, SchemaError
from commonart.stages import fetch as stage

BY4 = "https://creativecommons.org/licenses/by/4.0/"


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
        path = tmp_path / "list"
        path.mkdir()
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
