"""Tables of images (.csv, .tsv, .jsonl, .parquet) as records without pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commonart.core.data import jsonl
from commonart.core.data.drops import PassedOver, Problem, checked, mark_duplicate
from commonart.core.data.files import file_inside
from commonart.core.data.record import FIELDS, KEY, Caption, Record, check, make_key
from commonart.core.data.sources import attribution, parquet
from commonart.core.data.sources.attribution import LICENSE_NAMES, SetStatement, SourceOptions, caption_texts
from commonart.core.data.sources.tables import Row, partition_values, read_rows
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.statements import CONFLICT, STRUCTURED_FIELDS, resolve_license

MAX_LAYOUTS = 1000  # sets of column names that are remembered
MAX_EXACT = 1 << 53  # a whole number beyond it may have lost digits where a table holds it as a float

# Field of the record -> the column names under which lists hold it, the first match wins.
COLUMNS: dict[str, tuple[str, ...]] = {
    "image_url":   ("image_url", "url", "downloadurl", "download_url", "img_url"),
    "file_name":   ("file_name",),
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
COLUMN_NAMES = [name for names in COLUMNS.values() for name in names]
MAPPABLE = (*COLUMNS, "image")
# Fields that a source by name may map besides: an address where the first one is gone, and the file's hash.
EXTRA_FIELDS = ("fallback_url", "md5", "collection")
_TEXT_FIELDS = ("source_url", "image_url", "title", "author", "author_url", "file_name", *EXTRA_FIELDS)


@dataclass(frozen=True, slots=True)
class Table:
    """How the rows of one table become records."""

    name: str  # of the file or data set, for messages
    source: str
    options: SourceOptions
    columns: Mapping[str, str] = field(default_factory=dict)  # the source's, where they are there: as `column_map`
    observed_at: str = ""
    # Columns of captions: (column, maker, licence of the text, whether a model wrote it).
    captions: tuple[tuple[str, str, str, bool], ...] = ()
    needs: tuple[str, ...] = ("image_url", "file_name")  # without any of these fields a row is worth nothing
    set_statement: SetStatement | None = None  # where no row states a licence
    revision: str = ""  # of the data set


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a row are; rows with the same names share it."""

    columns: Mapping[str, str]  # record field -> column
    rights: tuple[str, ...]  # columns that may state a licence
    extras: tuple[str, ...]  # columns that a record keeps as they are


def check_column_map(column_map: Mapping[str, str]) -> None:
    """Raise UsageError where `--column-map` names a field that no column can be mapped to."""
    for name in column_map:
        if name not in MAPPABLE:
            raise UsageError(
                f"--column-map {name}=...: {name!r} is not a field of a list.", f"The fields are {', '.join(MAPPABLE)}."
            )


def list_urls(
    path: Path, options: SourceOptions, keys: jsonl.SeenKeys | None = None, root: Path | None = None
) -> Iterator[Record]:
    """Yield a record for each row, in the order of the rows; rows of JSONL that are records already stay as they are.

    A row that cannot be read, or whose key an earlier row has, comes as `PassedOver`. Where several tables make one list,
    `keys` are those of the tables before this one, and `root` is their folder, whose `NAME=VALUE` folders are columns.

    Raises:
        CommonArtError: a damaged file, or no column that can be taken for the image.
        SchemaError: a record that breaks the schema, or whose key was there before.
    """
    source = (root.resolve() if root else path).name.split(".")[0] or "list"
    table = Table(str(path), source, options, observed_at=attribution.modified_at(path))
    keys = jsonl.SeenKeys() if keys is None else keys
    layouts: dict[tuple[str, ...], Layout] = {}  # rows of JSONL may each have other names
    partition = partition_values(path, root) if root else {}
    is_jsonl = path.name.endswith(jsonl.SUFFIXES)
    image = _image_of(path, table) if path.suffix == ".parquet" else ""
    first_problem: CommonArtError | None = None
    for number, row in read_rows(path, [*options.column_map.values(), *COLUMN_NAMES]):
        name = f"{path.name}:{number}"
        if isinstance(row, Problem):
            first_problem = first_problem or CommonArtError(
                f"no row of {path} can be read; the first: {row.detail}.", "Mend the list."
            )
            yield PassedOver.named(source, name, row.reason, row.detail, rule=False)
        elif is_jsonl and "key" in row and "source" in row:  # a record, as `--list` and every other command write it
            check(row, str(path), number)
            keys.add(row["key"], str(path), number)
            layouts[()] = Layout({}, (), ())
            yield row
        else:
            if partition:
                if problem := _contradiction(partition, row, options.column_map):
                    yield PassedOver.named(source, name, CONFLICT, problem)
                    continue
                row = {**partition, **row}
            names = tuple(row)
            if names not in layouts:
                try:
                    layout = find_layout(table, names, strict=not layouts and not image)
                except CommonArtError as error:
                    if not is_jsonl:
                        raise
                    first_problem = first_problem or error
                    yield PassedOver.named(source, name, "bad_row", error.what, rule=False)
                    continue
                layouts = {**layouts, names: layout} if len(layouts) < MAX_LAYOUTS else {names: layout}
            record = row_record(row, layouts[names], table, number)
            if image:
                record["image"] = f"{path}#{image}/{number - 1}"
            elif "file_name" in record and not record.get("image_url"):
                folder = str(path.parent) if options.images is None else options.images
                if (file := file_inside(folder, record["file_name"])) is None:
                    yield PassedOver(record, "no_image", f"{folder} holds no {record['file_name']!r}", rule=False)
                    continue
                record["image"] = str(file)
            yield mark_duplicate(checked(record, str(path), number, name), keys, str(path), number)
    if first_problem is not None and not layouts:  # not a list, rather than a list with bad rows
        raise first_problem


def _contradiction(partition: Mapping[str, str], row: Row, column_map: Mapping[str, str]) -> str:
    """The licence of a table's folder beside another one in a column of the same name; "" where they agree."""
    mapped = [column_map[name] for name in ("license_raw", "license_url") if name in column_map]
    rights = {*LICENSE_NAMES, *COLUMNS["license_url"], *mapped}
    for name in sorted(partition.keys() & row.keys()):
        stated, own = partition[name], str(row[name] or "")
        if own and own != stated and {name, name.lower()} & rights and not resolve_license(stated, own)[0]:
            return f"its folder says {stated}, and the row {own}"
    return ""


def _image_of(path: Path, table: Table) -> str:
    """The column of a parquet file that holds images; "" where the table has addresses."""
    schema = parquet.read_schema(path)
    if named := table.options.column_map.get("image"):
        return parquet.image_column(schema, named)
    layout = find_layout(table, parquet.text_columns(schema, COLUMN_NAMES), strict=False)
    has_address = any(name in layout.columns for name in table.needs)
    return parquet.image_column(schema, "", COLUMN_NAMES, guess=not has_address)


def find_layout(table: Table, names: Sequence[str], strict: bool = True) -> Layout:
    """Return which column of this table holds which field of a record.

    Raises:
        CommonArtError: two columns differ in case alone; and where `strict`, a column that `--column-map` names is not there,
            or none holds the image. It lists the columns.
    """
    found = known_columns(names, table.name)
    found |= {field: column for field, column in table.columns.items() if not column or column in names}
    mapped = {field: column for field, column in table.options.column_map.items() if field != "image"}
    found |= mapped
    missing = [column for column in mapped.values() if column and column not in names]
    if strict and (missing or (table.needs and not any(found.get(field) for field in table.needs))):
        what = f"has no column {missing[0]!r}" if missing else "has no column of URLs or file names"
        raise CommonArtError(
            f"{table.name} {what}; its columns are {', '.join(names)}.",
            "Say which column is which: --column-map image_url=NAME, or file_name=NAME with --images FOLDER.",
        )
    columns = {field: column for field, column in found.items() if column}
    used = {*columns.values(), *(column for column, *_ in table.captions), "key", ""}
    extras = [name for name in names if name not in used and name not in FIELDS and not attribution.is_personal(name)]
    # Where the user has looked which column states the licence, the others do not count.
    rights = [] if "license_raw" in mapped else [n for n in names if n.lower() in LICENSE_NAMES or n in extras]
    rights = [name for name in rights if name not in STRUCTURED_FIELDS]
    return Layout(columns, (*rights, *(name for name in STRUCTURED_FIELDS if name in names)), tuple(extras))


def known_columns(names: Iterable[str], name: str) -> dict[str, str]:
    """Return which of these columns holds which field of a record, by COLUMNS, whatever their case.

    Raises CommonArtError where two columns of `name` differ in case alone.
    """
    lower: dict[str, str] = {}
    for column in names:
        if (other := lower.setdefault(column.lower(), column)) != column and column.lower() in COLUMN_NAMES:
            raise CommonArtError(
                f"{name} has the columns {other!r} and {column!r}, which differ in case alone.", "Rename one of them."
            )
    return {field: lower[name] for field, known in COLUMNS.items() for name in reversed(known) if name in lower}


def row_record(row: Row, layout: Layout, table: Table, number: int) -> Record:
    """Return the record of one row."""
    columns = layout.columns
    cells = {field: cell_text(row.get(column)) for field, column in columns.items()}
    url = cells.get("image_url") or cells.get("file_name", "")
    # The row makes the key unique, the URL's hash shows when a row has moved.
    source_id = cells.get("source_id") or f"{number:08d}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    key = row.get("key") if "source_id" not in table.options.column_map else None
    record: Record = {
        "key": key if isinstance(key, str) and KEY.fullmatch(key) else make_key(table.source, source_id),
        "source": table.source,
        "source_id": source_id,
    }
    record |= {field: cells[field] for field in _TEXT_FIELDS if cells.get(field)}
    raw, page = cells.get("license_raw", ""), cells.get("license_url", "")
    default = "" if page or table.set_statement else table.options.license
    stated = {name: row[name] for name in layout.rights if name in row}
    attribution.set_license(record, raw or default, page, table.observed_at, stated, table.set_statement)
    if captions := _captions(row, columns, table, cells.get("lang") or table.options.lang):
        record["captions"] = captions
    if table.revision:
        record["source_revision"] = table.revision
    for name in layout.extras:
        value = row.get(name)
        if value != "" and value == value and isinstance(value, str | int | float | bool | list | dict):  # no NaN
            record[name] = value
    return record


def cell_text(value: Any) -> str:
    """Return a cell as text: a whole number of a column of floats without its fraction, NaN and null as nothing."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT:
        return str(int(value))
    return ", ".join(filter(None, map(cell_text, value))) if isinstance(value, list) else str(value)


def _captions(row: Row, columns: Mapping[str, str], table: Table, lang: str) -> list[Caption]:
    if table.captions:
        return [
            attribution.source_caption(text, table.options.lang, maker, license, synthetic)
            for column, maker, license, synthetic in table.captions
            for text, _ in caption_texts(row.get(column), "")
        ]
    texts = caption_texts(row.get(columns["caption"]), lang) if "caption" in columns else ()
    return [attribution.source_caption(text, lang, table.source) for text, lang in texts]
