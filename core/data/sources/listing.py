"""What a source offers, as records without pixels: by name, from the hub, a folder, a COCO JSON, a list of URLs.

A record says where its pixels are in `image` (a file) or `image_url`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from commonart.core.data.drops import PassedOver, mark_duplicates
from commonart.core.data.jsonl import SeenKeys
from commonart.core.data.notes import SUFFIX, Note, read_beside
from commonart.core.data.record import Record
from commonart.core.data.sources.attribution import SourceOptions, modified_at
from commonart.core.data.sources.coco import list_coco
from commonart.core.data.sources.folder import IMAGE_SUFFIXES, METADATA, list_folder, walk
from commonart.core.data.sources.hub import CARD, list_hub
from commonart.core.data.sources.named import COCO_SOURCES, HUB_SOURCES, NAMES, annotation_files
from commonart.core.data.sources.tables import CARD_TABLE, SUFFIXES
from commonart.core.data.sources.url_list import Table, check_column_map, list_urls
from commonart.core.data.sources.webdataset import tar_records
from commonart.core.errors import CommonArtError, UsageError


def list_source(source: str, options: SourceOptions) -> Iterator[Record]:
    """Return the records of a named source, a hub data set, a folder, a COCO JSON or a list of URLs, in a fixed order.

    One whose key an earlier one has comes as `PassedOver`, to be dropped. Raises UsageError for an option that SOURCE has no
    use for, CommonArtError where SOURCE is missing, empty, or not something that can be read.
    """
    check_column_map(options.column_map)
    path = Path(source)
    if source.startswith("hf:") or source.partition("@")[0] in HUB_SOURCES:
        return mark_duplicates(list_hub(source, options), source)
    if options.license == CARD:
        raise UsageError("--license card is for data sets of the hub.", "Name a licence, such as CC-BY-4.0.")
    if source in COCO_SOURCES or (path.is_file() and source.endswith(".json")):
        _no_column_map(options, source)
        named = COCO_SOURCES.get(source)
        files = annotation_files(named, options.limits) if named else [path]
        return mark_duplicates(chain.from_iterable(list_coco(file, options, named) for file in files), source)
    if path.is_dir():
        return _list_directory(path, options)
    if not path.exists():
        raise CommonArtError(
            f"{source} does not exist.",
            f"Give a folder of images, a COCO .json, a list of URLs, scenes, {', '.join(NAMES)}, or hf:OWNER/NAME.",
        )
    if source.endswith(SUFFIXES):
        return list_urls(path, options)
    if source.endswith(".tar"):
        return mark_duplicates(_list_tar(path, path.parent, options), source)
    raise UsageError(
        f"{source} is not a source that fetch can read.",
        f"Known: a folder of images, a COCO .json, {', '.join((*SUFFIXES, *NAMES))}, hf:OWNER/NAME, scenes, "
        "and - for records on stdin.",
    )


def _list_directory(folder: Path, options: SourceOptions) -> Iterator[Record]:
    """A folder of tables, as img2dataset, Spark and the hub's client leave them, of tars, or of images."""
    entries = walk(folder)
    files = [path for path, problem in entries.items() if problem is None]
    has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in files)
    if tables := _tables(folder, files):
        return _list_tables(tables, folder, options)
    _no_column_map(options, str(folder))
    tars = [path for path in files if path.suffix == ".tar"]
    if tars and not has_images:
        return mark_duplicates(chain.from_iterable(_list_tar(tar, folder, options) for tar in tars), str(folder))
    return list_folder(folder, entries, options)


def notes_of(source: str) -> list[Note]:
    """Return the notes of what SOURCE's records were written by: of a folder of tables, those beside the tables that are read."""
    folder = Path(source)
    if folder.is_dir() and any(folder.glob(f"*{SUFFIX}")):
        tables = _tables(folder, [path for path, problem in walk(folder).items() if problem is None])
        if tables:
            kind = _kind(tables)
            return [note for table in tables if table.name.endswith(kind) for note in read_beside(table)]
    return read_beside(source)


def _tables(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The tables among a folder's files, where it is one of tables."""
    tables = [path for path in files if path.name.endswith(SUFFIXES) and path.name not in (*METADATA, CARD_TABLE)]
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        # What img2dataset leaves beside its own images says more of them; other tables are of some other use.
        return [path for path in tables if path.suffix == ".parquet" and path.parent == folder]
    return tables


def _kind(tables: Sequence[Path]) -> str:
    """The suffix that comes first: a table of another kind is a copy, or of some other use."""
    return next(suffix for suffix in (".parquet", *SUFFIXES) if any(table.name.endswith(suffix) for table in tables))


def _list_tables(tables: Sequence[Path], folder: Path, options: SourceOptions) -> Iterator[Record]:
    """The rows of a folder's tables, of one kind."""
    kind = _kind(tables)
    keys = SeenKeys()
    for table in tables:
        if table.name.endswith(kind):
            yield from list_urls(table, options, keys, folder)
        else:
            name = table.relative_to(folder).as_posix()
            yield PassedOver.named(folder.resolve().name, name, "other_table", f"only the tables in {kind} are read")


def _list_tar(path: Path, root: Path, options: SourceOptions) -> Iterator[Record]:
    table = Table(str(path), root.resolve().name or "tars", options, observed_at=modified_at(path), needs=())
    with open(path, "rb") as raw:
        yield from tar_records(raw, str(path), path.relative_to(root).as_posix().removesuffix(".tar"), table)


def _no_column_map(options: SourceOptions, source: str) -> None:
    if options.column_map:
        raise UsageError(f"--column-map is for tables, and {source} is none.", "Leave it out.")
