"""What a source offers, as records without pixels: by name, from the hub, a folder, a COCO JSON, a list of URLs.

    commonart fetch commoncatalog-cc-by --list
    commonart fetch photos/ --license "CC BY 4.0" --list
    commonart fetch captions_val2017.json --list
    commonart fetch list.csv --list

`list_source` picks by what SOURCE is. A record says where its pixels are in `image` (a file) or `image_url`.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.download.limits import Limits
from commonart.core.data.jsonl import Keys
from commonart.core.data.record import Record, check, make_key
from commonart.core.data.sources.attribution import is_personal, observed, shipped_caption, state_license
from commonart.core.data.sources.duplicates import each_once
from commonart.core.data.sources.hub import list_hub
from commonart.core.data.sources.named import COCO_2014, COCO_SOURCES, HUB_SOURCES, NAMES, CocoSource, annotation_files
from commonart.core.data.sources.url_list import LIST_SUFFIXES, list_urls
from commonart.core.errors import CommonArtError, SchemaError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff")
_FLICKR_FILE = re.compile(r"//[\w.-]*static\.?flickr\.com/(?:\d+/)+(\d{5,})_")


def list_source(
    source: str,
    *,
    license: str = "",
    lang: str = "en",
    column_map: Mapping[str, str] | None = None,
    images: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[Record]:
    """Yield the records of a named source, a hub data set, a folder, a COCO JSON or a list of URLs, in a fixed order.
    One whose key an earlier one has comes as `once.Doubled`, to be dropped.

    Args:
        license: what the user says about works whose source says nothing.
        lang: the language of captions without one; Japanese is recognised by its letters.
        column_map: record field -> column name, for lists whose columns have other names.
        images: the folder that holds the files that a COCO JSON names.
        limits: of the download of annotations.

    Raises:
        CommonArtError: SOURCE is missing, empty, or nothing that is known here.
    """
    path = Path(source)
    if source.startswith("hf:") or source in HUB_SOURCES:
        return each_once(list_hub(source, license, lang, column_map or {}), source)
    if source in COCO_SOURCES:
        named = COCO_SOURCES[source]
        files = annotation_files(named, limits)
        return each_once(chain.from_iterable(_coco(file, license, lang, images, named) for file in files), source)
    if path.is_dir():
        tables = sorted(path.glob("*.parquet"))
        if tables:  # as img2dataset leaves them beside its shards
            keys = Keys()
            return chain.from_iterable(list_urls(table, license, lang, column_map or {}, keys) for table in tables)
        return _folder(path, license, lang)
    if not path.exists():
        raise CommonArtError(
            f"{source} does not exist.",
            f"Give a folder of images, a COCO .json, a list of URLs, scenes, {', '.join(NAMES)}, or hf:OWNER/NAME.",
        )
    if source.endswith(LIST_SUFFIXES):
        return list_urls(path, license, lang, column_map or {})
    if source.endswith(".json"):
        return each_once(_coco(path, license, lang, images), source)
    raise CommonArtError(
        f"{source} is no source that fetch knows.",
        f"Known: a folder of images, a COCO .json, {', '.join((*LIST_SUFFIXES, *NAMES))}, hf:OWNER/NAME, scenes, "
        "and - for records on stdin.",
    )


# --- a folder of images ----------------------------------------------------------------------------------------------


def _folder(folder: Path, license: str, lang: str) -> Iterator[Record]:
    files = sorted(p for p in _walk(folder) if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise CommonArtError(f"{folder} holds no images.", f"Images end in {', '.join(IMAGE_SUFFIXES)}.")
    # Two files may differ in their suffix alone; then the suffix belongs to the key.
    stems = Counter(p.with_suffix("") for p in files)
    source = folder.resolve().name or "folder"
    for path in files:
        inside = path.relative_to(folder)
        name = inside if stems[path.with_suffix("")] > 1 else inside.with_suffix("")
        record: Record = {
            "key": make_key(_readable(source), _readable(name.as_posix())),
            "image": _readable(str(path)),
            "source": _readable(source),
            "source_id": _readable(inside.as_posix()),
            "title": _readable(path.stem),
        }
        beside = _beside(path)
        raw = str(beside.pop("license_raw", "") or beside.pop("license", "") or "")
        url = str(beside.pop("license_url", "") or "")
        at = str(beside.pop("license_observed_at", "") or (observed(path) if path.exists() else ""))
        texts = beside.pop("caption", None)
        record |= beside
        state_license(record, raw or ("" if url else license), url, at, beside)
        texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else _lines(path)
        if texts and "captions" not in record:
            record["captions"] = [
                shipped_caption(text, lang, record["source"])
                for text in texts
                if isinstance(text, str) and text.strip()
            ]
        yield check(record, str(path), 1)


def _walk(folder: Path) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        raise error  # a folder that may not be read would be left out without a word

    for parent, folders, names in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _readable(name: str) -> str:
    """A file name as JSON can hold it. One that is no UTF-8 comes out as another name, under which there is no file: the
    record counts as a failure and says which, where an error would stop all the others."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _beside(path: Path) -> dict[str, Any]:
    """What `NAME.json` beside `NAME.jpg` says; fields of the schema and any other."""
    notes = path.with_suffix(".json")
    if not notes.is_file():
        return {}
    try:
        value = orjson.loads(notes.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise SchemaError(str(notes), 1, "", f"is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise SchemaError(str(notes), 1, "", "must be a JSON object")
    return {
        name: field for name, field in value.items() if field is not None and not is_personal(name) and name != "image"
    }


def _lines(path: Path) -> list[str]:
    """The captions in `NAME.txt` beside `NAME.jpg`, one a line."""
    notes = path.with_suffix(".txt")
    return notes.read_text("utf-8", errors="replace").splitlines() if notes.is_file() else []


# --- COCO's annotation format ----------------------------------------------------------------------------------------


def _coco(path: Path, license: str, lang: str, images: str | None, named: CocoSource | None = None) -> Iterator[Record]:
    try:
        data = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise CommonArtError(f"{path} is no JSON: {error}.", "Download that file again.") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise CommonArtError(f"{path} is no COCO file: it has no list 'images'.", "A list of records ends in .jsonl.")
    licenses = {entry["id"]: entry for entry in _coco_list(path, data, "licenses", "id")}
    texts: dict[int | str, list[str]] = {}
    for note in _coco_list(path, data, "annotations", "image_id"):
        if isinstance(note.get("caption"), str):
            texts.setdefault(note["image_id"], []).append(note["caption"])
    at = observed(path)
    for number, entry in enumerate(_coco_list(path, data, "images", "id")):
        if not isinstance(entry.get("file_name"), str) or not isinstance(entry.get("license"), int | str | None):
            raise SchemaError(
                str(path), f"images[{number}]", "", "needs a 'file_name', and a 'license' that is a number"
            )
        yield _coco_record(
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


def _coco_list(path: Path, data: dict[str, Any], name: str, number: str) -> Iterator[dict[str, Any]]:
    """The entries of one of the file's lists, each of which has its `number`."""
    entries = data.get(name) or []
    if not isinstance(entries, list):
        raise SchemaError(str(path), name, "", "must be a list")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get(number), int | str):
            raise SchemaError(str(path), f"{name}[{i}]", "", f"needs a '{number}' that is a number or a text")
        yield entry


def _coco_record(
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
    state_license(record, raw or ("" if url else license), url, at)
    maker = named.maker if named else f"{'coco' if coco else source}-annotators"
    record["captions"] = [shipped_caption(text, lang, maker, "CC-BY-4.0" if coco or named else "") for text in texts]
    record |= {field: entry[field] for field in ("flickr_url", "date_captured") if entry.get(field)}
    if images is not None and Path(images, name).is_file():
        record["image"] = str(Path(images, name))
    return record


def _flickr_page(url: str) -> str:
    """The page of a photograph from the URL of its file: the file's name begins with the photograph's number."""
    match = _FLICKR_FILE.search(url)
    return f"https://www.flickr.com/photo.gne?id={match[1]}" if match else url
