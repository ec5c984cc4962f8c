"""Which images a call makes: each with its settings, its file, and whether that exists already.

In a folder the name of an image follows from all that it was generated with, so two different images never share a
file, and a second call finds what the first has made.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import remove_abandoned
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.prompts import Prompt
from commonart.core.generation.request import MAX_SEED
from commonart.core.output import metadata

MAX_IMAGES = 1_000_000  # of one call, which holds the settings of all
# What a record says of the image that it came with; nothing of it holds for the one that is generated.
_OF_THE_SOURCE = (
    "image_url", "source_url", "title", "author", "author_url", "license", "license_url", "license_raw",
    "license_basis", "license_observed_at", "opt_out", "width", "height", "mime", "sha256", "phash", "chroma",
    "split",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image to generate."""

    settings: dict[str, Any]  # what its marks say, its prompt and seed among them
    path: Path | None = None  # None where only a contact sheet or a terminal shows it
    record: Mapping[str, Any] = field(default_factory=dict)  # that its prompt came from; {} for plain text
    number: int | None = None  # its place among the images of its prompt; None where each prompt has one

    @property
    def name(self) -> str:
        return str(self.path) if self.path is not None else digest(self.settings)


def plan(
    prompts: Sequence[Prompt], shared: Mapping[str, Any], *, seed: int, n: int, out: str | None, ending: str
) -> list[PlannedImage]:
    """Plan `n` images of each prompt, with settings and path. Two images share a path only when they are the same.

    Args:
        shared: settings that all images have in common.
        seed: of each prompt's first image; the next ones count on. A record's own `seed` wins.
        out: one image's file, a folder, or None where no file is written.

    Raises:
        UsageError: too many images, several and one file to write them to, a `seed` in a record that is not a whole
            number, two records with one key, or a text that is not Unicode.
    """
    single = out is not None and not is_folder(out)
    count = len(prompts) * n
    if single and count > 1:
        raise UsageError(f"-o {out} names one file for {count} images.", "Name a folder: -o images/.")
    if count > MAX_IMAGES:
        raise UsageError(f"{count:,} images are too many for one call.", f"Ask for at most {MAX_IMAGES:,}.")
    images = []
    keys: dict[str, str] = {}
    for prompt in prompts:
        first = prompt.record.get("seed", seed)
        key = str(prompt.record.get("key", ""))
        for text in (prompt.text, str(shared.get("negative", ""))):
            if any("\ud800" <= character <= "\udfff" for character in text):  # bytes of a terminal that are not UTF-8
                raise UsageError(f"The prompt {text[:40]!a} is not UTF-8 text.", "Type it in UTF-8.")
        if type(first) is not int or not 0 <= first <= MAX_SEED - n:
            raise UsageError(f"seed {first!r} must be a whole number from 0 to 2^63 - 1.", "For example 7.")
        if key and keys.setdefault(key, prompt.text) != prompt.text:
            raise UsageError(f"Two records with different prompts share the key '{key}'.", "Keys must be unique.")
        for j in range(n):
            settings = {"prompt": prompt.text, "seed": first + j, **shared}
            number = j if n > 1 else None
            path = None if out is None else Path(out)
            if path is not None and not single:
                path /= f"{_stem(key, settings, number)}.{ending}"
            images.append(PlannedImage(settings, path, prompt.record, number))
    return images


def is_folder(out: str) -> bool:
    """Tell whether -o OUT names a folder: an existing one, a name without an ending, or one that ends in a slash."""
    return out.endswith(("/", os.sep)) or Path(out).suffix == "" or Path(out).is_dir()


def digest(settings: Mapping[str, Any]) -> str:
    """Return ten digits that stand for everything that an image was generated with."""
    return hashlib.sha256(orjson.dumps(dict(settings), option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]


def find_finished(images: Sequence[PlannedImage], *, overwrite: bool, with_settings: bool) -> set[str]:
    """Return the names of the images that an earlier call has written; make the folders and clear what killed runs left.

    With `overwrite` none counts as finished. `with_settings`: as `is_finished` takes it.

    Raises:
        UsageError: another file stands where an image should go.
        CommonArtError: the folder cannot be made or written to.
    """
    for folder in {image.path.parent for image in images if image.path is not None}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"{folder}: the folder cannot be created ({error.strerror})."
            raise CommonArtError(what, "Choose another one.") from error
    finished = set()
    for image in images:
        if image.path is None or overwrite or not image.path.exists():
            continue
        if not is_finished(image, with_settings):
            raise metadata.already_exists(image.path)
        finished.add(image.name)
    for folder in {i.path.parent for i in images if i.path is not None and i.name not in finished}:
        metadata.check_folder(folder)
        remove_abandoned(folder)  # once, for to list a folder of 30,000 takes longer than to write into it
    return finished


def is_finished(image: PlannedImage, with_settings: bool) -> bool:
    """Tell whether the file at the image's path is this very image, by its settings or, without them, by its name."""
    if image.path is None or not image.path.exists():
        return False
    if not with_settings:
        return digest(image.settings) in image.path.stem
    return metadata.settings_of(image.path) == image.settings


def record_of(image: PlannedImage) -> dict[str, Any]:
    """Return the record that came in with what was generated; `reference` is the image that the record came with."""
    record = {name: value for name, value in image.record.items() if name not in (*_OF_THE_SOURCE, "image")}
    if image.record.get("image"):
        record["reference"] = image.record["image"]
    if "key" in record and image.number is not None:
        record["key"] = f"{record['key']}-{image.number}"
    record.setdefault("key", f"sample-{digest(image.settings)}")
    return record | image.settings | {"image": str(image.path) if image.path is not None else ""}


def _stem(key: str, settings: Mapping[str, Any], number: int | None) -> str:
    if key:
        return key if number is None else f"{key}.{number}"  # a key has no dot
    slug = re.sub(r"[\W_]+", "-", settings["prompt"]).strip("-")
    while len(slug.encode()) > 90:  # file systems allow 255 bytes; a Japanese character takes three
        slug = slug[:-1]
    return f"{slug}-{digest(settings)}".lstrip("-")
