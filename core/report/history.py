"""The way of the records from fetched to trained, as the notes beside them tell it: what each stage did, and what got lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from commonart.core.data.notes import REASONS, Note, is_note


def flatten(history: Sequence[Note], run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the stages in their order, fetch first and, of a run, `train` last.

    Each row has `stage`, `version`, `settings`, `in`, `out`, the counts by reason of `notes.REASONS` (where there are any),
    `changed` of a file that another tool has changed, and, where its `in` is not what the stages before it put out:

    - `lost`: records that something between them took away (below 0: that it added)
    - `unknown_before`: True where no note says what it read, so that the history begins there
    """
    rows = [row for note in history if is_note(note) for row in _rows(note)]
    if run is not None:
        rows.append(_train(run, history))
    return rows


def dated(run: Mapping[str, Any] | None, observed: str) -> tuple[str, str]:
    """Return the date of a report, ISO 8601, and what it is of: the end of training, else the last licence `observed`; or ""."""
    if ended := iso_time(str(((run or {}).get("compute") or {}).get("ended") or "")):
        return ended, "the end of training"
    return observed, "the last time that a licence of the works was observed" if observed else ""


def iso_time(text: str) -> str:
    """Return an ISO 8601 time in UTC, to the second; "" for a text that is none: records may hold anything there."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="seconds")[
            :19
        ] + "Z"
    except (ValueError, OverflowError):
        return ""


def _rows(note: Note) -> Iterator[dict[str, Any]]:
    inputs = [each for each in note["inputs"] if is_note(each)]
    for each in inputs:
        yield from _rows(each)
    optional = {name: note[name] for name in (*REASONS[1:], "changed", "shards_without_manifest") if note.get(name)}
    yield {
        "stage": note["stage"], "version": note.get("version"), "settings": note.get("settings") or {},
        "in": note["in"], "out": note["out"], "dropped": note.get("dropped") or {}, **optional,
        **_gap(note["stage"], note["in"], inputs),
    }  # fmt: skip


def _gap(stage: str, read: int, before: Sequence[Note]) -> dict[str, Any]:
    if not before:
        return {} if stage == "fetch" else {"unknown_before": True}
    lost = sum(each["out"] for each in before) - read
    return {"lost": lost} if lost else {}


def _train(run: Mapping[str, Any], history: Sequence[Note]) -> dict[str, Any]:
    data = run["data"]
    left_out = {name: count for name, count in (data.get("left_out") or {}).items() if count}
    dropped = {**({"heldout": data["heldout"]} if data.get("heldout") else {}), **left_out}
    removed = {name: count for name, count in (data.get("captions_left_out") or {}).items() if count}
    policy = data["policy"]
    read = data["images"] + sum(dropped.values())
    return {
        "stage": "train", "version": (run.get("code") or {}).get("version"),
        "settings": {"policy": policy["name"], "allowed": policy["allowed"], "denied": policy["denied"],
                     "accepted": policy["accepted"], "blocklist": policy["blocklist"]},
        "in": read, "out": data["images"], "dropped": dropped, **({"captions_removed": removed} if removed else {}),
        **_gap("train", read, [note for note in history if is_note(note)]),
    }  # fmt: skip
