"""Lists of URLs (.csv, .tsv, .jsonl, .parquet) as records without pixels.

commonart fetch list.csv --list --column-map image_url=IMG
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commonart.core.data import jsonl
from commonart.core.data.record import FIELDS, KEY, Record, check, make_key
from commonart.core.data.sources.attribution import LICENSE_NAMES, is_personal, modified_at, set_license, source_caption
from commonart.core.data.sources.duplicates import mark_duplicate
from commonart.core.errors import CommonArtError, SchemaError

MOST_NAMES = 1000  # sets of names whose columns are remembered
LIST_SUFFIXES = (".csv", ".tsv", ".parquet", *jsonl.SUFFIXES)

# Field of the record -> the column names under which lists hold it, the first match wins.
COLUMNS: dict[str, tuple[str, ...]] = {
    "image_url":   ("image_url", "url", "downloadurl", "download_url", "img_url"),
    "source_id":   ("source_id", "id", "photoid", "image_id"),
    "source_url":  ("source_url", "pageurl", "page_url", "page", "landing_url"),
    "title":       ("title",),
    "author":      ("author", "creator", "unickname", "artist"),
    "author_url":  ("author_url", "creator_url"),
    "license_raw": LICENSE_NAMES,
    "license_url": ("license_url", "licenseurl", "licence_url", "rights_url"),
    "caption":     ("caption", "text", "alt"),
    "lang":        ("lang", "language"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """How the rows of one table become records."""

    name: str  # of the file or data set, for messages
    source: str
    license: str = ""  # what is said of works whose row says nothing
    lang: str = "en"
    column_map: Mapping[str, str] = field(default_factory=dict)  # record field -> column; "" for none
    observed_at: str = ""
    # Columns of captions: (column, maker, licence of the text, whether a model wrote it).
    captions: tuple[tuple[str, str, str, bool], ...] = ()
    needs: str = "image_url"  # the field without which a row is worth nothing


def list_urls(
    path: Path, license: str, lang: str, column_map: Mapping[str, str], keys: jsonl.Keys | None = None
) -> Iterator[Record]:
    """Yield a record for each row, in the order of the rows; rows that are records already stay as they are. Another row
    whose key was there before comes as `PassedOver`.

    Args:
        keys: of the tables before this one, where several make one list.

    Raises:
        CommonArtError: a damaged file, or no column that can be taken for the URL.
        SchemaError: a row that breaks the schema, or a record whose key was there before.
    """
    table = Table(str(path), path.name.split(".")[0], license, lang, column_map, modified_at(path))
    columns: dict[tuple[str, ...], dict[str, str]] = {}  # rows of JSONL may each have other names
    keys = jsonl.Keys() if keys is None else keys
    for number, row in _rows(path):
        if not isinstance(row, dict):
            raise SchemaError(str(path), number, "", "must be a JSON object")
        if "key" in row and "source" in row:  # a record already, as `--list` and every other command write it
            check(row, str(path), number)
            keys.add(row["key"], str(path), number)
            yield row
        else:
            names = tuple(row)
            if names not in columns:
                found = find_columns(table, names, first=not columns)
                columns = {**columns, names: found} if len(columns) < MOST_NAMES else {names: found}
            record = check(row_record(row, columns[names], table, number), str(path), number)
            yield mark_duplicate(record, keys, str(path), number)


def find_columns(table: Table, names: Sequence[str], first: bool = True) -> dict[str, str]:
    """Record field -> the column of this table that holds it.

    Raises:
        CommonArtError: of the `first` row, a column that `--column-map` names is not there, or none holds the URL; it lists
            the columns.
    """
    lower = {name.lower(): name for name in names}
    found = {
        field: lower[name] for field, names in reversed(COLUMNS.items()) for name in reversed(names) if name in lower
    }
    strange = [name for name in table.column_map.values() if name and name not in names]
    found |= table.column_map
    if first and (strange or (table.needs and not found.get(table.needs))):
        what = f"has no column {strange[0]!r}" if strange else "has no column of URLs"
        raise CommonArtError(
            f"{table.name} {what}; its columns are {', '.join(names)}.",
            "Say which column is which: --column-map image_url=NAME.",
        )
    return {field: name for field, name in found.items() if name}


def row_record(row: Mapping[str, Any], columns: Mapping[str, str], table: Table, number: int) -> Record:
    """The record of one row."""
    said = {field: str(row[name]).strip() if row.get(name) is not None else "" for field, name in columns.items()}
    url = said.get("image_url", "")
    # The row makes the key unique, the URL's hash makes it show when a row has moved.
    own = f"{number:08d}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    source_id = said.get("source_id") or own
    plain = row["key"] if isinstance(row.get("key"), str) and "source_id" not in table.column_map else ""
    record: Record = {
        "key": plain if KEY.fullmatch(plain) else make_key(table.source, source_id),
        "source": table.source,
        "source_id": source_id,
    }
    record |= {f: said[f] for f in ("source_url", "image_url", "title", "author", "author_url") if said.get(f)}
    raw, page = said.get("license_raw", ""), said.get("license_url", "")
    row_said = row
    if "license_raw" in table.column_map:  # somebody has looked which column says it
        row_said = {name: value for name, value in row.items() if name.lower() not in LICENSE_NAMES}
    set_license(record, raw or ("" if page else table.license), page, table.observed_at, row_said)
    captions = [
        source_caption(text, table.lang, maker, license, synthetic)
        for column, maker, license, synthetic in table.captions
        for text in _texts(row.get(column))
    ]
    if said.get("caption") and not table.captions:
        captions = [
            source_caption(text, said.get("lang") or table.lang, table.source)
            for text in _texts(row.get(columns["caption"]))
        ]
    if captions:
        record["captions"] = captions
    used = {*columns.values(), *(column for column, *_ in table.captions), "key"}
    record |= {
        name: extra
        for name, extra in row.items()
        if name not in used and name not in FIELDS and not is_personal(name) and _plain(extra)
    }
    return record


def _texts(value: Any) -> list[str]:
    """The captions of a cell: one, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if isinstance(text, str) and text.strip()]


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
            raise CommonArtError(f"{path} cannot be read as a table: {error}.", "Save it as UTF-8 text.") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file, without its binary columns: embedded images are not read to make a list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(4096, columns=text_columns(file.schema_arrow)):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise CommonArtError(f"{path} cannot be read as parquet: {error}.", "Download that file again.") from error


def text_columns(schema: Any) -> list[str]:
    """The columns of an arrow schema without those that hold bytes: numbers, text, and lists of text."""
    import pyarrow as pa

    def plain(kind: Any) -> bool:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return plain(kind.value_type)
        return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return [column.name for column in schema if plain(column.type)]
