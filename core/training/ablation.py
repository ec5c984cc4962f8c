"""Recipes compared under one budget: the grid of `commonart ablate` and its trials. `ablation_table` says what came of them.

recipe = "nano"                  # a training stage: what every arm starts from
seconds = 150                    # of training for each trial; or steps = 2000
seeds = [0, 1, 2]
scenes = 50                      # optional: prompts of each kind and language that runs of the nano models are scored by
images = 500                     # optional: held-out captions of each language that images are made of, and scored
clip = "clip-vit-b32"            # with images: the encoder of their scores, or NAME,NAME with one for Japanese
init = "none"                    # optional: initial weights
vision_tower = "siglip"          # of arms with repa
set = { patch = 4, layers = 3 }  # optional: recipe fields of all arms

[[arm]]
name = "as shipped"
[[arm]]
name = "lr 7e-3"
set = { lr = 7e-3 }
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import orjson

from commonart.core import recipes
from commonart.core.data.files import write_json
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.recipes import Recipe
from commonart.core.training import cost, logging
from commonart.core.training import run as runs

TRIAL = "trial.json"  # in the folder of a trial that is over
FIELDS = ("recipe", "seconds", "steps", "seeds", "scenes", "images", "clip", "init", "vision_tower", "set", "arm")
ARM_FIELDS = ("name", "set")
SCENES = 50
CURVE = 8  # points of a trial's curve of held-out loss


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the recipes that are compared."""

    name: str
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-.")


@dataclass(frozen=True, slots=True)
class Grid:
    """What is compared with what. Either `seconds` or `steps` is the budget of a trial; the other is 0."""

    recipe: str
    arms: Sequence[Arm]
    seeds: Sequence[int]
    seconds: float
    steps: int
    scenes: int
    init: str
    vision_tower: str = ""
    images: int = 0
    clip: str = ""

    @property
    def budget(self) -> dict[str, float]:
        return {"seconds": self.seconds} if self.seconds else {"steps": self.steps}

    def trials(self) -> list[tuple[Arm, int]]:
        """Return every arm with every seed, seed after seed, so that what is done first can be compared already."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]


def read_grid(path: str | Path) -> Grid:
    """Read GRID.toml. Raises UsageError, which names the file, the arm and the nearest right name, for what cannot be meant."""
    try:
        values = tomllib.loads(Path(path).read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.", "See commonart ablate --help for an example.") from error
    _known(f"{path}", values, FIELDS)
    shared, arms = values.get("set", {}), values.get("arm", [])
    if not isinstance(arms, list) or not arms or not all(isinstance(arm, dict) for arm in arms):
        raise UsageError(
            f"{path} names no arms.", 'Add at least one: [[arm]], then name = "..." and set = { lr = 1e-3 }.'
        )
    found: list[Arm] = []
    for number, values_of in enumerate(arms, 1):
        _known(f"{path}, arm {number}", values_of, ARM_FIELDS)
        name, own = values_of.get("name"), values_of.get("set", {})
        if not isinstance(name, str) or not Arm(name, {}).folder:
            raise UsageError(f"{path}: arm {number} has no name.", 'Give it one: name = "lr 1e-3".')
        for fields in (shared, own):
            if not isinstance(fields, dict):
                raise UsageError(f"{path}, arm {name}: set is not a table.", "Write set = { lr = 1e-3, batch = 256 }.")
            if "steps" in fields:
                raise UsageError(
                    f"{path}, arm {name}: steps is the budget of all arms.",
                    "Write steps = N beside recipe = ..., not in set.",
                )
        found.append(Arm(name, {**shared, **own}))
    doubled = [arm.name for n, arm in enumerate(found) if arm.folder.lower() in {a.folder.lower() for a in found[:n]}]
    if doubled:
        raise UsageError(f"{path}: two arms are named {doubled[0]}, or would share a folder.", "Rename one of them.")
    seeds = values.get("seeds", [0])
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    right = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not right or not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"{path}: seeds must be different whole numbers, or how many.", "Write seeds = [0, 1, 2].")
    seconds, steps, scenes, images = (_number(path, values, name) for name in ("seconds", "steps", "scenes", "images"))
    if bool(seconds) == bool(steps):
        raise UsageError(f"{path} must have one budget: seconds or steps of each trial.", "Write seconds = 150.")
    recipe, init = values.get("recipe", ""), values.get("init", "none")
    if not isinstance(recipe, str) or recipe not in recipes.RECIPES:
        fix = f"{_meant(str(recipe), recipes.STAGES)}Use one of {', '.join(recipes.STAGES)}."
        raise UsageError(f"{path}: recipe = {recipe!r} is not a training stage.", fix)
    scenes = scenes if "scenes" in values else SCENES
    tower = str(values.get("vision_tower", ""))
    clip = values.get("clip", "")
    if images == 1:
        raise UsageError(f"{path}: images = 1 is too few to be scored.", "Write images = 500.")
    if not isinstance(clip, str) or bool(clip) != bool(images):
        what = f"{path}: images and clip go together, images of held-out captions and the encoder of their scores."
        raise UsageError(what, 'Write images = 500 and clip = "clip-vit-b32", or neither.')
    grid = Grid(recipe, found, seeds, seconds, int(steps), int(scenes), str(init), tower, int(images), clip)
    for arm in found:
        if recipe_of(grid, arm, 1, str(path)).repa and not tower:
            what = f"{path}, arm {arm.name}: repa aligns the transformer with a vision encoder, and none is named."
            raise UsageError(what, 'Name one beside recipe = ...: vision_tower = "siglip".')
    return grid


def _known(where: str, values: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in values:
        if name not in names:
            raise UsageError(
                f"{where}: '{name}' is not a field.", f"{_meant(name, names)}There are {', '.join(names)}."
            )


def _meant(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]}? " if near else ""


def _number(path: str | Path, values: Mapping[str, Any], name: str) -> float:
    value = values.get(name, 0)
    whole = name == "seconds" or isinstance(value, int)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf or not whole:
        raise UsageError(f"{path}: {name} = {value} is not a number of {name}.", f"Write {name} = 150.")
    return value


def recipe_of(grid: Grid, arm: Arm, steps: int, where: str = "") -> Recipe:
    """Return the recipe of an arm. Raises UsageError as `recipes.resolve`, with `where` and the arm before it."""
    try:
        recipe = recipes.resolve(grid.recipe, {**arm.overrides, "steps": steps})
    except UsageError as error:
        raise UsageError(f"{where}, arm {arm.name}: {error.what.removeprefix('--set ')}", error.fix) from error
    if recipe.trains:
        raise UsageError(f"{where}: recipe {grid.recipe} trains a captioner.", "Compare recipes of the transformer.")
    return recipe


@dataclass(frozen=True, slots=True)
class Trial:
    """What one arm with one seed came to. `failed`: why it has no scores, or ""."""

    arm: str
    seed: int
    budget: dict[str, float]
    recipe: dict[str, Any]
    scenes: int
    init: str
    data: str  # fingerprint of the shards
    steps: int  # 0 where its probe failed
    seconds: float = math.nan  # of training alone, without checkpoints and measurements
    heldout_loss: float | None = None
    training_loss: float | None = None
    following: dict[str, float] = field(default_factory=dict)  # color_en: a share; clip_en: 0..100; fd_en: a distance
    curve: list[list[float]] = field(default_factory=list)  # [seconds, held-out loss]
    failed: str = ""
    precision: str = ""  # of the matrix products
    vision_tower: str = ""  # of repa
    images: int = 0
    clip: str = ""

    def scores(self) -> dict[str, float]:
        """Return what is compared, by name."""
        known = {"heldout_loss": self.heldout_loss, "training_loss": self.training_loss}
        gap = {}
        if self.heldout_loss is not None and self.training_loss is not None:
            gap = {"gap": self.training_loss - self.heldout_loss}
        return {**{name: value for name, value in known.items() if value is not None}, **gap, **self.following}

    def write(self, folder: Path) -> None:
        write_json(folder / TRIAL, asdict(self))


def measured(run: Path, images: int) -> dict[str, Any]:
    """Return the fields of a Trial that a run's metrics.jsonl has: seconds, losses, curve."""
    lines = logging.read(run / "metrics.jsonl")
    rates = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    per_image = fmean(1 / rate for rate in rates) if rates else math.nan
    rows = [line for line in lines if line.get("heldout_loss") is not None]
    last, steps = (rows[-1], rows[-1]["step"]) if rows else ({}, 1)
    return {
        "seconds": round(images * per_image, 3),
        "heldout_loss": last.get("heldout_loss"),
        "training_loss": last.get("training_loss"),
        "curve": [[round(row["step"] / steps * images * per_image, 3), row["heldout_loss"]] for row in rows if rates],
    }


def steps_in(seconds: float, run: Path, recipe: Recipe) -> int:
    """Return how many steps fit into `seconds`, by the lines of a probe, which is the start of a run. 0 where it has none.

    Of the rates the upper quartile counts: what else a machine does makes steps slower, and never faster.
    """
    lines = [line for line in logging.read(run / "metrics.jsonl") if line.get("images_per_second")]
    if not lines:
        return 0
    shape = dict(runs.read(run)["transformer"])
    shape.pop("parameters")  # their number, which no config.json has
    config = PixArtConfig.from_dict(shape)
    text = fmean(line["tokens"] or 0 for line in lines)
    start = cost.forward_flops(config, recipe, config.sample_size, text, routed=True)
    slower = start / cost.mean_forward_flops(config, recipe, config.sample_size, text)
    rates = [line["images_per_second"] for line in lines]
    rate = quantiles(rates, n=4, method="inclusive")[2] if len(rates) > 1 else rates[0]
    return int(seconds * rate * slower / recipe.batch)


def read_trial(folder: Path) -> Trial | None:
    """Return the trial that was finished in a folder; None where none was. Raises CommonArtError for a damaged file."""
    try:
        values = orjson.loads((folder / TRIAL).read_bytes())
        return Trial(**{**values, "seconds": math.nan if values["seconds"] is None else values["seconds"]})
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise CommonArtError(
            f"{folder / TRIAL} is damaged.", "Remove that folder, and the trial is done again."
        ) from error


def finished(folder: Path, grid: Grid, arm: Arm) -> Trial | None:
    """Return the trial in a folder if nothing is left to do: it was trained, and scored as the grid asks.

    Raises CommonArtError where it was trained with another budget or recipe than the grid asks for, and as `read_trial`.
    """
    trial = read_trial(folder)
    if trial is None:
        return None
    now = asdict(recipe_of(grid, arm, max(1, trial.steps)))
    differ = {name: (trial.recipe.get(name, value), value) for name, value in now.items()}
    differ |= {
        name: (trial.budget.get(name, 0), grid.budget.get(name, 0))
        for name in ("seconds", "steps")
        if name in grid.budget
    }
    differ["init"] = (trial.init, grid.init)
    if now["repa"]:
        differ["vision_tower"] = (trial.vision_tower, grid.vision_tower)
    for name, (before, value) in differ.items():
        if before != value and name != "micro_batch":
            raise CommonArtError(
                f"{folder} holds a trial with {name} {before}, and the grid says {value}.",
                "Name another -o, or give that arm another name.",
            )
    scoring = ("scenes", "images", *(("clip",) if grid.images else ()))
    scored = all(getattr(trial, name) == getattr(grid, name) for name in scoring)
    return (
        replace(trial, arm=arm.name) if scored or trial.failed else None
    )  # an arm may have another name of that folder
