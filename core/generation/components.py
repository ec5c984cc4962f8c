"""Where the components of a text-to-image model lie, and how it was trained.

Each kind of --model ends in the same `PipelineComponents`: the packaged nano, a run (the moving average of its newest
good checkpoint), a folder or repository laid out as a diffusers pipeline, a bare transformer with named partners.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.request import ModelSpec
from commonart.core.log import warn
from commonart.core.model.config import PixArtConfig
from commonart.core.model.diffusion import Objective, objective_of
from commonart.core.model.text_encoder import LAST, MAX_TOKENS, carried_tokens
from commonart.core.registry import catalogue, hub, lookup
from commonart.core.registry.repository_files import PIPELINE
from commonart.core.training import checkpoint

TRANSFORMERS = ("PixArtTransformer2DModel", "Transformer2DModel")  # today's class and the one of commonart-beta
OURS = "PixArtSigmaPipeline"  # what model_index.json says of the pipelines that our own transformer runs


@dataclass(frozen=True, slots=True)
class PipelineComponents:
    """Where the components of one model lie, and how it was trained."""

    name: str
    revision: str  # commit of the hub, step of a run, or a hash of the weights
    transformer: Path
    text_encoder: Path
    autoencoder: Path
    objective: Objective
    contents: tuple[str, ...]  # of each component, the commit or the hash of its files
    shift: float = 1.0
    text_precision: str = ""  # as the run recorded it: "bfloat16", "quanto-int8/bfloat16"; "" leaves it to the device
    max_tokens: int = MAX_TOKENS
    layer: int = LAST  # of the text encoder's hidden states
    terms: tuple[str, ...] = ()  # components that are used on the user's word
    pipeline: str = ""  # class of a diffusers pipeline that is not one of ours; its components lie in one folder

    @property
    def fingerprint(self) -> str:
        """Sixteen digits over all that makes this model's images what they are; a run trained anew has others."""
        values = (*self.contents, self.objective, self.shift, self.text_precision, self.max_tokens, self.pipeline)
        layer = () if self.layer == LAST else (self.layer,)  # images of before there were layers keep their model
        return hashlib.sha256(orjson.dumps((*values, *layer))).hexdigest()[:16]


def locate(spec: ModelSpec) -> PipelineComponents:
    """Find, and where needed download, the components of a model; nothing is loaded yet.

    Raises:
        UsageError: an unknown name, refused terms, or a bare transformer without its text encoder or autoencoder.
        CommonArtError: the hub cannot be reached, a run without a good checkpoint, or a folder that holds no such model.
    """
    folder = Path(spec.model)
    if (folder / "run.json").is_file() or (folder / "checkpoints").is_dir():
        return _of_run(folder, spec)
    row = lookup.find_model(spec.model, "transformer", spec.flag)
    terms = (row.name,) if lookup.check_terms(row, spec.accept_terms, spec.flag) else ()
    if row.cls.endswith("Pipeline") and not row.local:
        return _of_diffusers(row, row.cls, spec, terms)
    if not row.cls or row.local:  # the table says what its own rows are
        index = hub.read_config(row, "model_index.json")
        if index.get("_class_name", OURS) != OURS:
            return _of_diffusers(row, str(index["_class_name"]), spec, terms)
        _check_class(f"{spec.flag} {spec.model}", hub.read_config(row))
    return _of_transformer(row, spec, terms)


def _of_diffusers(row: catalogue.Model, pipeline: str, spec: ModelSpec, terms: tuple[str, ...]) -> PipelineComponents:
    if spec.text_encoder or spec.autoencoder:
        raise UsageError(
            f"{spec.flag} {spec.model} is a {pipeline}, which keeps its own text encoder and autoencoder.",
            "Leave --text-encoder and --autoencoder out.",
        )
    whole = hub.resolve_model(replace(row, role=PIPELINE), allow_pickle=spec.allow_pickle)
    return PipelineComponents(
        whole.name, whole.revision, whole.folder, whole.folder, whole.folder, "eps", (whole.revision,),
        terms=terms, pipeline=pipeline,
    )  # fmt: skip


def _of_transformer(row: catalogue.Model, spec: ModelSpec, terms: tuple[str, ...]) -> PipelineComponents:
    chosen = {"text-encoder": spec.text_encoder, "autoencoder": spec.autoencoder}
    names = {"text-encoder": spec.text_encoder or row.text_encoder, "autoencoder": spec.autoencoder or row.autoencoder}
    partners: dict[str, Path] = {}
    contents: list[str] = []
    try:
        transformer = hub.resolve_model(row, allow_pickle=spec.allow_pickle)
        whole = transformer.folder.parent if transformer.folder.name == "transformer" else transformer.folder
        contents.append(transformer.revision)
        if row.local:  # a folder of another kind does not lack a text encoder
            PixArtConfig.read(lookup.component_dir(whole, "transformer") / "config.json")
        for role, name in names.items():
            inner = whole / catalogue.SUBFOLDERS[role]
            if not chosen[role] and inner.is_dir():
                partners[role] = whole
                if row.local or not row.hub:  # else the commit stands for all of the repository
                    contents.append(hub.content_hash(inner, role))
                continue
            if not name and row.hub and (whole / "model_index.json").is_file():
                name = spec.model  # a whole pipeline on the hub, of which only the transformer is here yet
            if not name or (row.local and not chosen[role] and name == spec.model):
                raise UsageError(
                    f"{spec.flag} {spec.model} is a transformer alone, without its {role.replace('-', ' ')}.",
                    f"Name the one that it was trained with: --{role} NAME or FOLDER.",
                )
            partner = lookup.find_model(name, role, f"--{role}")
            terms += (partner.name,) if lookup.check_terms(partner, spec.accept_terms, f"--{role}") else ()
            resolved = hub.resolve_model(partner, allow_pickle=spec.allow_pickle)
            partners[role] = resolved.folder
            contents.append(resolved.revision)
    except UsageError:
        raise
    except CommonArtError as error:
        if row.local or not row.hub:
            raise
        needed = [row.hub, *(lookup.find_model(n, r).hub for r, n in names.items() if n)]
        raise CommonArtError(
            error.what, f"{error.fix} The model needs {', '.join(dict.fromkeys(needed))} from the hub."
        ) from error
    weights = lookup.component_dir(whole, "transformer")
    objective, shift = _objective(whole, weights)
    folders = (weights, partners["text-encoder"], partners["autoencoder"])
    tokens = carried_tokens(partners["text-encoder"])
    name = spec.model if row.local else row.name
    return PipelineComponents(
        name, transformer.revision, *folders, objective, tuple(contents), shift, max_tokens=tokens, terms=terms
    )


def _check_class(named: str, config: dict[str, Any]) -> None:
    """Raise for a model that generates no image, before it is downloaded."""
    kind = config.get("_class_name") or (config.get("architectures") or [config.get("model_type")])[0]
    if kind and kind not in TRANSFORMERS:
        raise CommonArtError(
            f"{named} is a {kind}, not a text-to-image model.",
            "Name a transformer or a pipeline; a text encoder goes to --text-encoder.",
        )


def _of_run(folder: Path, spec: ModelSpec) -> PipelineComponents:
    """Find the newest good checkpoint of a run, and the partners that it was trained with."""
    newest = checkpoint.newest(folder, warn)
    if newest is None:
        raise CommonArtError(
            f"{folder}: this run has no good checkpoint yet.", "Let `commonart train` write one, or name another run."
        )
    run = lookup.read_json(folder / "run.json")
    if "captioner" in run:
        raise CommonArtError(
            f"{folder} is the run of a captioner, which generates no images.",
            f"It describes them: commonart caption --model {folder}.",
        )
    partners: dict[str, hub.ResolvedModel] = {}
    for role, chosen in (("text-encoder", spec.text_encoder), ("autoencoder", spec.autoencoder)):
        recorded = run.get(role.replace("-", "_")) or {}
        name = chosen or recorded.get("name", "")
        if not name:
            raise CommonArtError(
                f"{folder / 'run.json'} does not say which {role} the run used.", f"Name it: --{role} NAME or FOLDER."
            )
        partners[role] = partner = hub.resolve_model(lookup.find_model(name, role, f"--{role}"))
        trained = recorded.get("revision", "")
        if trained and not chosen and partner.revision != trained:
            raise CommonArtError(
                f"{folder} was trained with {name} at {trained}, but {partner.folder} holds {partner.revision}.",
                f"Restore that one, or use this one anyway: --{role} {name}.",
            )
    objective, shift = _objective(folder, newest.weights)
    text = run.get("text_encoder") or {}
    return PipelineComponents(
        str(folder),
        f"step-{newest.step}",
        newest.weights,
        partners["text-encoder"].folder,
        partners["autoencoder"].folder,
        run.get("objective", objective),
        (hub.content_hash(newest.weights), *(partner.revision for partner in partners.values())),
        float(run.get("flow_shift", shift)),
        str(text.get("precision", "")),
        int(text.get("max_tokens", MAX_TOKENS)),
        int(text.get("layer", LAST)),
    )


def _objective(folder: Path, transformer: Path) -> tuple[Objective, float]:
    """Return the objective and the flow's shift, from the scheduler beside the transformer, else by its channels."""
    config = PixArtConfig.read(transformer / "config.json")
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = lookup.read_json(path)
    kind = scheduler.get("prediction_type")
    if kind is None:
        return objective_of(config.in_channels, config.out_channels), 1.0
    known: dict[str, Objective] = {"epsilon": "eps", "flow_prediction": "flow"}
    if kind not in known:
        what = f"{path}: prediction type {kind!r} is not supported."
        raise CommonArtError(what, "It must be epsilon or flow_prediction.")
    return known[kind], float(scheduler.get("flow_shift") or 1.0)
