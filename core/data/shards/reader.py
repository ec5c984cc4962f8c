"""Shards: tars in WebDataset naming (`KEY.json`, `KEY.jpg`), written reproducibly, read by member.

tar tf shards/00000.tar | head -2
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

import orjson

from commonart.core.data.record import Record, check, split_pointer
from commonart.core.data.shards.tar import headers
from commonart.core.data.shards.tar_index import Members, read_index, split_name
from commonart.core.errors import CommonArtError, SchemaError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "tif", "tiff")
MAX_MEMBER = 1 << 30  # bytes; a larger member is no image, caption or feature


def list_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """The `.tar` files of a folder, by name.

    Raises:
        CommonArtError: the folder is missing, is no folder, or holds no shard.
    """
    path = Path(folder)
    if not path.exists():
        raise CommonArtError(f"{path} does not exist.", "Give a folder of shards (.tar).")
    if not path.is_dir():
        raise CommonArtError(f"{path} is no folder.", "Give a folder of shards (.tar).")
    shards = sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))
    if not shards:
        raise CommonArtError(f"{path} holds no shards (*.tar).", "Make some: commonart shard raw/ -o shards/.")
    return shards


def members(path: str | os.PathLike[str]) -> Members:
    """Where each member of a tar begins and how long it is; from its index, else from its headers, and cached.

    Raises:
        CommonArtError: the tar is missing, cut short or damaged, or holds a member that is no plain file.
    """
    try:
        about = os.stat(path)
    except OSError as error:
        raise CommonArtError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    return _members(os.fspath(path), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _members(path: str, size: int, mtime_ns: int) -> Members:
    indexed = read_index(path)
    if indexed is not None:
        return indexed
    found: Members = {}
    try:
        with open(path, "rb") as file:
            for member in headers(file):
                if not member.plain:
                    raise CommonArtError(
                        f"{path} holds '{member.name}', which is no plain file.",
                        "Give a tar of plain files only.",
                    )
                if member.size > MAX_MEMBER:
                    raise CommonArtError(
                        f"{path} holds '{member.name}' of {member.size:,} bytes.", "No sample is that large."
                    )
                if member.name in found:
                    raise CommonArtError(f"{path} holds '{member.name}' twice.", "Make that shard again.")
                found[member.name] = (member.offset, member.size)
    except tarfile.TarError as error:
        raise CommonArtError(f"{path} is no whole tar: {error}.", "Make or fetch that shard again.") from error
    except OSError as error:
        raise CommonArtError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error
    return found


def read_members(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yield (key, {extension: (offset, size)}) for each sample of a shard, in the order of its members.

    The key is the name up to its first dot, as WebDataset has it.
    """
    key, group = "", dict[str, tuple[int, int]]()
    for name, place in members(path).items():
        stem, extension = split_name(name)
        if stem != key and group:
            yield key, group
            group = {}
        key = stem
        group[extension] = place
    if group:
        yield key, group


def read_shard(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield a shard's records, with `image` pointing at the member that holds the pixels.

    Raises:
        SchemaError: a sample without `KEY.json`, a record that breaks the schema or whose key is not its member's.
        CommonArtError: a damaged tar.
    """
    path = os.fspath(path)
    seen = set[str]()
    with open_shard(path) as file:
        for key, group in read_members(path):
            if "json" not in group:
                raise SchemaError(path, key, "", "has no .json beside it")
            file.seek(group["json"][0])
            name = f"{key}.json"
            try:
                value = orjson.loads(file.read(group["json"][1]))
            except orjson.JSONDecodeError as error:
                raise SchemaError(path, name, "", f"is no JSON ({error})") from None
            record = check(value, path, name)
            if record["key"] != key:
                raise SchemaError(path, name, "key", f"is {record['key']!r}, but the member is named {key!r}")
            if key in seen:
                raise SchemaError(path, name, "key", f"{key!r} stands in this shard twice")
            seen.add(key)
            extension = next((e for e in group if e.lower() in IMAGE_EXTENSIONS), None)
            if extension is not None:
                record["image"] = f"{path}#{key}.{extension}"
            yield record


def open_shard(path: str) -> IO[bytes]:
    """Open a shard for reading, with the error of `members` when it cannot be."""
    members(path)
    return open(path, "rb")


def read_bytes(pointer: str) -> bytes:
    """The bytes behind a record's `image`: a file, or one member of a tar.

    Raises:
        CommonArtError: the file or the member is not there.
    """
    path, member = split_pointer(pointer)
    try:
        if member is None:
            with open(path, "rb", opener=_plain_file) as file:
                return file.read()
        place = members(path).get(member)
        if place is None:
            raise CommonArtError(
                f"{path} holds no '{member}'.", "The record points at another shard: write both again."
            )
        with open(path, "rb", buffering=0) as file:  # one read: a buffer would only be copied
            file.seek(place[0])
            return file.read(place[1])
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        said = getattr(error, "strerror", None) or error
        raise CommonArtError(f"{path!r} cannot be read: {said}.", "Check the record's image.") from error


def _plain_file(path: str, flags: int) -> int:
    """Open a file, and no device or pipe that a record names: those may never end, or never begin."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    about = os.fstat(handle)
    if stat.S_ISREG(about.st_mode) and about.st_size <= MAX_MEMBER:
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "no plain file of a picture's size", path)


def read_image(record: Record) -> tuple[bytes, str]:
    """The bytes of a record's image, and the extension of its name, or of what it turns out to be.

    Raises:
        CommonArtError: no image, or one that cannot be read.
    """
    pointer = record.get("image", "")
    if not pointer:
        raise CommonArtError(
            f"record '{record['key']}' has no image to put into a shard.", "Write JSONL instead: -o FILE.jsonl."
        )
    path, member = split_pointer(pointer)
    data = read_bytes(pointer)
    extension = os.path.basename(member or path).rpartition(".")[2]
    return data, extension if extension.lower() in IMAGE_EXTENSIONS else _extension_of(data, pointer)


def _extension_of(data: bytes, pointer: str) -> str:
    from commonart.core.data.images.decode import DecodeError, probe

    try:
        return probe(data).mime.partition("/")[2].replace("jpeg", "jpg")
    except DecodeError as error:
        raise CommonArtError(
            f"{pointer} has no image's name, and what it holds is none: {error.detail}.", "Leave that record out."
        ) from None
