"""The headers of tars: written for a shard's members, and read from a file here or from one far away, which is read by ranges.

Long names are read in the two ways in which tars have them, GNU's and PAX's, and written in GNU's.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, NamedTuple

BLOCK = 512
LONGEST = 1 << 16  # bytes of a header's own data: a name takes a few hundred
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


def header(name: str, size: int) -> bytes:
    """Return the header of a plain file that everybody may read, without date and owner; more blocks for a long name."""
    encoded = name.encode()
    if len(encoded) > tarfile.LENGTH_NAME or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        return info.tobuf(tarfile.GNU_FORMAT)
    # What tobuf gives, at a fifth of its time: two headers stand before each picture.
    head, rest, total = _template()
    length = b"%011o\0" % size
    checksum = b"%06o\0 " % (total + sum(encoded) + sum(length))
    return b"".join((encoded.ljust(100, b"\0"), head, length, rest[:12], checksum, rest[20:]))


@lru_cache(maxsize=1)
def _template() -> tuple[bytes, bytes, int]:
    """What stands between name and size, what stands behind the size, and the sum of both with the checksum as blanks."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    block = info.tobuf(tarfile.GNU_FORMAT)
    head, rest = block[100:124], block[136:]
    return head, rest, sum(head) + sum(rest[:12]) + sum(rest[20:]) + 8 * ord(" ")


class Member(NamedTuple):
    """One member: its name, where its bytes begin and how many they are, and whether it is a plain file."""

    name: str
    offset: int
    size: int
    plain: bool


def headers(file: IO[bytes], *, ended: bool = True) -> Iterator[Member]:
    """Yield the members in their order, at one seek and one read for each. Raises tarfile.TarError for a damaged tar.

    `ended`: a tar without the zeros that end it is an error, for it may have been cut behind a member.
    """
    offset, pax = 0, dict[str, str]()
    while True:
        file.seek(offset)
        head = file.read(BLOCK)
        if head == bytes(BLOCK) or not (head or ended or file.seek(0, os.SEEK_END) != offset):
            return
        if not head:
            raise tarfile.ReadError("it ends in the middle")
        info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        if info.size < 0:  # in base 256 it can be; the next header would be this one, or one before
            raise tarfile.ReadError("a negative size")
        start = offset + BLOCK
        size = _decimal(pax["size"]) if "size" in pax else info.size
        # Folders, links and devices may state a size, but no bytes follow them.
        follow = size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        if info.type in (*_PAX, tarfile.GNUTYPE_LONGNAME):
            if info.size > LONGEST:
                raise tarfile.ReadError(f"a header of {info.size:,} bytes")
            data = file.read(info.size)
            name = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            pax |= _pax_fields(data) if info.type in _PAX else {"path": name}
            follow = info.size
        elif info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            follow = info.size
        else:
            sparse = info.type == tarfile.GNUTYPE_SPARSE or any(name.startswith("GNU.sparse") for name in pax)
            yield Member(pax.get("path") or info.name, start, size, info.isreg() and not sparse)
            pax = {}
        offset = start + -(-follow // BLOCK) * BLOCK


def _decimal(text: str | bytes) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise tarfile.ReadError("a number that cannot be read")
    return int(text)


def _pax_fields(data: bytes) -> dict[str, str]:
    """The fields of a PAX header, which are of the next member, each as `LENGTH NAME=VALUE`."""
    fields = {}
    while data:
        length, _, _ = data.partition(b" ")
        end = _decimal(length)
        name, equals, value = data[len(length) + 1 : end].removesuffix(b"\n").partition(b"=")
        if equals:
            fields[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[max(end, 1) :].lstrip(b"\0")
    return fields
