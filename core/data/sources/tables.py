"""Rows of tables (.csv, .tsv, .jsonl, .parquet), each with the cells of its own row or with the reason why it has none.

A row whose cells may be another's is a `Problem`, never a guess: what names a licence has to come from the row of its image.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from commonart.core.data import jsonl
from commonart.core.data.drops import Problem
from commonart.core.data.sources import parquet
from commonart.core.data.text import parse_json
from commonart.core.errors import CommonArtError

SUFFIXES = (".csv", ".tsv", ".parquet", *jsonl.SUFFIXES)
MAX_LINES = 256  # that one quoted cell may span; a quotation mark that opens a longer one was part of a text
MAX_CELL = 1 << 24  # characters
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OPEN = re.compile(r'"(?:[^"]|"")*')
_AMBIGUOUS = Problem("ambiguous_row", "a quotation mark may join it to its neighbours")

Row = dict[str, Any]


def read_rows(path: Path, binary: Sequence[str] = ()) -> Iterator[tuple[int, Row | Problem]]:
    """Yield (row number from 1, its cells by column, or what is wrong with it).

    Args:
        path: the table; `NAME=VALUE` folders of a partitioned data set are in `partition_values`.
        binary: names of columns whose bytes are text, in a parquet file without the types of text.

    Raises:
        CommonArtError: the file is damaged, or two of its columns have one name.
    """
    name = str(path)
    if name.endswith(jsonl.SUFFIXES):
        yield from _jsonl_rows(name)
    elif name.endswith(".parquet"):
        yield from enumerate(parquet.read_file(path, binary), 1)
    else:
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                yield from (_tsv_rows if name.endswith(".tsv") else _csv_rows)(file, name)
        except (csv.Error, UnicodeError) as error:
            raise CommonArtError(f"{path} cannot be read as a table: {error}.", "Save it as UTF-8 text.") from error


def partition_values(path: Path, root: Path) -> dict[str, str]:
    """Return the cells that the folders between `root` and a table state, as Spark writes them: `license=CC0-1.0/`."""
    cells = {}
    for folder in path.relative_to(root).parent.parts:
        name, equals, value = folder.partition("=")
        if equals and value != "__HIVE_DEFAULT_PARTITION__":
            cells[unquote(name)] = unquote(value)
    return cells


def _jsonl_rows(name: str) -> Iterator[tuple[int, Row | Problem]]:
    for number, line in jsonl.read_lines(name):
        try:
            row = parse_json(line)
        except ValueError as error:
            yield number, Problem("bad_row", str(error))
            continue
        yield number, row if isinstance(row, dict) else Problem("bad_row", "it is not a JSON object")


def _tsv_rows(file: Iterable[str], name: str) -> Iterator[tuple[int, Row | Problem]]:
    """The rows of a table with tabs, line by line: most tools write no quotation marks around its cells, some do.

    Both readings of a line give the same cells, unless a cell opens with a quotation mark that its line does not close.
    """
    columns: list[str] = []
    for number, line in enumerate(file):
        cells = line.rstrip("\r\n").replace("\0", " ").split("\t")
        if not number:
            columns = _checked_columns(cells, name)
        elif any(cells):
            if len(cells) != len(columns):
                yield number, _shifted(cells, columns)
            elif '"' in line and any(map(_OPEN.fullmatch, cells)):
                yield number, _AMBIGUOUS
            else:
                if '"' in line:
                    cells = [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]
                yield number, dict(zip(columns, cells, strict=True))


class _Lines:
    """The lines of a file. `taken` are those since it was emptied; `put_back` returns all of them but the first."""

    def __init__(self, file: Iterable[str]) -> None:
        self._file, self._returned, self.taken = iter(file), deque[str](), list[str]()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_LINES:
            raise csv.Error(f"a quoted cell spans more than {MAX_LINES} lines")
        self.taken.append(self._returned.popleft() if self._returned else next(self._file).replace("\0", " "))
        return self.taken[-1]

    def put_back(self) -> None:
        self._returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _csv_rows(file: Iterable[str], name: str) -> Iterator[tuple[int, Row | Problem]]:
    """The rows of a table with commas, whose cells are quoted as RFC 4180 has it, or begin with a stray quotation mark."""
    csv.field_size_limit(MAX_CELL)
    lines, columns, number = _Lines(file), list[str](), 0
    while True:
        lines.taken = []
        problem: Problem | None = None
        try:
            cells = next(csv.reader(lines, strict=True))
        except StopIteration:
            return
        except (
            csv.Error
        ):  # no table that is quoted reads so: the next line is a row of its own, and so is this one if alone
            problem = _AMBIGUOUS if len(lines.taken) > 1 else None
            lines.put_back()
            cells = lines.taken[0].rstrip("\r\n").split(",")
        if not columns:
            columns = _checked_columns(cells, name)
            continue
        if not any(cells):
            continue
        if problem is None and len(cells) != len(columns):
            problem = _shifted(cells, columns)
        elif problem is None and len(lines.taken) > 1 and _may_be_several_rows(cells, len(columns)):
            problem = _AMBIGUOUS
        for _ in lines.taken if problem else lines.taken[:1]:
            number += 1
            yield number, problem or dict(zip(columns, cells, strict=True))


def _checked_columns(cells: list[str], name: str) -> list[str]:
    columns = [cell.strip().removeprefix('"').removesuffix('"') for cell in cells]
    if repeated := {column for column in columns if columns.count(column) > 1}:
        raise CommonArtError(
            f"{name} has two columns {min(repeated)!r}.", "Rename one of them: which one counts is not known."
        )
    return columns


def _shifted(cells: list[str], columns: list[str]) -> Problem:
    return Problem("shifted_row", f"it has {len(cells)} cells, and the table has {len(columns)} columns")


def _may_be_several_rows(cells: list[str], width: int) -> bool:
    """Whether a cell that holds line breaks may be the end of one row and the beginning of another.

    Two stray quotation marks in one column do that. The cell then holds the commas behind that column, a line break, and
    those before it; and the address of an image, where the table has addresses.
    """
    for column, cell in enumerate(cells):
        first, line_break, rest = cell.partition("\n")
        if line_break and first.count(",") >= width - 1 - column and rest.rpartition("\n")[2].count(",") >= column:
            addresses = any("://" in other for other in (*cells[:column], *cells[column + 1 :]))
            if "://" in cell or not addresses:
                return True
    return False
