"""Files that are whole or absent: written beside, synced, renamed. Every output of every stage goes through here."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from commonart.core.errors import CommonArtError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = ".lock"
PART = ".part"  # `.NAME.HOST-PID-THREAD.part`: two runs to one name do not write into one another's file
ABANDONED = (
    24 * 3600
)  # seconds after which a part of another machine, of whose processes nothing is known, is a dead run's


def part_of(path: str | os.PathLike[str], *, swept: bool = False) -> Path:
    """Where this thread writes `path` until it is whole. What killed runs left of the same file is removed.

    `swept`: the caller has removed it for the whole folder, which is listed for that.
    """
    final = Path(path)
    if not swept:
        sweep(final.parent, final.name)
    return final.with_name(f".{final.name}.{_host()}-{os.getpid()}-{threading.get_ident():x}{PART}")


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed runs left in `folder` of the file `name`, or of any file."""
    host = _host()
    which = ".+" if name is None else re.escape(name)
    ours = re.compile(rf"\.{which}\.([0-9a-f]{{8}})-(\d{{1,9}})-[0-9a-f]+{re.escape(PART)}")
    with suppress(OSError), os.scandir(folder) as entries:  # no folder yet; or another run sweeps, too
        for entry in entries:
            if (part := ours.fullmatch(entry.name)) is None:
                continue
            old = time.time() - entry.stat().st_mtime > ABANDONED
            if old if part[1] != host else not _lives(int(part[2])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, swept: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` only when the block ends without an error; `swept`, as `part_of` takes it.

    Raises:
        OSError: as `open`, `write` and `fsync` raise it (a full disk, no permission), with the file's name; nothing is
            left behind.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not final.is_file():
        # /dev/null, /dev/stdout or a named pipe: renaming a file over it would take it away from everybody.
        with _named(final), open(final, "wb") as file:
            yield file
        return
    part = part_of(final, swept=swept)
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


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While the block runs, no other process enters it with the same folder. The kernel lets go of what a dead one held.

    Raises:
        CommonArtError: another process is in it, named by number and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CommonArtError(
                f"{folder} is in use by {file.read().decode(errors='replace') or 'another process'}.",
                "Wait until that has ended, or end it: the same command then goes on.",
            ) from None
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        yield


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file whole; several tasks of an array may do so at the same moment."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file for people and programs: indented, keys as given, newline at the end."""
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
