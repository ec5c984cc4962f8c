"""The training stages as one table: what each stage of the chain 256-early -> 256-mid -> 256-late -> 512 trains with.

No torch here: the command line and its completion read this table.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from commonart.core.errors import UsageError

OPTIMIZERS = ("CAME", "AdamW8bit", "AdamW", "Muon")
OBJECTIVES = ("eps", "flow")
PREDICTIONS = ("velocity", "x")
TIMES = ("logit-normal", "uniform", "mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training stage. Units: steps of the optimizer, images, pixels on a side.

    Defaults are what the four stages of the paper have in common. Encoders, learning rate, AdamW's epsilon: CommonArt beta, doi
    10.51094/jxiv.936. Layers, heads, head_dim, patch: config.json of aipicasso/commonart-beta. Objective, max_grad_norm,
    caption_dropout, warmup: PixArt-Sigma's official configurations. Stated by neither, and chosen here: ema (PixArt-Sigma
    builds none), cooldown, spike. A stage that `trains` parts of a captioner has nothing of DIFFUSION.
    """

    name: str
    init_from: str = ""  # the stage whose newest checkpoint this one starts from; "" starts from nothing
    optimizer: str
    batch: int  # images per optimizer step over all GPUs, whatever their number
    micro_batch: int  # most images that one device takes at once, fewer where its memory is less
    resolution: int = 0
    interpolation: float = 0.0  # pe_interpolation: positions are i / (n / base_size) / interpolation
    steps: int
    weight_decay: float
    text_encoder: str = "calm2-7b"  # of captions that are not encoded yet: rows of the registry
    autoencoder: str = "sdxl-vae"
    trains: str = ""  # captioners: the parts that learn, the others are frozen; "": the transformer learns
    vision_tower: str = ""  # captioners, and repa: rows of the registry
    language_model: str = ""
    scorer: str = ""  # what scores the grids of --sample-every, where --clip names nothing
    lr: float = 2e-5  # learning rate after warm-up
    objective: str = "eps"  # eps: epsilon MSE + VB, learned sigma; flow: noise - data, logit-normal time
    layers: int = 28
    heads: int = 16
    head_dim: int = 72  # width of one head; the model's width is heads * head_dim
    patch: int = 2  # latents on a side of one token
    max_grad_norm: float = 0.01  # the gradient's norm is clipped to this
    caption_dropout: float = 0.1  # share of captions replaced by the null embedding, for guidance
    ema: float = 0.9999  # decay of the moving average of the weights; 0 keeps none
    warmup: int = 1000  # steps of linear warm-up
    cooldown: float = 0.0  # last share of the run over which the rate falls linearly to zero; 0: constant
    flow_shift: float = 1.0  # resolution shift of flow time: t' = shift t / (1 + (shift - 1) t); 1 is none
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8  # AdamW's
    # Switches, off by default; core/README.md names the module and the paper of each.
    prediction: str = "velocity"  # what flow's transformer gives: the velocity, or x, the clean latents
    qk_norm: int = 0  # 1: queries and keys are normed
    draws: int = 1  # noises and times of each image in one step; its text is read once for all of them
    times: str = "logit-normal"  # the law of flow's times, before flow_shift
    time_mean: float = 0.0  # of the logit-normal law
    time_std: float = 1.0
    time_scale: float = 0.0  # of mode: above 0 more times in the middle, below 0 more at both ends
    tread: float = 0.0  # share of an image's tokens that skips the blocks in the middle
    tread_before: int = 2  # blocks before those, and after them
    tread_after: int = 1
    tread_off: float = 0.1  # last share of the run without it
    mask: float = 0.0  # share of an image's tokens that ends after the first blocks and has no loss
    mask_after: int = 4  # blocks that see all tokens
    mask_off: float = 0.1  # last share of the run without it
    sra: float = 0.0  # weight of the alignment with the autoencoder's latents; the paper's is 1
    sra_block: int = 8  # after which block the tokens are aligned
    repa: float = 0.0  # weight of the alignment with what --vision-tower sees; the paper's is 0.5
    repa_block: int = 8  # the same
    spike: float = 20.0  # a step whose gradient exceeds this multiple of the usual one is skipped; 0 skips none

    @property
    def width(self) -> int:
        """Hidden width of the transformer."""
        return self.heads * self.head_dim

    @property
    def aligned(self) -> int:
        """After which block tokens are aligned (core.model.alignment); 0: nowhere."""
        return self.sra_block if self.sra else self.repa_block if self.repa else 0

    @property
    def skipping(self) -> tuple[float, int, int, float]:
        """(Share of the tokens that skips blocks, the first of these, the one after the last, last share of the run without.)"""
        if self.mask:
            return self.mask, self.mask_after, self.layers, self.mask_off
        return self.tread, self.tread_before, self.layers - self.tread_after, self.tread_off


# What only a stage that trains the transformer has.
DIFFUSION = (
    "text_encoder", "autoencoder", "resolution", "interpolation", "objective", "layers", "heads", "head_dim", "patch",
    "caption_dropout", "flow_shift", "prediction", "qk_norm", "draws", "times",
    "time_mean", "time_std", "time_scale", "tread", "tread_before", "tread_after", "tread_off", "mask",
    "mask_after", "mask_off", "sra", "sra_block", "repa", "repa_block",
)  # fmt: skip

# The switches that the others belong to, and their papers.
SWITCHES = {
    "prediction": "arXiv 2605.27102", "qk_norm": "arXiv 2403.03206", "draws": "", "times": "arXiv 2403.03206",
    "time_mean": "arXiv 2403.03206", "time_std": "arXiv 2403.03206", "tread": "arXiv 2501.04765", "mask": "arXiv 2407.15811",
    "sra": "arXiv 2601.17830", "repa": "arXiv 2410.06940",
}  # fmt: skip

# Optimizer, batch, resolution and order: CommonArt beta. Interpolation: PixArt-Sigma's configurations at 256 and 512.
# Ours: how the paper's "about 2 M steps" are split over the stages, weight_decay, micro_batch.
# fmt: off
_ROWS = (
    Recipe(name="256-early", init_from="",          optimizer="CAME",      batch=64,   micro_batch=32, resolution=256, interpolation=0.5, steps=500_000, weight_decay=0.0),   # 2 x A6000 in the paper
    Recipe(name="256-mid",   init_from="256-early", optimizer="AdamW8bit", batch=1024, micro_batch=32, resolution=256, interpolation=0.5, steps=250_000, weight_decay=0.03),  # 8 x L4, accumulation
    Recipe(name="256-late",  init_from="256-mid",   optimizer="AdamW8bit", batch=256,  micro_batch=32, resolution=256, interpolation=0.5, steps=750_000, weight_decay=0.03),  # 32 x L4
    Recipe(name="512",       init_from="256-late",  optimizer="AdamW8bit", batch=128,  micro_batch=8,  resolution=512, interpolation=1.0, steps=500_000, weight_decay=0.03),  # 32 x L4
    Recipe(name="nano",      init_from="",          optimizer="Muon",      batch=128,  micro_batch=128, resolution=64, interpolation=1.0, steps=24_000, weight_decay=0.1,   # the embedded default: ours
           lr=5e-3, objective="flow", flow_shift=3.0, layers=6, heads=3, head_dim=48, patch=4, max_grad_norm=1.0, ema=0.998, warmup=150, cooldown=0.8, text_encoder="nano", autoencoder="nano", scorer="nano"),  # flow and its shift: measured side by side
    # 285 H100 hours at 40 % of its bf16 rate, captions and latents encoded once included (tests/benchmarks/README.md, projection)
    Recipe(name="fast-256",  init_from="",          optimizer="Muon",      batch=1024, micro_batch=32, resolution=256, interpolation=0.5, steps=150_000, weight_decay=0.1,
           lr=2e-4, objective="flow", max_grad_norm=1.0, cooldown=0.2, beta2=0.95),
    Recipe(name="fast-512",  init_from="fast-256",  optimizer="Muon",      batch=512,  micro_batch=8,  resolution=512, interpolation=1.0, steps=100_000, weight_decay=0.1,
           lr=1e-4, objective="flow", max_grad_norm=1.0, cooldown=0.5, beta2=0.95, flow_shift=1.5),
    Recipe(name="fast-nano", init_from="",          optimizer="Muon",      batch=128,  micro_batch=128, resolution=64, interpolation=1.0, steps=3_000,  weight_decay=0.1,   # minutes on a CPU
           lr=8e-3, objective="flow", flow_shift=3.0, layers=3, heads=3, head_dim=48, patch=4, max_grad_norm=1.0, ema=0.998, warmup=50, cooldown=0.5, beta2=0.95, text_encoder="nano", autoencoder="nano", scorer="nano"),
    # LLaVA-1.5 (arXiv 2310.03744, table 9), whose cosine is a straight line here; steps: one pass over its 558k and 665k images
    Recipe(name="captioner-align", trains="projector",                optimizer="AdamW", batch=256, micro_batch=16, steps=2_200, weight_decay=0.0, lr=1e-3, warmup=66,  cooldown=1.0, max_grad_norm=1.0, ema=0.0, caption_dropout=0.0, vision_tower="siglip", language_model="calm2-7b"),
    Recipe(name="captioner",       trains="projector+language_model", optimizer="AdamW", batch=128, micro_batch=8,  steps=5_200, weight_decay=0.0, lr=2e-5, warmup=156, cooldown=1.0, max_grad_norm=1.0, ema=0.0, caption_dropout=0.0, vision_tower="siglip", language_model="calm2-7b", init_from="captioner-align"),
)
# fmt: on
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ROWS}
STAGES = tuple(RECIPES)


def resolve(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe `name` with `overrides` (field -> value, as typed or as text: "2e-5") applied and checked.

    Raises UsageError for an unknown stage or field, a value of the wrong type, or one out of range.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise UsageError(f"--stage {name} is not a training stage.", f"Use one of {', '.join(STAGES)}.")
    types = get_type_hints(Recipe)
    # These have options of their own, or none.
    fixed = ("name", "init_from", "text_encoder", "autoencoder", "scorer", "trains", "vision_tower", "language_model")
    unused = DIFFUSION if recipe.trains else ()
    settable = [field.name for field in dataclasses.fields(Recipe) if field.name not in (*fixed, *unused)]
    changes: dict[str, Any] = {}
    for field, value in (overrides or {}).items():
        if field not in settable:
            what = (
                f"--set {field}={value}: {f'stage {name}' if field in unused else 'a recipe'} has no setting '{field}'."
            )
            near = difflib.get_close_matches(field, settable, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(what, f"{meant}Use one of {', '.join(settable)}.")
        changes[field] = _coerce(field, value, types[field])
    return _checked(dataclasses.replace(recipe, **changes))


def _coerce(field: str, value: Any, kind: type) -> Any:
    try:
        if kind is not int:
            return kind(value)
        if not (number := float(value)).is_integer():  # "1e3" is a number of steps too
            raise ValueError(value)
        return int(number)
    except (TypeError, ValueError, OverflowError) as error:
        expected = {int: "a whole number", float: "a number"}.get(kind, "text")
        raise UsageError(f"--set {field}={value}: '{value}' is not {expected}.", f"Use {field}=VALUE.") from error


def _checked(recipe: Recipe) -> Recipe:
    def need(ok: bool, field: str, rule: str) -> None:
        if not ok:
            raise UsageError(f"--set {field}={getattr(recipe, field)}: {field} must be {rule}.", "Change that value.")

    need(recipe.optimizer in OPTIMIZERS, "optimizer", "one of " + ", ".join(OPTIMIZERS))
    need(recipe.optimizer != "Muon" or not recipe.trains, "optimizer", "another than Muon where a captioner is trained")
    need(recipe.prediction in PREDICTIONS, "prediction", "one of " + ", ".join(PREDICTIONS))
    need(
        recipe.prediction == "velocity" or recipe.objective == "flow",
        "prediction",
        "velocity where the objective is eps",
    )
    need(recipe.qk_norm in (0, 1), "qk_norm", "0 or 1")
    need(recipe.times in TIMES, "times", "one of " + ", ".join(TIMES))
    need(
        recipe.times == "logit-normal" or recipe.objective == "flow", "times", "logit-normal where the objective is eps"
    )
    need(-1 < recipe.time_scale <= 1.75, "time_scale", "above -1 and at most 1.75")
    need(-math.inf < recipe.time_mean < math.inf, "time_mean", "a finite number")
    need(recipe.objective in OBJECTIVES, "objective", "one of " + ", ".join(OBJECTIVES))
    unused = DIFFUSION if recipe.trains else ()
    for field in ("batch", "resolution", "steps", "layers", "heads", "head_dim", "micro_batch", "patch", "draws"):
        need(field in unused or getattr(recipe, field) >= 1, field, "at least 1")
    for field in ("lr", "interpolation", "max_grad_norm", "flow_shift", "epsilon", "time_std"):
        need(field in unused or 0 < getattr(recipe, field) < float("inf"), field, "above 0")
    for field in ("ema", "beta1", "beta2"):
        need(0 <= getattr(recipe, field) < 1, field, "at least 0 and below 1")
    for field in ("tread", "mask"):
        need(0 <= getattr(recipe, field) < 1, field, "at least 0 and below 1")
    need(not recipe.mask or not recipe.tread, "mask", "0 where tread is on: a token either rejoins or ends")
    need(not recipe.mask or recipe.mask_after < recipe.layers, "mask_after", f"below {recipe.layers}, the layers")
    for field in ("tread_before", "tread_after", "mask_after"):
        need(getattr(recipe, field) >= 0, field, "at least 0")
    need(
        not recipe.tread or recipe.tread_before + recipe.tread_after < recipe.layers,
        "tread",
        "0 where tread_before and tread_after leave none of the layers",
    )
    for field in ("caption_dropout", "cooldown", "tread_off", "mask_off"):
        need(0 <= getattr(recipe, field) <= 1, field, "between 0 and 1")
    for field in ("sra", "repa"):
        block = f"{field}_block"
        fits = getattr(recipe, field) <= 0 or 1 <= getattr(recipe, block) <= recipe.layers
        need(fits, block, f"from 1 to {recipe.layers}, the layers")
        need(getattr(recipe, field) < math.inf, field, "a finite number")
    need(not recipe.repa or not recipe.sra, "repa", "0 where sra is on: tokens are aligned with one thing")
    for field in ("warmup", "weight_decay", "spike", "sra", "repa"):
        need(getattr(recipe, field) >= 0, field, "at least 0")
    need(recipe.width % 4 == 0, "head_dim", "such that heads * head_dim is a multiple of 4 (two sine axes)")
    return recipe


def accumulation(recipe: Recipe, world_size: int) -> tuple[int, int]:
    """Return (micro batch of one device, gradient accumulation steps); their product is the device's share of the batch.

    Raises UsageError, which names the nearest numbers of GPUs, where `world_size` does not divide the global batch.
    """
    if recipe.batch % world_size:
        possible = [n for n in range(1, recipe.batch + 1) if recipe.batch % n == 0]
        below, above = [n for n in possible if n < world_size], [n for n in possible if n > world_size]
        nearest = " or ".join(map(str, (*below[-1:], *above[:1])))
        raise UsageError(
            f"--gpus {world_size} does not divide the global batch {recipe.batch} of stage {recipe.name}.",
            f"Use {nearest} GPUs, or change the batch with --set batch={max(1, round(recipe.batch / world_size)) * world_size}.",
        )
    share = recipe.batch // world_size
    micro_batch = max(n for n in range(1, min(recipe.micro_batch, share) + 1) if share % n == 0)
    return micro_batch, share // micro_batch


def switched_on(recipe: Mapping[str, Any]) -> list[str]:
    """Return the switches that are on in a recipe as run.json keeps it, each as "tread = 0.5 (arXiv 2501.04765)"."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    on = {name: recipe[name] for name in SWITCHES if recipe.get(name, defaults[name]) != defaults[name]}
    papers = {**SWITCHES, "optimizer": "arXiv 2502.16982"}
    if recipe.get("optimizer") == "Muon":
        on["optimizer"] = "Muon"
    return [f"{name} = {value}{f' ({papers[name]})' if papers[name] else ''}" for name, value in on.items()]


def learning_rate(recipe: Recipe, progress: float, step: int) -> float:
    """Return the rate of optimizer step `step` (counted from 0) when `progress` (0..1) of the run is over."""
    rate = recipe.lr
    if step < recipe.warmup:
        rate *= (step + 1) / recipe.warmup
    if recipe.cooldown and progress > 1 - recipe.cooldown:
        rate *= max(0.0, (1 - progress) / recipe.cooldown)
    return rate


def table() -> str:
    """Return the recipe table as aligned text, one row per stage."""

    def cell(recipe: Recipe, field: str) -> str:
        value = "" if recipe.trains and field in DIFFUSION else getattr(recipe, field)
        return f"{value:g}" if isinstance(value, float) else str(value) or "-"

    columns = [(f.name, *(cell(recipe, f.name) for recipe in _ROWS)) for f in dataclasses.fields(Recipe)]
    padded = [[text.ljust(max(map(len, column))) for text in column] for column in columns]
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))
