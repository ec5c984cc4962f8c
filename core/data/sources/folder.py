"""A folder of images as records: `commonart fetch photos/ --license "CC BY 4.0" --list`."""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.record import Record, check, make_key
from commonart.core.data.sources.attribution import is_personal, modified_at, set_license, source_caption
from commonart.core.errors import CommonArtError, SchemaError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff")


def list_folder(folder: Path, license: str = "", lang: str = "en") -> Iterator[Record]:
    """The images of a folder and its sub-folders in the order of their names, with what the files beside them say.

    Raises:
        CommonArtError: the folder holds no image.
        SchemaError: a `.json` beside an image is not JSON, or breaks the schema.
    """
    files = sorted(p for p in _walk(folder) if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise CommonArtError(f"{folder} holds no images.", f"Images end in {', '.join(IMAGE_SUFFIXES)}.")
    # Two files may differ in their suffix alone; then the suffix belongs to the key.
    stems = Counter(p.with_suffix("") for p in files)
    source = folder.resolve().name or "folder"
    for path in files:
        inside = path.relative_to(folder)
        name = inside if stems[path.with_suffix("")] > 1 else inside.with_suffix("")
        record: Record = {
            "key": make_key(_readable(source), _readable(name.as_posix())),
            "image": _readable(str(path)),
            "source": _readable(source),
            "source_id": _readable(inside.as_posix()),
            "title": _readable(path.stem),
        }
        beside = _beside(path)
        raw = str(beside.pop("license_raw", "") or beside.pop("license", "") or "")
        url = str(beside.pop("license_url", "") or "")
        at = str(beside.pop("license_observed_at", "") or (modified_at(path) if path.exists() else ""))
        texts = beside.pop("caption", None)
        record |= beside
        set_license(record, raw or ("" if url else license), url, at, beside)
        texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else _lines(path)
        if texts and "captions" not in record:
            record["captions"] = [
                source_caption(text, lang, record["source"]) for text in texts if isinstance(text, str) and text.strip()
            ]
        yield check(record, str(path), 1)


def _walk(folder: Path) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        raise error  # a folder that may not be read would be left out without a word

    for parent, folders, names in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _readable(name: str) -> str:
    """A file name as JSON can hold it. One that is no UTF-8 comes out as another name, under which there is no file: the
    record counts as a failure and says which, where an error would stop all the others."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _beside(path: Path) -> dict[str, Any]:
    """What `NAME.json` beside `NAME.jpg` says; fields of the schema and any other."""
    notes = path.with_suffix(".json")
    if not notes.is_file():
        return {}
    try:
        value = orjson.loads(notes.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise SchemaError(str(notes), 1, "", f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise SchemaError(str(notes), 1, "", "must be a JSON object")
    return {
        name: field for name, field in value.items() if field is not None and not is_personal(name) and name != "image"
    }


def _lines(path: Path) -> list[str]:
    """The captions in `NAME.txt` beside `NAME.jpg`, one a line."""
    notes = path.with_suffix(".txt")
    return notes.read_text("utf-8", errors="replace").splitlines() if notes.is_file() else []
