"""The log of what was made: `--log made.jsonl` adds a line for every image, and `inspect --log` asks it "is this ours?".

A line holds the SHA-256 of the file's bytes and of its pixels, the perceptual hash and the colours of `core.data.images.phash`,
the prompt (its SHA-256 where the file was to say nothing of it), model, revision, seed and time. Each is written by one call to
a file that is open for appending, so several processes may share it; a line that a full disk cut short is skipped and counted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from commonart.core.data.images import decode, phash
from commonart.core.errors import CommonArtError

SHOWN = 5  # near matches


@dataclass(frozen=True, slots=True)
class LogMatches:
    """What a log says of an image."""

    how: str  # file: these bytes; pixels: the same pixels in another file; near: a picture that looks alike; none
    entries: list[dict[str, Any]]
    lines: int
    damaged: int  # lines that are no entries


def check(path: str) -> None:
    """Create the log where there is none. Raises CommonArtError where it cannot be appended to."""
    with _naming(path):
        os.close(_open(path))


def append(path: str, data: bytes, settings: Mapping[str, Any], private: bool) -> None:
    """Add the line of an image whose file holds `data`; `private`: the prompt's SHA-256 in place of the prompt.

    Raises CommonArtError where it cannot be written, a full disk among them.
    """
    prompt = str(settings.get("prompt", ""))
    entry = {
        **hashes(data),
        **({"prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()} if private else {"prompt": prompt}),
        **{name: settings.get(name) for name in ("model", "revision", "seed")},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
    with _naming(path):
        file = _open(path)
        try:
            if _cut_short(file):
                line = b"\n" + line
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)


def hashes(data: bytes) -> dict[str, str]:
    """Return {"sha256", "pixels", "phash", "chroma"} of an image file. Raises DecodeError."""
    image = decode.decode(data)
    size = f"{image.width}x{image.height}:".encode()
    return {
        "sha256": hashlib.sha256(data).hexdigest(), "pixels": hashlib.sha256(size + image.tobytes()).hexdigest(),
        "phash": phash.phash(image), "chroma": phash.chroma(image),
    }  # fmt: skip


def find(path: str, data: bytes) -> LogMatches:
    """Look for an image file in a log: for its bytes, else its pixels, else for what looks like it, the nearest first.

    Raises CommonArtError where the log cannot be read, DecodeError where `data` is no image.
    """
    wanted = hashes(data)
    exact: dict[str, list[dict[str, Any]]] = {"sha256": [], "pixels": []}
    near: list[tuple[int, int, dict[str, Any]]] = []
    lines = damaged = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if not line.strip():  # what `_cut_short` adds where another process is still writing
                    continue
                lines += 1
                entry = _entry(line)
                if entry is None:
                    damaged += 1
                    continue
                for name, found in exact.items():
                    if entry[name] == wanted[name]:
                        found.append(entry)
                if (distance := _distance(entry, wanted)) is not None:
                    near = sorted([*near, (distance, lines, entry)], key=lambda each: each[:2])[:SHOWN]
    except OSError as error:
        what = f"--log {path} cannot be read ({error.strerror})."
        raise CommonArtError(what, "Name a file that `sample --log` or `serve --log` has written.") from None
    for how, found in (("file", exact["sha256"]), ("pixels", exact["pixels"]), ("near", [each[2] for each in near])):
        if found:
            return LogMatches(how, found[:SHOWN], lines, damaged)
    return LogMatches("none", [], lines, damaged)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def _cut_short(file: int) -> bool:
    """Return whether the last line has no end."""
    try:
        os.lseek(file, -1, os.SEEK_END)
        return os.read(file, 1) != b"\n"
    except OSError:  # an empty file, or a pipe
        return False


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"--log {path} cannot be written ({error.strerror})."
        raise CommonArtError(what, "Name a file in a folder that exists and is writable, with free space.") from None


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    names = ("sha256", "pixels", "phash", "chroma")
    return entry if isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in names) else None


def _distance(entry: Mapping[str, Any], wanted: Mapping[str, str]) -> int | None:
    """Return in how many bits two perceptual hashes differ; None where they are not near, or too flat to tell."""
    try:
        ours, theirs = int(entry["phash"], 16), int(wanted["phash"], 16)
    except ValueError:
        return None
    bits = (ours ^ theirs).bit_count()
    if bits > phash.NEAR or min(ours.bit_count(), theirs.bit_count()) < phash.TELLING:
        return None
    colors = [phash.chroma_values(text)[None] for text in (entry["chroma"], wanted["chroma"])]
    return bits if phash.colors_alike(*colors)[0] else None
