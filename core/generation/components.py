"""Where the parts of a text-to-image model lie, and how it was trained.

    commonart sample "赤い円" --model nano               # the packaged models
    commonart sample "赤い円" --model runs/512           # a run: the moving average of its newest good checkpoint
    commonart sample "赤い円" --model exported/          # a folder laid out as a diffusers pipeline
    commonart sample "赤い円" --model commonart-beta     # a bare transformer, whose partners the registry names
    commonart sample "赤い円" --model owner/name         # a repository on the hub: one of ours, or any text-to-image
                                                        # pipeline of diffusers (core/generation/diffusers_pipeline.py)

All of them end in the same `PipelineComponents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.log import warn
from commonart.core.model.config import PixArtConfig
from commonart.core.model.diffusion import Objective, objective_of
from commonart.core.model.text_encoder import MAX_TOKENS, carried_tokens
from commonart.core.registry import catalogue, hub, lookup
from commonart.core.training import checkpoint

TRANSFORMERS = ("PixArtTransformer2DModel", "Transformer2DModel")  # today's class and the one of commonart-beta
OURS = "PixArtSigmaPipeline"  # what model_index.json says of the pipelines that our own transformer runs


@dataclass(frozen=True, slots=True)
class PipelineComponents:
    """Where the parts of one model lie, and how it was trained."""

    name: str
    revision: str  # commit of the hub, step of a run, or a hash of the weights
    transformer: Path
    text_encoder: Path
    autoencoder: Path
    objective: Objective
    shift: float = 1.0
    text_precision: str = ""  # as the run recorded it: "bfloat16", "quanto-int8/bfloat16"; "" leaves it to the device
    max_tokens: int = MAX_TOKENS
    terms: tuple[str, ...] = ()  # parts that are used on the user's word
    pipeline: str = ""  # the class of a diffusers pipeline that is none of ours; all its parts lie in one folder


def locate(
    model: str,
    *,
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
) -> PipelineComponents:
    """Find, and where needed download, the parts of the model called `model`; nothing is loaded yet.

    Args:
        model: a name of the registry, a run, a local folder or a hub id.
        text_encoder, autoencoder: others than the model's own, by name, folder or hub id.
        accept_terms: names of models that are used on the user's word.
        allow_pickle: convert weights that are published only as pickles.

    Raises:
        UsageError: an unknown name, refused terms, or a bare transformer without its text encoder or autoencoder.
        CommonArtError: the hub is not there, a run without a good checkpoint, or a folder that is no such model.
    """
    folder = Path(model)
    if (folder / "run.json").is_file() or (folder / "checkpoints").is_dir():
        return _of_run(folder, text_encoder, autoencoder)
    row = lookup.find_model(model, "transformer")
    taken = [row.name] if lookup.check_terms(row, accept_terms) else []
    if not row.cls or row.local:  # the table says what its own rows are
        index = hub.read_config(row, "model_index.json")
        if index.get("_class_name", OURS) != OURS:
            if text_encoder or autoencoder:
                raise UsageError(
                    f"--model {model} is a {index['_class_name']}, which keeps its own text encoder and autoencoder.",
                    "Leave --text-encoder and --autoencoder out.",
                )
            found = hub.resolve_model(replace(row, role=hub.PIPELINE), allow_pickle=allow_pickle)
            all_in = found.folder
            return PipelineComponents(
                found.name, found.revision, all_in, all_in, all_in, "eps", pipeline=str(index["_class_name"])
            )
        _check_class(model, hub.read_config(row))
    names = {"text-encoder": text_encoder or row.text_encoder, "autoencoder": autoencoder or row.autoencoder}
    try:
        found = hub.resolve_model(row, allow_pickle=allow_pickle)
        whole = found.folder.parent if found.folder.name == "transformer" else found.folder
        if row.local:  # what is no transformer at all does not lack a text encoder
            PixArtConfig.read(lookup.component_dir(whole, "transformer") / "config.json")
        folders: dict[str, Path] = {}
        for role, name in names.items():
            chosen = text_encoder if role == "text-encoder" else autoencoder
            if not chosen and (whole / catalogue.SUBFOLDERS[role]).is_dir():
                folders[role] = whole
                continue
            if not name and row.hub and (whole / "model_index.json").is_file():
                name = model  # a whole pipeline on the hub, of which only the transformer is here yet
            if not name or (row.local and not chosen and name == model):
                raise UsageError(
                    f"--model {model} is a transformer alone, without its {role.replace('-', ' ')}.",
                    f"Name the one that it was trained with: --{role} NAME or FOLDER.",
                )
            part = lookup.find_model(name, role)
            taken += [part.name] if lookup.check_terms(part, accept_terms) else []
            folders[role] = hub.resolve_model(part, allow_pickle=allow_pickle).folder
    except UsageError:
        raise
    except CommonArtError as problem:
        if row.local or not row.hub:
            raise
        needed = [row.hub, *(lookup.find_model(n, r).hub for r, n in names.items() if n)]
        raise CommonArtError(
            problem.what, f"{problem.fix} In all it needs {', '.join(dict.fromkeys(needed))} from the hub."
        ) from problem
    transformer = lookup.component_dir(whole, "transformer")
    objective, shift = _objective(whole, transformer)
    return PipelineComponents(
        name=row.name if not row.local else model,
        revision=found.revision,
        transformer=transformer,
        text_encoder=folders["text-encoder"],
        autoencoder=folders["autoencoder"],
        objective=objective,
        shift=shift,
        max_tokens=carried_tokens(folders["text-encoder"]),
        terms=tuple(taken),
    )


def _check_class(model: str, config: dict[str, Any]) -> None:
    """Raise for a model that draws nothing, before it is downloaded."""
    kind = config.get("_class_name") or (config.get("architectures") or [config.get("model_type")])[0]
    if kind and kind not in TRANSFORMERS:
        raise CommonArtError(
            f"--model {model} is a {kind}, no text-to-image model.",
            "Name a transformer or a pipeline; a text encoder goes to --text-encoder.",
        )


def _of_run(folder: Path, text_encoder: str | None, autoencoder: str | None) -> PipelineComponents:
    newest = checkpoint.newest(folder, warn)
    if newest is None:
        raise CommonArtError(
            f"{folder}: this run has no good checkpoint yet.", "Let `commonart train` write one, or name another run."
        )
    run = lookup.read_json(folder / "run.json")
    parts: dict[str, Path] = {}
    for role, chosen in (("text-encoder", text_encoder), ("autoencoder", autoencoder)):
        said = run.get(catalogue.SUBFOLDERS[role]) or run.get(role.replace("-", "_")) or {}
        name = chosen or (said if isinstance(said, str) else said.get("folder") or said.get("name", ""))
        if not name:
            raise CommonArtError(
                f"{folder / 'run.json'} does not say which {role} the run used.", f"Name it: --{role} NAME or FOLDER."
            )
        found = hub.resolve_model(lookup.find_model(name, role))
        trained = said.get("revision", "") if isinstance(said, dict) and not chosen else ""
        if trained and found.revision != trained:
            raise CommonArtError(
                f"{folder} was trained with {name} at {trained}, and {found.folder} holds {found.revision}.",
                f"Put that one back, or use this one all the same: --{role} {name}.",
            )
        parts[role] = found.folder
    objective, shift = _objective(folder, newest.weights)
    text = run.get("text_encoder")
    return PipelineComponents(
        name=str(folder),
        revision=f"step-{newest.step}",
        transformer=newest.weights,
        text_encoder=parts["text-encoder"],
        autoencoder=parts["autoencoder"],
        objective=run.get("objective", objective),
        shift=float(run.get("flow_shift", shift)),
        text_precision=str(text.get("precision", "")) if isinstance(text, dict) else "",
        max_tokens=int(text.get("max_tokens", MAX_TOKENS)) if isinstance(text, dict) else MAX_TOKENS,
    )


def _objective(whole: Path, transformer: Path) -> tuple[Objective, float]:
    """The objective and the shift of flow's times, from the scheduler beside the transformer, else by its channels."""
    config = PixArtConfig.read(transformer / "config.json")
    scheduler = lookup.read_json(whole / "scheduler" / "scheduler_config.json")
    kind = scheduler.get("prediction_type")
    if kind is None:
        return objective_of(config.in_channels, config.out_channels), 1.0
    known: dict[str, Objective] = {"epsilon": "eps", "flow_prediction": "flow"}
    if kind not in known:
        raise CommonArtError(
            f"{whole / 'scheduler' / 'scheduler_config.json'}: a model of {kind!r} cannot be sampled here.",
            "It must predict epsilon or flow_prediction.",
        )
    return known[kind], float(scheduler.get("flow_shift") or 1.0)
