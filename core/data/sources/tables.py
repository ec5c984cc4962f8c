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
CARD_TABLE = "attribution.parquet"  # of a card beside shards, whose records say all that it says
MAX_LINES = 256  # that one quoted cell may span; a quotation mark that opens a longer one was part of a text
MAX_CELL = 1 << 24  # characters
_IMAGE = re.compile(r"://|\.(?:jpe?g|png|webp|gif|tiff?)\b", re.IGNORECASE)
_AMBIGUOUS = Problem("ambiguous_row", "a quotation mark may join it to its neighbours")

Row = dict[str, Any]


def read_rows(path: Path, binary: Sequence[str] = ()) -> Iterator[tuple[int, Row | Problem]]:
    """Yield (row number from 1, its cells by column, or what is wrong with it).

    `binary` names columns whose bytes are text, in a parquet file without the types of text.
    Raises CommonArtError where the file is damaged, or two of its columns have one name.
    """
    name = str(path)
    if name.endswith(jsonl.SUFFIXES):
        for number, line in jsonl.read_lines(name):
            try:
                row = parse_json(line)
            except ValueError as error:
                row = Problem("bad_row", str(error))
            yield number, row if isinstance(row, dict | Problem) else Problem("bad_row", "it is not a JSON object")
    elif name.endswith(".parquet"):
        yield from enumerate(parquet.read_file(path, binary), 1)
    else:
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                yield from _delimited_rows(file, name, "\t" if name.endswith(".tsv") else ",")
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


def _delimited_rows(file: Iterable[str], name: str, delimiter: str) -> Iterator[tuple[int, Row | Problem]]:
    """The rows of a table whose cells are quoted as RFC 4180 has it, or hold quotation marks as they come.

    Where the rules of quoting cannot hold, the quotation mark was part of a text, and the next line is a row of its own.
    Where they can, and the cell may as well be the rest of one row and the beginning of another, none of the lines is taken.
    A row that breaks the rules may be the rest of the one before it, which is not taken either if it is quoted.
    """
    csv.field_size_limit(MAX_CELL)
    lines, columns, number = _Lines(file), list[str](), 0
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    previous: Row | Problem | None = None  # the row before this one
    previous_is_quoted = False
    while True:
        lines.taken = []
        problem: Problem | None = None
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error:
            # Of a single line both readings have the same cells, if as many; of several, the first may be cut anywhere.
            problem = _AMBIGUOUS if len(lines.taken) > 1 else None
            lines.put_back()
            cells = lines.taken[0].rstrip("\r\n").split(delimiter)
        is_quoted = '"' in lines.taken[0]
        if not columns:
            columns = [cell.strip() for cell in cells]
            parquet.refuse_repeated(columns, name)
            continue
        if not any(cells):
            continue
        if problem is None and len(cells) != len(columns):
            problem = Problem("shifted_row", f"it has {len(cells)} cells, and the table has {len(columns)} columns")
        elif problem is None and len(lines.taken) > 1 and _may_be_several_rows(cells, delimiter):
            problem = _AMBIGUOUS
        if previous_is_quoted and (problem or (is_quoted and _breaks_rules(cells, "".join(lines.taken)))):
            previous = _AMBIGUOUS
        if previous is not None:
            number += 1
            yield number, previous
        previous = problem or dict(zip(columns, cells, strict=True))
        for _ in lines.taken[1:] if problem else ():
            number += 1
            yield number, previous
        previous_is_quoted = is_quoted
    if previous is not None:
        yield number + 1, previous


def _breaks_rules(cells: list[str], text: str) -> bool:
    """Whether a cell of a row holds quotation marks that are not doubled inside of a quoted one."""
    doubled = ('"' + cell.replace('"', '""') + '"' for cell in cells if '"' in cell)
    return any(cell not in text for cell in doubled)


def _may_be_several_rows(cells: list[str], delimiter: str) -> bool:
    """Whether a cell that holds line breaks may be the rest of one row and the beginning of another.

    Two stray quotation marks do that. Such a cell holds the address or the file of an image, where the table has them, and
    delimiters; a caption of several lines seldom holds the first, and never tabs.
    """
    for cell in cells:
        if "\n" in cell and (_IMAGE.search(cell) or delimiter in cell):
            others = any(_IMAGE.search(other) for other in cells if other is not cell)
            if _IMAGE.search(cell) or delimiter == "\t" or not others:
                return True
    return False
