"""What every source says of a work in the same way: its licence, when that was seen, and the captions that came with it.

commonart fetch photos/ --license CC-BY-4.0 --list | head -1
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commonart.core.data.record import Record
from commonart.core.licenses import judge

# Where a person was and what they said of others: not needed for training, so not kept.
PERSONAL = frozenset(
    {"latitude", "longitude", "lat", "lon", "lng", "gps", "location", "usertags", "machinetags", "exif", "email"}
)
_JAPANESE = re.compile(r"[\u3040-\u30ff]")


def observed(path: Path) -> str:
    """When the statement in a file was written down: its modification time, so that a second run says the same."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def state_license(record: Record, raw: str, url: str, observed_at: str) -> None:
    """Write what a source said about rights into `record`, and what that means; "" when it is not understood."""
    found, _ = judge(url, raw, None)
    record["license"] = found.id if found else ""
    record["license_url"] = url or (found.url if found else "")
    record["license_raw"] = raw or url
    record["license_basis"] = found.basis if found else ""
    record["license_observed_at"] = observed_at


def shipped_caption(text: str, lang: str, model: str, license: str = "", synthetic: bool = False) -> dict[str, Any]:
    """A caption that came with the work. Who or what wrote it (`model`) is known by name only, so `revision` is empty."""
    return {
        "text": text.strip(),
        "lang": "ja" if _JAPANESE.search(text) else lang,
        "model": model,
        "revision": "",
        "license": license,
        "synthetic": synthetic,
        "translated_from": None,
    }
