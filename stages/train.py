"""Trains the transformer on a folder of shards: one stage of the recipe table, resumed by the same command.

    commonart train --stage 256-early --data shards/ -o runs/256-early
    commonart train --stage nano --data shards/ --set steps=2000 --max-seconds 150
    commonart train --stage 512 --gpus 8 --dry-run

A run folder holds run.json (what was resolved), metrics.jsonl, samples/ and checkpoints/.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from commonart.core import launch, log, recipes
from commonart.core.data.files import held, write_json
from commonart.core.data.training_index import data_sets
from commonart.core.errors import EXIT_FAILED, CommonArtError, UsageError
from commonart.core.recipes import Recipe
from commonart.core.registry.lookup import check_terms, find_model
from commonart.core.settings import Settings

if TYPE_CHECKING:
    import torch

    from commonart.core.model.config import PixArtConfig
    from commonart.core.model.transformer import PixArt
    from commonart.core.training.checkpoint import Checkpoint, Warn
    from commonart.core.training.dataset import TrainingData
    from commonart.core.training.distributed import World
    from commonart.core.training.encoders import Encoders
    from commonart.core.training.trainer import Outcome

# A run may be continued with other values of these; any other change would make it another run.
MAY_CHANGE = ("steps", "micro", "cooldown", "spike")
SCORED = 32  # prompts that are drawn for their scores, where none are given
VERSIONED = ("commonart", "torch", "numpy", "transformers", "diffusers", "accelerate", "bitsandbytes")


@dataclass(slots=True)
class Trained:
    """What training did; `as_json` is the last line of stderr."""

    run: Path
    checkpoint: Path | None
    step: int
    images: int
    skipped: int
    seconds: float
    loss: float
    images_per_second: float
    stopped: str  # done, time
    left_out: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": "train", "in": self.images, "out": self.images, "dropped": self.left_out,
            "seconds": round(self.seconds, 3), "run": str(self.run), "step": self.step, "loss": self.loss,
            "skipped_steps": self.skipped, "images_per_second": round(self.images_per_second, 2),
        }  # fmt: skip


def train(stage: str, **settings: Any) -> Trained:
    """Trains `stage` with `settings` (fields of `Settings`) until its steps or `max_seconds` are over.

    The same call again continues the run, and returns at once where nothing is left to do. With `gpus` above 1, alone, it
    starts that many processes and waits for them.

    Raises:
        UsageError: an unknown stage or setting, a world size that does not divide the batch, a device that is not there.
        CommonArtError: no shards, no captions, features of another encoder, a run of other settings, a checkpoint of
            another architecture, a loss that stays NaN, a full disk.
        Preempted: SIGTERM, SIGUSR1 or Ctrl-C came, and the run's state is on disk.
    """
    wanted = Settings(stage=stage, **settings)
    wanted.check()
    data_sets(wanted.data)  # raises for a folder that is not there
    if launch.must_spawn(wanted.gpus):
        from commonart.core.model.device import check_count

        recipes.accumulation(wanted.recipe, wanted.gpus or 1)
        check_count(wanted.gpus or 1, wanted.device)
        done = launch.spawn(launch.child_command(_plain(wanted)), wanted.gpus or 1)
        return Trained(
            **{**done, "run": Path(done["run"]), "checkpoint": done["checkpoint"] and Path(done["checkpoint"])}
        )
    with launch.stoppable(str(wanted.run)) as stop:
        launch.adopt_srun()
        recipes.accumulation(wanted.recipe, launch.world_size())
        from commonart.core.training.distributed import join

        world = join(wanted.device, wanted.fsdp)
        with world.together():
            try:
                trained = _train(wanted, world, stop)
            except CommonArtError:
                world.leave()
                raise
            world.leave()  # not after a lost process: nobody would answer
    return trained


def dry_run(stage: str, calibrate: float = 0.0, **settings: Any) -> dict[str, Any]:
    """What `train` would do, without doing it: `core.training.dry_run.plan`. Raises as `train` does."""
    wanted = Settings(stage=stage, **settings)
    wanted.check()
    from commonart.core.training.dry_run import plan

    return plan(wanted, calibrate)


def _train(wanted: Settings, world: World, stop: launch.Stop) -> Trained:
    from commonart.core.training import checkpoint, encoders, gradient_guard, trainer
    from commonart.core.training.dry_run import USUAL_TEXT, config_of, dtype_of

    recipe, run = wanted.recipe, wanted.run
    dtype = dtype_of(wanted, world)
    parts = encoders.Encoders(wanted, world)
    opened = parts.open(quiet=wanted.quiet or not world.first)
    config = config_of(recipe, opened.shape, opened.width)
    if "micro" not in wanted.overrides:
        recipe = gradient_guard.fitting(config, recipe, world, opened.shape[1], USUAL_TEXT, wanted.checkpointing)
    micro, _ = recipes.accumulation(recipe, world.size)
    gradient_guard.check_fits(
        config, recipe, micro, opened.shape[1], USUAL_TEXT, world.device, wanted.checkpointing, world.shards
    )
    with ExitStack() as only:
        known = run.exists()  # else nobody trains there, and a refused command makes no folder
        if world.first and known:
            only.enter_context(held(run))
        found = checkpoint.newest(run, log.warn if world.first else lambda _: None)
        model, origin = _model(wanted, config, found)
        described = _describe(wanted, recipe, opened, parts, model, origin, str(dtype).removeprefix("torch."))
        _agree(wanted, described, found)
        _check_origin(wanted, described, origin, log.warn if world.first else lambda _: None)
        if world.first and not wanted.quiet:
            log.say(_begins(wanted, found, origin))
        if world.first:
            if not known:
                only.enter_context(held(run))
                if checkpoint.folder_of(run).exists():
                    raise CommonArtError(f"{run} was begun by another command at the same moment.", launch.AGAIN)
            write_json(run / "run.json", described)
        options = trainer.Options(
            seed=wanted.seed, dtype=dtype, max_seconds=wanted.max_seconds, checkpoint_every=wanted.checkpoint_every,
            sample_every=wanted.sample_every, log_every=wanted.log_every, keep=wanted.keep,
            workers=0 if opened.resident and world.device.type == "cpu" else wanted.workers, compile=wanted.compile,
            checkpointing=wanted.checkpointing, track=wanted.track, quiet=wanted.quiet,
        )  # fmt: skip
        draw = _preview(wanted, parts, opened, dtype) if wanted.sample_every and world.first else None
        outcome = trainer.fit(
            model, opened.source, recipe, run, options, world, resume=found,
            draw=draw if world.first else _nothing if wanted.sample_every else None, stop=stop,
        )  # fmt: skip
    return _trained(run, outcome, {**opened.index.left_out, **opened.damaged})


def _preview(wanted: Settings, parts: Encoders, opened: TrainingData, dtype: torch.dtype) -> Any:
    """What draws the grid of a step, and scores its pictures and some more, by a judge of their prompts."""
    from commonart.core.metrics import prompt_following
    from commonart.core.training.preview import GRID

    name = wanted.clip or ("nano" if wanted.stage == "nano" else "")
    prompts = list(wanted.prompts) or opened.index.prompts(SCORED if name else GRID)
    more: dict[str, Any] = {} if wanted.prompts else {"shown": GRID}
    if name:
        more["judge"] = prompt_following.open_scorer(name, prompts, wanted.accept_terms)
    return parts.preview(prompts, opened, wanted.recipe, dtype, **more)


def _nothing(model: PixArt, step: int) -> None:
    """The other processes' part in drawing a grid: they wait."""


def _model(wanted: Settings, config: PixArtConfig, found: Checkpoint | None) -> tuple[PixArt, dict[str, Any]]:
    """(the transformer to train, where its weights come from): the run's own checkpoint, `init`, or new ones from the seed."""
    import torch

    from commonart.core.model.transformer import PixArt

    if found is not None:
        model = PixArt.load(found.transformer, dtype=torch.float32)
        _fit(model, config, found.transformer)
        return model, {}
    source, origin = _init(wanted)
    if source is None:
        with torch.random.fork_rng():
            torch.manual_seed(wanted.seed)
            return PixArt(config), {"from": "nothing"}
    loaded = PixArt.load(source, dtype=torch.float32)
    _fit(loaded, config, source)
    # Positions depend on the stage's resolution and are computed, so that weights of 256 px serve 512 px as they are.
    model = PixArt(config, initialize=False)
    model.load_state_dict(loaded.state_dict())
    return model, origin


def _init(wanted: Settings) -> tuple[Path | None, dict[str, Any]]:
    from commonart.core.registry import hub
    from commonart.core.training import checkpoint

    name = wanted.init
    if name == "none" or (not name and not wanted.recipe.before):
        return None, {}
    folder = Path(name) if name else wanted.before
    if checkpoint.folder_of(folder).is_dir() or not name:
        found = checkpoint.newest(folder, log.warn)
        if found is None:
            raise CommonArtError(
                f"{folder} has no checkpoint, and stage {wanted.stage} starts from it.",
                f"Train {wanted.recipe.before or 'that run'} first, name weights with --init, or start anew with --init none.",
            )
        return found.weights, {"from": str(folder), "step": found.step}
    row = find_model(name, "transformer")
    check_terms(row, wanted.accept_terms)
    resolved = hub.resolve_model(row)
    return resolved.folder, {"from": row.name, "revision": resolved.revision}


def _fit(model: PixArt, config: PixArtConfig, folder: Path) -> None:
    """Whether the weights are of the architecture that the recipe and the data ask for."""
    options = {
        "num_layers": "layers", "num_attention_heads": "heads", "attention_head_dim": "head_dim", "patch_size": "patch",
        "out_channels": "objective", "in_channels": "", "caption_channels": "",
    }  # fmt: skip
    for key, option in options.items():
        have, want = getattr(model.config, key), getattr(config, key)
        if have == want:
            continue
        fix = {
            "caption_channels": "Use features of the text encoder that it was trained with.",
            "in_channels": "Use latents of the autoencoder that it was trained with.",
            "out_channels": f"Train with --set objective={'eps' if have > model.config.in_channels else 'flow'}.",
        }.get(key, f"Train with --set {option}={have}, or start from other weights with --init.")
        raise CommonArtError(f"{folder}: this transformer has {key} {have}; stage and data ask for {want}.", fix)


def _describe(
    wanted: Settings,
    recipe: Recipe,
    opened: TrainingData,
    parts: Encoders,
    model: PixArt,
    origin: dict[str, Any],
    precision: str,
) -> dict[str, Any]:
    text, image = parts.describe()
    return {
        "schema": 1,
        "stage": recipe.name,
        "objective": recipe.objective,
        "shift": recipe.shift,
        "recipe": asdict(recipe),
        "seed": wanted.seed,
        "precision": precision,
        "languages": dict(wanted.languages),
        "data": opened.index.about(),
        "text_encoder": text,
        "autoencoder": image,
        "transformer": {**model.config.to_dict(), "parameters": model.parameters_count},
        "init": origin or _known(wanted.run).get("init", {}),
        "versions": {name: version(name) for name in VERSIONED},
    }


def _known(run: Path) -> dict[str, Any]:
    """run.json of a run that was started before, else {}."""
    path = run / "run.json"
    if not path.exists():
        return {}
    parts = {"recipe", "data", "text_encoder", "autoencoder"}
    try:
        known = orjson.loads(path.read_bytes())
        if isinstance(known, dict) and all(isinstance(known.get(part), dict) for part in parts):
            return known
    except orjson.JSONDecodeError:
        pass
    raise CommonArtError(f"{path} is damaged.", "Put it back, or use another run.")


def _is_origin(name: str, origin: Mapping[str, Any]) -> bool:
    """Whether `--init NAME` says what a run was started from: the same folder, row of the registry or hub id."""
    before = origin.get("from", "nothing")
    if name == "none" or before == "nothing":
        return name == "none" and before == "nothing"
    if Path(name).resolve() == Path(before).resolve():  # also where the folder is gone by now
        return True
    try:
        row = find_model(name, "transformer")
    except UsageError:
        return False
    return row.name == before and row.revision in (None, origin.get("revision"))


def _agree(wanted: Settings, described: Mapping[str, Any], found: Checkpoint | None) -> None:
    """A run goes on only as what it was started as. Raises CommonArtError naming the first value that differs."""
    run = wanted.run
    old = {} if found is None else _known(run)
    if not old:
        return
    if wanted.init and not _is_origin(wanted.init, old.get("init", {})):
        raise CommonArtError(
            f"{run} was started from {old.get('init', {}).get('from', 'nothing')}, and now --init is {wanted.init}.",
            f"Leave --init out to continue, or start another run: -o OTHER --init {wanted.init}.",
        )
    for name, value in described["recipe"].items():
        before = old["recipe"].get(name, value)
        if name not in MAY_CHANGE and before != value:
            raise CommonArtError(
                f"{run} was started with {name}={before}, and now it is {value}.",
                f"Continue with --set {name}={before}, or start another run with -o.",
            )
    for part, name in (
        ("data", "fingerprint"), ("text_encoder", "name"), ("text_encoder", "revision"), ("text_encoder", "precision"),
        ("text_encoder", "cached"), ("text_encoder", "store"), ("autoencoder", "name"), ("autoencoder", "revision"),
        ("autoencoder", "cached"), ("autoencoder", "store"),
    ):  # fmt: skip
        before, now = old[part].get(name), described[part].get(name)
        if before != now:
            what = "the shards changed" if part == "data" else f"{part}.{name} was {before} and is {now}"
            raise CommonArtError(
                f"{run} cannot go on: {what} since it was started.",
                f"Put them back, or start another run: -o OTHER --init {run}.",
            )
    for name in ("seed", "precision", "languages"):
        if old.get(name) != described[name]:
            raise CommonArtError(
                f"{run} was started with {name} {old.get(name)}, and now it is {described[name]}.",
                "Continue as it was started, or start another run with -o.",
            )


def _begins(wanted: Settings, found: Checkpoint | None, origin: Mapping[str, Any]) -> str:
    """Where this call takes the run up, in a line."""
    steps = wanted.recipe.steps
    if found is not None:
        return f"{wanted.run} goes on from step {found.step:,} of {steps:,}"
    if "step" not in origin:
        return f"{wanted.run} starts from {origin['from'] if origin['from'] != 'nothing' else 'new weights'}"
    planned = _known(Path(origin["from"])).get("recipe", {}).get("steps")
    return f"{wanted.run} starts from {origin['from']}, step {origin['step']:,}{f' of {planned:,}' if planned else ''}"


def _check_origin(wanted: Settings, described: Mapping[str, Any], origin: Mapping[str, Any], warn: Warn) -> None:
    """Weights that come from a run were trained on the states and latents of its encoders. Other ones: an error where the stage
    before is taken by itself, a warning where `--init` names it."""
    before = _known(Path(origin["from"])) if "step" in origin else {}  # which only a run has
    if not before:
        return
    for part, name in (("text_encoder", "revision"), ("text_encoder", "precision"), ("autoencoder", "revision")):
        then, now = before[part].get(name), described[part].get(name)
        if then == now:
            continue
        what = f"{origin['from']} was trained with {part} {before[part].get('name')} ({name} {then}), and this run has "
        what += f"{described[part].get('name')} ({now})"
        if not wanted.init:
            raise CommonArtError(f"{what}.", f"Use the same, or say that it is meant: --init {origin['from']}.")
        warn(what)


def _plain(wanted: Settings) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in Settings.__dataclass_fields__}


def _trained(run: Path, outcome: Outcome, left_out: dict[str, int]) -> Trained:
    return Trained(
        run, outcome.checkpoint, outcome.step, outcome.images, outcome.skipped, outcome.seconds, outcome.loss,
        outcome.images_per_second, outcome.stop, left_out,
    )  # fmt: skip


def _child() -> int:
    """One process of `launch.spawn`: the settings are its argument; what it did, or its error, goes to the one that started it."""
    launch.follow()
    try:
        done = train(**orjson.loads(sys.argv[1]))
    except CommonArtError as error:
        if not launch.leave(error):
            raise
        return error.code or EXIT_FAILED
    launch.leave({name: str(value) if isinstance(value, Path) else value for name, value in asdict(done).items()})
    return 0


if __name__ == "__main__":
    sys.exit(_child())
