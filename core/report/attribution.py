"""ATTRIBUTION: title, author, source, licence and changes of every work, one line each; and the same as parquet.

Both are written as the records come, so that 25 million works need no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.files import atomic_write, naming, temporary_path
from commonart.core.report import works as work_list
from commonart.core.report.facts import Facts
from commonart.core.report.markdown import plain
from commonart.core.report.works import Work

if TYPE_CHECKING:
    import pyarrow

NAME, PARQUET = "ATTRIBUTION", "attribution.parquet"
ROWS = 10_000  # of a row group
COLUMNS = (
    "key", "sha256", "title", "author", "source", "url", "license", "license_url", "changes", "split", "shard",
)  # fmt: skip


def lines(facts: Facts) -> Iterator[str]:
    """Yield the lines of ATTRIBUTION: what it is, an empty line, and one line for each work."""
    yield f"Attribution of the {facts.works:,} works of {plain(facts.name)}, in the order of its shards."
    yield "Of each: title, author, where it is from, licence, what was changed of it, and its key."
    if facts.unknown_authors:
        yield (
            f"The author of {facts.unknown_authors:,} works is not stated by their source. / "
            f"{facts.unknown_authors:,} 点は作者が出典に記されていない。"
        )
    if untitled := facts.untraced.get("title", 0):
        yield f"{untitled:,} works have no title. / {untitled:,} 点は題名がない。"
    yield ""
    for work in work_list.works(facts.folders, facts.run):
        yield line(work)


def line(work: Work) -> str:
    """Return the line of a work: "Title" by Author. Source, address. Licence, address. Changes. Key."""
    title = f'"{plain(work.title)}"' if work.title else "Untitled"
    parts = [
        f"{title} by {plain(work.author) or 'an author not stated'}",
        ", ".join(filter(None, (plain(work.source) or "source not stated", plain(work.url)))),
        ", ".join(filter(None, (plain(work.license) or "licence not stated", plain(work.license_url)))),
        f"Changes: {work.changes or 'none'}",
        f"Key: {work.key}",
    ]
    return ". ".join(parts)


def write(facts: Facts, folder: Path) -> None:
    """Write ATTRIBUTION and attribution.parquet. Raises OSError as `files.atomic_write`."""
    with atomic_write(folder / NAME) as file:
        for text in lines(facts):
            file.write(f"{text}\n".encode())
    path = folder / PARQUET
    temporary = temporary_path(path)
    try:
        _write_parquet(facts, temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(facts: Facts, temporary: Path, path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    with naming(path, temporary):
        with ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in batches(facts):
                writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema=schema))
        temporary.replace(path)


def batches(facts: Facts) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of attribution.parquet, as the records say them."""
    rows = ({name: getattr(work, name) for name in COLUMNS} for work in work_list.works(facts.folders, facts.run))
    while batch := list(islice(rows, ROWS)):
        yield batch


def read_parquet(path: Path) -> Iterator[pyarrow.RecordBatch]:
    """Yield the row groups of an attribution.parquet. Raises OSError or ArrowInvalid where it is damaged."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=list(COLUMNS))
