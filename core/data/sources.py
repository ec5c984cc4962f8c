"""What a source on this machine offers, as records without pixels: a folder, a COCO JSON, a list of URLs.

    commonart fetch photos/ --license "CC BY 4.0" --list
    commonart fetch captions_val2017.json --list
    commonart fetch list.csv --list

`list_source` picks by what SOURCE is. A record says where its pixels are in `image` (a file) or `image_url`.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data import jsonl
from commonart.core.data.record import FIELDS, Record, check, make_key
from commonart.core.errors import CommonArtError, SchemaError
from commonart.core.licenses import judge

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff")
LIST_SUFFIXES = (".csv", ".tsv", ".parquet", *jsonl.SUFFIXES)

# Field of the record -> the column names under which lists hold it, the first match wins.
COLUMNS: dict[str, tuple[str, ...]] = {
    "image_url":   ("image_url", "url", "downloadurl", "download_url", "img_url"),
    "source_id":   ("source_id", "id", "photoid", "image_id"),
    "source_url":  ("source_url", "pageurl", "page_url", "page", "landing_url"),
    "title":       ("title",),
    "author":      ("author", "creator", "unickname", "artist"),
    "author_url":  ("author_url", "creator_url"),
    "license_raw": ("license_raw", "licensename", "license_name", "license", "licence", "rights"),
    "license_url": ("license_url", "licenseurl", "licence_url", "rights_url"),
    "caption":     ("caption", "text", "alt"),
    "lang":        ("lang", "language"),
}  # fmt: skip
# Where a person was and what they said of others: not needed for training, so not kept.
PERSONAL = frozenset(
    {"latitude", "longitude", "lat", "lon", "lng", "gps", "location", "usertags", "machinetags", "exif", "email"}
)

_JAPANESE = re.compile(r"[\u3040-\u30ff]")
_FLICKR_FILE = re.compile(r"//[\w.-]*static\.?flickr\.com/(?:\d+/)+(\d{5,})_")


def list_source(
    source: str,
    *,
    license: str = "",
    lang: str = "en",
    column_map: Mapping[str, str] | None = None,
    images: str | None = None,
) -> Iterator[Record]:
    """Yield the records of a folder, a COCO JSON or a list of URLs, in a fixed order.

    Args:
        license: what the user says about works whose source says nothing.
        lang: the language of captions without one; Japanese is recognised by its letters.
        column_map: record field -> column name, for lists whose columns have other names.
        images: the folder that holds the files that a COCO JSON names.

    Raises:
        CommonArtError: SOURCE is missing, empty, or nothing that is known here.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path, license, lang)
    if not path.exists():
        raise CommonArtError(
            f"{source} does not exist.", "Give a folder of images, a COCO .json, a list of URLs, or scenes."
        )
    if source.endswith(LIST_SUFFIXES):
        return _list(path, license, lang, column_map or {})
    if source.endswith(".json"):
        return _coco(path, license, lang, images)
    raise CommonArtError(
        f"{source} is no source that fetch knows.",
        f"Known: a folder of images, a COCO .json, {', '.join(LIST_SUFFIXES)}, scenes, and - for records on stdin.",
    )


def observed(path: Path) -> str:
    """When the statement in a file was written down: its modification time, so that a second run says the same."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def state_license(record: Record, raw: str, url: str, observed_at: str) -> None:
    """Write what a source said about rights into `record`, and what that means; "" when it is not understood."""
    found, _ = judge(url, raw, None)
    record["license"] = found.id if found else ""
    record["license_url"] = url or (found.url if found else "")
    record["license_raw"] = raw or url
    record["license_basis"] = found.basis if found else ""
    record["license_observed_at"] = observed_at


def shipped_caption(text: str, lang: str, model: str, license: str = "") -> dict[str, Any]:
    """A caption that came with the work. Who wrote it is known by name only, so `revision` is empty."""
    return {
        "text": text.strip(),
        "lang": "ja" if _JAPANESE.search(text) else lang,
        "model": model,
        "revision": "",
        "license": license,
        "synthetic": False,
        "translated_from": None,
    }


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
            "key": make_key(source, name.as_posix()),
            "image": str(path),
            "source": source,
            "source_id": inside.as_posix(),
            "title": path.stem,
        }
        beside = _beside(path)
        raw = str(beside.pop("license_raw", "") or beside.pop("license", "") or "")
        url = str(beside.pop("license_url", "") or "")
        at = str(beside.pop("license_observed_at", "") or observed(path))
        texts = beside.pop("caption", None)
        record |= beside
        state_license(record, raw or ("" if url else license), url, at)
        texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else _lines(path)
        if texts and "captions" not in record:
            record["captions"] = [
                shipped_caption(text, lang, source) for text in texts if isinstance(text, str) and text.strip()
            ]
        yield check(record, str(path), 1)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _beside(path: Path) -> dict[str, Any]:
    """What `NAME.json` beside `NAME.jpg` says; fields of the schema and any other."""
    notes = path.with_suffix(".json")
    if not notes.is_file():
        return {}
    try:
        value = orjson.loads(notes.read_bytes())
    except orjson.JSONDecodeError as error:
        raise SchemaError(str(notes), 1, "", f"is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise SchemaError(str(notes), 1, "", "must be a JSON object")
    return {
        name: field for name, field in value.items() if field is not None and name not in PERSONAL and name != "image"
    }


def _lines(path: Path) -> list[str]:
    """The captions in `NAME.txt` beside `NAME.jpg`, one a line."""
    notes = path.with_suffix(".txt")
    return notes.read_text("utf-8", errors="replace").splitlines() if notes.is_file() else []


# --- COCO's annotation format ----------------------------------------------------------------------------------------


def _coco(path: Path, license: str, lang: str, images: str | None) -> Iterator[Record]:
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CommonArtError(f"{path} is no JSON: {error}.", "Download that file again.") from None
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise CommonArtError(f"{path} is no COCO file: it has no list 'images'.", "A list of records ends in .jsonl.")
    licenses = {entry.get("id"): entry for entry in data.get("licenses") or []}
    texts: dict[Any, list[str]] = {}
    for note in data.get("annotations") or []:
        if isinstance(note.get("caption"), str):
            texts.setdefault(note.get("image_id"), []).append(note["caption"])
    at = observed(path)
    for number, entry in enumerate(data["images"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or "id" not in entry:
            raise SchemaError(str(path), f"images[{number}]", "", "needs 'id' and 'file_name'")
        yield _coco_record(
            entry, licenses.get(entry.get("license"), {}), texts.get(entry["id"], []), path, license, lang, at, images
        )


def _coco_record(
    entry: dict[str, Any],
    rights: dict[str, Any],
    texts: list[str],
    path: Path,
    license: str,
    lang: str,
    at: str,
    images: str | None,
) -> Record:
    # COCO 2017's train and val share one numbering, so that the split needs no place in the key.
    coco = "cocodataset.org" in str(entry.get("coco_url", "")) and "2017/" in str(entry.get("coco_url", ""))
    source = "coco2017" if coco else path.stem
    name = entry["file_name"]
    record: Record = {
        "key": make_key(source, os.path.splitext(name)[0]),
        "source": source,
        "source_id": str(entry["id"]),
        "source_url": _flickr_page(str(entry.get("flickr_url", ""))),
        "image_url": str(entry.get("coco_url") or entry.get("url") or entry.get("flickr_url") or ""),
        "title": str(entry.get("title", "")),
        "author": str(entry.get("author", "")),
        "file_name": name,
        "width": entry.get("width"),
        "height": entry.get("height"),
    }
    for field in ("width", "height"):
        if not isinstance(record[field], int) or record[field] <= 0:
            del record[field]
    raw, url = str(rights.get("name", "")), str(rights.get("url", ""))
    state_license(record, raw or ("" if url else license), url, at)
    author = "coco-annotators" if coco else f"{source}-annotators"
    record["captions"] = [shipped_caption(text, lang, author, "CC-BY-4.0" if coco else "") for text in texts]
    record |= {field: entry[field] for field in ("flickr_url", "date_captured") if entry.get(field)}
    if images is not None and Path(images, name).is_file():
        record["image"] = str(Path(images, name))
    return record


def _flickr_page(url: str) -> str:
    """The page of a photograph from the URL of its file: the file's name begins with the photograph's number."""
    match = _FLICKR_FILE.search(url)
    return f"https://www.flickr.com/photo.gne?id={match[1]}" if match else url


# --- a list of URLs --------------------------------------------------------------------------------------------------


def _list(path: Path, license: str, lang: str, column_map: Mapping[str, str]) -> Iterator[Record]:
    source = path.name.split(".")[0]
    at = observed(path)
    columns: dict[str, str] | None = None
    for number, row in _rows(path):
        if not isinstance(row, dict):
            raise SchemaError(str(path), number, "", "must be a JSON object")
        if "key" in row and "source" in row:  # a record already, as `--list` and every other command write it
            yield check(row, str(path), number)
            continue
        if columns is None:
            columns = _columns(path, row, column_map)
        yield check(_list_record(row, columns, source, number, license, lang, at), str(path), number)


def _columns(path: Path, row: Mapping[str, Any], column_map: Mapping[str, str]) -> dict[str, str]:
    """Record field -> the column of this list that holds it."""
    lower = {name.lower(): name for name in row}
    found = {
        field: lower[name] for field, names in reversed(COLUMNS.items()) for name in reversed(names) if name in lower
    }
    strange = [name for name in column_map.values() if name not in row]
    if strange or "image_url" not in found | dict(column_map):
        what = f"has no column {strange[0]!r}" if strange else "has no column of URLs"
        raise CommonArtError(
            f"{path} {what}; its columns are {', '.join(row)}.",
            "Say which column is which: --column-map image_url=NAME.",
        )
    return found | dict(column_map)


def _list_record(
    row: dict[str, Any], columns: dict[str, str], source: str, number: int, license: str, lang: str, at: str
) -> Record:
    value = {field: row.get(name) for field, name in columns.items()}
    said = {field: str(v).strip() if v is not None else "" for field, v in value.items()}
    url = said["image_url"]
    # The row makes the key unique, the URL's hash makes it show when a row has moved.
    own = f"{number:08d}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    record: Record = {
        "key": row["key"] if isinstance(row.get("key"), str) else make_key(source, said.get("source_id") or own),
        "source": source,
        "source_id": said.get("source_id") or own,
    }
    record |= {f: said[f] for f in ("source_url", "image_url", "title", "author", "author_url") if said.get(f)}
    raw, page = said.get("license_raw", ""), said.get("license_url", "")
    state_license(record, raw or ("" if page else license), page, at)
    if said.get("caption"):
        record["captions"] = [shipped_caption(said["caption"], said.get("lang") or lang, source)]
    used = {*columns.values(), "key"}
    record |= {
        name: extra
        for name, extra in row.items()
        if name not in used and name not in FIELDS and name.lower() not in PERSONAL and _plain(extra)
    }
    return record


def _plain(value: Any) -> bool:
    """Whether a cell says something that JSON can hold."""
    return value != "" and isinstance(value, str | int | float | bool | list | dict)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row) of a .csv, .tsv, .parquet or .jsonl."""
    name = str(path)
    if name.endswith(jsonl.SUFFIXES):
        yield from jsonl.read_values(name)
    elif name.endswith(".parquet"):
        yield from enumerate(_parquet(path), 1)
    else:
        csv.field_size_limit(min(sys.maxsize, 1 << 24))
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                for number, row in enumerate(csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ","), 1):
                    yield number, {column: cell or "" for column, cell in row.items() if column}
        except (csv.Error, UnicodeDecodeError) as error:
            raise CommonArtError(f"{path} is no readable table: {error}.", "Save it as UTF-8 text.") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file, without its binary columns: embedded images are not read to make a list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            skipped = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_nested)
            wanted = [f.name for f in schema if not any(test(f.type) for test in skipped)]
            for batch in file.iter_batches(4096, columns=wanted):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise CommonArtError(f"{path} is no readable parquet file: {error}.", "Download that file again.") from error
