"""Recipes compared under one budget: every arm of a grid with every seed, trained, measured and put into one table.

OUT/ARM/seed-N/ is a run as `commonart train` makes it, and its trial.json says that it is over.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson

from commonart.core import launch, log
from commonart.core.data.drops import Summary
from commonart.core.data.files import write_bytes
from commonart.core.data.tasks import Task
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError, Diverged, UsageError, telling
from commonart.core.metrics import image_groups
from commonart.core.metrics import scores as scoring
from commonart.core.settings import Settings
from commonart.core.training import ablation, ablation_table
from commonart.core.training import run as runs
from commonart.core.training.ablation import Arm, Grid, Trial

PROBE, LONGEST_PROBE = 0.05, 60.0  # of a trial's seconds; seconds
ENOUGH = 3.0  # seconds that a probe takes at least
SCORED_SEED = 0  # of the prompts and of their noise, the same for all trials


def run(grid: Grid, out: str, settings: Settings, task: Task) -> Summary:
    """Run the trials of this task that are not over yet, and write the table after each.

    Args:
        settings: data, rules and device of all trials.

    Raises:
        CommonArtError: data that cannot be trained on, a trial of another grid in `out`, and whatever training raises but for
            a trial that diverged, which the table counts.
        Preempted: SIGTERM, SIGUSR1 or Ctrl-C came while a trial was trained; the same call goes on with it.
    """
    if launch.world_size() > 1:
        raise UsageError(
            "commonart ablate was started as several processes at once.",
            "Share the trials out with an array of jobs (sbatch --array=0-3), or give each trial several GPUs with --gpus.",
        )
    data_sets(settings.data)
    started, folder = time.monotonic(), Path(out)
    finished = [ablation.finished(_folder(folder, arm, seed), grid, arm) for arm, seed in grid.trials()]
    every = zip(grid.trials(), finished, strict=True)
    mine = [(*trial, over) for number, (trial, over) in enumerate(every) if task.owns(number)]
    left = any(over is None for *_, over in mine)
    captions = _captions(grid, settings) if grid.images and left else {}  # before anything is trained for them
    done, before, failed = 0, 0, Counter[str]()

    def summary() -> Summary:
        return Summary("ablate", len(mine), done, failed, finished_before=before, seconds=time.monotonic() - started)

    with telling(summary):
        for number, (arm, seed, trial) in enumerate(mine, 1):
            before += trial is not None
            if trial is None:
                trial_folder = _folder(folder, arm, seed)
                if not settings.quiet:
                    log.say(f"trial {number} of {len(mine)}: {arm.name}, seed {seed}")
                trial = _trial(grid, arm, seed, trial_folder, settings, task, captions)
                trial.write(trial_folder)
                ablation_table.write(result(grid, out), folder)
            done += not trial.failed
            if trial.failed:
                failed["diverged"] += 1
        if mine and not left:  # an arm may have been renamed
            ablation_table.write(result(grid, out), folder)
    return summary()


def result(grid: Grid, out: str) -> dict[str, Any]:
    """Return what the finished trials of a grid say. Raises as `ablation.finished`."""
    every = (ablation.finished(_folder(Path(out), arm, seed), grid, arm) for arm, seed in grid.trials())
    trials = [trial for trial in every if trial is not None]
    if len({trial.data for trial in trials if trial.data}) > 1:
        log.warn(f"{out}: not all trials were trained on the same shards.")
    if len({trial.precision for trial in trials if trial.precision}) > 1:
        log.warn(f"{out}: not all trials were trained in the same precision.")
    return ablation_table.summarize(grid, trials)


def _folder(out: Path, arm: Arm, seed: int) -> Path:
    return out / arm.folder / f"seed-{seed}"


def _trial(
    grid: Grid, arm: Arm, seed: int, folder: Path, settings: Settings, task: Task, captions: dict[str, Any]
) -> Trial:
    """Train one arm with one seed, go on with it where it was interrupted, and measure it."""
    from commonart.stages import train

    steps, failed = grid.steps, ""
    try:
        steps = steps or _steps(grid, arm, folder.parent, settings, task)
        own = _settings(settings, grid, arm, folder, steps=steps, seed=seed)
        heldout_every, log_every = max(1, steps // ablation.CURVE), max(1, min(10, steps // 4))
        done = train.run(dataclasses.replace(own, heldout_every=heldout_every, log_every=log_every))
    except Diverged as error:
        failed = error.what
        log.warn(f"{arm.name}, seed {seed}: {failed}")
    recipe = ablation.recipe_of(grid, arm, max(1, steps))
    about: dict[str, Any] = {
        "arm": arm.name, "seed": seed, "budget": grid.budget, "recipe": dataclasses.asdict(recipe), "scenes": grid.scenes,
        "init": grid.init, "vision_tower": _tower(grid, arm), "images": grid.images, "clip": grid.clip, "steps": steps,
    }  # fmt: skip
    if failed:
        return Trial(**about, **_described(folder), failed=failed)
    assert done is not None  # one process
    following: dict[str, float] = {}
    if grid.scenes and _is_nano(folder):
        following |= _of_scenes(_scores(folder, settings, scenes=grid.scenes))
    if captions:
        following |= _of_captions(_scores(folder, settings, **captions))
    return Trial(**about, **_described(folder), following=following, **ablation.measured(folder, done.images))


def _captions(grid: Grid, settings: Settings) -> dict[str, Any]:
    """Return the arguments of `evaluate.run` for images of held-out captions, of the first data set.

    Raises UsageError for encoders that do not exist or that nobody accepted, CommonArtError where they cannot be had or fewer
    captions are held out than the grid asks for.
    """
    by_lang = scoring.encoders_of(grid.clip, "clip =")
    clip, clip_ja = by_lang["en"], by_lang.get("ja")
    scoring.load_encoders(
        by_lang, clip, clip_ja, device="cpu", accept_terms=settings.accept_terms, flags=("clip =",) * 2
    )
    reference = str(data_sets(settings.data)[0][0])
    groups = image_groups.from_captions(reference, list(by_lang), grid.images, "heldout", SCORED_SEED)
    fewest = min(groups, key=lambda group: len(group.prompts))
    if (count := len(fewest.prompts)) < grid.images:
        raise CommonArtError(
            f"{reference} holds back {count:,} images with captions in '{fewest.lang}', and the grid asks for "
            f"images = {grid.images}.",
            f"Write images = {count}." if count > 1 else "Add more images.",
        )
    return {"reference": reference, "split": "heldout", "n": grid.images, "langs": [group.lang for group in groups],
            "clip": clip, "clip_ja": clip_ja, "accept_terms": settings.accept_terms}  # fmt: skip


def _scores(folder: Path, settings: Settings, **prompts: Any) -> list[dict[str, Any]]:
    """Make images of prompts with a trial's model, and return their scores."""
    from commonart.stages import evaluate

    made = evaluate.run(
        model=str(folder), seed=SCORED_SEED, out=None, pictures=str(folder / "pictures"), device=settings.device,
        quiet=settings.quiet, **prompts,
    )  # fmt: skip
    return list(made["scores"])


def _of_scenes(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Return {"color_en": share, ...}: the mean of unseen scenes and of unseen pairs of color and shape."""
    return {
        f"{fact}_{lang}": fmean(score[fact] for score in scores if (score["metric"], score["lang"]) == ("scenes", lang))
        for lang in ablation_table.LANGS
        for fact in ("color", "shape", "background", "place")
    }


def _of_captions(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Return {"clip_en": CLIP score, "fd_en": Fréchet distance, ...}."""
    clip = {f"clip_{score['lang']}": score["value"] for score in scores if score["metric"] == "CLIP"}
    return clip | {f"fd_{score['lang']}": score["value"] for score in scores if score["metric"].startswith("FD-")}


def _described(folder: Path) -> dict[str, Any]:
    """Return the fields of a Trial that run.json has; none where the probe of its arm failed."""
    if not (described := runs.read(folder)):
        return {"data": ""}
    return {"data": described["data"]["fingerprint"], "precision": described["precision"]}


def _is_nano(folder: Path) -> bool:
    """Return whether a run's text encoder and autoencoder are the embedded ones, which know scenes."""
    described = runs.read(folder)
    return bool(described["text_encoder"]["name"] == described["autoencoder"]["name"] == "nano")


def _tower(grid: Grid, arm: Arm) -> str:
    return grid.vision_tower if ablation.recipe_of(grid, arm, 1).repa else ""


def _settings(settings: Settings, grid: Grid, arm: Arm, folder: Path, *, steps: int, seed: int) -> Settings:
    return dataclasses.replace(
        settings, stage=grid.recipe, overrides={**arm.overrides, "steps": steps}, out=str(folder), init=grid.init,
        vision_tower=_tower(grid, arm), seed=seed, keep=1,
    )  # fmt: skip


def _steps(grid: Grid, arm: Arm, folder: Path, settings: Settings, task: Task) -> int:
    """Return how many steps of an arm fit into the budget, so that its schedule knows its end.

    Measured once, by real steps, and kept in ARM/steps.json: all seeds take as many, whoever trains them.

    Raises Diverged where they diverged, CommonArtError for steps that were measured for another arm.
    """
    kept = folder / "steps.json"
    recipe = ablation.recipe_of(grid, arm, 1)
    measured_for = dataclasses.asdict(recipe)
    measured_for |= {"seconds": grid.seconds, "vision_tower": _tower(grid, arm), "recipe": measured_for.pop("name")}
    del measured_for["steps"], measured_for["micro_batch"]
    if not kept.exists():
        from commonart.stages import train

        probe = folder / f"probe-{task.index}"
        seconds = min(LONGEST_PROBE, max(ENOUGH, PROBE * grid.seconds))
        steps, diverged = 0, ""
        while not steps and not diverged:  # until it has two lines, of which the first has no rate
            own = _settings(settings, grid, arm, probe, steps=10**9, seed=0)
            own = dataclasses.replace(
                own, max_seconds=seconds, heldout_every=0, checkpoint_every=10**9, log_every=2, quiet=True
            )
            shutil.rmtree(probe, ignore_errors=True)
            try:
                train.run(own)
                steps = ablation.steps_in(grid.seconds, probe, recipe)
            except Diverged as error:
                diverged = error.what
            finally:
                shutil.rmtree(probe, ignore_errors=True)
            if not steps and not diverged and seconds > grid.seconds:
                raise CommonArtError(
                    f"Arm {arm.name} does not take a step in {grid.seconds:g} s.", "Give the grid more seconds."
                )
            seconds *= 2
        values = {"steps": steps, "diverged": diverged, "of": measured_for}
        write_bytes(measured := folder / f"steps-{task.index}.json", orjson.dumps(values))
        with suppress(FileExistsError):  # another task of an array was faster
            os.link(measured, kept)
        measured.unlink()
    anew = f"Name another -o, or remove {folder}, and arm {arm.name} begins anew."
    try:
        values = orjson.loads(kept.read_bytes())
        steps, diverged, before = int(values["steps"]), str(values["diverged"]), dict(values["of"])
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        raise CommonArtError(f"{kept} is damaged.", anew) from error
    for name, now in measured_for.items():
        if before.get(name, now) != now:
            raise CommonArtError(f"{kept} was measured with {name} {before[name]}, and the grid says {now}.", anew)
    if diverged:
        raise Diverged(diverged, "Give that arm a lower rate.")
    return steps
