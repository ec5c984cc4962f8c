"""Parquet tables, read by the columns that can be text or numbers; embedded images are found, and not read.

A column of bytes is the image, or text whose tool left out the type. Neither invalid UTF-8 nor a type that JSON lacks costs
more than the cell or the row that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, reason

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img")  # usual names; the first match wins
BATCH = 4096  # rows


def read_file(path: Path, binary: Sequence[str] = ()) -> Iterator[dict[str, Any] | Problem]:
    """Yield the rows of a parquet file, as `read_table`. Raises CommonArtError where it is damaged."""
    import pyarrow.parquet as pq

    with file_errors(path), pq.ParquetFile(path) as file:
        yield from read_table(file, str(path), binary)


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a parquet file. Raises CommonArtError where it is damaged."""
    import pyarrow.parquet as pq

    with file_errors(path):
        return pq.read_schema(path)


@contextmanager
def file_errors(
    path: str | Path, problem: str = " as parquet", fix: str = "Download that file again."
) -> Iterator[None]:
    """Turn the errors of reading a file here into sentences."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CommonArtError(f"{path} cannot be read{problem}: {reason(error)}.", fix) from error


def read_table(file: pq.ParquetFile, name: str, binary: Sequence[str] = ()) -> Iterator[dict[str, Any] | Problem]:
    """Yield the rows of a table: of its columns those that `text_columns` names. Raises as `refuse_repeated`."""
    schema = file.schema_arrow
    refuse_repeated(schema.names, name)
    columns = text_columns(schema, binary)
    if not columns:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    has_bytes = any(_is_bytes(schema.field(column).type) for column in columns)
    for batch in file.iter_batches(BATCH, columns=columns):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            yield from map(_row_or_problem, _as_bytes(batch).to_pylist())
            continue
        yield from map(_row_or_problem, rows) if has_bytes else rows


def refuse_repeated(columns: Sequence[str], name: str) -> None:
    """Raise CommonArtError where two columns of the table `name` have one name."""
    if repeated := {column for column in columns if columns.count(column) > 1}:
        raise CommonArtError(
            f"{name} has two columns {min(repeated)!r}.", "Rename one of them: which one counts is not known."
        )


def _as_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its columns of text as bytes: parquet does not check that they are UTF-8."""
    import pyarrow as pa

    columns = [
        column.cast(pa.large_binary())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _row_or_problem(row: dict[str, Any]) -> dict[str, Any] | Problem:
    for name, cell in row.items():
        if isinstance(cell, bytes):
            try:
                row[name] = cell.decode("utf-8")
            except UnicodeDecodeError:
                return Problem("bad_row", f"column {name!r} is not UTF-8 text")
    return row


def text_columns(schema: pa.Schema, binary: Sequence[str] = ()) -> list[str]:
    """Return the columns that JSON can hold: text, numbers, lists and structs of these, and those of bytes named in `binary`."""
    import pyarrow as pa

    types = pa.types
    nested = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_dictionary)
    plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)

    def fits(kind: pa.DataType) -> bool:
        if any(test(kind) for test in nested):
            return fits(kind.value_type)
        if types.is_struct(kind):
            return all(fits(kind.field(i).type) for i in range(kind.num_fields))
        return kind == pa.string_view() or any(test(kind) for test in plain)

    lower = {name.lower() for name in binary}
    return [
        column.name
        for column in schema
        if fits(column.type) or (_is_bytes(column.type) and column.name.lower() in lower)
    ]


def image_column(schema: pa.Schema, named: str = "", text: Sequence[str] = (), *, guess: bool = True) -> str:
    """Return the leaf that holds an image's bytes (`jpg`, or `image.bytes` of datasets' image type); "" when there is none.

    `named`: the column that the user names for it; `text`: columns of bytes that hold text; `guess`: take a column of bytes
    without a usual name, where it is the only one. Raises CommonArtError where none is `named`, or several may hold them.
    """
    import pyarrow as pa

    leaves = {}
    for column in schema:
        kind = column.type
        if _is_bytes(kind) and column.name.lower() not in text:
            leaves[column.name] = column.name
        elif pa.types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
            leaves[column.name] = f"{column.name}.bytes"
    if named:
        if named not in leaves:
            raise CommonArtError(
                f"there is no column {named!r} of bytes; there are {', '.join(leaves) or 'none'}.",
                "Name another one: --column-map image=NAME.",
            )
        return leaves[named]
    usual = next((name for name in IMAGE_COLUMNS if name in leaves), "")
    if usual or not guess:
        return leaves.get(usual, "")
    if len(leaves) > 1:
        raise CommonArtError(
            f"several columns hold bytes: {', '.join(leaves)}.", "Say which one is the image: --column-map image=NAME."
        )
    return next(iter(leaves.values()), "")


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
