"""Rows that repeat the key of an earlier row: the first one counts, and later ones are dropped as `duplicate_key`.

The user cannot correct ten million rows of somebody else's table, and one row should not cost the others. Files of records
stay strict (`core.data.jsonl`): they are ours, and a key that is there twice means that two runs were mixed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from commonart.core.data.drops import PassedOver
from commonart.core.data.jsonl import SeenKeys
from commonart.core.data.record import Record
from commonart.core.errors import SchemaError


def mark_duplicate(record: Record, keys: SeenKeys, name: str, number: int) -> Record:
    """Return the record, as `PassedOver` where `keys` has its key already; `number` is its row in `name`."""
    if isinstance(record, PassedOver):
        return record
    try:
        keys.add(record["key"], name, number)
    except SchemaError as error:
        return PassedOver(record, "duplicate_key", f"{error.file}:{number}: {error.problem}")
    return record


def mark_duplicates(records: Iterable[Record], name: str) -> Iterator[Record]:
    """Yield the same records, as `PassedOver` where an earlier one has the key."""
    keys = SeenKeys()
    for number, record in enumerate(records, 1):
        yield mark_duplicate(record, keys, name, number)
