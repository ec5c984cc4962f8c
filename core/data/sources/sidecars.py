"""What stands beside an image, in a folder or a tar: `NAME.json`, and captions one a line in `NAME.txt` or `NAME.caption`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from commonart.core.data.record import Record
from commonart.core.data.sources import attribution
from commonart.core.data.sources.attribution import SourceOptions, caption_texts
from commonart.core.data.sources.url_list import cell_text, known_columns
from commonart.core.data.text import decode_text, parse_json

JSON_SUFFIXES = (".json",)
TEXT_SUFFIXES = (".txt", ".caption")
SUFFIXES = (*JSON_SUFFIXES, *TEXT_SUFFIXES)
MAX_BYTES = 1 << 20  # of one sidecar
# An image's own file names it: what a sidecar calls its id or file is kept as it is.
_TEXT_FIELDS = ("image_url", "source_url", "title", "author", "author_url")


@dataclass(slots=True)
class Sidecar:
    """The fields and the captions that stand beside one image."""

    fields: dict[str, Any] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)

    def read(self, name: str, data: bytes) -> None:
        """Add what the sidecar `name` holds. Raises ValueError where it is too large, not text, or not a JSON object."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"{name} has {len(data):,} bytes")
        try:
            if name.lower().endswith(JSON_SUFFIXES):
                value = parse_json(data)
                if not isinstance(value, dict):
                    raise ValueError("it is not a JSON object")
                self.add(name, value)
            else:
                lines = decode_text(data).replace("\r", "\n").split("\n")
                self.captions += [line.strip() for line in lines if line.strip()]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def add(self, name: str, fields: Mapping[str, Any]) -> None:
        """Add the fields that `name` states. Raises ValueError where an earlier sidecar states one of them otherwise."""
        for field_name, value in fields.items():
            if value is not None and self.fields.setdefault(field_name, value) != value:
                raise ValueError(f"{name} has another {field_name!r} than the sidecar before it")


def describe(record: Record, sidecar: Sidecar, options: SourceOptions, observed_at: str) -> None:
    """Write the fields, the licence and the captions of a sidecar into the record of its image, by the names of `url_list`.

    Raises CommonArtError where two fields differ in case alone.
    """
    fields = {
        name: value for name, value in sidecar.fields.items() if name != "image" and not attribution.is_personal(name)
    }
    columns = known_columns((name for name, value in fields.items() if cell_text(value)), "its sidecar")
    stated = {name: fields.pop(column) for name, column in columns.items() if name not in ("source_id", "file_name")}
    raw, url = cell_text(stated.get("license_raw")), cell_text(stated.get("license_url"))
    observed_at = str(fields.pop("license_observed_at", "") or observed_at)
    lang = cell_text(stated.get("lang")) or options.lang
    texts = list(caption_texts(stated.get("caption"), lang)) or [(text, lang) for text in sidecar.captions]
    record |= fields | {name: cell_text(stated[name]) for name in _TEXT_FIELDS if name in stated}
    attribution.set_license(record, raw or ("" if url else options.license), url, observed_at, fields)
    if texts and "captions" not in record:
        record["captions"] = [attribution.source_caption(text, lang, record["source"]) for text, lang in texts]
