"""JSONL of records: the one reader and the one writer. `-` is stdin or stdout; `.gz` and `.zst` are understood."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from operator import itemgetter
from typing import IO, Any

import orjson

from commonart.core.data.files import atomic_write
from commonart.core.data.notes import FIELD, Note, is_note
from commonart.core.data.record import Record, all_fit, check, rebase, split_pointer
from commonart.core.data.text import parse_json
from commonart.core.errors import CommonArtError, ReaderGone, SchemaError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_DEPTH = 250  # brackets within brackets: orjson reads more than it writes
WINDOW = 250_000  # keys remembered to find a doubled one, in constant memory: 250,000 to 500,000 back
BLOCK = 32 << 10  # bytes that are read, and whose records are checked, at once: more leave the cache
LINES = 64  # that are written at once
FLUSH_SECONDS = 0.5  # a reader downstream sees a slow stage's records as they come

_KEY = itemgetter("key")


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        if sys.stdin is None:
            raise CommonArtError("stdin is closed.", "Pipe records in, or give a SOURCE.")
        yield sys.stdin.buffer
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as file:
            yield file  # type: ignore[misc]  # GzipFile reads bytes as any binary file does
    elif path.endswith(".zst"):
        import zstandard

        with open(path, "rb") as raw:
            yield io.BufferedReader(_Frames(raw, zstandard.ZstdDecompressor()), 1 << 20)
    else:
        with open(path, "rb", buffering=1 << 20) as file:
            yield file


class _Frames(io.RawIOBase):
    """The content of a .zst. zstandard's own reader takes a file that was cut in the middle of a frame for a whole one."""

    def __init__(self, file: IO[bytes], unpacker: Any) -> None:
        self.file, self.unpacker, self.packed, self.plain = file, unpacker, b"", b""
        self.frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.plain:
            self.packed = self.packed or self.file.read(4096)  # few, because a hostile one grows 30,000 times
            if not self.packed:
                if self.frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self.frame = self.frame or self.unpacker.decompressobj()
            self.plain = self.frame.decompress(self.packed)
            self.packed = self.frame.unused_data if self.frame.eof else b""
            if self.frame.eof:
                self.frame = None
        part = self.plain[: len(buffer)]
        self.plain = self.plain[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def _lines(path: str, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first, lines) as they come: many at a time from a file, from a pipe what it holds."""
    line = 1
    rest: list[bytes] = []  # of a line whose end has not come yet
    try:
        with _open(path) as file:
            while block := file.read1(BLOCK):  # type: ignore[attr-defined]
                whole, end, tail = block.rpartition(b"\n")
                if not end:
                    rest.append(block)
                    continue
                lines = b"".join((*rest, whole)).split(b"\n")
                rest = [tail]
                if line == 1:
                    lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)  # as Windows writes it
                yield line, lines
                line += len(lines)
            if last := b"".join(rest):
                yield line, [last.removeprefix(codecs.BOM_UTF8) if line == 1 else last]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(name, line - 1, error) from error
    except OSError as error:
        raise CommonArtError(f"{name} cannot be read: {error.strerror or error}.", "Check the path.") from error
    except Exception as error:
        # zstandard is imported only where a .zst is read, so its error is known by name.
        if type(error).__name__ != "ZstdError":
            raise
        raise _damaged(name, line - 1, error) from error


def _parse(text: bytes) -> Any:
    """JSON; the few lines that other tools wrote less strictly are parsed once more."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if not text or text.startswith(codecs.BOM_UTF8):  # it belongs to the start of a file
            raise
        return parse_json(text)


def _values(lines: list[bytes], name: str, first: int) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(lines, first):
        try:
            value = _parse(text)
            if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
                orjson.dumps(value)  # what could not be written again is not a record
        except ValueError as error:
            if text.strip():
                raise SchemaError(name, line, "", f"is not JSON ({error})") from None
            continue
        except TypeError:
            raise SchemaError(name, line, "", "is nested too deeply") from None
        yield line, value


def read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line) for each line that is not blank, whatever it holds.

    Raises CommonArtError for a file that is missing, unreadable, or damaged as a gzip or zstd stream.
    """
    for first, lines in _lines(path, "stdin" if path == "-" else path):
        yield from ((number, line) for number, line in enumerate(lines, first) if line and not line.isspace())


def read_values(path: str) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) for each line that is not blank. Raises SchemaError for one that is not JSON."""
    name = "stdin" if path == "-" else path
    for first, lines in _lines(path, name):
        yield from _values(lines, name, first)


def _damaged(name: str, line: int, error: Exception) -> CommonArtError:
    return CommonArtError(f"{name} is damaged after line {line}: {error}.", "Fetch or write that file again.")


class SeenKeys:
    """The keys that were read: in two generations, so that memory stays constant."""

    def __init__(self) -> None:
        self._recent: dict[str, int] = {}
        self._older: dict[str, int] = {}

    def add(self, key: str, name: str, line: int) -> None:
        """Remember the key of a line. Raises SchemaError where it was there before."""
        if (first := self._recent.get(key) or self._older.get(key)) is not None:
            raise SchemaError(name, line, "key", f"{key!r} stands on line {first} too")
        if len(self._recent) >= WINDOW:
            self._older, self._recent = self._recent, {}
        self._recent[key] = line

    def add_new(self, keys: list[str], first: int) -> bool:
        """Remember the keys of lines that follow each other, unless one was there before or a generation ends: `add` them."""
        new = dict(zip(keys, count(first), strict=False))
        if len(new) < len(keys) or len(self._recent) + len(new) > WINDOW:
            return False
        if not (self._recent.keys().isdisjoint(new) and self._older.keys().isdisjoint(new)):
            return False
        self._recent |= new
        return True


def read(path: str, notes: list[Note] | None = None) -> Iterator[Record]:
    """Yield the records of a `.jsonl[.gz|.zst]` file or of stdin (`-`), each checked, `image` rebased to the working folder.

    What a record carries as the note of its pipe is taken out, and goes to `notes`.
    Raises SchemaError for a line that is not a record or whose key an earlier one has, and as `read_lines`.
    """
    name = "stdin" if path == "-" else path
    folder = "" if path == "-" else os.path.dirname(path)
    keys = SeenKeys()
    for first, lines in _lines(path, name):
        batch = _parse_uniform(lines)
        if batch is None or FIELD in batch[0] or not keys.add_new(list(map(_KEY, batch)), first):
            for line, value in _values(lines, name, first):
                if isinstance(value, dict) and is_note(value.get(FIELD)):
                    note = value.pop(FIELD)
                    if notes is not None:
                        notes.append(note)
                record = check(value, name, line)
                keys.add(record["key"], name, line)
                yield _rebased(folder, record)
        else:
            if folder and "image" in batch[0]:
                _rebase_all(folder, batch)
            yield from batch


def _parse_uniform(lines: list[bytes]) -> list[Record] | None:
    """The records of these lines where all are what they mostly are: whole, alike in their fields, and fitting the schema."""
    try:
        records = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return None
    return records if all_fit(records) else None


def _rebase_all(folder: str, batch: list[Record]) -> None:
    """`_rebased` for records that all have an image, most of them in the tar of the one before."""
    old_prefix, new_prefix = "\n", ""  # which no pointer begins with
    for record in batch:
        pointer = record["image"]
        if pointer.startswith(old_prefix) and ".tar#" not in (rest := pointer[len(old_prefix) :]):
            record["image"] = new_prefix + rest
        else:
            record["image"] = rebase(pointer, folder, "")
            path, member = split_pointer(pointer)
            if member is not None:
                old_prefix, new_prefix = f"{path}#", f"{split_pointer(record['image'])[0]}#"


def _rebased(folder: str, record: Record) -> Record:
    if folder and "image" in record:
        record["image"] = rebase(record["image"], folder, "")
    return record


class JsonlWriter:
    """Writes records, one a line, as a context manager. A file is complete or absent; stdout is flushed twice a second.

    Without `overwrite` a file that exists is only confirmed, so that the same command may run again: the first record that
    differs from it is an error. An empty one, as `mktemp` makes it, is replaced. With `notes` the last record is held back
    until the end, and leaves with what `note` then is (`core.data.notes`).
    Raises CommonArtError where the file holds other records, ReaderGone where whoever read stdout has closed it.
    """

    def __init__(self, path: str, *, overwrite: bool = True, notes: bool = False) -> None:
        self.path = path
        self.note: dict[str, Any] | None = None
        self._notes, self._lines = notes, list[bytes]()
        self.folder = "" if path == "-" else os.path.dirname(path)
        self.count = 0
        holds_records = path != "-" and os.path.isfile(path) and os.path.getsize(path) > 0
        self._confirmed = read_lines(path) if holds_records and not overwrite else None
        self._flushed = time.monotonic()

    def __enter__(self) -> JsonlWriter:
        if self.path == "-" and sys.stdout is None:
            raise CommonArtError("stdout is closed.", "Give a file or a folder: -o FILE.jsonl.")
        self._target = _stdout() if self.path == "-" else atomic_write(self.path)
        self._file = self._target.__enter__()
        self._out: Any = _compressor(self.path, self._file)
        return self

    def write(self, record: Record) -> None:
        """Write one record; its `image` is rebased from the working folder to the file's."""
        if self.folder and (pointer := record.get("image")):
            # Changed while the line is made: a copy of the record would cost as much as its line.
            record["image"] = rebase(pointer, "", self.folder)
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            record["image"] = pointer
        else:
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if self._confirmed is not None and next(self._confirmed, (0, b""))[1] != line[:-1]:
            raise self._holds_others()
        self._lines.append(line)
        self.count += 1
        if len(self._lines) > LINES or (self.path == "-" and time.monotonic() - self._flushed > FLUSH_SECONDS):
            self._put(1 if self._notes else 0)

    def _put(self, held: int) -> None:
        """Write the lines that are waiting, but for the last `held`."""
        ready = len(self._lines) - held
        lines, self._lines = self._lines[:ready], self._lines[ready:]
        try:
            self._out.write(b"".join(lines))
            if self.path == "-":
                self._file.flush()
                self._flushed = time.monotonic()
        except BrokenPipeError:
            raise ReaderGone from None

    def __exit__(self, *error: Any) -> None:
        try:
            if not isinstance(error[1], ReaderGone):
                self._end(complete=error[0] is None)
        except BaseException as problem:
            if error[0] is None:
                self._target.__exit__(type(problem), problem, None)
                raise
        self._target.__exit__(*error)

    def _end(self, complete: bool) -> None:
        """Write what is waiting, with the note; of a complete output also what a compressor holds."""
        if self._lines and complete and self.note is not None:
            note = b',"%b":%b' % (FIELD.encode(), orjson.dumps(self.note))
            self._lines[-1] = self._lines[-1][:-2] + note + b"}\n"
        self._put(0)
        if complete and self._confirmed is not None and next(self._confirmed, None) is not None:
            raise self._holds_others()
        if complete and self._out is not self._file:
            self._out.close()

    def _holds_others(self) -> CommonArtError:
        return CommonArtError(
            f"{self.path} already exists, and holds other records.",
            "Pass --overwrite to replace it, or give another -o.",
        )


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def _compressor(path: str, file: IO[bytes]) -> Any:
    """The stream to write to; for a compressed file, one whose `close` leaves `file` open."""
    if path.endswith(".gz"):
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    if path.endswith(".zst"):
        import zstandard

        return zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    return file
