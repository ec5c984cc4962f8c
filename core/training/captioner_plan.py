"""What a captioner's training would be and cost: `commonart train --stage captioner --gpus 8 --dry-run`.

Configurations alone are read; neither weights nor GPUs need be here. Activations are estimated as in arXiv 2205.05198, table 2,
without those of attention, which is fused: 34 bytes of each channel of each token and block.
"""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

from commonart.core import launch, log, recipes
from commonart.core.data.order import Buckets, SampleGroup
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.device import pick_device
from commonart.core.model.text_encoder import model_folders
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model, read_json
from commonart.core.settings import Settings
from commonart.core.training import cost, run, trainer
from commonart.core.training.caption_data import open_captions
from commonart.core.training.captioner import CaptionLoss, CaptionModel
from commonart.core.training.captioner_parts import llava_config, tower_config
from commonart.core.training.captioner_run import ROLES, held_bytes
from commonart.core.training.distributed import World
from commonart.core.training.dry_run import measured_rate
from commonart.core.training.encoders import rules_of

BLOCK, INPUT = 34, 2  # bytes a channel that a block keeps, and that its input takes where it is computed again
PROMPT = 24  # tokens of what is asked, about


def plan(settings: Settings, calibrate: float = 0.0) -> dict[str, Any]:
    """Return the resolved recipe, data, sizes, FLOPs, memory and time of a run.

    Args:
        calibrate: seconds to time real steps for, on this device, with random weights and images.

    Raises:
        CommonArtError, UsageError: as the run itself would; a model whose configuration cannot be had.
    """
    settings.check()
    recipe, world_size = settings.recipe, settings.gpus or launch.world_size()
    micro_batch, grad_accum_steps = recipes.accumulation(recipe, world_size)
    data: dict[str, Any]
    try:
        opened = open_captions(settings.data, settings.languages, rules_of(settings))
        data = opened.index.describe(opened.odds)
    except UsageError:
        raise
    except CommonArtError as error:  # a plan needs no data
        data = {"folder": settings.data, "images": f"unknown: {error.what}"}
        log.warn(f"{error.what} The plan is for data that fit.")
    names = {part: getattr(settings, part) or getattr(recipe, part) for part in ROLES}
    with torch.device("meta"):
        model = CaptionModel(LlavaForConditionalGeneration(_config(names)), recipe.trains)
    dtype = run.dtype_of(settings, pick_device(settings.device))
    held = held_bytes(model.counts(), settings, 4 if settings.fsdp else 2, world_size if settings.fsdp else 1)
    text: Any = model.llava.config.text_config
    tokens = model.llava.config.image_seq_length + PROMPT + run.USUAL_TOKENS
    kept = (text.num_hidden_layers * INPUT + BLOCK) if settings.checkpointing else text.num_hidden_layers * BLOCK
    held["activations"] = micro_batch * tokens * text.hidden_size * kept
    criterion = CaptionLoss(model, dtype, PROMPT)
    step = criterion.flops(run.USUAL_TOKENS) * recipe.batch
    if calibrate:
        measured = _images_per_second(settings, model, criterion, micro_batch * grad_accum_steps, calibrate)
        hours: Any = cost.rounded_hours(recipe.batch * recipe.steps / (measured * world_size))
        how = f"at {measured:.3g} images/s, measured on this device, on {world_size} of it"
    else:
        rates = {name: rate * cost.REACHED * world_size for name, rate in cost.RATES.items()}
        hours = {name: cost.rounded_hours(step * recipe.steps / rate) for name, rate in rates.items()}
        how = f"at {cost.REACHED:.0%} of the data sheet's bf16 rate on {world_size} of each GPU"
    hidden = (*recipes.DIFFUSION, *ROLES, "scorer")
    shown = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in hidden}
    return {
        "run": str(settings.run), "recipe": shown, "world_size": world_size, "micro_batch": micro_batch,
        "grad_accum_steps": grad_accum_steps,
        "init": settings.init or (f"newest checkpoint of {settings.previous_run}" if recipe.init_from else "none"),
        "data": data, **names, **model.counts(), "flops_per_step": step, "flops_total": step * recipe.steps,
        "memory_bytes_per_device": {**held, "total": sum(held.values())}, "hours": hours, "hours_are": how,
    }  # fmt: skip


def _config(names: dict[str, str]) -> LlavaConfig:
    """The captioner's configuration, from those of its parts."""
    configs: dict[str, Any] = {}
    for part, role in ROLES.items():
        option = "--" + part.replace("_", "-")
        row = find_model(names[part], role, option)
        if row.local or row.embedded:
            values = read_json(model_folders(hub.resolve_model(row).folder)[0] / "config.json")
        else:
            values = hub.read_config(row)
        if "model_type" not in values:
            raise CommonArtError(
                f"The configuration of {option} {names[part]} is not in the cache, and the hub is away.",
                "Plan where there is a network, or name a local folder.",
            )
        config = AutoConfig.for_model(**values)
        configs[part] = tower_config(config, names[part]) if part == "vision_tower" else config
    text = configs["language_model"]
    return llava_config(configs["vision_tower"], text, text.vocab_size - 1)


class _MadeUp:
    """One image with one caption, both random, as often as asked for."""

    offsets, weights, keys = np.arange(2), np.ones(1), ("k0",)

    def __init__(self, config: LlavaConfig) -> None:
        vision: Any = config.vision_config
        self.buckets: Buckets = [[SampleGroup(1)]]
        length = config.image_seq_length + PROMPT + run.USUAL_TOKENS
        ids = torch.zeros(1, length, dtype=torch.long)
        ids[:, : config.image_seq_length] = config.image_token_index
        labels = ids.clone()
        labels[:, : -run.USUAL_TOKENS] = -100
        pixels = torch.rand(1, 3, vision.image_size, vision.image_size) * 2 - 1
        self.sample = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels,
        }  # fmt: skip

    def fetch(self, rows: Any, captions: Any) -> Any:
        return {name: tensor.expand(len(rows), *tensor.shape[1:]) for name, tensor in self.sample.items()}


def _images_per_second(
    settings: Settings, planned: CaptionModel, criterion: CaptionLoss, batch: int, seconds: float
) -> float:
    """Time real steps for about `seconds`, on this device alone."""
    world = World(pick_device(settings.device))
    recipe = dataclasses.replace(settings.recipe, batch=batch)
    dtype = run.dtype_of(settings, world.device)
    with torch.random.fork_rng(), torch.device(world.device):
        model = CaptionModel(LlavaForConditionalGeneration(planned.llava.config), recipe.trains).to(dtype)
    for param in model.parameters():
        param.data = param.data.float() if param.requires_grad else param.data
    with tempfile.TemporaryDirectory() as folder:
        data, alone = _MadeUp(planned.llava.config), dataclasses.replace(settings, out=folder, track="")
        return measured_rate(trainer.Trainer(model, data, recipe, alone, world, criterion), seconds)
