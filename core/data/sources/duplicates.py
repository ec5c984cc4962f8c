"""Rows that repeat the key of an earlier row: the first one counts, and later ones are dropped as `duplicate_key`.

The user cannot correct ten million rows of somebody else's table, and one row should not cost the others. Duplicates are
found while all rows are listed, and dropped where drops are counted. Files of records stay strict (`core.data.jsonl`): they
are ours, and a key that is there twice means that two runs were mixed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from commonart.core.data.jsonl import Keys
from commonart.core.data.record import Record
from commonart.core.errors import SchemaError


class DuplicateKey(Record):
    """A listed record whose key an earlier one has; `first` says which."""

    __slots__ = ("first",)

    def __init__(self, record: Record, first: str) -> None:
        super().__init__(record)
        self.first = first


def mark_duplicate(record: Record, keys: Keys, name: str, number: int) -> Record:
    """Return the record, as `DuplicateKey` where `keys` has its key already; `number` is its row in `name`."""
    try:
        keys.add(record["key"], name, number)
    except SchemaError as error:
        return DuplicateKey(record, f"{error.file}:{number}: {error.problem}")
    return record


def mark_duplicates(records: Iterable[Record], name: str) -> Iterator[Record]:
    """Yield the same records, as `DuplicateKey` where an earlier one has the key."""
    keys = Keys()
    for number, record in enumerate(records, 1):
        yield mark_duplicate(record, keys, name, number)
