"""Files that are whole or absent: written under a temporary name, synced, renamed. Every stage writes through here."""

from __future__ import annotations

import errno
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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = ".lock"
TEMPORARY = ".part"  # `.NAME.HOST-PID-THREAD.part`: two runs to one name do not write into one another's file
# Seconds after which a temporary file of another machine, of whose processes nothing is known, is a dead run's.
ABANDONED_AFTER = 24 * 3600


def temporary_path(path: str | os.PathLike[str], *, cleaned: bool = False) -> Path:
    """Return where this thread writes `path` until it is complete. What killed runs left of the same file is removed.

    `cleaned`: the caller has already removed it for the whole folder, which has to be listed for that.
    """
    final = Path(path)
    if not cleaned:
        remove_abandoned(final.parent, final.name)
    return final.with_name(f".{final.name}.{_host()}-{os.getpid()}-{threading.get_ident():x}{TEMPORARY}")


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files that killed runs left in `folder`, of the file `name` or of any."""
    host = _host()
    final_name = ".+" if name is None else re.escape(name)
    temporary = re.compile(rf"\.{final_name}\.([0-9a-f]{{8}})-(\d{{1,9}})-[0-9a-f]+{re.escape(TEMPORARY)}")
    with suppress(OSError), os.scandir(folder) as entries:  # no folder yet; or another run does the same
        for entry in entries:
            if (match := temporary.fullmatch(entry.name)) is None:
                continue
            old = time.time() - entry.stat().st_mtime > ABANDONED_AFTER
            if old if match[1] != host else not _is_running(int(match[2])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def cache_folder() -> Path:
    """Return where what can be made again is kept for the next run; XDG_CACHE_HOME is honoured."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "commonart"


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, cleaned: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` only when the block ends without an error; `cleaned` as for `temporary_path`.

    Raises OSError as `open`, `write` and `fsync` do (a full disk, no permission), with the file's name; nothing is left.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not final.is_file():
        # /dev/null, /dev/stdout or a named pipe: renaming a file over it would take it away from everybody.
        with naming(final), open(final, "wb") as file:
            yield file
        return
    temporary = temporary_path(final, cleaned=cleaned)
    try:
        with naming(final, temporary):
            with open(temporary, "wb", buffering=1 << 20) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(final.parent)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name `path` in the error of a full disk, where `write` names nothing, and in one of `temporary` or a file within it."""
    try:
        yield
    except OSError as error:
        # A copy that fails names what it reads first, and the copy second.
        inner = [Path(os.fsdecode(name)) for name in (error.filename2, error.filename) if isinstance(name, str | bytes)]
        within = temporary is not None and any(each.is_relative_to(temporary) for each in inner)
        if within or (error.errno in DISK_FULL and not inner):
            error.filename, error.filename2 = str(path), None
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError that writing to `path`, or creating it, would end with: asked before a model is loaded."""
    absolute = Path(path).absolute()
    exists = next(each for each in (absolute, *absolute.parents) if each.exists())
    if exists != absolute and not exists.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not os.access(exists, os.W_OK):
        number = errno.EROFS if os.statvfs(exists).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))


@contextmanager
def lock(folder: Path, name: str = LOCK, *, remove: bool = False) -> Iterator[None]:
    """While the block runs, keep other processes out of the same folder. The kernel releases the lock of a dead process.

    `name` is that of the locked file: those with other names may share the folder. `remove`: leave no file behind.
    Raises CommonArtError where another process has the lock, named by number and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder, folder / name):
        file = open(folder / name, "a+b")  # noqa: SIM115
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CommonArtError(
                f"{folder} is in use by {file.read().decode(errors='replace') or 'another process'}.",
                "Wait until it has ended, or end it; the same command then goes on.",
            ) from None
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        try:
            yield
        finally:
            if remove:
                (folder / name).unlink(missing_ok=True)


def file_inside(folder: str | os.PathLike[str], name: str) -> Path | None:
    """Return the file `name` in `folder`; None where there is none, or where it leads out, by `..`, a root or a link."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):  # False for a name that no file can have
        return None
    root, path = os.path.realpath(folder), os.path.realpath(path)
    return Path(path) if path.startswith(os.path.join(root, "")) else None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file, complete or not at all; several tasks of an array may do so at the same moment."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file for people and programs: indented, keys as given, newline at the end."""
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
