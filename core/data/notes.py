"""The note beside every output: which stage made it, with which settings, what it dropped, and the notes of what it read.

    kept.jsonl.note.json                    of `-o kept.jsonl`
    raw/note.json                           of `-o raw/`; its counts are those of the manifests beside the shards, each once
    {"key": ..., "_history": {...}}         of stdout: the note travels in the last record, and the next stage takes it out

    {"stage": "caption", "version": "0.1", "settings": {...}, "in": 283, "out": 283, "dropped": {}, "inputs": [{"stage": ...}]}

So the last note holds all stages before it. A reader compares `out` with the `in` of the next: where they differ, something
else took records away. `cat`, `jq` and `sort` keep the note of a pipe; `head`, or a filter that loses its last record, loses it,
and then `inputs` is empty.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import write_json
from commonart.core.data.shards import manifest as manifests

Note = dict[str, Any]

FIELD = "_history"  # of the last record of a pipe
FILE, SUFFIX = "note.json", ".note.json"
REASONS = ("dropped", "missing", "captions_removed")  # counts by reason; the latter two where there are any


def make(
    stage: str, settings: Mapping[str, Any], read: int, written: int, reasons: Mapping[str, Mapping[str, int]],
    inputs: list[Note], made_by: str | None,
) -> Note:  # fmt: skip
    """Return the note of what a stage has made.

    Args:
        read, written: records.
        reasons: counts by reason, by the names of REASONS.
        inputs: the notes of what it read.
        made_by: the version of commonart; None: not known.
    """
    counts = {name: dict(sorted(counted.items())) for name, counted in reasons.items() if counted or name == "dropped"}
    about = {"stage": stage, "version": made_by, "settings": dict(settings), "in": read, "out": written}
    return {**about, **counts, "inputs": inputs}


def is_note(value: Any) -> bool:
    """Return whether a record's field `_history` is a note, and not somebody else's."""
    return isinstance(value, dict) and {"stage", "in", "out", "inputs"} <= value.keys()


def write_beside(out: str, note: Note) -> None:
    """Write the note of a JSONL file, or of a folder of shards."""
    if os.path.isdir(out):
        # Other tasks of an array, and earlier calls, have written shards into it: the counts are those of their manifests.
        path, note = Path(out) / FILE, {name: note[name] for name in ("stage", "version", "inputs")}
        if _read(path) != note:
            write_json(path, note)
    else:
        write_json(out + SUFFIX, {**note, "bytes": os.path.getsize(out)})


def read_beside(source: str | os.PathLike[str]) -> list[Note]:
    """Return the note of a SOURCE: of a folder of shards, one of its tars, or a JSONL file; [] where nothing is known.

    A JSONL file that is not as its stage wrote it has a note that says so, as `changed`.
    """
    path = Path(source)
    if path.is_dir():
        return _of_shards(path, sorted(path.glob("*.tar")))
    if path.suffix == ".tar":
        return _of_shards(path.parent, [path])
    note = _read(Path(f"{path}{SUFFIX}"))
    if not is_note(note) or not path.is_file():
        return []
    return [{**note, **({} if note.pop("bytes", None) == path.stat().st_size else {"changed": True})}]


def taken_out(records: Iterable[dict[str, Any]], found: list[Note]) -> Iterator[dict[str, Any]]:
    """Yield the same records; what one of them carries as the note of its pipe goes to `found`."""
    for record in records:
        if is_note(record.get(FIELD)):
            found.append(record.pop(FIELD))
        yield record


def _of_shards(folder: Path, tars: list[Path]) -> list[Note]:
    found = [manifest for tar in tars if (manifest := manifests.read_manifest(tar)) is not None]
    if not found:
        return []
    reasons = {name: Counter[str]() for name in REASONS}
    for manifest in found:
        for name in REASONS:
            reasons[name].update(getattr(manifest, name))
    first, beside = found[0], _read(folder / FILE)
    fits = beside.get("stage") == first.stage
    read, written = sum(each.read for each in found), sum(each.written for each in found)
    inputs = beside.get("inputs", []) if fits else []
    note = make(first.stage, first.settings, read, written, reasons, inputs, beside.get("version") if fits else None)
    foreign = len(tars) - len(found)
    return [{**note, **({"shards_without_manifest": foreign} if foreign else {})}]


def _read(path: Path) -> Note:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
