"""A licence that a row states under a name that no table of ours lists: it must agree, or the row has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commonart.core.data.sources.attribution import SourceOptions
from commonart.core.data.sources.listing import list_source

NC_PAGE = "https://creativecommons.org/licenses/by-nc-nd/4.0/"


def listed(folder: Path, license: str, column: str, value: str, default: str = "", column_map: str = "") -> str:
    row = {"image_url": "https://example.org/1.jpg", column: value, **({"license": license} if license else {})}
    (folder / "list.jsonl").write_text(json.dumps(row) + "\n")
    mapped = {"license_raw": column_map} if column_map else {}
    (record,) = list_source(str(folder / "list.jsonl"), SourceOptions(license=default, column_map=mapped))
    return str(record["license"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("License URL", NC_PAGE), ("license-url", NC_PAGE), ("licenses", "CC BY-NC-ND 4.0"),
        ("license_type", "All rights reserved"), ("dc:rights", NC_PAGE), ("xmpRights:WebStatement", NC_PAGE), ("usage", NC_PAGE),
        ("ライセンス", "CC BY-NC 4.0"),
    ],
)  # fmt: skip
def test_it_contradicts(tmp_path: Path, column: str, value: str) -> None:
    assert listed(tmp_path, "CC0-1.0", column, value) == ""
    assert listed(tmp_path, "", column, value, default="CC0-1.0") == "", "--license is for works without one"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("License URL", "https://creativecommons.org/publicdomain/zero/1.0/"), ("copyright", "(c) 2011 John Smith"),
        ("license_type", "CC0"), ("license_id", "7"), ("description", "under CC BY-NC-ND"), ("page_url", "https://example.org/cc"),
    ],
)  # fmt: skip
def test_it_agrees_or_says_nothing_of_a_licence(tmp_path: Path, column: str, value: str) -> None:
    assert listed(tmp_path, "CC0-1.0", column, value) == "CC0-1.0"


def test_the_column_that_the_user_names_counts_alone(tmp_path: Path) -> None:
    assert listed(tmp_path, "CC0-1.0", "License URL", NC_PAGE, column_map="license") == "CC0-1.0"
