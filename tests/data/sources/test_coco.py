"""fetch ANNOTATIONS.json: files in COCO's format."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import fetched, filtered
from web_server import picture

from commonart.cli import main
from commonart.core.data import jsonl
from commonart.core.data.drops import PassedOver
from commonart.core.errors import SchemaError
from commonart.stages import fetch as stage


def coco_file(folder: Path) -> Path:
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


def test_images_captions_and_licences_of_a_coco_file_become_records(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "000000000007.jpg").write_bytes(picture(7))
    (tmp_path / "8.jpg").write_bytes(picture(8))
    first, second = stage.listing(str(coco_file(tmp_path)))
    assert (first["key"], first["source"], first["source_id"]) == ("coco2017_000000000007", "coco2017", "7")
    assert first["license"] == "CC-BY-2.0" and first["license_raw"] == "Attribution License"
    assert first["source_url"] == "https://www.flickr.com/photo.gne?id=8119368305"
    assert [c["text"] for c in first["captions"]] == ["A man.", "草原"]
    assert first["captions"][0] == {
        "text": "A man.", "lang": "en", "model": "coco-annotators", "revision": "", "license": "CC-BY-4.0",
        "synthetic": False, "translated_from": None,
    }  # fmt: skip
    assert second["license"] == ""
    made, drop, _ = fetched([first, second], images=str(images))
    assert [sample.data for sample in made] == [picture(7)]
    assert dict(drop.reasons) == {"no_image": 1}  # a name that leads out of the folder is not followed


def test_a_list_that_may_not_be_read_is_not_told_to_write_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> bytes:  # root may read everything, so that chmod would test nothing
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main.run(["fetch", str(coco_file(tmp_path)), "--list"]) == 1
    err = capsys.readouterr().err
    assert "captions.json: permission denied." in err and "write somewhere" not in err.lower()


def test_one_key_twice_in_a_coco_file_is_dropped(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
    data = orjson.loads(path.read_bytes())
    data["images"] += [{"id": n, "file_name": f"{n}.jpg", "license": 4} for n in range(10, 13)] + [data["images"][0]]
    path.write_bytes(orjson.dumps(data))
    summary = stage.run(
        str(path), str(tmp_path / "l.jsonl"), list_only=True, rejects=str(tmp_path / "no.jsonl"), quiet=True
    )
    assert (summary.read, summary.written, dict(summary.dropped), summary.failures) == (6, 5, {"duplicate_key": 1}, 0)
    (refused,) = jsonl.read_values(str(tmp_path / "no.jsonl"))
    assert refused[1]["reason_detail"] == f"{path}:6: 'coco2017_000000000007' stands on line 1 too"


@pytest.mark.parametrize(
    ("part", "value"),
    [("annotations", ["x"]), ("annotations", {"a": 1}), ("annotations", [{"image_id": [], "caption": "x"}]), ("licenses", [1]),
     ("licenses", 7), ("images", [{"id": [1], "file_name": "a.jpg"}]), ("images", [{"id": 1, "file_name": "a", "license": [1]}])],
)  # fmt: skip
def test_a_coco_file_with_an_odd_part_is_named(tmp_path: Path, part: str, value: Any) -> None:
    path = coco_file(tmp_path)
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), part: value}))
    with pytest.raises(SchemaError, match=f"captions.json#{part}"):
        list(stage.listing(str(path)))


def test_a_coco_licence_without_name_and_url_is_no_licence(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
    nothing = {"licenses": [{"id": 4, "name": None, "url": None}]}
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **nothing}))
    first = next(iter(stage.listing(str(path))))
    assert not first["license"] and "None" not in str(first.get("license_raw")) + str(first.get("license_url"))


def test_ids_as_strings_and_as_numbers_are_the_same(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
    data = orjson.loads(path.read_bytes())
    data["images"][0] |= {"id": "7", "license": "4"}
    data["annotations"][1]["image_id"] = 7.0
    path.write_bytes(orjson.dumps(data))
    first = next(iter(stage.listing(str(path))))
    assert (first["source_id"], first["license"]) == ("7", "CC-BY-2.0")
    assert [caption["text"] for caption in first["captions"]] == ["A man.", "草原"]


def test_a_coco_file_with_nan_is_read_and_doubled_ids_state_nothing(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
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
