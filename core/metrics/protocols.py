"""Published ways of measuring a text-to-image model, as one table. What a source does not state is our choice, and named."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import dataclass

from commonart.core.data.record import Record
from commonart.core.errors import UsageError

COMPARABLE = 10_000  # images, below which a Fréchet distance says more of n than of the model (arXiv 1911.07023)
EMBEDDED = "nano"  # the judge of embedded models, which know no photographs
# of the CLIP score: convention -> (w, prefix of the prompt)
CONVENTIONS = {"paper": (100.0, ""), "hessel": (2.5, "A photo depicts ")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a model is measured; every field stands in eval.json."""

    name: str
    langs: tuple[str, ...]
    n: int  # pairs per language
    part: str  # of COCO, where a record's address tells: "train" or "val"
    fid: str  # as --fid
    side: int | None  # pixels that both sides are scaled and cut to; None leaves every image as it is
    clip: str
    clip_ja: str | None
    clip_mode: str
    source: str
    ours: str  # what the source does not state, and we chose


PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "timm", "clean-fid", "pillow", "numpy", "scipy")
# fmt: off
PROTOCOLS = (
    # The reference system's table 2: English captions of COCO 2017, Japanese ones of STAIR, w = 100.
    Protocol(name="paper", langs=("en", "ja"), n=30_000, part="train", fid="clean", side=None,
             clip="clip-vit-b32", clip_ja="clip-japanese-base", clip_mode="paper",
             source="doi 10.51094/jxiv.936, table 2",
             ours="resize mode of FID, resolution of the reference, guidance, seeds, which 30,000 pairs"),
    # The usual zero-shot FID-30k at 256 pixels (arXiv 2205.11487 and after).
    Protocol(name="coco2014-val-256", langs=("en",), n=30_000, part="val", fid="clean", side=256,
             clip="clip-vit-b32", clip_ja=None, clip_mode="paper",
             source="zero-shot FID-30k on COCO 2014 val at 256 px, arXiv 2205.11487",
             ours="resize mode of FID, Lanczos and centre crop to 256, seeds, which 30,000 pairs"),
)
# fmt: on
_COCO = re.compile(r"[/\\](train|val)20(?:14|17)[/\\]")


def find(name: str) -> Protocol:
    """Return a protocol by its name. Raises UsageError for an unknown one."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise UsageError(
        f"--protocol {name} is not a protocol.", f"Choose one of {', '.join(each.name for each in PROTOCOLS)}."
    )


def convention_of(name: str) -> tuple[float, str]:
    """Return (w, prefix of the prompt) of a convention. Raises UsageError for an unknown one."""
    if name not in CONVENTIONS:
        raise UsageError(f"--clip-mode {name} is not a mode.", f"Choose one of {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]


def part_of(record: Record) -> str:
    """Return the part of COCO that a record's address names, "train" or "val"; "" where it names none."""
    for field in ("image_url", "source_url", "image"):
        if match := _COCO.search(str(record.get(field, ""))):
            return match[1]
    return ""


def versions() -> dict[str, str]:
    """Return the versions of all that a score may depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"commonart": importlib.metadata.version("commonart"), "python": platform.python_version(), **found}
