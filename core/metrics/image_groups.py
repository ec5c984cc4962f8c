"""What `eval` scores: images of prompts in one language, with the reference images to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from commonart.core.data.record import captions
from commonart.core.data.text import language_of
from commonart.core.errors import CommonArtError
from commonart.core.generation.prompts import text_of
from commonart.core.log import warn
from commonart.core.metrics import image_set
from commonart.core.metrics.image_set import ImageRef
from commonart.core.metrics.protocols import part_of
from commonart.core.output import metadata

if TYPE_CHECKING:
    from commonart.core.metrics.templated_prompts import TemplatedPrompt
    from commonart.core.nano.scenes import Scene


@dataclass(slots=True)
class ImageGroup:
    """Images of prompts in one language, with the prompts and the reference images to compare with."""

    lang: str
    items: list[ImageRef]
    prompts: list[str]
    reference: list[ImageRef] = field(default_factory=list)
    scenes: list[Scene | None] = field(default_factory=list)
    paired: bool = False  # prompt i is the caption of reference i
    kind: str = ""  # "unseen", "held-out pairs" or "templated" for prompts that are no captions
    asked: list[TemplatedPrompt] = field(default_factory=list)  # the prompts, with their questions


def from_images(
    generated: str, reference: str | None, n: int | None, split: str | None, seed: int
) -> tuple[list[ImageGroup], dict[str, str]]:
    """Return existing images by the language of their prompts, "" for those without one, and those that cannot be read.

    Raises:
        CommonArtError: no image can be read, or nothing can be scored.
    """
    real = image_set.collect(reference, split=split, limit=n, seed=seed) if reference else []
    groups: dict[str, ImageGroup] = {}
    unreadable: dict[str, str] = {}
    for item in image_set.collect(generated, limit=n, seed=seed):
        prompt = text_of(item.record)
        if not item.record:
            try:
                prompt = str((metadata.read(item.pointer).settings or {}).get("prompt", ""))
            except CommonArtError as problem:
                unreadable[item.pointer] = problem.what
                warn(f"left out: {problem.what}")
                continue
        lang = language_of(prompt) if prompt else ""
        group = groups.setdefault(lang, ImageGroup(lang, [], [], real))
        group.items.append(item)
        group.prompts.append(prompt)
        group.scenes.append(_scene(item))
    if not groups:
        raise CommonArtError(
            f"{generated}: none of its {len(unreadable):,} images can be read: {next(iter(unreadable.values()))}",
            "Remove it, or make it again.",
        )
    if not real and groups.keys() == {""} and not any(groups[""].scenes):
        raise CommonArtError(
            f"{generated}: the images carry no prompts, and there is no reference to compare them with.",
            "Name real images as REFERENCE, or score images that keep their prompts, as commonart sample writes them.",
        )
    return [groups[lang] for lang in sorted(groups)], unreadable


def from_captions(
    reference: str, langs: Sequence[str], n: int | None, split: str | None, seed: int, part: str = ""
) -> list[ImageGroup]:
    """Return the captions of real images as prompts: groups whose `items` are still empty.

    Args:
        part: of COCO, "train" or "val": images that say that they are of the other one are left out.

    Raises:
        CommonArtError: no image, or no caption in any of `langs`.
    """
    real = image_set.collect(reference, split=split, seed=seed)
    if part:
        real = [item for item in real if part_of(item.record) in ("", part)]
        if not real:
            raise CommonArtError(
                f"{reference} holds no images of COCO's {part} part.", f"Name the records of COCO {part}."
            )
    groups = []
    for lang in langs:
        items = [item for item in real if captions(item.record, lang)][:n]
        if items:
            texts = [captions(item.record, lang)[0]["text"] for item in items]
            groups.append(ImageGroup(lang, [], texts, items, [_scene(item) for item in items], paired=True))
        else:
            warn(f"{reference} has no captions in '{lang}': nothing of it is scored in that language.")
    if not groups:
        raise CommonArtError(
            f"{reference} has no captions in {' or '.join(langs)}.",
            "Add some with commonart caption and commonart translate.",
        )
    return groups


def from_grammar(count: int, langs: Sequence[str], seed: int, folder: Path | None = None) -> list[ImageGroup]:
    """Return `count` prompts of unseen scenes, and as many of unseen pairs of colour and shape, in each language.

    Args:
        folder: where the true images of the scenes are written, to be the reference; None leaves the groups without one.
    """
    from commonart.core.nano.grammar import eval_prompts

    groups = []
    for heldout, kind in ((False, "unseen"), (True, "held-out pairs")):
        for lang in langs:
            prompts = eval_prompts(count, lang, seed, heldout)
            facts: list[Scene | None] = [scene for scene, _ in prompts]
            group = ImageGroup(lang, [], [text for _, text in prompts], scenes=facts, kind=kind)
            if folder is not None:
                place = folder / f"{kind.replace(' ', '-')}-{lang}-{seed}"
                group.reference = [_drawn(scene, place / f"{i:05d}.png") for i, (scene, _) in enumerate(prompts)]
                group.paired = True
            groups.append(group)
    return groups


def _drawn(scene: Scene, path: Path) -> ImageRef:
    """Write the true image of a scene; one that already exists is the same."""
    from PIL import Image

    from commonart.core.data.files import write_bytes
    from commonart.core.data.images.decode import encode
    from commonart.core.nano.scenes import render

    if not path.exists():
        write_bytes(path, encode(Image.fromarray(render(scene)), "png"))
    return ImageRef(str(path), {})


def _scene(item: ImageRef) -> Scene | None:
    if not isinstance(item.record.get("scene"), dict):
        return None
    from commonart.core.nano.scenes import scene_from_json

    return scene_from_json(item.record["scene"])
