"""COCO's annotation format as records: `commonart fetch captions_val2017.json --list`."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commonart.core.data.drops import PassedOver, checked
from commonart.core.data.files import file_inside
from commonart.core.data.record import Record, make_key
from commonart.core.data.sources.attribution import SourceOptions, modified_at, set_license, source_caption
from commonart.core.data.sources.named import COCO_2014, CocoSource
from commonart.core.data.sources.url_list import cell_text
from commonart.core.data.text import parse_json
from commonart.core.errors import CommonArtError, SchemaError

Entry = dict[str, Any]
_FLICKR_FILE = re.compile(r"//[\w.-]*static\.?flickr\.com/(?:\d+/)+(\d{5,})_")


def list_coco(path: Path, options: SourceOptions, named: CocoSource | None = None) -> Iterator[Record]:
    """Yield the images of a COCO annotation file, each with the licence that its own entry names and with its captions.

    Raises:
        CommonArtError: the file is not JSON, or not in COCO's format.
        SchemaError: an entry lacks what a record needs.
    """
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise CommonArtError(f"{path} is not JSON: {error}.", "Export or download that file again.") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise CommonArtError(
            f"{path} is not a COCO file: it has no list 'images'.", "A list of records ends in .jsonl."
        )
    licenses = defaultdict[str, list[Entry]](list)
    for entry in _entries(path, data, "licenses", "id"):
        licenses[cell_text(entry["id"])].append(entry)
    texts = defaultdict[str, list[str]](list)
    for annotation in _entries(path, data, "annotations", "image_id"):
        if isinstance(annotation.get("caption"), str):
            texts[cell_text(annotation["image_id"])].append(annotation["caption"])
    observed_at = modified_at(path)
    names = dict[str, str]()  # of the files, by the ids of the images
    for number, entry in enumerate(_entries(path, data, "images", "id")):
        location, name = f"images[{number}]", entry.get("file_name")
        if not isinstance(name, str) or not isinstance(entry.get("license"), int | float | str | None):
            raise SchemaError(str(path), location, "", "needs a 'file_name', and a 'license' that is a number")
        image_id = cell_text(entry["id"])
        # COCO 2017's train and val share one numbering, so that the split needs no place in the key.
        coco_url = str(entry.get("coco_url") or "")
        is_coco = "cocodataset.org" in coco_url and "2017/" in coco_url
        source = named.name if named else "coco2017" if is_coco else path.stem
        record = _described(entry, source, coco_url)
        # Entries of one id that say different things state nothing.
        stated = licenses[cell_text(entry.get("license"))]
        rights = {(str(each.get("name") or ""), str(each.get("url") or "")) for each in stated}
        raw, url = rights.pop() if len(rights) == 1 else ("several licences of one id" if rights else "", "")
        set_license(record, raw or ("" if url else options.license), url, observed_at)
        maker = named.maker if named else f"{'coco' if is_coco else source}-annotators"
        license = "CC-BY-4.0" if is_coco or named else ""
        record["captions"] = [source_caption(text, options.lang, maker, license) for text in texts.get(image_id, [])]
        record |= {field: entry[field] for field in ("flickr_url", "date_captured") if entry.get(field)}
        if options.images is not None and (file := file_inside(options.images, name)) is not None:
            record["image"] = str(file)
        record = checked(record, str(path), location, location)
        if not isinstance(record, PassedOver) and names.setdefault(image_id, name) != name:
            # Whose captions they are is not known.
            record = PassedOver(record, "duplicate_id", f"{path}#{location}: an earlier image has the id {image_id}")
        yield record


def _entries(path: Path, data: Entry, name: str, id_field: str) -> Iterator[Entry]:
    """The entries of one of the file's lists, each of which has its `id_field`."""
    entries = data.get(name) or []
    if not isinstance(entries, list):
        raise SchemaError(str(path), name, "", "must be a list")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get(id_field), int | float | str):
            raise SchemaError(str(path), f"{name}[{i}]", "", f"needs a '{id_field}' that is a number or a text")
        yield entry


def _described(entry: Entry, source: str, coco_url: str) -> Record:
    """What an image's entry says of it, apart from its licence and its captions."""
    name = entry["file_name"]
    is_2014 = name.startswith("COCO_") and "_" in name[5:]
    url_2014 = COCO_2014.format(split=name.split("_")[1], name=name) if is_2014 else ""
    page = str(entry.get("flickr_url") or "")
    photo = _FLICKR_FILE.search(page)  # the file's name begins with the photograph's number
    record: Record = {
        "key": make_key(source, os.path.splitext(name)[0]),
        "source": source,
        "source_id": cell_text(entry["id"]),
        "source_url": f"https://www.flickr.com/photo.gne?id={photo[1]}" if photo else page,
        "image_url": url_2014 or str(coco_url or entry.get("url") or page),
        "title": str(entry.get("title") or ""),
        "author": str(entry.get("author") or ""),
        "file_name": name,
    }
    for field in ("width", "height"):
        if isinstance(entry.get(field), int | float) and entry[field] > 0:
            record[field] = int(entry[field])
    return record
