"""fetch: sources that do not exist, columns that cannot be mapped, and images that a list names by file."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from commands import fetched
from web_server import picture

from commonart.core.data import stream
from commonart.core.data.shards import reader
from commonart.core.errors import CommonArtError, UsageError
from commonart.stages import fetch as stage


@pytest.mark.parametrize("name", ["nowhere", "empty", "notes.md", "bad.json", "other.json", "commoncatalog"])
def test_a_source_that_cannot_be_read_is_an_error_with_a_fix(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(CommonArtError, match=name) as caught:
        list(stage.listing(str(tmp_path / name)))
    assert caught.value.fix


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


@pytest.mark.parametrize("column_map", [{"license": "terms"}, {"captions": "what"}, {"foo": "url"}])
def test_a_field_that_no_column_can_be_mapped_to_is_named(tmp_path: Path, column_map: dict[str, str]) -> None:
    (tmp_path / "list.csv").write_text("url,what,terms\nhttps://a.example/1.jpg,a dog,CC0\n")
    with pytest.raises(UsageError, match=f"{next(iter(column_map))!r} is not a field of a list") as caught:
        list(stage.listing(str(tmp_path / "list.csv"), column_map=column_map))
    assert "license_raw" in caught.value.fix and "caption" in caught.value.fix


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="--images"):
        fetched([], images=str(tmp_path / "nowhere"))
