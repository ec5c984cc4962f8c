"""Scores of images, or of a model that generates them first.

FD-nano-clip and the CLIP score by the embedded dual encoder need no download; `--fid clean` and `--clip clip-vit-b32`
are the paper's metrics. Every score is recorded with the mode, resolution, split, seed and n that it depends on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.files import write_json
from commonart.core.data.record import captions
from commonart.core.data.text import language_of
from commonart.core.errors import CommonArtError, UsageError, check_at_least
from commonart.core.generation.prompts import text_of
from commonart.core.metrics import image_set, paper_table, questions
from commonart.core.metrics import scores as scoring
from commonart.core.metrics.image_set import ImageRef
from commonart.core.metrics.scores import MIN_IMAGES, ImageGroup
from commonart.core.output import metadata

if TYPE_CHECKING:
    from commonart.core.generation.request import GenerationConfig
    from commonart.core.generation.session import Session
    from commonart.core.model.captioning.endpoint import EndpointOptions
    from commonart.core.nano.scenes import Scene

LANGS = ("en", "ja")


def run(
    generated: str | None = None,
    reference: str | None = None,
    out: str | None = "eval.json",
    *,
    model: str | None = None,
    langs: Sequence[str] = LANGS,
    n: int | None = None,
    split: str | None = None,
    seed: int = 0,
    fid: str | None = None,
    clip: str = "nano",
    clip_ja: str | None = None,
    clip_mode: str = "paper",
    scenes: int = 0,
    templated: int = 0,
    judge: str = "nano",
    endpoint: EndpointOptions | None = None,
    steps: int = 20,
    guidance: float = 4.5,
    batch: int = 16,
    pictures: str | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure, write `out`, and return its content: {"schema", "model", "settings", "scores": [...]}.

    Args:
        generated: images as `core.metrics.image_set.collect` takes them; their prompts come from the records or from the
            images' own metadata. Not with `model`.
        reference: real images; with `model`, records whose captions in each of `langs` are the prompts.
        out: file of the result; None writes none.
        n: the most images per language, chosen by `seed`.
        split: of the reference: "train" or "heldout".
        fid: "clean" or "legacy_pytorch" measures FID, too.
        clip, clip_ja: as `scoring.load_encoders` takes them.
        scenes: with `model`: as many prompts of unseen scenes, and as many of unseen pairs of color and shape, in each
            language, scored by what the pixels show.
        templated: with `model`: as many templated prompts in each language, scored by questions to `judge`.
        judge, endpoint: as `questions.open_judge` takes them.
        pictures: folder that keeps the generated images; a second call continues from there.

    Raises:
        UsageError: options that contradict each other, or `out` exists.
        CommonArtError: images, models or weights that cannot be found, or nothing that can be scored.
    """
    _check(generated, reference, model, langs, n, scenes, templated, batch, seed, clip_mode, fid, out, overwrite)
    if not templated and (judge != questions.NANO or endpoint is not None):
        raise UsageError("--judge and --endpoint judge templated prompts.", "Add --templated 100, or leave them out.")
    settings: dict[str, Any] = {"seed": seed, "split": split, "clip_mode": clip_mode}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="commonart-eval-")))
        if model is not None:
            from commonart.core.generation.request import GenerationConfig, ModelSpec
            from commonart.core.generation.session import Session

            spec = ModelSpec(model, text_encoder, autoencoder, accept_terms, device=device, precision=precision)
            session = Session.open(spec)
            config = GenerationConfig(steps=steps, guidance=guidance)
            settings |= session.settings(config)
            groups = _prompts(reference, langs, n, split, seed, scenes)
            if templated:
                answers = questions.open_judge(
                    judge, endpoint=endpoint, accept_terms=accept_terms, device=device, precision=precision
                )
                groups += questions.templated_groups(answers, templated, langs, seed)
        else:
            groups = _collect(str(generated), reference, n, split, seed)
        # Before any image is generated: a model that is missing or refused is an error at once.
        encoders = scoring.load_encoders(
            [group.lang for group in groups], clip, clip_ja,
            device=device, accept_terms=accept_terms, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        by_inception = scoring.open_fid(fid, device, work) if fid is not None else None
        if model is not None:
            _generate(session, config, groups, seed, batch, Path(pictures) if pictures else work, quiet)
            del session
        scores: list[dict[str, Any]] = []
        for group in groups:
            common = {"lang": group.lang, "seed": seed, "resolution": image_set.resolution(group.items)}
            if group.kind:
                common["set"] = group.kind
            if group.reference:
                common |= {"split": split, "reference_resolution": image_set.resolution(group.reference)}
            scores += scoring.by_clip(group, encoders[group.lang], clip_mode, common)
            if by_inception is not None and group.reference:
                scores.append(by_inception(group, common))
            scores += scoring.by_scenes(group, common)
            if group.asked:
                scores.append(questions.by_questions(group, answers, common))
    result = {"schema": 1, "model": settings.get("model", generated), "settings": settings, "scores": scores}
    if out is not None:
        write_json(out, result)
    return result


def table(result: dict[str, Any]) -> str:
    """Return what the command prints: our scores, and the paper's table with our row where it has its metrics."""
    lines = []
    for score in result["scores"]:
        group = " ".join(str(score[k]) for k in ("lang", "set", "split") if score.get(k))
        if score["metric"] == "questions":
            lines.append(questions.line(score, group))
        elif score["metric"] == "scenes":
            shares = "  ".join(f"{k} {100 * score[k]:.1f} %" for k in ("color", "shape", "background", "place"))
            lines.append(f"{'prompt following':<18} {group:<24} {shares}  (n {score['n']:,})")
        else:
            interval = f" [{score['low']:.2f}, {score['high']:.2f}]" if "low" in score else ""
            reference = f", reference {score['reference']:.2f}" if score.get("reference") is not None else ""
            name = f"{score['metric']} ({score['judge']})" if score["metric"] == "CLIP" else score["metric"]
            lines.append(f"{name:<18} {group:<24} {score['value']:.2f}{interval}  (n {score['n']:,}{reference})")
    papers = paper_table.table(str(result["model"]), result["scores"])
    return "\n".join(lines) + (f"\n\n{papers}" if papers else "")


def _check(
    generated: str | None, reference: str | None, model: str | None, langs: Sequence[str], n: int | None,
    scenes: int, templated: int, batch: int, seed: int, clip_mode: str, fid: str | None, out: str | None, overwrite: bool,
) -> None:  # fmt: skip
    from commonart.core.metrics.clip_score import convention_of
    from commonart.core.metrics.fid import check_mode

    example = "commonart eval pictures/ reference/, or commonart eval --model nano shards/."
    if generated is None and model is None:
        raise UsageError("There is nothing to score: name images, or --model.", example)
    if generated is not None and model is not None:
        raise UsageError("Images and --model exclude each other.", example)
    if model is not None and reference is None and not scenes and not templated:
        raise UsageError("--model has no prompts.", "Name records with captions, or pass --scenes 100.")
    if (scenes or templated) and model is None:
        flag = "--scenes" if scenes else "--templated"
        raise UsageError(f"{flag} needs a model to generate them.", "Pass --model NAME.")
    check_at_least("-n", n, MIN_IMAGES)
    check_at_least("--scenes", scenes, 0)
    check_at_least("--templated", templated, 0)
    check_at_least("--batch", batch, 1)
    check_at_least("--seed", seed, 0)
    for lang in langs:
        if lang not in LANGS:
            raise UsageError(f"--langs {lang} cannot be scored.", f"Choose among {', '.join(LANGS)}.")
    if fid is not None and reference is None:
        raise UsageError(f"--fid {fid} needs real images to compare with.", "Name a reference.")
    if out is not None:
        metadata.check_output(out, "-o", overwrite)
    convention_of(clip_mode)
    if fid is not None:
        check_mode(fid)


def _collect(generated: str, reference: str | None, n: int | None, split: str | None, seed: int) -> list[ImageGroup]:
    """Return existing images by the language of their prompts, "" for those without a prompt."""
    real = image_set.collect(reference, split=split, limit=n, seed=seed) if reference else []
    groups: dict[str, ImageGroup] = {}
    for item in image_set.collect(generated, limit=n, seed=seed):
        prompt = text_of(item.record)
        if not item.record:
            prompt = str((metadata.read(item.pointer).settings or {}).get("prompt", ""))
        lang = language_of(prompt) if prompt else ""
        group = groups.setdefault(lang, ImageGroup(lang, [], [], real))
        group.items.append(item)
        group.prompts.append(prompt)
        group.scenes.append(_scene(item))
    if not real and groups.keys() == {""} and not any(groups[""].scenes):
        raise CommonArtError(
            f"{generated}: the images carry no prompts, and there is no reference to compare them with.",
            "Name real images as REFERENCE, or score images that keep their prompts, as commonart sample writes them.",
        )
    return [groups[lang] for lang in sorted(groups)]


def _prompts(
    reference: str | None, langs: Sequence[str], n: int | None, split: str | None, seed: int, scenes: int
) -> list[ImageGroup]:
    """Return the prompts to generate images from: groups whose `items` are still empty."""
    groups = []
    real = image_set.collect(reference, split=split, seed=seed) if reference else []
    for lang in langs:
        items = [item for item in real if captions(item.record, lang)][:n]
        if items:
            texts = [captions(item.record, lang)[0]["text"] for item in items]
            groups.append(ImageGroup(lang, [], texts, items, [_scene(item) for item in items], paired=True))
    if reference and not groups:
        raise CommonArtError(
            f"{reference} has no captions in {' or '.join(langs)}.",
            "Add some with commonart caption and commonart translate.",
        )
    if scenes:
        from commonart.core.nano.grammar import eval_prompts

        for heldout, kind in ((False, "unseen"), (True, "held-out pairs")):
            for lang in langs:
                prompts = eval_prompts(scenes, lang, seed, heldout)
                facts: list[Scene | None] = [scene for scene, _ in prompts]
                groups.append(ImageGroup(lang, [], [text for _, text in prompts], scenes=facts, kind=kind))
    return groups


def _scene(item: ImageRef) -> Scene | None:
    if not isinstance(item.record.get("scene"), dict):
        return None
    from commonart.core.nano.scenes import scene_from_json

    return scene_from_json(item.record["scene"])


def _generate(
    session: Session,
    config: GenerationConfig,
    groups: list[ImageGroup],
    seed: int,
    batch: int,
    folder: Path,
    quiet: bool,
) -> None:
    """Fill the groups with images in `folder`, generating those that it does not hold with the very same settings."""
    from commonart.core.generation.outputs import PlannedImage

    shared = session.settings(config)
    images = []
    for group in groups:
        subfolder = folder / "-".join(filter(None, (group.kind.replace(" ", "-"), group.lang)))
        for number, prompt in enumerate(group.prompts):
            name = group.reference[number].name if group.paired else f"{number:05d}"
            settings = {"prompt": prompt, "seed": image_set.seed_for(seed, f"{group.lang}/{name}"), **shared}
            path = subfolder / f"{name}.png"
            if path.exists() and metadata.settings_of(path) not in (None, settings):
                path.unlink()  # generated with other settings, or by a model that has been trained anew since
            images.append(PlannedImage(settings, path))
            group.items.append(ImageRef(str(path), {}))
    for _ in session.generate(images, config, batch=batch, reopen=False, quiet=quiet):
        pass
