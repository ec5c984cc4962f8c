"""The scores of one group of images: by a dual encoder, by Inception, and by what their pixels show.

Each score is one object of eval.json: the metric, its value, and what it was measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.errors import CommonArtError
from commonart.core.log import say
from commonart.core.metrics import fid as frechet
from commonart.core.metrics import image_set, roc
from commonart.core.metrics.fid import Gaussian
from commonart.core.metrics.image_set import ImageRef
from commonart.core.registry.lookup import find_model

if TYPE_CHECKING:  # these load torch or scipy, which a group does not need
    from commonart.core.metrics.clip_score import DualEncoder
    from commonart.core.metrics.templated_prompts import TemplatedPrompt
    from commonart.core.nano.scenes import Scene

MIN_IMAGES = 2  # of a group: a covariance needs two


@dataclass(slots=True)
class ImageGroup:
    """Images of prompts in one language, with the prompts and the reference images to compare with."""

    lang: str
    items: list[ImageRef]
    prompts: list[str]
    reference: list[ImageRef] = field(default_factory=list)
    scenes: list[Scene | None] = field(default_factory=list)
    paired: bool = False  # prompt i is the caption of reference i
    kind: str = ""  # "unseen", "held-out pairs" or "templated" for prompts that have no reference
    asked: list[TemplatedPrompt] = field(default_factory=list)  # the prompts, with their questions


def load_encoders(
    langs: Iterable[str],
    clip: str,
    clip_ja: str | None,
    *,
    device: str = "auto",
    accept_terms: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> dict[str, DualEncoder]:
    """Load the dual encoder of each language, each one once. Raises as `DualEncoder.load` does.

    Args:
        clip: for every language but Japanese.
        clip_ja: for Japanese; default: `clip` where it reads Japanese, else clip-japanese-base.
    """
    from commonart.core.metrics.clip_score import DualEncoder

    clip_ja = clip_ja or (clip if "ja" in find_model(clip, "clip", "--clip").langs else "clip-japanese-base")
    names = {lang: clip_ja if lang == "ja" else clip for lang in langs}
    load = partial(DualEncoder.load, device=device, accept_terms=accept_terms, trust_remote_code=trust_remote_code)
    flags = {clip_ja: "--clip-ja", clip: "--clip"}
    loaded = {name: load(name, flag=flags[name]) for name in dict.fromkeys(names.values())}
    return {lang: loaded[name] for lang, name in names.items()}


def by_clip(
    group: ImageGroup, encoder: DualEncoder, convention: str, common: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield FD on the encoder's features where there is a reference, and the CLIP score where all prompts are known.

    `common` has the fields of every score of this group; its `seed` is that of the bootstrap, too.
    """
    from commonart.core.metrics import clip_score

    generated = encoder.encode_images(image_set.images(group.items))
    about = {"judge": encoder.name, "judge_revision": encoder.revision, "n": len(group.items)}
    real = encoder.encode_images(image_set.images(group.reference)) if group.reference else None
    if real is not None:
        name = f"FD-{encoder.name}-clip" if encoder.embedded else f"FD-{encoder.name}"
        distance = frechet.frechet(_gaussian(generated), _gaussian(real))
        yield {"metric": name, "value": distance, "n_reference": len(real), **about, **common}
    if not all(group.prompts):
        say(f"{group.prompts.count('')} images carry no prompt, so they have no CLIP score.")
        return
    _, prefix = clip_score.convention_of(convention)
    texts = encoder.encode_texts([prefix + prompt for prompt in group.prompts])
    values = clip_score.scores(generated, texts, convention)
    low, high = roc.bootstrap(values, lambda v: float(v.mean()), seed=common["seed"])
    # The score of the real images with the same captions is the scale on which to read ours.
    reference = None
    if group.paired and real is not None:
        reference = float(clip_score.scores(real, texts, convention).mean())
    interval = {"value": float(values.mean()), "low": low, "high": high, "reference": reference}
    yield {"metric": "CLIP", **interval, "mode": convention, **about, **common}


def open_fid(mode: str, device: str, work: Path) -> Callable[[ImageGroup, dict[str, Any]], dict[str, Any]]:
    """Load Inception for a mode of FID; return what measures it of a group against the group's reference.

    `work` is a folder for copies of images that are inside tars. Raises as `core.metrics.fid.inception` does.
    """
    from commonart.core.model.device import pick_device

    network_device = str(pick_device(device))
    network, sha256 = frechet.inception(mode, network_device)

    def score(group: ImageGroup, common: dict[str, Any]) -> dict[str, Any]:
        gaussians = []
        for name, items in (("generated", group.items), ("real", group.reference)):
            folder = work / f"{name}-{group.lang}"
            folder.mkdir(exist_ok=True)
            paths = image_set.files(items, folder)
            gaussians.append(_gaussian(frechet.inception_features(paths, mode, network_device, network)))
        counts = {"n": len(group.items), "n_reference": len(group.reference)}
        about = {"mode": mode, "weights_sha256": sha256}
        return {"metric": "FID", "value": frechet.frechet(*gaussians), **about, **counts, **common}

    return score


def by_scenes(group: ImageGroup, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the share of the scenes' facts that the pixels show, for each kind; nothing where no scene is known."""
    pairs = [(scene, item) for scene, item in zip(group.scenes, group.items, strict=True) if scene is not None]
    if pairs:
        from commonart.core.nano.scene_reader import score_many

        images = ((scene, image_set.open_image(item.pointer)) for scene, item in pairs)
        yield {"metric": "scenes", **score_many(images), "n": len(pairs), **common}


def _gaussian(features: NDArray[np.floating[Any]]) -> Gaussian:
    if len(features) < MIN_IMAGES:
        raise CommonArtError("A Fréchet distance needs at least two images on either side.", "Give more images.")
    return frechet.fit(features)
