"""A folder of images as records: `commonart fetch photos/ --license "CC BY 4.0" --list`."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from commonart.core.data.drops import PassedOver, Problem
from commonart.core.data.record import Record, check, make_key
from commonart.core.data.sources import sidecars
from commonart.core.data.sources.attribution import SourceOptions, modified_at
from commonart.core.data.sources.tables import SUFFIXES as TABLE_SUFFIXES
from commonart.core.data.sources.tables import Row, read_rows
from commonart.core.errors import CommonArtError, SchemaError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jpg_large", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif",
    ".jxl", ".jp2",
)  # fmt: skip
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's ImageFolder
# How the files of these formats begin, at offset 0 or, behind the size of a box, at 4.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a\xff", b"\xff\x0a\x00")
_BOXES = (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1", b"JXL \r\n", b"jP  \r\n")


def list_folder(folder: Path, entries: Mapping[Path, Problem | None], options: SourceOptions) -> Iterator[Record]:
    """Yield the images among the `entries` of a folder, see `walk`, with what the files beside them say.

    An image is a file with the suffix of one, or with another that begins like one. Its sidecars are `NAME.json`, `NAME.txt`
    and `NAME.caption`, where NAME is with or without its suffix, and its row in the `metadata.jsonl`, `.csv` or `.parquet` of
    its folder. Whatever is not taken comes as `PassedOver`, in its place. Raises CommonArtError where there is no image.
    """
    source = _printable(folder.resolve().name or "folder")
    images = [path for path, problem in entries.items() if problem is None and _is_image(path)]
    if not images:
        raise CommonArtError(
            f"{folder} holds no images, tables or tars.", f"Images end in {', '.join(IMAGE_SUFFIXES)}."
        )
    stems = Counter(path.with_suffix("") for path in images)
    beside = _sidecars(images, entries)
    metadata = [path for path in entries if path.name in METADATA]
    rows, rows_without_image = _metadata_rows(images, metadata, folder)
    read = {*metadata, *(sidecar for found in beside.values() for sidecar in found)}
    for path, problem in entries.items():
        inside = path.relative_to(folder)
        name = _printable(inside.as_posix())
        if path in beside:
            # Two files may differ in their suffix alone; then the suffix belongs to the key.
            stem = inside if stems[path.with_suffix("")] > 1 else inside.with_suffix("")
            record: Record = {
                "key": make_key(source, _printable(stem.as_posix())),
                "image": _printable(str(path)),
                "source": source,
                "source_id": name,
            }
            if any(map(str.isalpha, path.stem)):  # "000000001" is a number, not a title
                record["title"] = _printable(path.stem)
            yield _described(record, path, beside[path], rows[path], options)
        elif path not in read:
            reason, detail, _ = problem or Problem("other_file", "neither an image nor a sidecar of one")
            yield PassedOver.named(source, name, reason, detail)
    for name, problem in rows_without_image:
        yield PassedOver.named(source, name, problem.reason, problem.detail, rule=False)


def walk(folder: Path) -> dict[Path, Problem | None]:
    """Return the files of a folder and its sub-folders, linked ones too, by name; each with why it is not looked at, or None.

    Raises OSError where a folder cannot be read.
    """

    def refused(error: OSError) -> None:
        raise error  # a folder that may not be read would be left out without a word

    entries: dict[Path, Problem | None] = {}
    visited = set[tuple[int, int]]()
    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        about = os.stat(parent)
        if (about.st_dev, about.st_ino) in visited:
            entries[Path(parent)] = Problem("linked_twice", "a link to a folder that was read before")
            folders[:] = []
            continue
        visited.add((about.st_dev, about.st_ino))
        folders.sort()
        for name in [*folders, *names]:
            if name.startswith("."):
                entries[Path(parent, name)] = Problem("hidden", "its name begins with a dot")
            elif name not in folders:
                entries[Path(parent, name)] = None
        folders[:] = [name for name in folders if not name.startswith(".")]
    return dict(sorted(entries.items()))


def _is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image or, with another suffix, begins like one."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    if path.suffix.lower() in (*sidecars.SUFFIXES, *TABLE_SUFFIXES, ".tar"):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or head[4:].startswith(_BOXES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _sidecars(images: Sequence[Path], entries: Mapping[Path, Problem | None]) -> dict[Path, list[Path]]:
    """The sidecars of each image, found whatever the case of their suffixes."""
    by_stem = defaultdict[Path, list[Path]](list)
    for path, problem in entries.items():
        if problem is None and path.suffix.lower() in sidecars.SUFFIXES:
            by_stem[path.with_suffix("")].append(path)
    return {image: [*by_stem.get(image.with_suffix(""), ()), *by_stem.get(image, ())] for image in images}


def _metadata_rows(
    images: Sequence[Path], tables: Sequence[Path], folder: Path
) -> tuple[Mapping[Path, list[Row]], list[tuple[str, Problem]]]:
    """The rows of each image in the ImageFolder's tables, and what is wrong with those that no image has."""
    rows: dict[Path, list[Row]] = {image: [] for image in images}
    unused: list[tuple[str, Problem]] = []
    for table in tables:
        for number, row in read_rows(table):
            name = f"{table.relative_to(folder).as_posix()}:{number}"
            if isinstance(row, Problem):
                unused.append((name, row))
            elif (image := table.parent / str(row.get("file_name", ""))) in rows:
                rows[image].append(row)
            else:
                unused.append((name, Problem("no_image", f"there is no {row.get('file_name', '')!r} beside it")))
    return rows, unused


def _described(
    record: Record, path: Path, beside: Sequence[Path], rows: Sequence[Row], options: SourceOptions
) -> Record:
    """The record with what its sidecars and its row of metadata say; `PassedOver` where one of them cannot be read."""
    sidecar = sidecars.Sidecar()
    try:
        for row in rows:
            cells = {name: cell for name, cell in row.items() if name != "file_name" and cell != ""}
            sidecar.add("its row of metadata", cells)
        for each in beside:
            sidecar.read(each.name, each.read_bytes())
        sidecars.describe(record, sidecar, options, modified_at(path) if path.exists() else "")
        return check(record, str(path), 1)
    except SchemaError as error:
        problem = f"field {error.field!r} {error.problem}"
    except CommonArtError as error:
        problem = error.what
    except (ValueError, OSError) as error:
        problem = str(error)
    plain = {name: record[name] for name in ("key", "image", "source", "source_id")}
    return PassedOver(plain, "bad_sidecar", problem, rule=False)


def _printable(name: str) -> str:
    """A file name as JSON can hold it. One that is not UTF-8 comes out as another name, under which there is no file: the
    record counts as a failure and says which, where an error would stop all the others."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
