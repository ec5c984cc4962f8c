"""A key that stands twice in a source: the first row is taken, and later ones are dropped as `duplicate_key`.

Whoever lists ten million rows of somebody else's table can mend none of them, and one row should not cost the others. The
copies are found while all rows are listed, and dropped where drops are counted. Files of records stay strict
(`core.data.jsonl`): they are ours, and a doubled key there means that two runs were mixed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from commonart.core.data.drops import PassedOver
from commonart.core.data.jsonl import Keys
from commonart.core.data.record import Record
from commonart.core.errors import SchemaError


def once(record: Record, keys: Keys, name: str, number: int) -> Record:
    """The record, as `PassedOver` where its key was there before; `number` is its row in `name`."""
    try:
        keys.add(record["key"], name, number)
    except SchemaError as error:
        return PassedOver(record, "duplicate_key", f"{error.file}:{number}: {error.problem}")
    return record


def each_once(records: Iterable[Record], name: str) -> Iterator[Record]:
    """The same records, those whose key was there before as `PassedOver`."""
    keys = Keys()
    for number, record in enumerate(records, 1):
        yield once(record, keys, name, number)
