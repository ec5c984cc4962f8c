"""ATTRIBUTION: title, author, source, licence and changes of every work, one line each; and the same as parquet.

Both are written as the records come, so that 25 million works need no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from commonart.core.data.files import atomic_write
from commonart.core.report import works as work_list
from commonart.core.report.facts import Facts
from commonart.core.report.markdown import many, plain
from commonart.core.report.works import Work

if TYPE_CHECKING:
    import pyarrow

NAME, PARQUET = "ATTRIBUTION", "attribution.parquet"
ROWS = 10_000  # of a row group
COLUMNS = (
    "key", "sha256", "title", "author", "source", "url", "license", "license_url", "changes", "split", "shard",
    "captions_sha256",
)  # fmt: skip


def head(facts: Facts) -> Iterator[str]:
    """Yield the first lines of ATTRIBUTION: what it is, whose authors are missing, and an empty line."""
    name = plain(facts.name)
    yield (
        f"Attribution of the {many(facts.works, 'work')} of {name}, in the order of its shards. / "
        f"{name} の作品 {facts.works:,} 点の帰属表示（シャードの順）。"
    )
    yield (
        "Of each: title, author, where it is from, licence, what was changed of it, and its key. / "
        "一行に一点。題名、作者、出典、ライセンス、改変、キーの順。"
    )
    if facts.unknown_authors:
        yield (
            f"The author of {many(facts.unknown_authors, 'work')} is not stated by their source. / "
            f"{facts.unknown_authors:,} 点は作者が出典に記されていない。"
        )
    if untitled := facts.untraced.get("title", 0):
        yield f"Without a title: {many(untitled, 'work')}. / {untitled:,} 点は題名がない。"
    yield ""


def lines(facts: Facts) -> Iterator[str]:
    """Yield the lines of ATTRIBUTION: `head`, and one for each work."""
    yield from head(facts)
    for work in work_list.works(facts.folders, facts.run):
        yield line(work)


def line(work: Work) -> str:
    """Return the line of a work: "Title" by "Author". Source, address. Licence, address. Changes. Key."""
    title = _quoted(work.title) if work.title else "Untitled"
    parts = [
        f"{title} by {_quoted(work.author) if work.author else 'an author not stated'}",
        ", ".join(filter(None, (plain(work.source) or "source not stated", plain(work.url)))),
        ", ".join(filter(None, (plain(work.license) or "licence not stated", plain(work.license_url)))),
        f"Changes: {work.changes or 'none'}",
        f"Key: {work.key}",
    ]
    return ". ".join(parts)


def _quoted(text: str) -> str:
    """Return other people's text so that it ends where its quotes do: it may look like a licence."""
    escaped = plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def row(work: Work) -> dict[str, str]:
    """Return the row of a work in attribution.parquet."""
    return {name: getattr(work, name) for name in COLUMNS}


def rows(facts: Facts) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of attribution.parquet by the thousand, as the records say them."""
    found = (row(work) for work in work_list.works(facts.folders, facts.run))
    while batch := list(islice(found, ROWS)):
        yield batch


def write(facts: Facts, folder: Path) -> None:
    """Write ATTRIBUTION and attribution.parquet, in one reading of the records. Raises OSError as `files.atomic_write`."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    found = work_list.works(facts.folders, facts.run)
    with atomic_write(folder / NAME) as text, atomic_write(folder / PARQUET) as table:
        text.writelines(f"{each}\n".encode() for each in head(facts))
        with ParquetWriter(table, schema, compression="zstd") as writer:
            while batch := list(islice(found, ROWS)):
                text.writelines(f"{line(work)}\n".encode() for work in batch)
                writer.write_batch(pyarrow.RecordBatch.from_pylist([row(work) for work in batch], schema=schema))


def columns(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of an attribution.parquet. Raises as `read_parquet`."""
    from pyarrow.parquet import read_schema

    return tuple(read_schema(path).names)


def read_parquet(path: Path) -> Iterator[pyarrow.RecordBatch]:
    """Yield the row groups of an attribution.parquet. Raises OSError or ArrowInvalid where it is damaged."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=list(COLUMNS))
