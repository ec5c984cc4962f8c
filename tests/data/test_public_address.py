"""Addresses as records keep them: without credentials, and the same for whoever looks them up."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from web_server import Site, picture

from commonart.core.data import stream
from commonart.core.data.blocklist import plain, read_blocklist
from commonart.core.data.download.limits import Limits
from commonart.core.data.lookup.query import query_of
from commonart.core.data.public_address import public_address
from commonart.stages import fetch


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://ada:pw@example.org:8443/a.jpg", "https://example.org:8443/a.jpg"),
        ("HTTPS://ada@example.org/a@b.jpg?c=d@e", "HTTPS://example.org/a@b.jpg?c=d@e"),
        ("https://example.org/@ada/a.jpg", "https://example.org/@ada/a.jpg"),
        ("hf://datasets/owner/name@0123/a.tar#1+2", "hf://datasets/owner/name@0123/a.tar#1+2"),
        (
            "https://b.s3.amazonaws.com/a.jpg?v=2&X-Amz-Credential=AK%2F1&X-Amz-Date=2&X-Amz-Signature=ab#x",
            "https://b.s3.amazonaws.com/a.jpg?v=2#x",
        ),
        ("https://a.blob.core.windows.net/a.jpg?sv=2022&sig=a%3D", "https://a.blob.core.windows.net/a.jpg?sv=2022"),
        ("https://cdn.example.org/a.jpg?Expires=1&Signature=x&Key-Pair-Id=K", "https://cdn.example.org/a.jpg"),
        ("https://example.org/a.jpg?access_token=x&%74oken=y&id=7", "https://example.org/a.jpg?id=7"),
        ("https://example.org/a.jpg?design=1&author=Ada", "https://example.org/a.jpg?design=1&author=Ada"),
    ],
)
def test_what_opens_a_door_is_left_out(address: str, public: str) -> None:
    assert public_address(address) == public == public_address(public)
    assert plain("url", address) == plain("url", public)
    assert query_of(url=address).value == public


def test_fetch_asks_with_a_signature_and_records_none(tmp_path: Path) -> None:
    with Site() as site:
        url = site.image("/a.jpg?id=7&token=s3cret", picture(1))
        private = url.replace("://", "://ada:pw@")
        row = {"url": url, "page_url": "https://ada:pw@example.org/p", "license": "CC0", "mirror": f"{private}&x=1"}
        (tmp_path / "list.jsonl").write_bytes(orjson.dumps(row))
        fetch.run(str(tmp_path / "list.jsonl"), str(tmp_path / "raw"), limits=Limits(allow_private=True), quiet=True)
    (record,) = stream.read(str(tmp_path / "raw"))
    assert not {each for each in record.values() if "s3cret" in str(each) or "pw" in str(each)}
    assert record["image_url"].endswith("/a.jpg?id=7") and record["fetched_url"].endswith("/a.jpg?id=7")
    assert (record["source_url"], record["mirror"][-5:]) == ("https://example.org/p", "7&x=1")
    (tmp_path / "blocklist.txt").write_text(f"url: {private}\n")
    assert read_blocklist(str(tmp_path / "blocklist.txt")).entry_of(record)
