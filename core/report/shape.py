"""Whether JSON has the shape that a report reads: run.json and mia.json come from other machines, and may be damaged.

    wrong({"step": "many"}, {"step": int})      # ["step is not a whole number"]

A shape is a type; None; a tuple of shapes, any of which will do; [shape], a list of such; a dict of shapes by name, where
"name?" may be left out and "*" is for all other names; or ANY.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from commonart.core.data.notes import REASONS, is_note

ANY = object()
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", None: "null"}
DATE, HEX = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), re.compile(r"[0-9a-f]{16}")
SCALAR = (str, float, bool, None)
COUNTS, TEXTS = {"*": int}, [str]
MODEL = {"name": str, "revision?": (str, None), "*": SCALAR}
NOTE: dict[str, Any] = {
    "stage": str, "version?": (str, None), "settings?": {"allowed?": TEXTS, "*": ANY}, "in": int, "out": int, "inputs": ANY,
    "shards_without_manifest?": int, **{f"{name}?": COUNTS for name in REASONS}, "*": ANY,
}  # fmt: skip
RUN = {
    "stage": str, "recipe": {"batch": int, "*": SCALAR}, "seed?": int, "precision?": str, "objective?": str,
    "languages?": {"*": float}, "lengths?": {"*": float}, "init?": {"from?": str, "revision?": (str, None), "step?": int},
    "code?": {"version?": (str, None), "commit?": (str, None), "modified?": (bool, None)},
    "versions?": {"*": str}, "history?": ANY, "prompts?": [[ANY]],
    "data": {
        "folder": str, "fingerprint": str, "digest": str, "attribution": str, "images": int, "heldout?": int, "left_out?": COUNTS,
        "left_out_keys?": {"*": [HEX]}, "captions_left_out?": COUNTS, "licenses": COUNTS, "sources": COUNTS,
        "makers": [{"model": str, "revision": str, "license": str, "lang": str, "captions": int, "*": SCALAR}],
        "accepted?": TEXTS,
        "policy": {"name": str, "allowed": TEXTS, "denied": TEXTS, "accepted": TEXTS, "blocklist": (str, None), "sha256?": str},
        "*": ANY,
    },
    "text_encoder?": MODEL, "autoencoder?": MODEL, "vision_tower?": MODEL, "language_model?": MODEL,
    "transformer?": {"parameters": int, "*": SCALAR}, "captioner?": {"parameters?": int, "*": SCALAR},
    "compute?": {
        "step": int, "images": int, "seconds": float, "flops": float, "energy_kwh": (float, None), "energy_is?": str,
        "devices": [{"name": str, "count": int, "watts": (float, None), "seconds": float, "*": SCALAR}], "ended?": DATE,
    },
    "*": ANY,
}  # fmt: skip
AREA = ({"value": float, "low": float, "high": float, "*": ANY}, None)
ATTACK = ({"auc?": AREA, "p_value?": (float, None), "smallest_auc_found?": (float, None), "*": ANY}, None)
PART = ({"verdict?": str, "copies?": int, "generated?": int, "captions?": int, "*": ANY}, None)
AUDIT = {
    "verdict": str, "reason?": (str, None), "members?": int, "heldout?": int, "level?": (float, None), "question?": str,
    "attacks?": ({"*": ATTACK}, None), "combined?": ATTACK, "blind?": ATTACK, "replication?": PART, "extraction?": PART, "*": ANY,
}  # fmt: skip


def wrong(value: Any, shape: Any) -> list[str]:
    """Return what of a value is not as its shape asks, as sentences without a full stop."""
    return list(_wrong(value, shape, ""))


def wrong_run(run: Any) -> list[str]:
    """Return what of a run.json is not as `commonart train` writes it, the notes of earlier stages included."""
    return [*wrong(run, RUN), *(wrong_notes(run.get("history", []), "history") if isinstance(run, dict) else [])]


def wrong_notes(notes: Any, at: str) -> Iterator[str]:
    """Yield what of a list of notes, and of those in them, is not as stages write it."""
    if not isinstance(notes, list):
        yield f"{at} is not a list"
        return
    for number, note in enumerate(notes):
        if is_note(note):  # others are left out of a history
            yield from _wrong(note, NOTE, f"{at}[{number}]")
            yield from wrong_notes(note["inputs"], f"{at}[{number}].inputs")


def _wrong(value: Any, shape: Any, at: str) -> Iterator[str]:
    if shape is ANY:
        return
    if isinstance(shape, tuple):
        found = [list(_wrong(value, each, at)) for each in shape]
        if all(found):
            yield found[0][0]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at} is not a list"
            return
        for number, each in enumerate(value):
            yield from _wrong(each, shape[0], f"{at}[{number}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{at or 'it'} is not an object"
            return
        for name in shape:
            if name != "*" and name.removesuffix("?") not in value and not name.endswith("?"):
                yield f"{_inside(at, name)} is missing"
        for name, each in value.items():
            kind = shape.get(name, shape.get(f"{name}?", shape.get("*", ANY)))
            yield from _wrong(each, kind, _inside(at, name))
    elif isinstance(shape, re.Pattern):
        if not isinstance(value, str) or not shape.fullmatch(value):
            yield f"{at} is not what commonart writes there"
    elif not _is(value, shape):
        yield f"{at} is not {NAMES[shape]}"


def _is(value: Any, kind: Any) -> bool:
    if kind is None or isinstance(value, bool):
        return value is None if kind is None else kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _inside(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
