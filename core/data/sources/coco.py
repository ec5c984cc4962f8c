"""COCO's annotation format as records: `commonart fetch captions_val2017.json --list`."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.record import Record, make_key
from commonart.core.data.sources.attribution import modified_at, set_license, source_caption
from commonart.core.data.sources.named import COCO_2014, CocoSource
from commonart.core.errors import CommonArtError, SchemaError

_FLICKR_FILE = re.compile(r"//[\w.-]*static\.?flickr\.com/(?:\d+/)+(\d{5,})_")


def list_coco(
    path: Path, license: str = "", lang: str = "en", images: str | None = None, named: CocoSource | None = None
) -> Iterator[Record]:
    """The images of a COCO annotation file, each with the licence that its own entry names and with its captions.

    Raises:
        CommonArtError: the file is not JSON, or not in COCO's format.
        SchemaError: an entry lacks what a record needs.
    """
    try:
        data = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise CommonArtError(f"{path} is not JSON: {error}.", "Download that file again.") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise CommonArtError(
            f"{path} is not a COCO file: it has no list 'images'.", "A list of records ends in .jsonl."
        )
    licenses = {entry["id"]: entry for entry in _entries(path, data, "licenses", "id")}
    texts: dict[int | str, list[str]] = {}
    for note in _entries(path, data, "annotations", "image_id"):
        if isinstance(note.get("caption"), str):
            texts.setdefault(note["image_id"], []).append(note["caption"])
    at = modified_at(path)
    for number, entry in enumerate(_entries(path, data, "images", "id")):
        if not isinstance(entry.get("file_name"), str) or not isinstance(entry.get("license"), int | str | None):
            raise SchemaError(
                str(path), f"images[{number}]", "", "needs a 'file_name', and a 'license' that is a number"
            )
        yield _record(
            entry,
            licenses.get(entry.get("license"), {}),
            texts.get(entry["id"], []),
            path,
            license,
            lang,
            at,
            images,
            named,
        )


def _entries(path: Path, data: dict[str, Any], name: str, number: str) -> Iterator[dict[str, Any]]:
    """The entries of one of the file's lists, each of which has its `number`."""
    entries = data.get(name) or []
    if not isinstance(entries, list):
        raise SchemaError(str(path), name, "", "must be a list")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get(number), int | str):
            raise SchemaError(str(path), f"{name}[{i}]", "", f"needs a '{number}' that is a number or a text")
        yield entry


def _record(
    entry: dict[str, Any],
    rights: dict[str, Any],
    texts: list[str],
    path: Path,
    license: str,
    lang: str,
    at: str,
    images: str | None,
    named: CocoSource | None,
) -> Record:
    # COCO 2017's train and val share one numbering, so that the split needs no place in the key.
    coco = "cocodataset.org" in str(entry.get("coco_url", "")) and "2017/" in str(entry.get("coco_url", ""))
    source = named.name if named else "coco2017" if coco else path.stem
    name = entry["file_name"]
    url_2014 = COCO_2014.format(split=name.split("_")[1], name=name) if name.startswith("COCO_") else ""
    record: Record = {
        "key": make_key(source, os.path.splitext(name)[0]),
        "source": source,
        "source_id": str(entry["id"]),
        "source_url": _flickr_page(str(entry.get("flickr_url", ""))),
        "image_url": url_2014 or str(entry.get("coco_url") or entry.get("url") or entry.get("flickr_url") or ""),
        "title": str(entry.get("title", "")),
        "author": str(entry.get("author", "")),
        "file_name": name,
        "width": entry.get("width"),
        "height": entry.get("height"),
    }
    for field in ("width", "height"):
        if not isinstance(record[field], int) or record[field] <= 0:
            del record[field]
    raw, url = str(rights.get("name") or ""), str(rights.get("url") or "")
    set_license(record, raw or ("" if url else license), url, at)
    maker = named.maker if named else f"{'coco' if coco else source}-annotators"
    record["captions"] = [source_caption(text, lang, maker, "CC-BY-4.0" if coco or named else "") for text in texts]
    record |= {field: entry[field] for field in ("flickr_url", "date_captured") if entry.get(field)}
    if images is not None and Path(images, name).is_file():
        record["image"] = str(Path(images, name))
    return record


def _flickr_page(url: str) -> str:
    """The page of a photograph from the URL of its file: the file's name begins with the photograph's number."""
    match = _FLICKR_FILE.search(url)
    return f"https://www.flickr.com/photo.gne?id={match[1]}" if match else url
