"""The scores of one group of images: by a dual encoder, by Inception, and by what their pixels show.

Each score is one object of eval.json: the metric, its value with a 95 % interval, and all that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.errors import UsageError
from commonart.core.log import say, warn
from commonart.core.metrics import features, image_set, kernel_distance, roc
from commonart.core.metrics import fid as frechet
from commonart.core.metrics.features import Encoder, ImageFeatures, encoder_of
from commonart.core.metrics.image_groups import ImageGroup
from commonart.core.metrics.protocols import COMPARABLE
from commonart.core.registry.lookup import check_code, check_terms, find_model

if TYPE_CHECKING:  # these load torch or scipy, which a group does not need
    from commonart.core.metrics.clip_score import DualEncoder

MIN_IMAGES = 2  # of a group: a covariance needs two
METRICS = ("kid", "cmmd", "precision-recall")  # what --metrics adds
NO_INTERVAL = "no interval"
CMMD_ENCODER, CMMD_SIDE = "clip-vit-l14-336", 336


@dataclass(slots=True)
class Judges:
    """All that scores images, loaded before the first one is generated. Make one with `load`."""

    clip: dict[str, DualEncoder]  # by language
    convention: str  # of the CLIP score
    fid: str | None = None  # the mode of FID
    inception: Encoder | None = None
    weights: str = ""  # sha256 of Inception's
    cmmd: DualEncoder | None = None
    metrics: tuple[str, ...] = ()
    side: int | None = None  # pixels that every image is scaled and cut to first
    cache: Path | None = None
    warned: bool = False  # that there are few images
    found: dict[str, ImageFeatures] = field(default_factory=dict)  # of references, which several models share

    @classmethod
    def load(
        cls, langs: Iterable[str], clip: str, clip_ja: str | None, convention: str, fid: str | None, *,
        metrics: Sequence[str] = (), side: int | None = None, cache: Path | None = None, device: str = "auto",
        **trust: Any,
    ) -> Judges:  # fmt: skip
        """Load the encoders of each language, Inception for a mode of FID, and what `metrics` need.

        Raises:
            UsageError: an unknown metric.
            Others as `DualEncoder.load` and `core.metrics.fid.inception`.
        """
        check_metrics(metrics)
        judges = cls(load_encoders(langs, clip, clip_ja, device=device, **trust), convention)
        from commonart.core.metrics.clip_score import DualEncoder
        from commonart.core.model.device import pick_device

        judges.metrics, judges.side, judges.cache, judges.fid = tuple(metrics), side, cache, fid
        if fid is not None:
            on = str(pick_device(device))
            network, judges.weights = frechet.inception(fid, on)
            judges.inception = frechet.encoder(fid, on, network, judges.weights)
        if "cmmd" in metrics:
            every = next(iter(judges.clip.values()))
            # Embedded judges stand in for CLIP, under a name of their own.
            judges.cmmd = every if every.embedded else DualEncoder.load(CMMD_ENCODER, device=device, **trust)
        return judges


def check_metrics(metrics: Iterable[str]) -> None:
    """Raise UsageError for an unknown metric."""
    for metric in metrics:
        if metric not in METRICS:
            raise UsageError(f"--metrics {metric} is not a metric.", f"Choose among {', '.join(METRICS)}.")


def encoders_of(names: str, flag: str = "--clip") -> dict[str, str]:
    """`NAME` or `NAME,NAME` -> the dual encoder of each language; the second is for Japanese, which the first may not read.

    `flag` is what gave the names, for errors. Raises UsageError for a name that is missing or not that of a dual encoder.
    """
    clip, comma, clip_ja = (part.strip() for part in names.partition(","))
    if not clip or (comma and not clip_ja):
        raise UsageError(
            f'{flag} "{names}" lacks a name.', "Give one, or two with a comma: clip-vit-b32,clip-japanese-base."
        )
    if not clip_ja and "ja" in find_model(clip, "clip", flag).langs:
        clip_ja = clip
    return {"en": clip, **({"ja": clip_ja} if clip_ja else {})}


def load_encoders(
    langs: Iterable[str],
    clip: str,
    clip_ja: str | None,
    *,
    device: str = "auto",
    accept_terms: Sequence[str] = (),
    trust_remote_code: bool = False,
    flags: tuple[str, str] = ("--clip", "--clip-ja"),
) -> dict[str, DualEncoder]:
    """Load the dual encoder of each language, each one once. Raises as `DualEncoder.load` does.

    Args:
        clip: for every language but Japanese.
        clip_ja: for Japanese; default: `clip` where it reads Japanese, else clip-japanese-base.
        flags: what gave `clip` and `clip_ja`, for errors.
    """
    flag, flag_ja = flags
    clip_ja = clip_ja or (clip if "ja" in find_model(clip, "clip", flag).langs else "clip-japanese-base")
    names = {lang: clip_ja if lang == "ja" else clip for lang in langs}
    named_by = {clip_ja: flag_ja, clip: flag}
    for name in dict.fromkeys(names.values()):  # before torch is imported
        row = find_model(name, "clip", named_by[name])
        check_terms(row, accept_terms, named_by[name])
        check_code(row, trust_remote_code, named_by[name])
    from commonart.core.metrics.clip_score import DualEncoder

    load = partial(DualEncoder.load, device=device, accept_terms=accept_terms, trust_remote_code=trust_remote_code)
    loaded = {name: load(name, flag=named_by[name]) for name in dict.fromkeys(names.values())}
    return {lang: loaded[name] for lang, name in names.items()}


def score(
    group: ImageGroup, judges: Judges, common: dict[str, Any], failed: dict[str, str], quiet: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield every score of a group; images that cannot be read are left out, and added to `failed`.

    `common` has the fields of every score of this group; its `seed` is that of the bootstrap, too.
    """
    dual = judges.clip[group.lang]
    by_clip = encoder_of(dual)
    encoders = [by_clip, *([judges.inception] if judges.inception and group.reference else [])]
    by_cmmd = encoder_of(judges.cmmd, CMMD_SIDE) if judges.cmmd and group.reference else None
    encoders += [by_cmmd] if by_cmmd and by_cmmd.name not in {encoder.name for encoder in encoders} else []
    read = partial(features.extract, encoders=encoders, side=judges.side, quiet=quiet)
    ours = read(group.items)
    _note(ours, failed)
    real = None
    if group.reference:
        key = "\0".join((*(item.pointer for item in group.reference), *(encoder.name for encoder in encoders)))
        if key not in judges.found:
            judges.found[key] = read(group.reference, cache=judges.cache)
        real = judges.found[key]
        _note(real, failed)
    common |= {"n": len(ours.kept), "left_out": len(ours.failed), "resolution": ours.resolution}
    if real is not None:
        common |= {"n_reference": len(real.kept), "reference_resolution": real.resolution}
        common |= {"scaled_to": judges.side, "reference_sha256": real.digest}
        yield from _distances(ours, real, judges, dual, by_clip.name, by_cmmd.name if by_cmmd else "", common)
    yield from _clip_score(group, ours, real, dual, by_clip.name, judges.convention, common)
    yield from _scenes(group, ours, common)


def line(score: Mapping[str, Any], group: str) -> str:
    """Return one score as `eval` prints it, of the images that `group` names."""
    if score["metric"] == "scenes":
        shares = "  ".join(f"{k} {100 * score[k]:.1f} %" for k in ("color", "shape", "background", "place"))
        return f"{'prompt following':<18} {group:<24} {shares}  (n {score['n']:,})"
    digits = 2 if score["metric"] in ("FID", "CLIP") or score["metric"].startswith("FD-") else 4
    interval = f" [{score['low']:.{digits}f}, {score['high']:.{digits}f}]" if "low" in score else ""
    reference = f", reference {score['reference']:.2f}" if score.get("reference") is not None else ""
    if score["metric"] != "CLIP":
        reference = f" against {score['n_reference']:,}" if "n_reference" in score else ""
    if "low" not in score and str(score.get("interval", "")).startswith(NO_INTERVAL):
        reference += f"; {score['interval']}"
    name = f"{score['metric']} ({score['judge']})" if score["metric"] == "CLIP" else score["metric"]
    return f"{name:<18} {group:<24} {score['value']:.{digits}f}{interval}  (n {score['n']:,}{reference})"


def _distances(
    ours: ImageFeatures, real: ImageFeatures, judges: Judges, dual: DualEncoder, by_clip: str, by_cmmd: str,
    common: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield the distances of two sets, of which every row is taken in the order of content."""
    fewest = min(len(ours.kept), len(real.kept))
    if fewest < MIN_IMAGES:
        warn(
            f"a Fréchet distance needs at least two images on either side; there is one ({common['lang'] or 'no prompt'})."
        )
        return
    judge: dict[str, Any] = {"judge": dual.name, "judge_revision": dual.revision}
    name = f"FD-{dual.name}-clip" if dual.embedded else f"FD-{dual.name}"
    spaces: list[tuple[str, str, Mapping[str, Any]]] = [(name, by_clip, judge)]
    if judges.inception is not None:
        spaces.append(("FID", judges.inception.name, {"mode": judges.fid, "weights_sha256": judges.weights}))
    if len(ours.kept) < COMPARABLE and not judges.warned:
        judges.warned = True
        warn(
            f"a Fréchet distance of {len(ours.kept):,} images depends on their number: compare it only with one of as "
            f"many images, not with FID-30k."
        )
    for metric, key, about in spaces:
        a, b = ours.rows[key][ours.order], real.rows[key][real.order]
        reference = frechet.fit(b)
        value = frechet.frechet(frechet.fit(a), reference)
        low, high = frechet.jackknife(a, reference)
        bounds: dict[str, Any] = {"low": low, "high": high, "interval": "jackknife over the generated images"}
        if not np.isfinite(high):
            bounds = {"interval": f"{NO_INTERVAL}: a covariance of one image less needs three images"}
        yield {"metric": metric, "value": value, **bounds, **about, **common}
    metric, key, about = spaces[-1]  # Inception where there is one
    space = "inception" if metric == "FID" else dual.name
    a, b = ours.rows[key][ours.order], real.rows[key][real.order]
    if "kid" in judges.metrics:
        value, lower, upper = kernel_distance.kid(a, b)
        bounds = {"low": lower, "high": upper, "interval": "spread of disjoint blocks"}
        if lower is None:
            bounds = {"interval": f"{NO_INTERVAL}: it needs {kernel_distance.FEWEST} images on either side"}
        yield {"metric": "KID" if space == "inception" else f"KID-{space}", "value": value, **bounds, **about, **common}
    if "precision-recall" in judges.metrics and fewest <= kernel_distance.NEIGHBOUR:
        warn(f"precision and recall need more than {kernel_distance.NEIGHBOUR} images on either side, not {fewest}.")
    elif "precision-recall" in judges.metrics:
        for kind, inside in zip(("precision", "recall"), kernel_distance.precision_recall(a, b), strict=True):
            share = roc.proportion(int(inside.sum()), len(inside)) | {"interval": "Clopper and Pearson's"}
            yield {"metric": kind, "features": space, "k": kernel_distance.NEIGHBOUR, **share, **about, **common}
    if judges.cmmd is not None:
        metric = "CMMD" if judges.cmmd.name == CMMD_ENCODER else f"CMMD-{judges.cmmd.name}"
        value, low, high = kernel_distance.cmmd(ours.rows[by_cmmd][ours.order], real.rows[by_cmmd][real.order])
        bounds = {"low": low, "high": high, "interval": "jackknife over both sets"}
        judge = {"judge": judges.cmmd.name, "judge_revision": judges.cmmd.revision}
        yield {"metric": metric, "value": value, **bounds, **judge, **common}


def _clip_score(
    group: ImageGroup, ours: ImageFeatures, real: ImageFeatures | None, dual: DualEncoder, key: str, convention: str,
    common: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    from commonart.core.metrics import clip_score, protocols

    prompts = [group.prompts[place] for place in ours.kept]
    if not all(prompts):
        say(f"{prompts.count('')} images carry no prompt, so they have no CLIP score.")
        return
    _, prefix = protocols.convention_of(convention)
    texts = dual.encode_texts([prefix + prompt for prompt in prompts])
    values = clip_score.scores(ours.rows[key].astype(np.float64), texts, convention)
    # The score of the real images with the same captions is the scale on which to read ours.
    reference = None
    if group.paired and real is not None:
        same = dual.encode_texts([prefix + group.prompts[place] for place in real.kept])
        reference = float(clip_score.scores(real.rows[key].astype(np.float64), same, convention).mean())
    interval = {"value": float(values.mean()), **_interval(values, common["seed"])}
    about = {"mode": convention, "judge": dual.name, "judge_revision": dual.revision}
    yield {"metric": "CLIP", **interval, "reference": reference, **about, **common}


def _scenes(group: ImageGroup, ours: ImageFeatures, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the share of the scenes' facts that the pixels show, for each kind; nothing where no scene is known."""
    pairs = [(group.scenes[place], group.items[place]) for place in ours.kept if group.scenes and group.scenes[place]]
    if pairs:
        from commonart.core.nano.scene_reader import score_many

        images = ((scene, image_set.open_image(item.pointer)) for scene, item in pairs if scene is not None)
        yield {"metric": "scenes", **common, **score_many(images), "n": len(pairs)}


def _interval(values: NDArray[np.float64], seed: int) -> dict[str, Any]:
    if len(values) < MIN_IMAGES:
        return {"interval": f"{NO_INTERVAL}: it needs {MIN_IMAGES} images"}
    low, high = roc.bootstrap(np.sort(values), lambda v: float(v.mean()), seed=seed)
    return {"low": low, "high": high, "interval": "bootstrap over the images"}


def _note(found: ImageFeatures, failed: dict[str, str]) -> None:
    for pointer, why in found.failed.items():
        if pointer not in failed:
            warn(f"left out: {why}")
            failed[pointer] = why
