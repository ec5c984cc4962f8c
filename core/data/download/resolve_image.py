"""One record and its bytes -> a record that says what came, or why it did not; the bytes stay as they came."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.download.opt_out import embedded_signals
from commonart.core.data.download.request import Request
from commonart.core.data.drops import Problem, Sample
from commonart.core.data.files import file_inside
from commonart.core.data.images.decode import EXTENSIONS, DecodeError, probe
from commonart.core.data.public_address import with_public_addresses
from commonart.core.data.record import Record, check_split
from commonart.core.data.shards import reader
from commonart.core.data.shards.reader import IMAGE_EXTENSIONS
from commonart.core.errors import CommonArtError

ENDINGS = ("", *(f".{ending}" for name in IMAGE_EXTENSIONS for ending in (name, name.upper())))


def resolve_image(
    record: Record,
    pending: Request | None,
    *,
    images: str | None,
    limits: Limits,
    source_bytes: Callable[[Record], bytes | None],
) -> tuple[Record, Sample | Problem]:
    """Get one record's bytes and check them -> the record, and its sample or the reason why there is none.

    `width`, `height`, `mime`, `sha256`, `split` and `opt_out` are written; addresses lose their credentials.

    Bytes are looked for in `source_bytes` (None where the record's source does not draw or store them itself), `images`, the
    record's `image` and `pending`, in this order.
    """
    signals: list[str] = []
    try:
        data = source_bytes(record)
        if data is None and images is not None and (path := in_folder(record, images)) is not None:
            data = path.read_bytes()
        elif data is None and record.get("image"):
            data = reader.read_bytes(record["image"])
        elif data is None and pending is not None:
            download = pending.result()
            data, signals = download.data, download.opt_out
            if data:  # where it came from, redirects followed; a record without it did not come from the web
                record = {**record, "fetched_url": download.url}
        if data is None:
            if record.get("image_url"):
                return record, Problem("bad_url", str(record["image_url"])[:200])
            no_file = f", and no file in {images}" if images else ""
            return record, Problem("no_image", f"neither image nor image_url{no_file}")
        signals += embedded_signals(data)
        if signals:
            record = {**record, "opt_out": sorted({*record.get("opt_out", []), *signals})}
        if limits.opt_outs and record.get("opt_out"):
            return record, Problem("opt_out", ", ".join(record["opt_out"]), rule=True)
        if len(data) > limits.max_bytes:
            return record, Problem("too_many_bytes", f"{len(data):,}")
        info = probe(data)
    except (DownloadError, DecodeError) as error:
        return record, Problem(error.reason, error.detail)
    except CommonArtError as error:
        if not record.get("image"):  # the client or the hub had to stop, which is no record's fault
            raise
        return record, Problem("unreadable", error.what)  # a file or shard that a record names and that is not there
    except (OSError, ValueError) as error:
        return record, Problem("unreadable", str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if (record.get("sha256") or sha256).lower() != sha256:
        return record, Problem("changed", f"sha256 is {sha256}, the record says {record['sha256']}")
    if record.get("md5") and (md5 := hashlib.md5(data, usedforsecurity=False).hexdigest()) != record["md5"].lower():
        return record, Problem("changed", f"md5 is {md5}, the record says {record['md5']}")
    # Credentials opened the way to the image; whoever reads the record later has no need of them.
    completed = {
        **with_public_addresses(record),
        "width": info.width,
        "height": info.height,
        "mime": info.mime,
        "sha256": sha256,
    }
    completed.setdefault("opt_out", [])
    completed["split"], conflict = check_split(record, sha256)
    if conflict:
        return record, Problem("split_conflict", conflict, rule=True)
    return record, Sample(completed, data, EXTENSIONS[info.mime])


def in_folder(record: Record, images: str) -> Path | None:
    """Return the file of a record in `--images`; a name that leads out of the folder is not followed."""
    for name in (record.get("file_name"), record.get("source_id"), record["key"]):
        if not isinstance(name, str) or not name:
            continue
        for suffix in ENDINGS:
            if (path := file_inside(images, f"{name}{suffix}")) is not None:
                return path
    return None
