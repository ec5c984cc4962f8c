"""WebDataset tars of other tools as records: headers, `.json` and texts are read, images are passed by."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from commonart.core.data.drops import PassedOver, checked
from commonart.core.data.record import Record, make_key
from commonart.core.data.shards.reader import IMAGE_EXTENSIONS
from commonart.core.data.shards.tar import Member, headers
from commonart.core.data.shards.tar_index import split_name
from commonart.core.data.sources.attribution import source_caption
from commonart.core.data.sources.embedded_images import set_embedded
from commonart.core.data.sources.sidecars import MAX_BYTES, SUFFIXES, Sidecar
from commonart.core.data.sources.url_list import Table, find_layout, row_record
from commonart.core.errors import CommonArtError


@dataclass(slots=True)
class TarSample:
    """The members of one key that follow each other; `problem` says why they are not a record."""

    key: str
    sidecar: Sidecar = field(default_factory=Sidecar)
    image: Member | None = None
    problem: tuple[str, str] = ("", "")


def tar_records(raw: IO[bytes], address: str, stem: str, table: Table) -> Iterator[Record]:
    """Yield a record for each sample of a tar; those that cannot be read come as `PassedOver`.

    `address`: where it is, `hf://...` or a path, of which an image is `PATH#MEMBER`; `stem`: its name without ".tar", for the
    ids of samples; `table`: how the fields of a `.json` become a record. Raises CommonArtError where the tar is damaged.
    """
    for number, sample in enumerate(_samples(raw, table.name)):
        name = f"{stem}/{sample.key}"
        if sample.problem[0]:
            yield PassedOver.named(table.source, name, *sample.problem, rule=False)
            continue
        try:
            yield checked(_record(sample, name, number, address, table), table.name, name, name)
        except CommonArtError as error:  # of names that differ in case alone
            yield PassedOver.named(table.source, name, "bad_row", error.what, rule=False)


def _record(sample: TarSample, name: str, number: int, address: str, table: Table) -> Record:
    fields = {field: value for field, value in sample.sidecar.fields.items() if field != "key"}
    layout = find_layout(table, list(fields), strict=False)
    record = row_record(fields, layout, table, number)
    if "source_id" not in layout.columns:
        record["source_id"] = name
    record["key"] = make_key(table.source, record["source_id"])
    if sample.sidecar.captions and "captions" not in record:
        record["captions"] = [
            source_caption(text, table.options.lang, table.source) for text in sample.sidecar.captions
        ]
    if sample.image is not None and "://" not in address:
        record["image"] = f"{address}#{sample.image.name}"
    elif sample.image is not None:
        set_embedded(record, f"{address}#{sample.image.offset}+{sample.image.size}")
    return record


def _samples(raw: IO[bytes], name: str) -> Iterator[TarSample]:
    """The samples of a tar, by reads of headers and sidecars alone."""
    sample: TarSample | None = None
    ended = set[int]()  # hashes of the keys that are complete
    try:
        for member in headers(raw, ended=False):
            # bsdtar writes a Mac's attributes as `._NAME` before each NAME.
            if not member.plain or Path(member.name).name.startswith("._"):
                continue
            key, extension = split_name(member.name)
            if sample is None or key != sample.key:
                if sample is not None:
                    ended.add(hash(sample.key))
                    yield sample
                sample = TarSample(key)
                if hash(key) in ended:
                    sample.problem = ("unsorted_tar", "its members do not follow each other: pack with tar --sort=name")
            if extension.lower() in IMAGE_EXTENSIONS:
                sample.image = member
            elif f".{extension.lower()}" in SUFFIXES:
                _read_sidecar(raw, member, sample)
    except tarfile.TarError as error:
        fix = "Tell its owner; other data sets can be read."
        raise CommonArtError(f"{name} is a damaged tar: {error}.", fix) from error
    if sample is not None:
        yield sample


def _read_sidecar(raw: IO[bytes], member: Member, sample: TarSample) -> None:
    if member.size > MAX_BYTES:
        sample.problem = ("bad_sidecar", f"{member.name} has {member.size:,} bytes")
        return
    raw.seek(member.offset)
    try:
        sample.sidecar.read(member.name, raw.read(member.size))
    except ValueError as error:
        sample.problem = ("bad_sidecar", str(error))
