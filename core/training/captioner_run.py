"""One training run of a captioner: its data, its parts, its checkpoints, and the model folder that it ends in.

    commonart train --stage captioner-align --language ja=1 && commonart train --stage captioner --language ja=1
    commonart caption --model runs/captioner raw/

The run's `captioner/` is written where training ends, by its steps or by its time.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaProcessor

from commonart.core import launch, log
from commonart.core.errors import CommonArtError
from commonart.core.model import memory
from commonart.core.model.text_encoder import model_folders
from commonart.core.registry import hub
from commonart.core.registry.catalogue import Prompt
from commonart.core.registry.lookup import OPEN, check_terms, find_model, read_json
from commonart.core.settings import Settings, TrainingSummary
from commonart.core.training import checkpoint, run, trainer
from commonart.core.training.caption_data import CaptionData, CaptionDataset, open_captions
from commonart.core.training.captioner import CaptionInputs, CaptionLoss, CaptionModel
from commonart.core.training.captioner_parts import assemble
from commonart.core.training.checkpoint import Checkpoint
from commonart.core.training.distributed import World
from commonart.core.training.encoders import rules_of
from commonart.core.training.optimizers import bytes_per_parameter

ROLES = {"vision_tower": "vision-tower", "language_model": "text-encoder"}  # of the registry
# What a licence asks of those who pass a model on, the least first.
STRICTNESS = ("CC0-1.0", "Unlicense", "MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "CC-BY-4.0")

Parts = Mapping[str, hub.ResolvedModel]  # by the names of ROLES


def train(settings: Settings, world: World, stop: launch.StopRequest | None = None) -> TrainingSummary:
    """Train until the recipe's steps or the time are over, and write the run's `captioner/`.

    Raises:
        CommonArtError: no caption may be trained on, a part does not load, a run of other parts, a full disk.
        Preempted: a signal came, and the run's state is on disk.
    """
    folder, recipe, warn = settings.run, settings.recipe, log.warn if world.is_main else lambda _: None
    dtype = run.dtype_of(settings, world.device)
    data = open_captions(settings.data, settings.languages, rules_of(settings))
    with run.held(settings, world, warn) as begin:
        resume = checkpoint.newest(folder, warn)
        start, origin = (None, {}) if resume else run.initial_weights(settings)
        parts = find_parts(settings, origin)
        # FSDP2 cuts parameters of one precision together.
        model, processor = _open(settings, parts, resume, start, torch.float32 if world.sharded else dtype)
        described = {
            **run.describe_start(settings, recipe, origin, dtype),
            "data": data.index.describe(data.odds),
            **{name: _describe(part) for name, part in parts.items()},
            "captioner": {"class": "LlavaForConditionalGeneration", **model.counts()},
            "prompts": [list(prompt) for prompt in data.prompts],
        }
        inputs = CaptionInputs(processor, data.prompts, settings.max_tokens, model.positions)
        check_fits(model, settings, world)
        begin(described, resume, origin)
        source = CaptionDataset(data.index, data.odds, inputs)

        def left_out() -> dict[str, dict[str, int]]:
            records, captions = {**data.index.left_out, **source.damaged}, dict(data.index.captions_left_out)
            return {"left_out": records, "captions_left_out": captions}

        summary = trainer.train(
            model, source, recipe, settings, world, resume=resume, stop=stop, left_out=left_out,
            criterion=CaptionLoss(model, dtype, max(map(len, inputs.prompts.values()))),
        )  # fmt: skip
        if world.is_main:
            _finish(settings, parts, data, described, dtype)
        world.barrier()
    return summary


def find_parts(settings: Settings, origin: run.Origin) -> Parts:
    """Find the vision tower and the language model: those of the options, of the run that is continued or started from, or
    of the recipe.

    Raises:
        UsageError, CommonArtError: an unknown name, refused terms, files that are not there.
    """
    before = run.read(settings.run) or (run.read(Path(origin["from"])) if "step" in origin else {})
    parts = {}
    for part, role in ROLES.items():
        option = "--" + part.replace("_", "-")
        name = getattr(settings, part) or before.get(part, {}).get("name") or getattr(settings.recipe, part)
        row = find_model(name, role, option)
        check_terms(row, settings.accept_terms, option)
        parts[part] = hub.resolve_model(row)
    return parts


def _open(
    settings: Settings, parts: Parts, resume: Checkpoint | None, start: Path | None, frozen: torch.dtype
) -> tuple[CaptionModel, LlavaProcessor]:
    """The model to train, with the weights of the checkpoint `resume`, or of the folder `start`, or a new projector."""
    model, processor = join_parts(parts, settings.recipe.trains, settings.seed, frozen)
    if resume is not None:
        model.load(resume.folder / model.FOLDER)
    elif start is not None:
        model.load(start, partly=True)
    return model, processor


def join_parts(parts: Parts, trains: str, seed: int, frozen: torch.dtype) -> tuple[CaptionModel, LlavaProcessor]:
    """Return a captioner of `parts` with a new projector, and its processor: `captioner.assemble`."""
    writer, tokenizer = model_folders(parts["language_model"].folder)
    llava, processor = assemble(
        parts["vision_tower"].folder, writer, tokenizer, seed=seed, frozen=frozen, trains=trains
    )
    return CaptionModel(llava, trains), processor


def _describe(part: hub.ResolvedModel) -> dict[str, str]:
    return {"name": part.name, "revision": part.revision, "license": part.model.license}


def held_bytes(counts: Mapping[str, int], settings: Settings, frozen_bytes: int, shards: int) -> dict[str, int]:
    """Return the bytes that a captioner takes on one device before its activations, by what they hold."""
    trained, frozen = counts["trained"] // shards, (counts["parameters"] - counts["trained"]) // shards
    recipe = settings.recipe
    return {
        "weights": 4 * trained,
        "frozen": frozen_bytes * frozen,
        "copies": 2 * trained,  # autocast's, in 16 bits
        "gradients": 4 * trained,
        "optimizer": int(bytes_per_parameter(recipe.optimizer) * trained),
        "ema": 4 * trained if recipe.ema else 0,
    }


def check_fits(model: CaptionModel, settings: Settings, world: World) -> None:
    """Refuse, before memory is taken, a run whose weights alone need more than the device has free.

    Raises:
        CommonArtError: they do not fit.
    """
    frozen_bytes = model.llava.model.vision_tower.dtype.itemsize
    need = sum(held_bytes(model.counts(), settings, frozen_bytes, world.size if world.sharded else 1).values())
    free = memory.free(world.device)
    if world.device.type == "cuda" and need > free:
        gib = 2.0**30
        raise CommonArtError(
            f"Stage {settings.stage} needs {need / gib:.1f} GiB on each device before the first image; {world.device} has "
            f"{free / gib:.1f} GiB free.",
            "Shard it over several (--gpus N --fsdp), or take a smaller --language-model.",
        )


def _finish(
    settings: Settings, parts: Parts, data: CaptionData, described: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write the captioner of the run's last checkpoint, unless it is there: with the averaged weights where there are any."""
    saved = checkpoint.newest(settings.run)
    target = settings.run / CaptionModel.FOLDER
    if saved is None or (read_json(target / "config.json").get("commonart_step") == saved.step):
        return
    # Anew: the weights in training may lie on another device, or in parts on several.
    model, processor = join_parts(parts, settings.recipe.trains, settings.seed, dtype)
    model.load(saved.weights)
    model.llava.to(dtype)
    model.llava.config.commonart_step = saved.step
    export(model, processor, data.prompts, card(settings.run.name, described, saved.step), target)
    if not settings.quiet:
        log.say(f"{settings.run} holds a captioner: commonart caption --model {settings.run}")


def export(model: CaptionModel, processor: LlavaProcessor, prompts: Sequence[Prompt], card: str, folder: Path) -> None:
    """Write a captioner that `commonart caption --model` loads: beside `folder`, then under its name.

    Args:
        prompts: what it was trained to answer, the usual one first.
        card: README.md.
    """
    part, gone = (folder.with_name(f".{folder.name}.{word}") for word in ("part", "gone"))
    for old in (part, gone):
        shutil.rmtree(old, ignore_errors=True)
    llava = model.llava
    for config in (llava.config.text_config, llava.config.vision_config):
        config._name_or_path = ""  # where the part lay; the card names it
    llava.config.commonart_prompts = [[p.lang, p.length, list(p.texts)] for p in prompts]
    llava.save_pretrained(part)
    processor.save_pretrained(part)
    (part / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        folder.rename(gone)
    part.rename(folder)
    shutil.rmtree(gone, ignore_errors=True)


def strictest(licenses: list[str]) -> str:
    """Return the licence of a model made of parts under `licenses`; "other" where one of them is not an open licence."""
    if any(license not in STRICTNESS for license in licenses):
        return "other"
    hub_id = {spdx: name for name, spdx in OPEN.items()}
    return hub_id[max(licenses, key=STRICTNESS.index)]


def card(name: str, described: Mapping[str, Any], step: int) -> str:
    """Return the captioner's README.md. Models whose terms only the user answers for make its licence "other"."""
    parts = {part: described[part] for part in ROLES}
    makers = described["data"]["makers"]
    languages = sorted({maker["lang"] for maker in makers})
    open_terms = not described["data"]["accepted"]
    license = strictest([part["license"] for part in parts.values()]) if open_terms else "other"
    lines = [
        "---", f"license: {license}", "language:", *[f"- {lang}" for lang in languages], "library_name: transformers",
        "pipeline_tag: image-to-text", "base_model:", *[f"- {part['name']}" for part in parts.values()], "---", "",
        f"# {name}", "", f"A captioner ({', '.join(languages)}), trained by `commonart train --stage {described['stage']}`.",
        f"{step:,} steps of {described['recipe']['batch']} images.", "",
        "| part | model | revision | licence |", "|---|---|---|---|",
        *[f"| {part.replace('_', ' ')} | {p['name']} | {p['revision']} | {p['license']} |" for part, p in parts.items()],
        "", f"Data: {described['data']['images']:,} images, fingerprint `{described['data']['fingerprint']}`, captioned by", "",
        "| model | revision | licence | language | captions |", "|---|---|---|---|---|",
        *[f"| {m['model']} | {m['revision']} | {m['license']} | {m['lang']} | {m['captions']:,} |" for m in makers],
        "", "Ask it with", "", *[f"    {text!r}" for _, _, texts in described["prompts"] for text in texts], "",
    ]  # fmt: skip
    if not open_terms:
        lines += [f"The terms of {', '.join(described['data']['accepted'])} were accepted by who trained it.", ""]
    return "\n".join(lines)
