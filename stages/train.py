"""Trains the transformer on a folder of shards: one stage of the recipe table, resumed by the same command.

    commonart train --stage 256-early --data shards/ -o runs/256-early
    commonart train --stage nano --data shards/ --set steps=2000 --max-seconds 150
    commonart train --stage 512 --gpus 8 --dry-run

A run folder holds run.json (what was resolved), metrics.jsonl, samples/ and checkpoints/.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from commonart.core import launch, log, recipes
from commonart.core.data.files import write_json
from commonart.core.data.index import data_sets
from commonart.core.data.notes import read_note
from commonart.core.data.shards import list_shards
from commonart.core.errors import EXIT_FAILED, CommonArtError, UsageError
from commonart.core.recipes import Recipe
from commonart.core.registry import check_terms, find
from commonart.core.settings import Settings

if TYPE_CHECKING:
    import torch

    from commonart.core.model.config import PixArtConfig
    from commonart.core.model.training.checkpoint import Checkpoint
    from commonart.core.model.training.encoders import Encoders
    from commonart.core.model.training.trainer import Outcome
    from commonart.core.model.training.trainset import Opened
    from commonart.core.model.training.world import World
    from commonart.core.model.transformer import PixArt

# A run may be continued with other values of these; any other change would make it another run.
MAY_CHANGE = ("steps", "micro", "cooldown", "spike")
SCORED = 32  # prompts that are drawn for their scores, where none are given
USUAL_TEXT = 77  # tokens of a caption, for estimates
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
        from commonart.core.model.training.world import join

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
    """What `train` would do, without doing it: the resolved recipe, sizes, FLOPs, memory and time.

    A plan for another machine, too: data and GPUs need not be here. Reads notes, configurations and a few features.
    `calibrate`: seconds to time real steps for, on this device. Raises as `train` does.
    """
    wanted = Settings(stage=stage, **settings)
    wanted.check()
    from commonart.core.model.training import estimate
    from commonart.core.model.training.encoders import beside, named

    images, there = _images(wanted.data)
    recipe, world = wanted.recipe, wanted.gpus or launch.world_size()
    micro, parts = recipes.accumulation(recipe, world)
    text, image = beside(wanted) if there else (None, None)
    factor = int(image.meta.settings.get("factor", 8)) if image else (4 if recipe.name == "nano" else 8)
    width = text.meta.width if text else (192 if recipe.name == "nano" else 4096)
    side, channels = recipe.resolution // factor, image.meta.width if image else 4
    config = _config(recipe, (channels, side, side), width)
    tokens = (text.usual_length() if text else 0) or min(wanted.max_tokens, USUAL_TEXT)
    measured = _measured(wanted, config, (micro, parts), tokens, calibrate) if calibrate else None
    return {
        "run": str(wanted.run),
        "recipe": asdict(recipe),
        "world_size": world,
        "micro_batch": micro,
        "accumulation": parts,
        "init": wanted.init or (f"newest checkpoint of {_before(wanted)}" if recipe.before else "none"),
        "data": wanted.data,
        "images": images,
        "text": named(text) or {"encoded": "on the fly"},
        "image": named(image) or {"encoded": "on the fly"},
        **estimate.account(
            config,
            recipe,
            side=side,
            text=tokens,
            world=world,
            micro=micro,
            shards=world if wanted.fsdp else 1,
            checkpointing=wanted.checkpointing,
            measured=measured,
        ),
    }


def _images(data: str) -> tuple[int | str, bool]:
    """(images of all data sets, held-out ones too, by the notes beside their shards, or why that is not known; are there any)."""
    try:
        tars = [tar for folder, _ in data_sets(data) for tar in list_shards(folder)]
    except UsageError:
        raise
    except CommonArtError as error:
        return f"unknown: {error.what}", False
    notes = [read_note(tar) for tar in tars]
    bare = [str(tar) for tar, note in zip(tars, notes, strict=True) if "out" not in note]
    return f"unknown: {bare[0]} has no note." if bare else sum(int(note["out"]) for note in notes), True


def _measured(wanted: Settings, config: PixArtConfig, share: tuple[int, int], text: int, seconds: float) -> float:
    """Images per second of one device of this machine."""
    from commonart.core.model.device import pick_device
    from commonart.core.model.training import calibrate, guards, trainer
    from commonart.core.model.training.world import World

    world = World(pick_device(wanted.device))
    micro, parts = share
    guards.check_fits(config, wanted.recipe, micro, config.sample_size, text, world.device, wanted.checkpointing)
    options = trainer.Options(
        dtype=_dtype(wanted, world), compile=wanted.compile, checkpointing=wanted.checkpointing, quiet=True
    )
    return calibrate.images_per_second(config, wanted.recipe, options, world, micro, parts, text, seconds)


def _dtype(wanted: Settings, world: World) -> torch.dtype:
    import torch

    from commonart.core.model.device import pick_dtype

    dtype = pick_dtype(wanted.precision, world.device)
    # No loss scaling here: gradients in float16 would underflow.
    return torch.float32 if dtype == torch.float16 else dtype


def _train(wanted: Settings, world: World, stop: launch.Stop) -> Trained:
    from commonart.core.model.training import checkpoint, encoders, guards, trainer

    recipe, run = wanted.recipe, wanted.run
    dtype = _dtype(wanted, world)
    parts = encoders.Encoders(wanted, world)
    opened = parts.open(quiet=wanted.quiet or not world.first)
    found = checkpoint.newest(run, log.warn if world.first else lambda _: None)
    config = _config(recipe, opened.shape, opened.width)
    if "micro" not in wanted.overrides:
        recipe = guards.fitting(config, recipe, world, opened.shape[1], USUAL_TEXT, wanted.checkpointing)
    micro, _ = recipes.accumulation(recipe, world.size)
    shards = world.size if world.sharded else 1
    guards.check_fits(config, recipe, micro, opened.shape[1], USUAL_TEXT, world.device, wanted.checkpointing, shards)
    model, origin = _model(wanted, config, found)
    described = _describe(wanted, recipe, opened, parts, model, origin, str(dtype).removeprefix("torch."))
    _agree(run, described, found)
    if world.first:
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


def _preview(wanted: Settings, parts: Encoders, opened: Opened, dtype: torch.dtype) -> Any:
    """What draws the grid of a step, and scores its pictures and some more, by a judge of their prompts."""
    from commonart.core.metrics import following
    from commonart.core.model.training.preview import GRID

    name = wanted.clip or ("nano" if wanted.stage == "nano" else "")
    prompts = list(wanted.prompts) or opened.index.prompts(SCORED if name else GRID)
    more: dict[str, Any] = {} if wanted.prompts else {"shown": GRID}
    if name:
        more["judge"] = following.open_judge(name, prompts, wanted.accept_terms)
    return parts.preview(prompts, opened, wanted.recipe, dtype, **more)


def _nothing(model: PixArt, step: int) -> None:
    """The other processes' part in drawing a grid: they wait."""


def _config(recipe: Recipe, shape: tuple[int, int, int], width: int) -> PixArtConfig:
    from commonart.core.model.config import PixArtConfig
    from commonart.core.model.diffusion import check_objective, out_channels

    return PixArtConfig(
        num_attention_heads=recipe.heads, attention_head_dim=recipe.head_dim, num_layers=recipe.layers,
        in_channels=shape[0], out_channels=out_channels(check_objective(recipe.objective), shape[0]),
        patch_size=recipe.patch, sample_size=shape[1], caption_channels=width, interpolation_scale=recipe.interpolation,
    )  # fmt: skip


def _before(wanted: Settings) -> Path:
    return wanted.run.parent / wanted.recipe.before


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
    model = PixArt(config, initialise=False)
    model.load_state_dict(loaded.state_dict())
    return model, origin


def _init(wanted: Settings) -> tuple[Path | None, dict[str, Any]]:
    from commonart.core.model import hub
    from commonart.core.model.training import checkpoint

    name = wanted.init
    if name == "none" or (not name and not wanted.recipe.before):
        return None, {}
    folder = Path(name) if name else _before(wanted)
    if checkpoint.folder_of(folder).is_dir() or not name:
        found = checkpoint.newest(folder, log.warn)
        if found is None:
            raise CommonArtError(
                f"{folder} has no checkpoint, and stage {wanted.stage} starts from it.",
                f"Train {wanted.recipe.before or 'that run'} first, name weights with --init, or start anew with --init none.",
            )
        return found.weights, {"from": str(folder), "step": found.step}
    row = find(name, "transformer")
    check_terms(row, wanted.accept_terms)
    resolved = hub.resolve(row)
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
    opened: Opened,
    parts: Encoders,
    model: PixArt,
    origin: dict[str, Any],
    precision: str,
) -> dict[str, Any]:
    text, image = parts.describe()
    known = orjson.loads(path.read_bytes()) if (path := wanted.run / "run.json").exists() else {}
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
        "init": origin or known.get("init", {}),
        "versions": {name: version(name) for name in VERSIONED},
    }


def _agree(run: Path, described: Mapping[str, Any], found: Checkpoint | None) -> None:
    """A run goes on only as what it was started as. Raises CommonArtError naming the first value that differs."""
    if found is None or not (run / "run.json").exists():
        return
    old = orjson.loads((run / "run.json").read_bytes())
    for name, value in described["recipe"].items():
        before = old["recipe"].get(name, value)
        if name not in MAY_CHANGE and before != value:
            raise CommonArtError(
                f"{run} was started with {name}={before}, and now it is {value}.",
                f"Continue with --set {name}={before}, or start another run with -o.",
            )
    for part, name in (
        ("data", "fingerprint"), ("text_encoder", "name"), ("text_encoder", "revision"), ("text_encoder", "precision"),
        ("autoencoder", "name"), ("autoencoder", "revision"),
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


def _plain(wanted: Settings) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in Settings.__dataclass_fields__}


def _trained(run: Path, outcome: Outcome, left_out: dict[str, int]) -> Trained:
    return Trained(
        run, outcome.checkpoint, outcome.step, outcome.images, outcome.skipped, outcome.seconds, outcome.loss,
        outcome.images_per_second, outcome.stop, left_out,
    )  # fmt: skip


def _child() -> int:
    """One process of `launch.spawn`: the settings are its argument; what it did, or its error, goes to the one that started it."""
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
