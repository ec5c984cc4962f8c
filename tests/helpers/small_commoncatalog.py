"""Data sets as the hub holds them, on a server of this machine: rows of parquet, tars, and a small CommonCatalog."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from huggingface_hub import HfFileSystem
from web_server import picture

BY2 = "https://creativecommons.org/licenses/by/2.0/"
PAGE = "https://huggingface.co/datasets/"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that the hub's own client asks, with its cache in `tmp_path`."""
    with HubServer() as running:
        HfFileSystem.clear_instance_cache()
        yield running.take_over(monkeypatch, tmp_path)


def photo(n: int) -> bytes:
    return picture(n, size=(320, 240))


def parquet(rows: list[dict[str, Any]], group: int = 10, schema: pa.Schema | None = None) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=group, compression="none")
    return out.getvalue()


def packed(members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def catalogue(first: int, count: int) -> bytes:
    """Rows as CommonCatalog has them."""
    return parquet([
        {
            "jpg": photo(n), "blip2_caption": f"a photograph of {n}", "caption": f"tag {n}",
            "licensename": "Attribution License" if n % 5 else "Attribution-NonCommercial License",
            "licenseurl": BY2 if n % 5 else "https://creativecommons.org/licenses/by-nc/2.0/", "width": 120, "height": 100,
            "photoid": 9000 + n, "uid": "1@N00", "unickname": "Ada", "title": f"no. {n}", "usertags": "home,family",
            "latitude": 35.6, "longitude": 139.7, "pageurl": f"https://www.flickr.com/photos/1/{9000 + n}/",
            "downloadurl": "https://live.staticflickr.com/1.jpg", "key": "000000001", "status": "success", "exif": "{}",
        }
        for n in range(first, first + count)
    ])  # fmt: skip


def commoncatalog(hub: HubServer) -> None:
    files = {f"data/{i}.parquet": catalogue(25 * i, 25) for i in range(2)}
    hub.add("common-canvas/commoncatalog-cc-by", {"README.md": b"# it", **files})
