"""The scores of one group of pictures: by a dual encoder, by Inception, and by what their pixels show.

    commonart eval --model nano shards/ --scenes 100 --fid clean

Each score is one dict for eval.json: the metric, its value, and all that it was measured on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.errors import CommonArtError
from commonart.core.log import say
from commonart.core.metrics import fid as frechet
from commonart.core.metrics import image_set, roc
from commonart.core.metrics.fid import Gaussian
from commonart.core.metrics.image_set import Item
from commonart.core.registry.lookup import find_model

if TYPE_CHECKING:  # these load torch or scipy, and a group needs neither
    from commonart.core.metrics.clip_score import DualEncoder
    from commonart.core.nano.scenes import Scene

SMALLEST = 2  # pictures; a covariance needs two


@dataclass(slots=True)
class Group:
    """Pictures in one language: what was drawn, from which prompts, beside which reference pictures."""

    lang: str
    items: list[Item]
    prompts: list[str]
    reference: list[Item] = field(default_factory=list)
    scenes: list[Scene | None] = field(default_factory=list)
    paired: bool = False  # picture i was drawn from the caption of reference i
    kind: str = ""  # "unseen" or "held-out pairs": prompts of the scene grammar, which have no reference


def load_judges(
    langs: Iterable[str],
    clip: str,
    clip_ja: str | None,
    *,
    device: str = "auto",
    accept_terms: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> dict[str, DualEncoder]:
    """The judge of each language; one that serves several is loaded once.

    Args:
        clip: judge of every language but Japanese.
        clip_ja: judge of Japanese; default: `clip` where it reads Japanese, else clip-japanese-base.

    Raises:
        UsageError, CommonArtError: as `DualEncoder.load`.
    """
    from commonart.core.metrics.clip_score import DualEncoder

    clip_ja = clip_ja or (clip if "ja" in find_model(clip, "clip", "--clip").langs else "clip-japanese-base")
    loaded: dict[str, DualEncoder] = {}
    found = {}
    for lang in set(langs):
        name = clip_ja if lang == "ja" else clip
        if name not in loaded:
            loaded[name] = DualEncoder.load(
                name,
                device=device,
                accept_terms=accept_terms,
                trust_remote_code=trust_remote_code,
                flag="--clip" if name == clip else "--clip-ja",
            )
        found[lang] = loaded[name]
    return found


def by_judge(group: Group, judge: DualEncoder, convention: str, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """FD on the judge's features where there is a reference, and the CLIP score where all prompts are known.

    Args:
        convention: of the CLIP score, "paper" or "hessel".
        common: what every score of this group says; its `seed` draws the bootstrap.
    """
    from commonart.core.metrics import clip_score

    drawn = judge.images(image_set.images(group.items))
    told = {"judge": judge.name, "judge_revision": judge.revision, "n": len(group.items)}
    real = judge.images(image_set.images(group.reference)) if group.reference else None
    if real is not None:
        yield {
            "metric": f"FD-{judge.name}-clip" if judge.name == "nano" else f"FD-{judge.name}",
            "value": frechet.frechet(_gaussian(drawn), _gaussian(real)),
            "n_reference": len(real),
            **told,
            **common,
        }
    if not all(group.prompts):
        say(f"{group.prompts.count('')} pictures say no prompt: no CLIP score for them.")
        return
    _, prefix = clip_score.convention_of(convention)
    texts = judge.texts([prefix + prompt for prompt in group.prompts])
    each = clip_score.scores(drawn, texts, convention)
    low, high = roc.bootstrap(each, lambda v: float(v.mean()), seed=common["seed"])
    # What the real pictures score with the same captions: the scale that the number is to be read on.
    reference = None
    if group.paired and real is not None:
        reference = float(clip_score.scores(real, texts, convention).mean())
    yield {
        "metric": "CLIP",
        "value": float(each.mean()),
        "low": low,
        "high": high,
        "reference": reference,
        "mode": convention,
        **told,
        **common,
    }


def by_inception(group: Group, mode: str, device: str, work: Path, common: dict[str, Any]) -> dict[str, Any]:
    """FID against the group's reference.

    Args:
        mode: clean-fid's, "clean" or "legacy_pytorch".
        work: a folder for the pictures that lie inside tars.
    """
    from commonart.core.model.device import pick_device

    place = str(pick_device(device))
    network, digest = frechet.inception(mode, place)
    sides = []
    for name, items in (("drawn", group.items), ("real", group.reference)):
        folder = work / f"{name}-{group.lang}"
        folder.mkdir(exist_ok=True)
        paths = image_set.files(items, folder)
        sides.append(_gaussian(frechet.inception_features(paths, mode, device=place, network=network)))
    return {
        "metric": "FID",
        "value": frechet.frechet(*sides),
        "mode": mode,
        "weights_sha256": digest,
        "n": len(group.items),
        "n_reference": len(group.reference),
        **common,
    }


def by_scenes(group: Group, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How many of the scenes' facts the pixels show, 0..1 for each kind; nothing where no scene is known."""
    asked = [(scene, item) for scene, item in zip(group.scenes, group.items, strict=True) if scene is not None]
    if asked:
        from commonart.core.nano.scene_reader import score_many

        pairs = ((scene, image_set.as_array(image_set.open_image(item.pointer))) for scene, item in asked)
        yield {"metric": "scenes", **score_many(pairs), "n": len(asked), **common}


def _gaussian(features: Any) -> Gaussian:
    if len(features) < SMALLEST:
        raise CommonArtError("A Fréchet distance needs at least two pictures on either side.", "Give more pictures.")
    return frechet.fit(features)
