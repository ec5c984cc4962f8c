"""Lists of URLs (.csv, .tsv, .jsonl, .parquet) as records without pixels.

commonart fetch list.csv --list --column-map image_url=IMG
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from commonart.core.data import jsonl
from commonart.core.data.fetching.origin import PERSONAL, observed, shipped_caption, state_license
from commonart.core.data.record import FIELDS, Record, check, make_key
from commonart.core.errors import CommonArtError, SchemaError

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


def list_urls(path: Path, license: str, lang: str, column_map: Mapping[str, str]) -> Iterator[Record]:
    """Yield a record for each row, in the order of the rows; rows that are records already stay as they are.

    Raises:
        CommonArtError: a damaged file, or no column that can be taken for the URL. SchemaError: a row that breaks the schema.
    """
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
