"""Shards: tars in WebDataset naming (`KEY.json`, `KEY.jpg`), read by member."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import orjson

from commonart.core.data.record import Record, check, split_pointer
from commonart.core.data.shards.tar import headers
from commonart.core.data.shards.tar_index import Members, Span, read_index, split_name
from commonart.core.data.text import parse_json
from commonart.core.errors import CommonArtError, SchemaError, UsageError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "tif", "tiff", "avif", "bmp", "heic", "heif")
MAX_MEMBER = 1 << 30  # bytes; no image, caption or feature is larger
MAKE_SHARDS = "Make shards: commonart shard raw/ -o shards/."


def list_shards(folder: str | os.PathLike[str], fix: str = MAKE_SHARDS) -> list[Path]:
    """Return the `.tar` files of a folder, by name; `fix` is the advice where there are none.

    Raises:
        UsageError: it is not a folder.
        CommonArtError: the folder does not exist, or holds no shard.
    """
    path = Path(folder)
    if not path.exists():
        raise CommonArtError(f"{path} does not exist.", fix)
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder.", "Give a folder of shards (.tar).")
    shards = sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))
    if not shards:
        raise CommonArtError(f"{path} holds no shards (*.tar).", fix)
    return shards


def members(path: str | os.PathLike[str]) -> Members:
    """Return where each member of a tar begins and how long it is; from its index, else from its headers, and cached.

    Raises CommonArtError where the tar is missing, cut short or damaged, or holds a member twice or one that is too large.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise CommonArtError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    return _members(os.fspath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _members(path: str, size: int, mtime_ns: int) -> Members:
    indexed = read_index(path)
    if indexed is not None:
        return indexed
    located: Members = {}
    try:
        with open(path, "rb") as file:
            for member in headers(file):
                name = member.name.removeprefix("./")  # as `tar -C folder .` writes it
                # Folders and links hold no bytes, and bsdtar writes a Mac's attributes as `._NAME` before each NAME.
                if not member.plain or name.rpartition("/")[2].startswith("._"):
                    continue
                if member.size > MAX_MEMBER:
                    raise CommonArtError(
                        f"{path} holds '{name}' of {member.size:,} bytes.", f"A sample has at most {MAX_MEMBER:,}."
                    )
                if name in located:
                    raise CommonArtError(f"{path} holds '{name}' twice.", "Make that shard again.")
                located[name] = (member.offset, member.size)
    except tarfile.TarError as error:
        raise CommonArtError(f"{path} is not a complete tar: {error}.", "Make or fetch that shard again.") from error
    except OSError as error:
        raise CommonArtError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error
    return located


def read_members(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Span]]]:
    """Yield (stem, {extension: span}) for each sample of a shard, by its first member; the others may stand anywhere.

    The stem is the name up to its first dot, with its folders, as WebDataset has it.
    """
    samples = dict[str, dict[str, Span]]()
    for name, span in members(path).items():
        stem, extension = split_name(name)
        samples.setdefault(stem, {})[extension] = span
    yield from samples.items()


def read_shard(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield a shard's records, with `image` pointing at the member that holds the pixels.

    Raises:
        SchemaError: a sample without `KEY.json`, a record that breaks the schema or whose key is not its member's.
        CommonArtError: a damaged tar.
    """
    path = os.fspath(path)
    seen = set[str]()
    members(path)  # its errors are sentences
    with open(path, "rb") as file:
        for stem, sample in read_members(path):
            if "json" not in sample:
                raise SchemaError(path, stem, "", "has no .json beside it")
            name, (offset, size) = f"{stem}.json", sample["json"]
            file.seek(offset)
            data = file.read(size)
            try:
                try:
                    value = orjson.loads(data)
                except orjson.JSONDecodeError:
                    value = parse_json(data)  # as other tools write it
            except ValueError as error:
                raise SchemaError(path, name, "", f"is not JSON ({error})") from None
            if isinstance(value, dict) and "key" not in value:
                raise SchemaError(path, name, "key", "is missing (tars of other tools are read by commonart fetch)")
            record = check(value, path, name)
            key = record["key"]
            if key != stem.rpartition("/")[2]:
                raise SchemaError(path, name, "key", f"is {key!r}, but the member is named {stem!r}")
            if key in seen:
                raise SchemaError(path, name, "key", f"{key!r} stands in this shard twice")
            seen.add(key)
            extension = next((e for e in sample if e.lower() in IMAGE_EXTENSIONS), None)
            if extension is not None:
                record["image"] = f"{path}#{stem}.{extension}"
            yield record


def read_span(path: str | os.PathLike[str], span: Span) -> bytes:
    """Return the bytes of one member, in one read: a buffer would only be copied."""
    with open(path, "rb", buffering=0) as file:
        file.seek(span[0])
        return file.read(span[1])


def read_bytes(pointer: str) -> bytes:
    """Return the bytes behind a record's `image`, a file or one member of a tar. Raises CommonArtError where it is gone."""
    path, member = split_pointer(pointer)
    try:
        if member is None:
            with open(path, "rb", opener=_regular_file) as file:
                return file.read()
        span = members(path).get(member)
        if span is None:
            raise CommonArtError(
                f"{path} does not hold '{member}'.", "The record belongs to another shard: write both again."
            )
        return read_span(path, span)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        why = getattr(error, "strerror", None) or error
        raise CommonArtError(f"{path!r} cannot be read: {why}.", "Check the record's image.") from error


def _regular_file(path: str, flags: int) -> int:
    """Open a file, but not a device or pipe that a record names: those may never end, or never begin."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_MEMBER:
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "not a regular file, or too large for an image", path)


def read_image(record: Record) -> tuple[bytes, str]:
    """Return the bytes of a record's image, and the extension of its name, or of what it turns out to be.

    Raises CommonArtError for no image, or one that cannot be read.
    """
    pointer = record.get("image", "")
    if not pointer:
        raise CommonArtError(
            f"record '{record['key']}' has no image to put into a shard.", "Write JSONL instead: -o FILE.jsonl."
        )
    path, member = split_pointer(pointer)
    data = read_bytes(pointer)
    extension = os.path.basename(member or path).rpartition(".")[2]
    if extension.lower() in IMAGE_EXTENSIONS:
        return data, extension
    from commonart.core.data.images.decode import DecodeError, probe

    try:
        return data, probe(data).mime.partition("/")[2].replace("jpeg", "jpg")
    except DecodeError as error:
        raise CommonArtError(f"{pointer} is not an image: {error.detail}.", "Leave that record out.") from None
