"""An index beside shards that finds a record among millions: by key, hash, URL or author, and images that look alike.

    shards/.lookup.sqlite                        # made by the first `commonart lookup`; shards that changed since are read again
    ~/.cache/commonart/lookup/CONTENT.sqlite     # where that folder may not be written, as a data set that many share

One SQLite file holds 32 bits of each value by which a blocklist knows a record, and the 64-bit fingerprint of its image,
shard by shard: 36 bytes a record, and 4 for each member of feature shards. A search scans one column and reads the few
records that it finds, so that chance matches cost a read and are never shown. Nothing has to be sorted: a shard that
changed costs what its records cost. A killed build continues; a damaged file is made again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from commonart.core import log
from commonart.core.data.blocklist import FIELDS, plain
from commonart.core.data.features.format import EXTENSIONS
from commonart.core.data.files import DISK_FULL, cache_folder, lock
from commonart.core.data.images.phash import NEAR, fingerprint
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import shard_identity
from commonart.core.data.shards.reader import list_shards, members, read_members, read_shard
from commonart.core.data.shards.tar_index import split_name
from commonart.core.errors import CommonArtError, reason
from commonart.core.log import Tick

NAME = ".lookup.sqlite"
VERSION = 2
KINDS = {kind: [field for name, field in FIELDS if name == kind] for kind, _ in FIELDS}
AT_ONCE = 256  # shards whose hashes are compared at once: 1 to 3 MB
COMMIT = 64  # shards after which what was read is kept
PAGE = 65_536  # bytes: the hashes of a shard of 1000 records lie in one page
_TABLES = (*KINDS, "print")
Row = tuple[str, int]  # the name of a shard, from the folder, and the number of a record in it


class Near(NamedTuple):
    """A row whose image differs in `bits` from the one that was looked for."""

    row: Row
    bits: int


class LookupIndex:
    """The index of one folder of shards, brought up to date when it is opened. Use as a context manager.

    Raises:
        CommonArtError: no shards, a damaged one, or no place where an index can be written.
    """

    def __init__(self, folder: str | Path, tick: Tick = lambda n=1: None) -> None:
        self.folder = Path(folder)
        shards = _shards(self.folder)
        for path in (self.folder / NAME, _cached(shards)):
            self.path = path
            try:
                self._open(shards, tick)
                return
            except (OSError, sqlite3.OperationalError) as error:
                if str(getattr(error, "filename", "")).endswith(".tar"):  # which cannot be read
                    raise
                problem = error
                if not _is_refused(error):
                    break
        raise self._unwritable(problem) from problem

    def __enter__(self) -> LookupIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def _open(self, shards: dict[str, tuple[int, int]], tick: Tick) -> None:
        try:
            if self.path.exists() and self._is_current(shards):
                return
            with lock(self.path.parent, f"{self.path.name}.lock", remove=True):
                self._update(shards, tick)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            log.warn(f"{self.path} is damaged ({error}), and is made again.")
            self._remove()
            self._open(shards, tick)

    def _unwritable(self, error: Exception) -> CommonArtError:
        if getattr(error, "errno", 0) in DISK_FULL or _sqlite_code(error) == sqlite3.SQLITE_FULL:
            return CommonArtError(f"{self.path} cannot be written: the disk is full.", "Free some space on it.")
        return CommonArtError(
            f"{self.path} cannot be written: {reason(error)}.",
            f"Make {self.folder} writable, or set XDG_CACHE_HOME to a folder that is.",
        )

    def _remove(self) -> None:
        for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
            path.unlink(missing_ok=True)

    def _is_current(self, shards: dict[str, tuple[int, int]]) -> bool:
        """Open an index that is there to be read, and say whether it is of these shards."""
        self._db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
        with suppress(sqlite3.OperationalError):  # a build was killed, and its journal has to be rolled back
            self._db.execute(f"PRAGMA mmap_size = {1 << 40}")
            if self._db.execute("PRAGMA user_version").fetchone()[0] == VERSION and self._known() == shards:
                return True
        self._db.close()
        return False

    def _known(self) -> dict[str, tuple[int, int]]:
        return {name: (size, time) for name, size, time in self._db.execute("SELECT name, size, time FROM shard")}

    def _update(self, shards: dict[str, tuple[int, int]], tick: Tick) -> None:
        if self.path.exists():
            with closing(sqlite3.connect(self.path)) as old:
                (version,) = old.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                self._remove()
        self._db = sqlite3.connect(self.path, isolation_level=None)
        self._db.execute(f"PRAGMA page_size = {PAGE}")
        self._db.execute("PRAGMA secure_delete = ON")  # of what was removed nothing stays
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS shard"
            "(id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, time INTEGER, sha256 TEXT, count INTEGER, blind INTEGER)"
        )
        for table in _TABLES:
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {table} (shard INTEGER PRIMARY KEY, hashes BLOB)")
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        known = self._known()
        self._db.execute("BEGIN")
        for name in known.keys() - shards.keys():
            self._forget(name)
        self._db.execute("COMMIT")
        changed = [name for name, stamp in shards.items() if known.get(name) != stamp]
        for start in range(0, len(changed), COMMIT):
            self._db.execute("BEGIN")
            for name in changed[start : start + COMMIT]:
                self._forget(name)
                path = self.folder / name
                if "/" in name:
                    self.add_features(name, shards[name], [split_name(member)[0] for member in members(path)])
                else:
                    self.add_shard(name, shards[name], shard_identity(path), read_shard(path), tick)
            self._db.execute("COMMIT")
        self._db.execute(f"PRAGMA mmap_size = {1 << 40}")

    def _forget(self, name: str) -> None:
        for table in _TABLES:
            self._db.execute(f"DELETE FROM {table} WHERE shard = (SELECT id FROM shard WHERE name = ?)", [name])
        self._db.execute("DELETE FROM shard WHERE name = ?", [name])

    def add_shard(
        self, name: str, stamp: tuple[int, int], sha256: str, records: Iterable[Record], tick: Tick = lambda n=1: None
    ) -> None:
        """Add one shard of images: its size and time of change, the hash of its bytes, its records in order."""
        columns: dict[str, list[list[int]]] = {kind: [[] for _ in fields] for kind, fields in KINDS.items()}
        prints, blind = list[int](), 0
        for record in records:
            for kind, fields in KINDS.items():
                for column, field in zip(columns[kind], fields, strict=True):
                    column.append(short_hash(kind, record.get(field)))
            prints.append(fingerprint_of(record))
            blind += not record.get("phash")
            tick()
        number = self._insert(name, stamp, sha256, len(prints), blind)
        for kind, values in columns.items():
            self._put(kind, number, np.array(values, np.uint32))
        self._put("print", number, np.array(prints, np.uint64))

    def add_features(self, name: str, stamp: tuple[int, int], keys: Sequence[str]) -> None:
        """Add one shard of features, which is found by its keys alone."""
        number = self._insert(name, stamp, "", len(keys), 0)
        self._put("key", number, np.array([[short_hash("key", key) for key in keys]], np.uint32))

    def _insert(self, name: str, stamp: tuple[int, int], sha256: str, count: int, blind: int) -> int:
        insert = "INSERT INTO shard (name, size, time, sha256, count, blind) VALUES (?, ?, ?, ?, ?, ?)"
        return self._db.execute(insert, [name, *stamp, sha256, count, blind]).lastrowid or 0

    def _put(self, table: str, number: int, hashes: np.ndarray) -> None:
        self._db.execute(f"INSERT INTO {table} VALUES (?, ?)", [number, hashes.tobytes()])

    def count(self) -> tuple[int, int]:
        """Return how many records there are, and how many of them have no perceptual hash."""
        count, blind = self._db.execute(
            "SELECT coalesce(sum(count), 0), coalesce(sum(blind), 0) FROM shard WHERE instr(name, '/') = 0"
        ).fetchone()
        return count, blind

    def counts(self) -> list[tuple[str, int]]:
        """Return the shards of images by name, each with its number of records."""
        return list(self._db.execute("SELECT name, count FROM shard WHERE instr(name, '/') = 0 ORDER BY name"))

    def identities(self) -> dict[str, str]:
        """Return the hash of each shard's bytes, by name, in the order of the names."""
        return dict(self._db.execute("SELECT name, sha256 FROM shard WHERE instr(name, '/') = 0 ORDER BY name"))

    def candidates(self, kind: str, values: Sequence[str]) -> Iterator[Row]:
        """Yield the rows that may have one of `values` in a field of `kind`, those of feature shards among them.

        By 32 bits: `records` reads them, and whoever asks compares.
        """
        wanted = np.array(list({short_hash(kind, value) for value in values}), np.uint32)
        for numbers, hashes, ends in self._scan(kind, np.uint32):
            same = hashes == wanted[0] if len(wanted) == 1 else np.isin(hashes, wanted)
            yield from sorted({self._row(numbers, ends, at) for at in np.flatnonzero(same).tolist()})

    def near(self, prints: Sequence[int]) -> Iterator[Near]:
        """Yield the rows whose image is a near copy of one with these fingerprints, as `shard --dedup` takes it."""
        for numbers, hashes, ends in self._scan("print", np.uint64):
            bits = np.full(len(hashes), 65, np.uint8)
            for value in prints:
                np.minimum(bits, np.bitwise_count(hashes ^ np.uint64(value)), out=bits)
            for at in np.flatnonzero((bits <= NEAR) & (hashes != 0)).tolist():
                yield Near(self._row(numbers, ends, at), int(bits[at]))

    def _row(self, numbers: list[int], ends: np.ndarray, at: int) -> Row:
        """The row of position `at` in the hashes of several shards; those of one hold one field after another."""
        place = int(np.searchsorted(ends, at, side="right"))
        select = "SELECT name, count FROM shard WHERE id = ?"
        name, count = self._db.execute(select, [numbers[place]]).fetchone()
        return name, (at - (int(ends[place - 1]) if place else 0)) % count

    def _scan(self, table: str, kind: type[np.unsignedinteger]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Yield (shards, their hashes in one array, where each of them ends), AT_ONCE shards at a time."""
        cursor = self._db.execute(f"SELECT shard, hashes FROM {table}")
        while part := cursor.fetchmany(AT_ONCE):
            blobs = [blob for _, blob in part]
            hashes = np.frombuffer(b"".join(blobs), kind)
            yield [number for number, _ in part], hashes, np.cumsum([len(blob) for blob in blobs]) // kind().itemsize

    def records(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Record]]:
        """Yield (row, record) for rows of image shards, read again; those of one shard should stand together."""
        for name, group in groupby(rows, lambda row: row[0]):
            yield from (((name, number), record) for number, record in records_at(self.folder / name, group))

    def features(self, name: str, key: str) -> list[str]:
        """Return the members of feature shards beside shard `name` that belong to a record."""
        found = []
        for kind, extension in EXTENSIONS.items():
            tar, member = self.folder / kind / name, f"{key}.{extension}"
            if tar.exists() and member in members(tar):
                found.append(f"{tar}#{member}")
        return found


def records_at(path: Path, rows: Iterable[Row]) -> Iterator[tuple[int, Record]]:
    """Yield (number, record) for these rows of one shard."""
    samples = list(read_members(path))
    with open(path, "rb") as file:
        for _, number in rows:
            stem, group = samples[number]
            file.seek(group["json"][0])
            record: Record = orjson.loads(file.read(group["json"][1]))
            extension = next((name for name in group if name != "json"), "")
            yield number, {**record, "image": f"{path}#{stem}.{extension}"} if extension else record


def short_hash(kind: str, value: object) -> int:
    """Return 32 bits of a value of a kind (key, sha256, url, author), 0 for what is empty or not text."""
    if type(value) is not str or not value:
        return 0
    return zlib.crc32(plain(kind, value).encode("utf-8", "surrogatepass")) or 1


def fingerprint_of(record: Record) -> int:
    """Return what a record's image is compared by (`phash.fingerprint`), 0 where the record tells too little."""
    value = fingerprint(record.get("phash") or "", record.get("sha256") or "0" * 64)
    return value if value != 1 else 0


def _cached(shards: dict[str, tuple[int, int]]) -> Path:
    """Return where the index of these shards is kept, under whatever path they are mounted."""
    return cache_folder() / "lookup" / f"{hashlib.sha256(orjson.dumps(shards)).hexdigest()[:32]}.sqlite"


def _sqlite_code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details of an extended code


def _is_refused(error: Exception) -> bool:
    """Return whether a place may not be written at all."""
    codes = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
    return getattr(error, "errno", 0) in (errno.EACCES, errno.EPERM, errno.EROFS) or _sqlite_code(error) in codes


def _shards(folder: Path) -> dict[str, tuple[int, int]]:
    """The shards of a folder and those of features beside them: name -> (size, time of change). Raises as `list_shards`."""
    found = {}
    for prefix in ("", *(f"{kind}/" for kind in EXTENSIONS)):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.name.endswith(".tar") and not entry.name.startswith("."):
                    status = entry.stat()
                    found[f"{prefix}{entry.name}"] = (status.st_size, status.st_mtime_ns)
        if not found:
            list_shards(folder)
    return dict(sorted(found.items()))
