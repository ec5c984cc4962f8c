"""Data sets of the hub, streamed: their rows as records without reading an image, which `EmbeddedImages` does later.

Of parquet files the columns without bytes are read, of WebDataset tars the headers and texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from posixpath import basename

from commonart.core.data.drops import PassedOver, Problem, checked
from commonart.core.data.record import Record, make_key
from commonart.core.data.sources import parquet
from commonart.core.data.sources.attribution import SetStatement, SourceOptions
from commonart.core.data.sources.embedded_images import SCHEME, hub_errors, open_remote, set_embedded
from commonart.core.data.sources.named import HUB_SOURCES, LOOKED_AT, HubSource
from commonart.core.data.sources.tables import CARD_TABLE
from commonart.core.data.sources.url_list import COLUMN_NAMES, Table, find_layout, row_record
from commonart.core.data.sources.webdataset import tar_records
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.parse import normalize

CARD = "card"  # --license: what the data set's own card states of its works
PAGE = "https://huggingface.co/datasets/"


def list_hub(source: str, options: SourceOptions) -> Iterator[Record]:
    """Yield the records of `hf:OWNER/NAME[@REVISION]` or of a named source, file by file and row by row.

    Raises:
        UsageError: no name of a data set.
        CommonArtError: no such data set, no access, no network; nothing in it that can be read; columns that do not fit.
    """
    name, _, pinned = source.partition("@")
    named = HUB_SOURCES.get(name)
    repo, _, revision = (f"{named.repo}@{pinned}" if named else source.removeprefix("hf:")).partition("@")
    if repo.count("/") != 1:
        raise UsageError(f"{source} is not a data set of the hub.", "Write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION.")
    named = named or HubSource(repo.rpartition("/")[2], repo)
    with hub_errors(repo):
        from huggingface_hub import HfApi

        info = HfApi().dataset_info(repo, revision=revision or None)
        files = sorted(entry.rfilename for entry in info.siblings or ())
        modified_at = info.last_modified.strftime("%Y-%m-%dT%H:%M:%SZ") if info.last_modified else ""
        card = str(info.card_data.get("license") or "") if info.card_data else ""
    visible = [file for file in files if not basename(file).startswith(".")]
    tables = [file for file in visible if file.endswith(".parquet") and basename(file) != CARD_TABLE]
    tars = [file for file in visible if file.endswith(".tar")]
    if not tables and not tars:
        raise CommonArtError(
            f"{repo} holds neither parquet files nor tars; it has {', '.join(files[:8]) or 'no files'}.",
            "Download what you need of it, and give the folder.",
        )
    set_license = named.set_license or (card if options.license == CARD else "")
    if options.license == CARD and normalize(set_license) is None:
        raise CommonArtError(
            f"the card of {repo} states {set_license!r}, which is not a known licence.", "Name one: --license LICENCE."
        )
    statement = SetStatement(set_license, PAGE + repo, modified_at or LOOKED_AT) if set_license else None
    if options.license == CARD:
        options = replace(options, license="")
    table = Table(
        repo, named.name, options, named.columns, modified_at, named.captions, (), statement, revision=info.sha or ""
    )
    for file in tables or tars:
        address = f"{SCHEME}datasets/{repo}@{info.sha}/{file}"
        if tables:
            yield from _parquet_records(address, file, table, named)
        else:
            with hub_errors(repo), open_remote(address) as raw:
                yield from tar_records(raw, address, file.removesuffix(".tar"), replace(table, name=f"{repo}/{file}"))


def _parquet_records(address: str, file_name: str, table: Table, named: HubSource) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with hub_errors(table.name), open_remote(address) as raw, pq.ParquetFile(raw, pre_buffer=True) as file:
        schema = file.schema_arrow
        names = parquet.text_columns(schema, COLUMN_NAMES)
        image = parquet.image_column(schema, table.options.column_map.get("image", ""), COLUMN_NAMES)
        of_file = replace(table, name=f"{table.name}/{file_name}", needs=() if image else ("image_url",))
        layout = find_layout(of_file, names)
        for index, row in enumerate(parquet.read_table(file, of_file.name, COLUMN_NAMES)):
            name = f"{file_name.removesuffix('.parquet')}/{index}"
            if isinstance(row, Problem):
                yield PassedOver.named(table.source, name, row.reason, row.detail, rule=False)
                continue
            row.pop("key", None)  # what some tool named its files, not unique over the files of the set
            record = row_record(row, layout, of_file, index)
            if "source_id" not in layout.columns:
                addresses = [record.get(each, "") for each in ("source_url", "image_url", "fallback_url")]
                matches = (re.search(named.id_pattern, each) for each in addresses if named.id_pattern)
                record["source_id"] = next((match[1] for match in matches if match), name)
                record["key"] = make_key(table.source, record["source_id"])
            if image:
                set_embedded(record, f"{address}#{image}/{index}")
            yield checked(record, of_file.name, index + 1, name)
