"""Scores of images, or of models that generate them first.

FD-nano-clip and the CLIP score by the embedded dual encoder need no download; `--fid clean` and `--clip clip-vit-b32`
are the paper's metrics, and `--protocol paper` its table 2. Every score is recorded with all that it depends on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.files import write_json
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError, check_at_least
from commonart.core.generation.request import GenerationConfig, ModelSpec
from commonart.core.metrics import features, image_groups, image_set, paper_table, protocols, questions
from commonart.core.metrics import fid as frechet
from commonart.core.metrics import scores as scoring
from commonart.core.metrics.image_groups import ImageGroup
from commonart.core.metrics.image_set import ImageRef
from commonart.core.metrics.protocols import EMBEDDED, Protocol
from commonart.core.metrics.scores import MIN_IMAGES, Judges
from commonart.core.output import metadata
from commonart.core.output.metadata import MarkOptions

if TYPE_CHECKING:
    from commonart.core.generation.session import Session
    from commonart.core.model.captioning.endpoint import EndpointOptions

LANGS = ("en", "ja")


def run(
    generated: str | None = None,
    reference: str | None = None,
    out: str | None = "eval.json",
    *,
    protocol: str | None = None,
    model: str | None = None,
    langs: Sequence[str] | None = None,
    n: int | None = None,
    split: str | None = None,
    seed: int = 0,
    fid: str | None = None,
    clip: str | None = None,
    clip_ja: str | None = None,
    clip_mode: str | None = None,
    metrics: Sequence[str] = (),
    scenes: int = 0,
    templated: int = 0,
    judge: str = "nano",
    endpoint: EndpointOptions | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
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
        protocol: of `core.metrics.protocols`: gives langs, n, fid, clip, clip_ja and clip_mode where they are None.
        model: one, or several with commas between.
        n: the most images per language, chosen by `seed`.
        split: of the reference: "train" or "heldout".
        fid: "clean" or "legacy_pytorch" measures FID, too; "none" does not, whatever the protocol says.
        clip, clip_ja: as `scoring.load_encoders` takes them; default: nano.
        metrics: of `scoring.METRICS`.
        scenes: with `model`: as many prompts of unseen scenes, and as many of unseen pairs of color and shape, in each
            language, scored by what the pixels show.
        templated: with `model`: as many templated prompts in each language, scored by questions to `judge`.
        judge, endpoint: as `questions.open_judge` takes them.
        steps, guidance: default: 20 and 4.5, or those of the pipeline's own class.
        interval: as `core.model.sampler.sample` takes it.
        pictures: folder that keeps the generated images; a second call continues from there. Default: `eval-pictures/MODEL`
            beside `out`.

    Raises:
        UsageError: options that contradict each other, or `out` exists.
        CommonArtError: images, models or weights that cannot be found, or nothing that can be scored.
    """
    models = [name for name in (model or "").split(",") if name]
    plan = protocols.find(protocol) if protocol else None
    # Embedded models know no photographs, and have a judge of their own, which needs no download.
    embedded = bool(models) and all(name == EMBEDDED for name in models)
    if plan is not None:
        langs, n, clip_mode = langs or plan.langs, n or plan.n, clip_mode or plan.clip_mode
        if not embedded:
            fid, clip, clip_ja = fid or plan.fid, clip or plan.clip, clip_ja or plan.clip_ja
    langs, clip, clip_mode = tuple(langs or LANGS), clip or EMBEDDED, clip_mode or "paper"
    fid = None if fid == "none" else fid
    _check(generated, reference, models, langs, n, scenes, templated, batch, seed, clip_mode, fid, out, overwrite, plan)
    scoring.check_metrics(metrics)
    if not templated and (judge != questions.NANO or endpoint is not None):
        raise UsageError("--judge and --endpoint judge templated prompts.", "Add --templated 100, or leave them out.")
    beside = (text_encoder, autoencoder, accept_terms)
    specs = [ModelSpec(name, *beside, device=device, precision=precision) for name in models]
    for spec in specs:
        spec.find()
    folders = [_folder(name, models, pictures, out) for name in models]
    failed: dict[str, str] = {}
    if models:
        part = plan.part if plan else ""
        groups = image_groups.from_captions(reference, langs, n, split, seed, part) if reference else []
        true_scenes = _pictures(pictures, out) / "scenes" if plan else None
        groups += image_groups.from_grammar(scenes, langs, seed, true_scenes) if scenes else []
        answers = None
        if templated:
            answers = questions.open_judge(
                judge, endpoint=endpoint, accept_terms=accept_terms, device=device, precision=precision
            )
            groups += questions.templated_groups(answers, templated, langs, seed)
    else:
        groups, failed = image_groups.from_images(str(generated), reference, n, split, seed)
    # Before any image is generated: a model that is missing or refused is an error at once.
    judges = Judges.load(
        [group.lang for group in groups], clip, clip_ja, clip_mode, fid, metrics=metrics,
        side=plan.side if plan else None, cache=features.cache_folder(), device=device, accept_terms=accept_terms,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    about = {"seed": seed, "split": split, "versions": protocols.versions()}
    settings: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    if models:
        from commonart.core.generation.session import Session

        # What is scored is what the model makes, and a score says which bytes it is of: no watermark, and no signature,
        # which is another each time.
        marks = MarkOptions(watermark=False, c2pa=False)
        sessions = [Session.open(spec, marks) for spec in specs]
        configs = [_config(session, steps, guidance, interval) for session in sessions]
        for folder in folders:
            metadata.check_folder(_made(folder))
        for folder, config in zip(folders, configs, strict=True):
            session = sessions.pop(0)  # so that only one model's weights are held
            shared = session.settings(config) | about
            if "interval" in shared:  # a score's own `interval` names the kind of its confidence interval
                shared["guidance_interval"] = shared.pop("interval")
            own = [dataclasses.replace(group, items=[]) for group in groups]
            _generate(session, config, own, seed, batch, folder, quiet)
            del session
            settings.append(shared | {"clip_mode": clip_mode, "pictures": str(folder)})
            scores += _scores(own, judges, answers, shared, failed, quiet)
    else:
        settings.append(about | {"clip_mode": clip_mode})
        scores += _scores(groups, judges, None, {"model": generated} | about, failed, quiet)
    result: dict[str, Any] = {
        "schema": 2, "model": ",".join(models) or generated, "protocol": dataclasses.asdict(plan) if plan else None,
        "settings": settings[0] if len(settings) == 1 else settings, "left_out": failed, "scores": scores,
    }  # fmt: skip
    if plan is not None and plan.name == "paper":
        result["paper"] = {"source": paper_table.SOURCE, "columns": paper_table.COLUMNS, "rows": dict(paper_table.ROWS)}
    if out is not None:
        write_json(out, result)
    return result


def check_failures(result: dict[str, Any], most: float) -> None:
    """Raise TooManyFailures where more than the share `most` of the images of a result could not be read."""
    scored = {(s["model"], s["lang"], s.get("set")): s["n"] + s.get("n_reference", 0) for s in result["scores"]}
    count, total = len(result["left_out"]), sum(scored.values()) + len(result["left_out"])
    if count > most * total:
        raise TooManyFailures(
            f"{count:,} of {total:,} images could not be read (--max-failures {most:g}); the scores are of the others.",
            f"The first is {next(iter(result['left_out']))}; remove those files or make them again.",
        )


def table(result: dict[str, Any], form: str = "text") -> str:
    """Return what the command prints: a protocol's table, or our scores and the paper's table with our row."""
    lines = []
    for score in result["scores"]:
        if result.get("protocol") and (form != "text" or score["metric"] != "questions"):
            continue  # it stands in the protocol's table, or in eval.json alone
        group = " ".join(str(score[k]) for k in ("lang", "set", "split") if score.get(k))
        lines.append(questions.line(score, group) if score["metric"] == "questions" else scoring.line(score, group))
    if result.get("protocol"):
        return "\n\n".join(filter(None, (paper_table.protocol_table(result, form), "\n".join(lines))))
    papers = paper_table.table(str(result["model"]), result["scores"]) if "," not in str(result["model"]) else ""
    return "\n".join(lines) + (f"\n\n{papers}" if papers else "")


def _check(
    generated: str | None, reference: str | None, models: Sequence[str], langs: Sequence[str], n: int | None,
    scenes: int, templated: int, batch: int, seed: int, clip_mode: str, fid: str | None, out: str | None, overwrite: bool,
    plan: Protocol | None,
) -> None:  # fmt: skip
    example = "commonart eval pictures/ reference/, or commonart eval --model nano shards/."
    if generated is None and not models:
        raise UsageError("There is nothing to score: name images, or --model.", example)
    if generated is not None and models:
        raise UsageError("Images and --model exclude each other.", example)
    if models and reference is None and not scenes and not templated:
        raise UsageError("--model has no prompts.", "Name records with captions, or pass --scenes 100.")
    if len(set(models)) < len(models):
        raise UsageError("--model names a model twice.", "Name each one once.")
    if plan is not None and not models:
        raise UsageError(f"--protocol {plan.name} needs a model to sample.", "Pass --model NAME[,NAME].")
    if (scenes or templated) and not models:
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
    protocols.convention_of(clip_mode)
    if fid is not None:
        frechet.check_mode(fid)


def _folder(name: str, models: Sequence[str], pictures: str | None, out: str | None) -> Path:
    """Return the folder of a model's images: one that stays, so that a killed run goes on where it was."""
    slug = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    folder = _pictures(pictures, out)
    return folder if pictures is not None and len(models) == 1 else folder / slug


def _pictures(pictures: str | None, out: str | None) -> Path:
    return Path(pictures) if pictures is not None else Path(out or "").parent / "eval-pictures"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{folder}: the folder for the images cannot be created ({error.strerror})."
        raise CommonArtError(what, "Choose another one: --pictures FOLDER.") from error
    return folder


def _config(
    session: Session, steps: int | None, guidance: float | None, interval: tuple[float, float]
) -> GenerationConfig:
    from commonart.core.generation.diffusers_pipeline import DiffusersPipeline

    generator = session.generator
    own = generator.defaults() if isinstance(generator, DiffusersPipeline) else (20, 4.5)
    config = GenerationConfig(
        steps=steps or own[0], guidance=own[1] if guidance is None else guidance, interval=interval
    )
    config.check()
    if isinstance(generator, DiffusersPipeline):
        generator.check(config)
    return config


def _scores(
    groups: Sequence[ImageGroup], judges: Judges, answers: questions.Judge | None, shared: dict[str, Any],
    failed: dict[str, str], quiet: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    found: list[dict[str, Any]] = []
    for group in groups:
        common = {"lang": group.lang, **shared}
        if group.kind:
            common["set"] = group.kind
        if not group.reference:
            common.pop("split")
        found += scoring.score(group, judges, common, failed, quiet)
        if group.asked and answers is not None:
            found.append(questions.by_questions(group, answers, common))
    return found


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
