"""The file of votes: JSONL that grows by whole lines, each on the disk before its voter sees the next pair.

A kill loses at most the vote that nobody has been thanked for. Several voters, and several servers too, may write to one
file: each line is one write under a lock, and no voter's second answer to a comparison is taken.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from commonart.core.errors import CommonArtError, SchemaError
from commonart.core.log import warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHOICES = ("left", "right", "tie", "both_bad")
Vote = dict[str, Any]
_BEGIN = b'{"study":"'  # of every line
_TEXTS = ("study", "voter", "comparison", "left", "right", "vote")


def read_votes(path: str) -> list[Vote]:
    """Return the votes of a file, the first of each voter on each comparison.

    A last line without an end is a kill's: it is left out with a warning.

    Raises:
        CommonArtError: the file is missing, holds no votes, or votes of several studies.
        SchemaError: a line that is not a vote.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CommonArtError(f"{path} cannot be read: {error.strerror}.", "Name a file of commonart vote.") from None
    *lines, rest = data.split(b"\n")
    if rest and not _is_vote(rest):
        warn(f"{path}: the last line was cut off, as by a kill; it is left out")
    elif rest:
        lines.append(rest)
    votes: dict[tuple[str, str, str], Vote] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            vote = _parse(line, path, number)
            votes.setdefault((vote["study"], vote["voter"], vote["comparison"]), vote)
    if not votes:
        raise CommonArtError(f"{path} holds no votes.", "Let people vote first: commonart vote A/ B/.")
    studies = {vote["study"] for vote in votes.values()}
    if len(studies) > 1:
        raise CommonArtError(
            f"{path} holds votes of {len(studies)} studies, whose images differ: {', '.join(sorted(studies))}.",
            f'Take one at a time: grep \'"study":"{min(studies)}"\' {path} > one.jsonl.',
        )
    return list(votes.values())


class VoteFile:
    """An open file of votes of one study; its methods may be called from several threads."""

    def __init__(self, path: str, study: str) -> None:
        """Open or create a file, and take in what it holds.

        Raises:
            CommonArtError: it cannot be written, or holds something else than votes of this study.
        """
        self.path, self.study = path, study
        self._answered: dict[str, set[str]] = {}
        self._lock, self._seen, self._line, self.count = threading.Lock(), 0, 0, 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise CommonArtError(f"-o {path} cannot be written: {error.strerror}.", "Choose another file.") from None
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise CommonArtError(f"-o {path} is not a file that keeps votes.", "Name a .jsonl.")
            with self._locked():
                self._catch_up()
        except BaseException:
            self.close()
            raise

    def answered(self, voter: str) -> set[str]:
        """Return the comparisons that a voter has answered, on other servers of this file too."""
        with self._locked():
            self._catch_up()
            return set(self._answered.get(voter, ()))

    def add(self, vote: Vote) -> bool:
        """Append a vote and wait until the disk has it; False where its voter had answered the comparison before.

        Raises:
            CommonArtError: it could not be written; nothing of it is left in the file.
        """
        line = orjson.dumps(vote, option=orjson.OPT_APPEND_NEWLINE)
        with self._locked():
            self._catch_up()
            if vote["comparison"] in self._answered.get(vote["voter"], ()):
                return False
            end = os.fstat(self._fd).st_size
            try:
                if os.write(self._fd, line) < len(line):
                    raise OSError(28, "the disk is full")
                os.fsync(self._fd)
            except OSError as error:
                os.ftruncate(self._fd, end)
                what = f"The vote was not saved: {self.path} cannot be written ({error.strerror})."
                raise CommonArtError(what, "Free some space, then vote again.") from None
            self._catch_up()
            self.count += 1
            return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            if fcntl is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if fcntl is not None:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Take in what others have appended. Whoever holds the lock mends an end that a kill left."""
        size = os.fstat(self._fd).st_size
        if size < self._seen:
            what = f"{self.path} has become shorter while it was in use."
            raise CommonArtError(what, "Start commonart vote again; do not edit the file meanwhile.")
        os.lseek(self._fd, self._seen, os.SEEK_SET)
        data = b""
        while block := os.read(self._fd, size - self._seen - len(data)):
            data += block
        *lines, rest = data.split(b"\n")
        if rest and _is_vote(rest):  # an editor's last line, without an end
            os.write(self._fd, b"\n")
            lines, size = [*lines, rest], size + 1
        elif rest:
            if rest[: len(_BEGIN)] != _BEGIN[: len(rest)]:  # somebody else's file, of which nothing is removed
                raise SchemaError(self.path, self._line + len(lines) + 1, "", "is not a vote")
            warn(f"{self.path}: the last line was cut off, as by a kill; it is removed, and its voter asked again")
            size -= len(rest)
            os.ftruncate(self._fd, size)
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            vote = _parse(line, self.path, self._line)
            if vote["study"] != self.study:
                raise CommonArtError(
                    f"-o {self.path} holds votes of another study ({vote['study']}, this one is {self.study}): the images "
                    "or the names of their folders differ.",
                    "Give this study a file of its own: -o FILE.",
                )
            self._answered.setdefault(vote["voter"], set()).add(vote["comparison"])
        self._seen = size


def _is_vote(line: bytes) -> bool:
    try:
        return bool(_parse(line, "", 0))
    except SchemaError:
        return False


def _parse(line: bytes, path: str, number: int) -> Vote:
    try:
        vote = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SchemaError(path, number, "", f"is not valid JSON ({error})") from None
    if not isinstance(vote, dict):
        raise SchemaError(path, number, "", "is not a vote")
    for name in _TEXTS:
        if not isinstance(vote.get(name), str) or not vote[name]:
            raise SchemaError(path, number, name, "must be a text")
    if vote["vote"] not in CHOICES:
        raise SchemaError(path, number, "vote", f"must be one of {', '.join(CHOICES)}")
    if not isinstance(vote.get("check"), bool):
        raise SchemaError(path, number, "check", "must be true or false")
    return vote
