"""Which pictures are to be drawn: each with its settings, its file, and whether it is there already.

    commonart sample --file prompts.txt -n 4 --model nano -o pictures/

In a folder the name of a picture follows from all that it was drawn with, so two different pictures never
meet in one file, and a second call finds what the first has drawn.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import remove_abandoned
from commonart.core.data.images.aspect_buckets import WIDEST, bucket_sizes, nearest_bucket
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.prompts import Prompt
from commonart.core.output import metadata as provenance

MAX_SIDE = 4096  # pixels
MAX_STEPS = 999  # one fewer than the timesteps of training
MAX_SEED = 2**63 - 1
MAX_PICTURES = 1_000_000  # of one call, which holds the settings of all
# What a record says of the picture that it came with; nothing of it holds for the one that is drawn.
_OF_THE_SOURCE = (
    "image_url", "source_url", "title", "author", "author_url", "license", "license_url", "license_raw",
    "license_basis", "license_observed_at", "opt_out", "width", "height", "mime", "sha256", "phash", "split",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How a call's pictures are drawn; `core.model.sampler.sample` explains the fields.

    `size`: pixels, 512 or "640x384"; None is the model's own. `aspect`: "3:2" takes the nearest bucket of that area.
    """

    steps: int = 20
    guidance: float = 4.5
    negative: str = ""
    sampler: str = "dpm++"
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    size: str | int | tuple[int, int] | None = None
    aspect: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
        """The fields of it in `settings`, and the rest."""
        names = {field.name for field in fields(cls)}
        rest = {name: value for name, value in settings.items() if name not in names}
        return cls(**{name: value for name, value in settings.items() if name in names}), rest

    def check(self) -> None:
        """Raise UsageError for a number that no model can draw with."""
        if not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(f"--steps {self.steps} is not possible.", f"Give 1 to {MAX_STEPS}; 20 is usual.")
        if not 0 <= self.guidance <= 100:
            raise UsageError(
                f"--guidance {self.guidance} is not possible.", "Give a number from 0 to 100; 4.5 is usual."
            )
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            low, high = self.interval
            raise UsageError(f"--interval {low:g},{high:g} is not possible.", "Give two shares: --interval 0.2,0.8.")
        if not 0 <= self.rescale <= 1:
            raise UsageError(f"--rescale {self.rescale} is not possible.", "Give a number from 0 to 1; 0.7 is usual.")

    def drawing(self) -> dict[str, Any]:
        """What `Engine.draw` takes of it."""
        return {name: getattr(self, name) for name in ("steps", "guidance", "sampler", "interval", "rescale")}

    def said(self) -> dict[str, Any]:
        """What the marks say of it: steps, guidance and negative always, the rest where it is not the usual."""
        unusual = {}
        for name in ("sampler", "interval", "rescale"):
            value = getattr(self, name)
            if value != getattr(USUAL, name):
                unusual[name] = list(value) if isinstance(value, tuple) else value
        return {"steps": self.steps, "guidance": self.guidance, "negative": self.negative, **unusual}


USUAL = GenerationConfig()


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to draw.

    `settings` is what its marks say; `path` is None where only the grid shows it; `number` counts a prompt's pictures.
    """

    prompt: Prompt
    settings: dict[str, Any]
    path: Path | None
    number: int | None = None  # None where each prompt has one

    @property
    def name(self) -> str:
        return str(self.path) if self.path is not None else digest(self.settings)


def plan(
    asked: Sequence[Prompt], shared: Mapping[str, Any], *, seed: int, n: int, out: str | None, ending: str
) -> list[Picture]:
    """Every picture with its settings and its path. Two pictures share a path only when they are the same.

    Args:
        asked: prompts, each drawn `n` times.
        shared: settings that all pictures have in common.
        seed: of each prompt's first picture; the next ones count on. A record's own `seed` wins.
        out: one picture's file, a folder, or None where only a grid shows them.
        ending: of the files in a folder, without its dot.

    Raises:
        UsageError: too many pictures, several and one file to write them to, a `seed` in a record that is no whole number,
            two records with one key, or a text that is no Unicode.
    """
    single = out is not None and not is_folder(out)
    if single and len(asked) * n > 1:
        raise UsageError(
            f"-o {out} names one file, and {len(asked) * n} pictures are asked for.", "Name a folder: -o pictures/."
        )
    if len(asked) * n > MAX_PICTURES:
        raise UsageError(f"{len(asked) * n:,} pictures are asked for.", f"At most {MAX_PICTURES:,} at a time.")
    pictures = []
    keys: dict[str, str] = {}
    for prompt in asked:
        first = prompt.record.get("seed", seed)
        key = str(prompt.record.get("key", ""))
        for text in (prompt.text, str(shared.get("negative", ""))):
            if any("\ud800" <= character <= "\udfff" for character in text):  # bytes of a terminal that are no UTF-8
                raise UsageError(f"the prompt {text[:40]!a} is no UTF-8 text.", "Type it in UTF-8.")
        if type(first) is not int or not 0 <= first <= MAX_SEED - n:
            raise UsageError(f"seed {first!r} is no seed.", "Give a whole number from 0 to 2^63 - 1.")
        if key and keys.setdefault(key, prompt.text) != prompt.text:
            raise UsageError(f"two records have the key '{key}' and other prompts.", "Keys must be unique.")
        for j in range(n):
            settings = {"prompt": prompt.text, "seed": first + j, **shared}
            if out is None:
                path = None
            elif single:
                path = Path(out)
            else:
                path = Path(out) / f"{_stem(key, settings, j if n > 1 else None)}.{ending}"
            pictures.append(Picture(prompt, settings, path, j if n > 1 else None))
    return pictures


def is_folder(out: str) -> bool:
    """Whether -o OUT names a folder: one that is there, a name without an ending, or one with a slash at its end."""
    return out.endswith(("/", os.sep)) or Path(out).suffix == "" or Path(out).is_dir()


def pixels(
    size: str | int | tuple[int, int] | None, own: int, multiple: int, aspect: str | None = None
) -> tuple[int, int]:
    """Width and height of a picture: `size` as given, else `own` on both sides; with `aspect`, of about that area.

    Raises:
        UsageError: no size, no aspect, or sides that are too large or no multiples of `multiple`.
    """
    width, height = (own, own) if size is None else _sides("--size", "Give pixels: --size 512 or --size 640x384.", size)
    if aspect is not None:
        across, down = _sides("--aspect", "Give two numbers: --aspect 3:2.", aspect)
        if not 1 / WIDEST <= across / down <= WIDEST:
            raise UsageError(
                f"--aspect {aspect}: models are trained from 1:{WIDEST} to {WIDEST}:1.",
                "Give one between, or the pixels themselves: --size 1024x128.",
            )
        return nearest_bucket(across, down, bucket_sizes(max(multiple, math.isqrt(width * height)), multiple))
    if width % multiple or height % multiple or not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE:
        near = "x".join(
            str(max(multiple, min(round(s / multiple), MAX_SIDE // multiple) * multiple)) for s in (width, height)
        )
        raise UsageError(
            f"--size {width}x{height}: this model draws sides that are multiples of {multiple}, up to {MAX_SIDE}.",
            f"The nearest is --size {near}.",
        )
    return width, height


def _sides(flag: str, fix: str, text: str | int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(text, tuple):
        return text
    found = re.fullmatch(r"(\d{1,6})(?:[x×:](\d{1,6}))?", str(text).strip().lower())
    both = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not found or (flag == "--aspect" and not (found[2] and all(both))):
        raise UsageError(f"{flag} {text} is no {flag.removeprefix('--')}.", fix)
    return both


def digest(settings: Mapping[str, Any]) -> str:
    """Ten digits that stand for everything that a picture was drawn with."""
    return hashlib.sha256(orjson.dumps(dict(settings), option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]


def already_drawn(pictures: Sequence[Picture], overwrite: bool, metadata: bool) -> set[str]:
    """The names of the pictures that an earlier call has drawn with these very settings; makes and sweeps the folders.

    Args:
        overwrite: none counts as drawn.
        metadata: pictures keep their settings; without them, only a name that follows from them tells.

    Raises:
        UsageError: another file stands where a picture should go.
        CommonArtError: the folder cannot be made, or nothing can be written to it.
    """
    for folder in {picture.path.parent for picture in pictures if picture.path is not None}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise CommonArtError(
                f"{folder}: this folder cannot be made ({problem.strerror}).", "Choose another one."
            ) from problem
    found = set()
    for picture in pictures:
        path = picture.path
        if path is None or overwrite or not path.exists():
            continue
        if not is_there(picture, metadata):
            raise UsageError(f"-o {path}: this file is there already.", "Choose another name, or say --overwrite.")
        found.add(picture.name)
    for folder in {p.path.parent for p in pictures if p.path is not None and p.name not in found}:
        provenance.check_folder(folder)
        remove_abandoned(folder)  # once, for to list a folder of 30,000 takes longer than to write into it
    return found


def is_there(picture: Picture, metadata: bool) -> bool:
    """Whether the file at the picture's path is this very picture, by its marks or, without `metadata`, by its name."""
    if picture.path is None or not picture.path.exists():
        return False
    if not metadata:
        return digest(picture.settings) in picture.path.stem
    return provenance.settings_of(picture.path) == picture.settings


def record_of(picture: Picture) -> dict[str, Any]:
    """What came in, and what was drawn, with a key of its own; `reference` is the image that the record came with."""
    kept = {k: v for k, v in picture.prompt.record.items() if k not in (*_OF_THE_SOURCE, "image")}
    if picture.prompt.record.get("image"):
        kept["reference"] = picture.prompt.record["image"]
    if "key" in kept and picture.number is not None:
        kept["key"] = f"{kept['key']}-{picture.number}"
    kept.setdefault("key", f"sample-{digest(picture.settings)}")
    return kept | picture.settings | {"image": str(picture.path) if picture.path is not None else ""}


def _stem(key: str, settings: Mapping[str, Any], number: int | None) -> str:
    if key:
        return key if number is None else f"{key}.{number}"  # a key has no dot
    words = re.sub(r"[\W_]+", "-", settings["prompt"]).strip("-")
    while len(words.encode()) > 90:  # file systems allow 255 bytes; a Japanese character takes three
        words = words[:-1]
    return f"{words}-{digest(settings)}".lstrip("-")
