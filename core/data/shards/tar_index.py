"""The index beside a shard, `00000.idx`: where each member begins, so that one sample is read without reading the tar's headers.

    v1.2 1000 3f5a...                                              # version, samples, SHA-256 of the tar
    json 512 812 coco_1.json jpg 2048 41233 coco_1.jpg             # extension, offset, size and name of each member

It is the format of NVIDIA DALI's WebDataset reader (tools/wds2idx.py there), and our hash behind the count ties it to its tar.
"""

from __future__ import annotations

import os
from itertools import groupby, islice
from pathlib import Path

from commonart.core.data.files import write_bytes
from commonart.core.data.shards.manifest import finished

Span = tuple[int, int]  # offset and size of a member's bytes
Members = dict[str, Span]  # by name

VERSION = "v1.2"


def split_name(name: str) -> tuple[str, str]:
    """Return (key, extension) of a member: its name up to the first dot behind its folders, as WebDataset has it, and the rest."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension


def index_path(tar: str | os.PathLike[str]) -> Path:
    """`00000.tar` -> `00000.idx`."""
    return Path(tar).with_suffix(".idx")


def write_index(tar: Path, members: Members, sha256: str) -> None:
    """Write the index of a shard that was just written whole."""
    lines = [
        " ".join(f"{split_name(name)[1]} {offset} {size} {name}" for name, (offset, size) in group)
        for _, group in groupby(members.items(), key=lambda item: split_name(item[0])[0])
    ]
    write_bytes(index_path(tar), "\n".join([f"{VERSION} {len(lines)} {sha256}", *lines, ""]).encode())


def read_index(tar: str | os.PathLike[str]) -> Members | None:
    """Return the members of a shard from its index; None where there is none, or it belongs to other bytes."""
    manifest = finished(Path(tar))
    if manifest is None:
        return None
    try:
        head, *lines = index_path(tar).read_text("utf-8").splitlines()
        version, count, sha256 = head.split(" ")
        if (version, sha256) != (VERSION, manifest.sha256) or int(count) != len(lines):
            return None
        fields = iter(" ".join(lines).split())
        members: Members = {}
        while part := tuple(islice(fields, 4)):
            _, offset, size, name = part
            members[name] = (int(offset), int(size))
        return members
    except (OSError, ValueError):  # the headers say the same
        return None
