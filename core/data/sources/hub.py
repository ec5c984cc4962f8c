"""Data sets of the hub, streamed: their rows as records without reading an image; `embedded` reads those that are wanted.

commonart fetch hf:owner/name --list          # parquet: columns without bytes; WebDataset: headers and texts
commonart fetch hf:owner/name@COMMIT -o raw/
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import orjson

from commonart.core.data.record import Record, check, make_key
from commonart.core.data.shards.reader import IMAGE_EXTENSIONS
from commonart.core.data.shards.tar import headers
from commonart.core.data.shards.tar_index import split_name
from commonart.core.data.sources.attribution import source_caption
from commonart.core.data.sources.hub_images import SCHEME, hub_errors, open_remote
from commonart.core.data.sources.named import HUB_SOURCES, HubSource
from commonart.core.data.sources.url_list import Table, find_columns, row_record, text_columns
from commonart.core.errors import CommonArtError, UsageError

LONGEST_TEXT = 1 << 20  # bytes of a .json or .txt in a tar
_IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img")  # usual names of a column of images, the first match wins


def list_hub(source: str, license: str, lang: str, column_map: Mapping[str, str]) -> Iterator[Record]:
    """Yield the records of `hf:OWNER/NAME[@REVISION]` or of a named source, file by file and row by row.

    Raises:
        CommonArtError: no such data set, no access, no network; nothing in it that can be read; columns that do not fit.
    """
    named = HUB_SOURCES.get(source)
    repo, _, revision = (named.repo if named else source.removeprefix("hf:")).partition("@")
    if repo.count("/") != 1:
        raise UsageError(f"{source} is not a data set of the hub.", "Write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION.")
    named = named or HubSource(repo.rpartition("/")[2], repo)
    with hub_errors(repo):
        from huggingface_hub import HfApi

        info = HfApi().dataset_info(repo, revision=revision or None)
        files = sorted(entry.rfilename for entry in info.siblings or ())
        at = info.last_modified.strftime("%Y-%m-%dT%H:%M:%SZ") if info.last_modified else ""
    tables = [name for name in files if name.endswith(".parquet")]
    tars = [name for name in files if name.endswith(".tar")]
    if not tables and not tars:
        raise CommonArtError(
            f"{repo} holds neither parquet files nor tars; it has {', '.join(files[:8]) or 'no files'}.",
            "Download what you need of it, and give the folder.",
        )
    table = Table(
        repo, named.name, named.license or license, lang, {**named.columns, **column_map}, at, named.captions, needs=""
    )
    for name in tables or tars:
        place = f"{SCHEME}datasets/{repo}@{info.sha}/{name}"
        yield from (_parquet(place, name, table) if tables else _tar(place, name, table))


# --- parquet ---------------------------------------------------------------------------------------------------------


def _parquet(place: str, name: str, table: Table) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with hub_errors(table.name), open_remote(place) as raw, pq.ParquetFile(raw, pre_buffer=True) as file:
        schema = file.schema_arrow
        wanted = text_columns(schema)
        image = image_column(schema, table.column_map.get("image", ""))
        mapping = {field: column for field, column in table.column_map.items() if field != "image"}
        fitting = Table(
            f"{table.name}/{name}", table.source, table.license, table.lang, mapping, table.observed_at, table.captions,
            needs="" if image else "image_url",
        )  # fmt: skip
        columns = find_columns(fitting, wanted)
        batches = (batch.to_pylist() for batch in file.iter_batches(4096, columns=wanted))
        rows = chain.from_iterable(batches) if wanted else ({} for _ in range(file.metadata.num_rows))
        for row, values in enumerate(rows):
            # A column `key` is what some tool named its files, not unique over the files of the set.
            made = row_record({k: v for k, v in values.items() if k != "key"}, columns, fitting, row)
            if not columns.get("source_id"):
                made["source_id"] = f"{name.removesuffix('.parquet')}/{row}"
                made["key"] = make_key(table.source, made["source_id"])
            if image:
                made["image_url"] = f"{place}#{image}/{row}"
            yield check(made, f"{table.name}/{name}", row + 1)


def image_column(schema: Any, said: str = "") -> str:
    """The leaf that holds an image's bytes (`jpg`, or `image.bytes` of datasets' image type); "" when there is none.

    Raises:
        CommonArtError: several columns might hold them.
    """
    import pyarrow as pa

    found = {}
    for column in schema:
        kind = column.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            found[column.name] = column.name
        elif pa.types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
            found[column.name] = f"{column.name}.bytes"
    if said:
        if said not in found:
            raise CommonArtError(f"there is no column {said!r} of bytes; there are {', '.join(found) or 'none'}.")
        return found[said]
    usual = next((name for name in _IMAGES if name in found), "")
    if len(found) > 1 and not usual:
        raise CommonArtError(
            f"Several columns hold bytes: {', '.join(found)}.", "Say which one is the image: --column-map image=NAME."
        )
    return found[usual] if usual else next(iter(found.values()), "")


# --- WebDataset ------------------------------------------------------------------------------------------------------


def _tar(place: str, name: str, table: Table) -> Iterator[Record]:
    """The samples of a tar: headers, .json and .txt are read, images are passed over."""
    stem = name.removesuffix(".tar")
    with hub_errors(table.name), open_remote(place) as raw:
        for number, (key, parts) in enumerate(_samples(raw, f"{table.name}/{name}")):
            said = parts.get("json", {})
            columns = find_columns(table, list(said))
            made = row_record({k: v for k, v in said.items() if k != "key"}, columns, table, number)
            made["source_id"] = made["source_id"] if "source_id" in columns else f"{stem}/{key}"
            made["key"] = make_key(table.source, made["source_id"])
            if "txt" in parts and "captions" not in made:
                made["captions"] = [source_caption(parts["txt"], table.lang, table.source)]
            if "image" in parts:
                made["image_url"] = f"{place}#{parts['image']}"
            yield check(made, f"{table.name}/{name}", key)


def _samples(raw: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, {"json": {...}, "txt": "...", "image": "OFFSET+SIZE"}) for each sample, by reads of headers and texts alone."""
    key, parts = "", dict[str, Any]()
    try:
        for member in headers(raw, ended=False):
            if not member.plain:
                continue
            stem, ending = split_name(member.name)
            if stem != key and parts:
                yield key, parts
                parts = {}
            key, ending = stem, ending.lower()
            if ending in IMAGE_EXTENSIONS:
                parts["image"] = f"{member.offset}+{member.size}"
            elif ending in ("json", "txt") and member.size <= LONGEST_TEXT:
                raw.seek(member.offset)
                parts[ending] = _said(raw.read(member.size), ending)
    except tarfile.TarError as error:
        raise CommonArtError(
            f"{name} is a damaged tar: {error}.", "Tell its owner; other data sets can be read."
        ) from error
    if parts:
        yield key, parts


def _said(data: bytes, ending: str) -> Any:
    """The text of a .txt; the object in a .json, empty where there is none."""
    if ending == "txt":
        return data.decode("utf-8", errors="replace")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
