"""Scores of pictures, or of a model that draws them first.

    commonart eval pictures/ shards/ --split heldout
    commonart eval --model runs/nano shards/ -n 200 --scenes 100

The first compares two sets of pictures, the second draws the captions of its SOURCE in each language. FD-nano-clip
and the CLIP score by the embedded dual encoder need no download; `--fid clean` and `--clip clip-vit-b32` are the
paper's metrics. Beside every score stand mode, resolution, split, seed and n, without which it means nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.files import write_json
from commonart.core.data.language import lang_of
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.prompts import text_of
from commonart.core.log import progress
from commonart.core.metrics import image_set, paper_table
from commonart.core.metrics import scores as scoring
from commonart.core.metrics.image_set import Item
from commonart.core.metrics.scores import SMALLEST, Group
from commonart.core.output import metadata

if TYPE_CHECKING:
    from commonart.core.generation.generator import ImageGenerator
    from commonart.core.nano.scenes import Scene

LANGS = ("en", "ja")


def evaluate(
    generated: str | None = None,
    reference: str | None = None,
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
    steps: int = 20,
    guidance: float = 4.5,
    size: int | None = None,
    batch: int = 16,
    pictures: str | None = None,
    out: str | None = "eval.json",
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure, write `out`, and return what it holds: {"schema", "model", "settings", "scores": [...]}.

    Args:
        generated: pictures that were drawn, as `core.metrics.image_set.collect` takes them; their prompts come from
            the records or from the pictures' own marks. Not with `model`.
        reference: real pictures; with `model`, records whose captions in each of `langs` are drawn.
        model: anything that `sample` takes.
        langs: of the captions that are drawn, and of the scenes' prompts.
        n: at most so many pictures per language, drawn by `seed`.
        split: of the reference: "train" or "heldout".
        fid: "clean" or "legacy_pytorch" measures FID as well.
        clip, clip_ja: judges of English and of Japanese prompts, as `scoring.load_judges` takes them.
        clip_mode: "paper" or "hessel", as `core.metrics.clip_score` says.
        scenes: with `model`: so many prompts of scenes that no training has seen, and of colour-shape pairs that no
            training has seen, in each language, judged by what the pixels show.
        steps, guidance, size, batch: of the drawing, as `sample` takes them.
        pictures: keep what was drawn in this folder; a second call goes on from there.
        out: where the result is written; None writes none.

    Raises:
        UsageError: flags that contradict each other, or `out` exists.
        CommonArtError: pictures, models or weights that cannot be had.
    """
    _check(generated, reference, model, langs, n, scenes, clip_mode, fid, out, overwrite)
    said: dict[str, Any] = {"seed": seed, "split": split, "clip_mode": clip_mode}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="commonart-eval-")))
        if model is not None:
            from commonart.core.generation.components import locate
            from commonart.core.generation.generator import open_generator

            parts = locate(model, text_encoder=text_encoder, autoencoder=autoencoder, accept_terms=accept_terms)
            engine = open_generator(parts, device=device, precision=precision)
            side = size or engine.size
            if side < 1 or side % engine.multiple:
                raise UsageError(
                    f"--size {side}: this model draws sides that are multiples of {engine.multiple}.",
                    f"Its own size is {engine.size}.",
                )
            shared = {
                "model": parts.name, "revision": parts.revision, "objective": parts.objective, "steps": steps,
                "guidance": guidance, "negative": "", "width": side, "height": side,
            }  # fmt: skip
            said |= shared
            wanted = _wanted(reference, langs, n, split, seed, scenes)
            groups = _draw(engine, wanted, shared, seed, batch, Path(pictures) if pictures else work, quiet)
            del engine
        else:
            groups = _given(str(generated), reference, n, split, seed)
        judges = scoring.load_judges(
            [group.lang for group in groups], clip, clip_ja,
            device=device, accept_terms=accept_terms, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        scores: list[dict[str, Any]] = []
        for group in groups:
            common = {"lang": group.lang, "seed": seed, "resolution": image_set.resolution(group.items)}
            if group.kind:
                common["set"] = group.kind
            if group.reference:
                common |= {"split": split, "reference_resolution": image_set.resolution(group.reference)}
            scores += scoring.by_judge(group, judges[group.lang], clip_mode, common)
            if fid is not None and group.reference:
                scores.append(scoring.by_inception(group, fid, device, work, common))
            scores += scoring.by_scenes(group, common)
    result = {"schema": 1, "model": said.get("model", generated), "settings": said, "scores": scores}
    if out is not None:
        write_json(out, result)
    return result


def table(result: dict[str, Any]) -> str:
    """What the command prints: our scores, and the paper's table with our row where they are its metrics."""
    lines = []
    for score in result["scores"]:
        where = " ".join(str(score[k]) for k in ("lang", "set", "split") if score.get(k))
        if score["metric"] == "scenes":
            facts = "  ".join(f"{k} {100 * score[k]:.1f} %" for k in ("color", "shape", "background", "place"))
            lines.append(f"{'prompt following':<18} {where:<24} {facts}  (n {score['n']:,})")
        else:
            between = f" [{score['low']:.2f}, {score['high']:.2f}]" if "low" in score else ""
            aside = f", reference {score['reference']:.2f}" if score.get("reference") is not None else ""
            name = f"{score['metric']} ({score['judge']})" if score["metric"] == "CLIP" else score["metric"]
            lines.append(f"{name:<18} {where:<24} {score['value']:.2f}{between}  (n {score['n']:,}{aside})")
    known = paper_table.table(str(result["model"]), result["scores"])
    return "\n".join(lines) + (f"\n\n{known}" if known else "")


def _check(
    generated: str | None, reference: str | None, model: str | None, langs: Sequence[str], n: int | None,
    scenes: int, clip_mode: str, fid: str | None, out: str | None, overwrite: bool,
) -> None:  # fmt: skip
    if (generated is None) == (model is None):
        raise UsageError(
            "name either pictures that were drawn or --model."
            if model is None
            else "pictures and --model exclude each other.",
            "commonart eval pictures/ reference/, or commonart eval --model nano shards/.",
        )
    if model is not None and reference is None and not scenes:
        raise UsageError("--model has nothing to draw.", "Name records with captions, or say --scenes 100.")
    if scenes and model is None:
        raise UsageError("--scenes needs a model that draws them.", "Say --model NAME.")
    if scenes < 0 or (n is not None and n < SMALLEST):
        raise UsageError(f"-n {n} --scenes {scenes} is not possible.", f"-n counts from {SMALLEST}, --scenes from 0.")
    for lang in langs:
        if lang not in LANGS:
            raise UsageError(f"--lang {lang} cannot be judged.", f"Choose among {', '.join(LANGS)}.")
    if fid is not None and reference is None:
        raise UsageError(f"--fid {fid} needs real pictures to compare with.", "Name a reference.")
    if out is not None and Path(out).exists() and not overwrite:
        raise UsageError(f"-o {out}: this file is there already.", "Choose another name, or say --overwrite.")
    from commonart.core.metrics.clip_score import convention_of
    from commonart.core.metrics.fid import MODES

    convention_of(clip_mode)
    if fid is not None and fid not in MODES:
        raise UsageError(f"--fid {fid}: there is no such mode.", f"Choose one of {', '.join(MODES)}.")


def _given(generated: str, reference: str | None, n: int | None, split: str | None, seed: int) -> list[Group]:
    """Pictures that were drawn before, by the language of their prompts; "" for those that say none."""
    items = image_set.collect(generated, limit=n, seed=seed)
    real = image_set.collect(reference, split=split, limit=n, seed=seed) if reference else []
    groups: dict[str, Group] = {}
    for item in items:
        prompt = text_of(item.record)
        if not item.record:
            prompt = str((metadata.read(item.pointer).settings or {}).get("prompt", ""))
        lang = lang_of(prompt) if prompt else ""
        group = groups.setdefault(lang, Group(lang, [], [], real))
        group.items.append(item)
        group.prompts.append(prompt)
        group.scenes.append(_scene(item))
    return [groups[lang] for lang in sorted(groups)]


def _wanted(
    reference: str | None, langs: Sequence[str], n: int | None, split: str | None, seed: int, scenes: int
) -> list[Group]:
    """What a model is asked to draw: `items` are still empty."""
    groups = []
    real = image_set.collect(reference, split=split, seed=seed) if reference else []
    for lang in langs:
        chosen = [(item, text) for item in real if (text := _caption(item, lang))][:n]
        if chosen:
            items = [item for item, _ in chosen]
            prompts, facts = [text for _, text in chosen], [_scene(item) for item in items]
            groups.append(Group(lang, [], prompts, items, facts, paired=True))
    if reference and not groups:
        raise CommonArtError(
            f"{reference} has no captions in {' or '.join(langs)}.", "Caption it first: commonart caption, translate."
        )
    if scenes:
        from commonart.core.nano.grammar import eval_prompts

        for heldout, kind in ((False, "unseen"), (True, "held-out pairs")):
            for lang in langs:
                pairs = eval_prompts(scenes, lang, seed, heldout)
                facts = [scene for scene, _ in pairs]
                groups.append(Group(lang, [], [text for _, text in pairs], scenes=facts, kind=kind))
    return groups


def _caption(item: Item, lang: str) -> str:
    return next((c["text"] for c in item.record.get("captions") or [] if c.get("lang") == lang), "")


def _scene(item: Item) -> Scene | None:
    if not isinstance(item.record.get("scene"), dict):
        return None
    from commonart.core.nano.scenes import scene_from_json

    return scene_from_json(item.record["scene"])


def _draw(
    engine: ImageGenerator,
    groups: list[Group],
    shared: dict[str, Any],
    seed: int,
    batch: int,
    folder: Path,
    quiet: bool,
) -> list[Group]:
    """Draw every prompt that `folder` does not hold yet, each from a seed of its own, and fill the groups."""
    from commonart.core.generation.pipeline import Job

    todo: list[tuple[Path, dict[str, Any]]] = []
    for group in groups:
        where = folder / "-".join(filter(None, (group.kind.replace(" ", "-"), group.lang)))
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise CommonArtError(
                f"{where}: cannot be made ({problem.strerror}).", "Choose another folder."
            ) from problem
        for number, prompt in enumerate(group.prompts):
            name = group.reference[number].name if group.paired else f"{number:05d}"
            settings = {"prompt": prompt, "seed": image_set.seed_for(seed, f"{group.lang}/{name}"), **shared}
            path = where / f"{name}.png"
            group.items.append(Item(str(path), {}))
            if not path.exists() or metadata.read(path).settings != settings:
                todo.append((path, settings))
    jobs = [Job(settings["prompt"], settings["seed"]) for _, settings in todo]
    size = (shared["width"], shared["height"])
    with progress("draw", total=len(jobs), unit=" images", quiet=quiet) as tick:
        drawn = engine.draw(jobs, size=size, steps=shared["steps"], guidance=shared["guidance"], batch=batch, tick=tick)
        for number, image in drawn:
            path, settings = todo[number]
            metadata.save(image, path, settings=settings, overwrite=True)
    return groups
