"""A training run on disk: what run.json keeps, the weights it starts from, and whether a command may continue it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import torch

from commonart.core import launch, log
from commonart.core.data.files import lock, write_json
from commonart.core.data.notes import read_beside
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import dtype_name, pick_matmul_dtype
from commonart.core.model.diffusion import check_objective, objective_of, out_channels
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe
from commonart.core.registry import hub
from commonart.core.registry.lookup import check_terms, find_model
from commonart.core.settings import Settings
from commonart.core.training import checkpoint, float8, provenance
from commonart.core.training.checkpoint import Checkpoint
from commonart.core.training.distributed import World

USUAL_TOKENS = 77  # of a caption, for estimates
# A run may be continued with other values of these; any other change would make it another run.
MAY_CHANGE = ("steps", "micro_batch", "cooldown", "tread_off", "mask_off", "spike")
UNSET = {each.name: each.default for each in fields(Recipe) if each.default is not MISSING}
SAME = {
    "data": ("fingerprint", "digest", "used"),
    "text_encoder": ("name", "revision", "precision", "layer", "cached", "store"),
    "autoencoder": ("name", "revision", "cached", "store"),
    "vision_tower": ("name", "revision"),
    "language_model": ("name", "revision"),
}
ABSENT = {"layer": -1}  # what a run means that does not say it: the last hidden state
CHANGED = {
    "fingerprint": "the shards changed",
    "digest": "other records of the shards are trained on (policy, blocklist, features)",
    "used": "other captions of the shards are trained on (policy, accepted terms)",
}
ENCODERS = ("text_encoder", "autoencoder")  # of a transformer
PARTS = ("vision_tower", "language_model")  # of a captioner; REPA has the former beside a transformer
VERSIONED = ("commonart", "torch", "numpy", "transformers", "diffusers", "accelerate", "bitsandbytes")

Origin = Mapping[str, Any]  # {"from": "nothing"}, {"from": RUN, "step": N} or {"from": MODEL, "revision": ...}


def config_of(recipe: Recipe, shape: tuple[int, int, int], width: int) -> PixArtConfig:
    """Return the transformer of `recipe` for latents of `shape` (C, side, side) and text states of `width` channels."""
    return PixArtConfig(
        num_attention_heads=recipe.heads, attention_head_dim=recipe.head_dim, num_layers=recipe.layers,
        in_channels=shape[0], out_channels=out_channels(check_objective(recipe.objective), shape[0]),
        patch_size=recipe.patch, sample_size=shape[1], caption_channels=width, interpolation_scale=recipe.interpolation,
        prediction=recipe.prediction, qk_norm=bool(recipe.qk_norm),
    )  # fmt: skip


def dtype_of(settings: Settings, device: torch.device) -> torch.dtype:
    """Return what the matrix products are computed in: for auto never float16, whose gradients underflow without loss scaling.

    Of fp8 it is what everything but the matrices of the blocks is computed in (core.training.float8).
    """
    if settings.float8:
        return torch.bfloat16
    dtype = pick_matmul_dtype(settings.precision, device)
    return torch.float32 if dtype == torch.float16 else dtype


def open_model(settings: Settings, config: PixArtConfig, resume: Checkpoint | None) -> tuple[PixArt, Origin]:
    """Return the transformer to train and where its weights come from; of a checkpoint of the run itself, {}.

    Raises CommonArtError where `--init` or the stage before has no weights, or they are of another architecture.
    """
    folder, origin = (resume.transformer, {}) if resume is not None else initial_weights(settings)
    if folder is None:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            return PixArt(config), origin
    loaded = PixArt.load(folder, dtype=torch.float32)
    _check_architecture(loaded, config, folder)
    # Positions depend on the stage's resolution and are computed, so that weights of 256 px serve 512 px as they are.
    return PixArt.of(config, loaded.state_dict(), folder), origin


def initial_weights(settings: Settings) -> tuple[Path | None, Origin]:
    """Return the folder of the weights that a new run starts from, and where they are from."""
    name, before = settings.init, settings.recipe.init_from
    if name == "none" or (not name and not before):
        return None, {"from": "nothing"}
    folder = Path(name) if name else settings.previous_run
    check_kind(folder, settings)
    if checkpoint.folder_of(folder).is_dir() or not name:
        saved = checkpoint.newest(folder, log.warn)
        if saved is None:
            raise CommonArtError(
                f"{folder} has no checkpoint, and stage {settings.stage} starts from it.",
                f"Train {before or 'that run'} first, name weights with --init, or start anew with --init none.",
            )
        return saved.weights, {"from": str(folder), "step": saved.step}
    if settings.recipe.trains:
        raise CommonArtError(
            f"--init {name} is not a run with checkpoints.",
            "Name a run of captioner-align or captioner; models are parts: --vision-tower, --language-model.",
        )
    row = find_model(name, "transformer", "--init")
    check_terms(row, settings.accept_terms, "--init")
    resolved = hub.resolve_model(row)
    return resolved.folder, {"from": row.name, "revision": resolved.revision}


def check_kind(folder: Path, settings: Settings) -> None:
    """Raise CommonArtError where a folder is the run of another kind of model than the stage trains."""
    old = read(folder) if checkpoint.folder_of(folder).is_dir() else {}
    if old and ("captioner" in old) != bool(settings.recipe.trains):
        kind, this = ("captioner", "transformer") if "captioner" in old else ("transformer", "captioner")
        raise CommonArtError(
            f"{folder} is the run of a {kind}, and stage {settings.stage} trains a {this}.", "Name another folder."
        )


def _check_architecture(model: PixArt, config: PixArtConfig, folder: Path) -> None:
    options = {
        "num_layers": "layers", "num_attention_heads": "heads", "attention_head_dim": "head_dim", "patch_size": "patch",
        "out_channels": "objective", "in_channels": "", "caption_channels": "", "prediction": "prediction",
        "qk_norm": "qk_norm",
    }  # fmt: skip
    for key, option in options.items():
        have, need = getattr(model.config, key), getattr(config, key)
        if have == need:
            continue
        fix = {
            "caption_channels": "Use features of the text encoder that it was trained with.",
            "in_channels": "Use latents of the autoencoder that it was trained with.",
            "out_channels": f"Train with --set objective={objective_of(model.config.in_channels, model.config.out_channels)}.",
        }.get(
            key,
            f"Train with --set {option}={int(have) if isinstance(have, bool) else have}, or start from other weights with --init.",
        )
        raise CommonArtError(f"{folder}: this transformer has {key} {have}; stage and data ask for {need}.", fix)


def describe(
    settings: Settings, recipe: Recipe, data: Mapping[str, Any], encoders: Mapping[str, Mapping[str, Any]], model: PixArt,
    origin: Origin, dtype: torch.dtype,
) -> dict[str, Any]:  # fmt: skip
    """Return run.json; `encoders`: by part."""
    return {
        **describe_start(settings, recipe, origin, dtype),
        "objective": recipe.objective,
        "flow_shift": recipe.flow_shift,
        "data": data,
        **encoders,
        "transformer": {**model.config.to_dict(), "parameters": model.parameters_count},
    }


def describe_start(settings: Settings, recipe: Recipe, origin: Origin, dtype: torch.dtype) -> dict[str, Any]:
    """Return what run.json says of any run, whatever it trains."""
    return {
        "schema": 1,
        "stage": recipe.name,
        "recipe": asdict(recipe),
        "seed": settings.seed,
        "precision": float8.NAME if settings.float8 else dtype_name(dtype),
        "languages": dict(settings.languages),
        "lengths": dict(settings.lengths),
        "init": origin or read(settings.run).get("init", {}),
        "code": provenance.code(),
        "history": [note for folder, _ in data_sets(settings.data) for note in read_beside(folder)],
        "versions": {name: version(name) for name in (*VERSIONED, *(("torchao",) if settings.float8 else ()))},
    }


def read(run: Path) -> dict[str, Any]:
    """Return run.json of a run that was started before, else {}. Raises CommonArtError where it is damaged."""
    path = run / "run.json"
    if not path.exists():
        return {}
    try:
        values = orjson.loads(path.read_bytes())
        recipe = values.get("recipe") if isinstance(values, dict) else None
        parts = PARTS if isinstance(recipe, dict) and recipe.get("trains") else ENCODERS
        if isinstance(recipe, dict) and all(isinstance(values.get(name), dict) for name in ("data", *parts)):
            return dict(values)
    except orjson.JSONDecodeError:
        pass
    raise CommonArtError(f"{path} is damaged.", "Put it back, or use another run.")


@contextmanager
def held(
    settings: Settings, world: World, warn: Callable[[str], None]
) -> Iterator[Callable[[Mapping[str, Any], Checkpoint | None, Origin], None]]:
    """Hold a run's folder, where one command at a time trains. Yield what begins the run that `described` says.

    Raises CommonArtError where another command trains there, or it is another run.
    """
    folder = settings.run
    check_kind(folder, settings)
    with ExitStack() as locks:
        exists = folder.exists()  # else nobody trains there, and a refused command makes no folder
        if world.is_main and exists:
            locks.enter_context(lock(folder))

        def begin(described: Mapping[str, Any], resume: Checkpoint | None, origin: Origin) -> None:
            check_continues(settings, described, resume)
            check_origin(settings, described, origin, warn)
            if not world.is_main:
                return
            if not settings.quiet:
                log.say(beginning(settings, resume, origin))
            if not exists:
                locks.enter_context(lock(folder))
                if checkpoint.folder_of(folder).exists():
                    raise CommonArtError(f"{folder} was begun by another command at the same moment.", launch.AGAIN)
            cost = {} if resume is None else {"compute": read(folder).get("compute")}
            write_json(folder / "run.json", {**described, **cost})

        yield begin


def check_continues(settings: Settings, described: Mapping[str, Any], resume: Checkpoint | None) -> None:
    """Raise CommonArtError, naming the first value that differs, where a run would go on as another than it was started."""
    run = settings.run
    old = {} if resume is None else read(run)
    if not old:
        return
    origin = old.get("init", {})
    if settings.init and not is_origin(settings.init, origin):
        raise CommonArtError(
            f"{run} was started from {origin.get('from', 'nothing')}, and now --init is {settings.init}.",
            f"Leave --init out to continue, or start another run: -o OTHER --init {settings.init}.",
        )
    for name, now in described["recipe"].items():
        before = old["recipe"].get(name, UNSET.get(name, now))  # runs of older versions lack some
        if name not in MAY_CHANGE and before != now:
            raise CommonArtError(
                f"{run} was started with {name}={before}, and now it is {now}.",
                f"Continue with --set {name}={before}, or start another run with -o.",
            )
    for part, names in SAME.items():
        for name in names if part in described else ():
            before, now = (about[part].get(name, ABSENT.get(name)) for about in (old, described))
            if before != now and (name in old[part] or name not in CHANGED):  # runs of older versions lack some
                what = CHANGED.get(name, f"{part}.{name} was {before} and is {now}")
                raise CommonArtError(
                    f"{run} cannot go on: {what} since it was started.",
                    f"Put them back, or start another run: -o OTHER --init {run}.",
                )
    for name in ("seed", "precision", "languages", "lengths"):
        if old.get(name) != described[name]:
            raise CommonArtError(
                f"{run} was started with {name} {old.get(name)}, and now it is {described[name]}.",
                "Continue as it was started, or start another run with -o.",
            )


def is_origin(name: str, origin: Origin) -> bool:
    """Return whether `--init NAME` says what a run was started from: the same folder, row of the registry or hub id."""
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


def check_origin(settings: Settings, described: Mapping[str, Any], origin: Origin, warn: Callable[[str], None]) -> None:
    """Compare the encoders, or the parts, of the run whose weights are taken with those of this one.

    The weights were trained on their states and latents: others are a warning where `--init` names that run, and a
    CommonArtError where the stage before was taken by itself.
    """
    if "step" not in origin:  # which only a run has
        return
    before = read(Path(origin["from"]))
    compared = [(part, "revision") for part in (*ENCODERS, *PARTS)]
    compared += [("text_encoder", "precision"), ("text_encoder", "layer")]
    for part, name in compared:
        old, new = before.get(part, {}), described.get(part, {})
        was, now = (about.get(name, ABSENT.get(name)) for about in (old, new))
        alone = part in PARTS and not (old and new)  # REPA in one of them: its weights serve without
        if not before or was == now or alone:
            continue
        what = (
            f"{origin['from']} was trained with {part} {old.get('name')} ({name} {was}), and "
            f"this run has {new.get('name')} ({now})"
        )
        if not settings.init:
            raise CommonArtError(f"{what}.", f"Use the same, or say that it is meant: --init {origin['from']}.")
        warn(what)


def beginning(settings: Settings, resume: Checkpoint | None, origin: Origin) -> str:
    """Return where this call takes the run up, in a line."""
    steps = settings.recipe.steps
    if resume is not None:
        return f"{settings.run} continues from step {resume.step:,} of {steps:,}"
    if "step" not in origin:
        return f"{settings.run} starts from {origin['from'] if origin['from'] != 'nothing' else 'new weights'}"
    planned = read(Path(origin["from"])).get("recipe", {}).get("steps")
    of = f" of {planned:,}" if planned else ""
    return f"{settings.run} starts from {origin['from']}, step {origin['step']:,}{of}"
