"""Records with a number and an image each, and stages that keep all of them or every second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from commonart.core.data import jsonl
from commonart.core.data.drops import Drop
from commonart.core.data.record import Record


def make_jsonl(path: Path, count: int) -> str:
    """Records with `n` from 0 to `count` - 1, whose images lie in images/ beside the file."""
    (path.parent / "images").mkdir(exist_ok=True)
    with jsonl.JsonlWriter(str(path)) as writer:
        for i in range(count):
            image = path.parent / "images" / f"k{i}.jpg"
            image.write_bytes(b"pixels %d" % i)
            writer.write({"key": f"k{i}", "n": i, "image": str(image)})
    return str(path)


def keep_all(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
    yield from records


def keep_even(records: Iterable[Record], drop: Drop) -> Iterator[Record]:
    """Drop the records whose `n` is odd."""
    for record in records:
        if record["n"] % 2:
            drop(record, "odd", str(record["n"]))
        else:
            yield record


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
