"""The scores of one group of images: by a dual encoder, by Inception, and by what their pixels show.

    commonart eval --model nano shards/ --scenes 100 --fid clean

Each score is one object of eval.json: the metric, its value, and what it was measured on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
    kind: str = ""  # "unseen" or "held-out pairs" for prompts of the scene grammar, which have no reference


@dataclass(frozen=True, slots=True)
class Inception:
    """Inception for one mode of FID, and the sha256 of its weights."""

    mode: str
    device: str
    network: frechet.Network
    sha256: str


def load_encoders(
    langs: Iterable[str],
    clip: str,
    clip_ja: str | None,
    *,
    device: str = "auto",
    accept_terms: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> dict[str, DualEncoder]:
    """Load the dual encoder of each language, each one once.

    Args:
        clip: for every language but Japanese.
        clip_ja: for Japanese; default: `clip` where it reads Japanese, else clip-japanese-base.

    Raises:
        UsageError, CommonArtError: As `DualEncoder.load`.
    """
    from commonart.core.metrics.clip_score import DualEncoder

    clip_ja = clip_ja or (clip if "ja" in find_model(clip, "clip", "--clip").langs else "clip-japanese-base")
    loaded: dict[str, DualEncoder] = {}
    names = {lang: clip_ja if lang == "ja" else clip for lang in langs}
    for name in dict.fromkeys(names.values()):
        loaded[name] = DualEncoder.load(
            name,
            device=device,
            accept_terms=accept_terms,
            trust_remote_code=trust_remote_code,
            flag="--clip" if name == clip else "--clip-ja",
        )
    return {lang: loaded[name] for lang, name in names.items()}


def by_clip(
    group: ImageGroup, encoder: DualEncoder, convention: str, common: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield FD on the encoder's features where there is a reference, and the CLIP score where all prompts are known.

    Args:
        convention: of the CLIP score, "paper" or "hessel".
        common: fields of every score of this group; `seed` is that of the bootstrap, too.
    """
    from commonart.core.metrics import clip_score

    generated = encoder.encode_images(image_set.images(group.items))
    about = {"judge": encoder.name, "judge_revision": encoder.revision, "n": len(group.items)}
    real = encoder.encode_images(image_set.images(group.reference)) if group.reference else None
    if real is not None:
        yield {
            "metric": f"FD-{encoder.name}-clip" if encoder.embedded else f"FD-{encoder.name}",
            "value": frechet.frechet(_gaussian(generated), _gaussian(real)),
            "n_reference": len(real),
            **about,
            **common,
        }
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
    yield {
        "metric": "CLIP",
        "value": float(values.mean()),
        "low": low,
        "high": high,
        "reference": reference,
        "mode": convention,
        **about,
        **common,
    }


def load_inception(mode: str, device: str) -> Inception:
    """Load Inception for a mode of FID, "clean" or "legacy_pytorch".

    Raises:
        UsageError, CommonArtError: As `core.metrics.fid.inception`.
    """
    from commonart.core.model.device import pick_device

    network_device = str(pick_device(device))
    return Inception(mode, network_device, *frechet.inception(mode, network_device))


def by_inception(group: ImageGroup, inception: Inception, work: Path, common: dict[str, Any]) -> dict[str, Any]:
    """Return FID against the group's reference; `work` is a folder for copies of images that are inside tars."""
    gaussians = []
    for name, items in (("generated", group.items), ("real", group.reference)):
        folder = work / f"{name}-{group.lang}"
        folder.mkdir(exist_ok=True)
        paths = image_set.files(items, folder)
        features = frechet.inception_features(paths, inception.mode, device=inception.device, network=inception.network)
        gaussians.append(_gaussian(features))
    return {
        "metric": "FID",
        "value": frechet.frechet(*gaussians),
        "mode": inception.mode,
        "weights_sha256": inception.sha256,
        "n": len(group.items),
        "n_reference": len(group.reference),
        **common,
    }


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
