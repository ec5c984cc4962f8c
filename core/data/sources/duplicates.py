"""A key that stands twice in a source: the first row is taken, and later ones are dropped as `duplicate_key`.

Whoever lists ten million rows of somebody else's table can mend none of them, and one row should not cost the others. The
copies are found while all rows are listed, and dropped where drops are counted. Files of records stay strict
(`core.data.jsonl`): they are ours, and a doubled key there means that two runs were mixed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from commonart.core.data.jsonl import Keys
from commonart.core.data.record import Record
from commonart.core.errors import SchemaError


class DuplicateKey(Record):
    """A listed record whose key an earlier one has; `why` says which."""

    __slots__ = ("why",)

    def __init__(self, record: Record, why: str) -> None:
        super().__init__(record)
        self.why = why


def mark_duplicate(record: Record, keys: Keys, name: str, number: int) -> Record:
    """The record, as `DuplicateKey` where its key was there before; `number` is its row in `name`."""
    try:
        keys.add(record["key"], name, number)
    except SchemaError as error:
        return DuplicateKey(record, f"{error.file}:{number}: {error.problem}")
    return record


def mark_duplicates(records: Iterable[Record], name: str) -> Iterator[Record]:
    """The same records, those whose key was there before as `DuplicateKey`."""
    keys = Keys()
    for number, record in enumerate(records, 1):
        yield mark_duplicate(record, keys, name, number)
