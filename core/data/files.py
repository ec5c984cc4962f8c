"""Files that are whole or absent: written beside, synced, renamed. Every output of every stage goes through here."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PART = ".part"  # what a killed run leaves behind is `.NAME.part`; the same command overwrites it


def part_of(path: str | os.PathLike[str]) -> Path:
    """Where `path` is written until it is whole."""
    final = Path(path)
    return final.with_name(f".{final.name}{PART}")


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` only when the block ends without an error.

    Raises:
        OSError: as `open`, `write` and `fsync` raise it (a full disk, no permission), with the file's name; nothing is
            left behind.
    """
    final, part = Path(path), part_of(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not final.is_file():
        # /dev/null, /dev/stdout or a named pipe: renaming a file over it would take it away from everybody.
        with _named(final), open(final, "wb") as file:
            yield file
        return
    try:
        with _named(final), open(part, "wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(final.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file there was no room for: `write` only says that there was none."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file whole."""
    with replacing(path) as file:
        file.write(data)


def write_shared(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that several tasks of an array may write at the same moment, with the same bytes."""
    final = Path(path)
    own = final.with_name(f".{final.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
    write_bytes(own, data)
    os.replace(own, final)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file for people and programs: indented, keys as given, newline at the end."""
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
