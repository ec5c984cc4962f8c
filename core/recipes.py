"""The training stages as one table: what each stage of the chain 256-early -> 256-mid -> 256-late -> 512 trains with.

    commonart train --list                                   # prints the table
    commonart train --stage 256-mid --set lr=1e-5 --dry-run  # any value can be overridden

No torch here: the command line and its completion read this table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from commonart.core.errors import UsageError

OPTIMISERS = ("CAME", "AdamW8bit", "AdamW")
OBJECTIVES = ("eps", "flow")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One stage of training. Units: steps of the optimiser, images, pixels on a side."""

    name: str
    before: str  # the stage whose newest checkpoint this one starts from; "" starts from nothing
    optimiser: str
    batch: int  # images per optimiser step over all GPUs, whatever their number
    lr: float  # learning rate after warm-up
    resolution: int
    interpolation: float  # pe_interpolation: positions are i / (n / base_size) / interpolation
    objective: str  # eps: epsilon MSE + VB, learned sigma; flow: noise - data, logit-normal time
    steps: int
    layers: int
    heads: int
    head_dim: int  # width of one head; the model's width is heads * head_dim
    clip: float  # the gradient's norm is clipped to this
    dropout: float  # share of captions replaced by the null embedding, for guidance
    ema: float  # decay of the moving average of the weights; 0 keeps none
    warmup: int  # steps of linear warm-up
    cooldown: float  # last share of the run over which the rate falls linearly to zero; 0: constant
    weight_decay: float
    shift: float  # resolution shift of flow time: t' = shift t / (1 + (shift - 1) t); 1 is none
    micro: int  # most images that one device takes at once, fewer where its memory is less; accumulation is derived from it
    patch: int = 2  # latents on a side of one token
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8  # AdamW's
    spike: float = 20.0  # a step whose gradient is so many times the usual one is skipped; 0 skips none

    @property
    def width(self) -> int:
        """Hidden width of the transformer."""
        return self.heads * self.head_dim


# Sources. Optimiser, batch, lr, AdamW's epsilon and the order of the stages: CommonArt beta, doi 10.51094/jxiv.936, with the
# learning rate 2e-5 throughout. Layers, heads, head_dim, patch: config.json of aipicasso/commonart-beta. Objective,
# interpolation, clip, dropout, warm-up: PixArt-Sigma's official configurations. Ours, stated by neither: how the paper's
# "about 2 M steps" are split over the stages, EMA (PixArt-Sigma builds none), weight decay 0.03, micro.
# The row nano is ours throughout. Flow against eps and the shift were measured side by side; `commonart nano build` overrides some of it.
# fmt: off
_ROWS = (
    #      name         before       optimiser    batch  lr    px   inter objective steps  layers heads dim clip  drop ema     warm  cool  decay shift micro
    Recipe("256-early", "",          "CAME",      64,   2e-5, 256, 0.5,  "eps",  500_000, 28,    16,  72, 0.01, 0.1, 0.9999, 1000, 0.0,  0.0,  1.0,  32),  # 2 x A6000 in the paper
    Recipe("256-mid",   "256-early", "AdamW8bit", 1024, 2e-5, 256, 0.5,  "eps",  250_000, 28,    16,  72, 0.01, 0.1, 0.9999, 1000, 0.0,  0.03, 1.0,  32),  # 8 x L4, accumulation
    Recipe("256-late",  "256-mid",   "AdamW8bit", 256,  2e-5, 256, 0.5,  "eps",  750_000, 28,    16,  72, 0.01, 0.1, 0.9999, 1000, 0.0,  0.03, 1.0,  32),  # 32 x L4
    Recipe("512",       "256-late",  "AdamW8bit", 128,  2e-5, 512, 1.0,  "eps",  500_000, 28,    16,  72, 0.01, 0.1, 0.9999, 1000, 0.0,  0.03, 1.0,   8),  # 32 x L4
    Recipe("nano",      "",          "AdamW",     64, 1.5e-3,  64, 1.0,  "flow",   5_000,  6,     3,  48, 1.0,  0.1, 0.998,   150, 0.5,  0.01, 3.0,  64),  # the embedded default
)
# fmt: on
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ROWS}
STAGES = tuple(RECIPES)


def resolve(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe `name` with `overrides` (field -> value, as typed or as text: "2e-5") applied and checked.

    Raises UsageError for an unknown stage or field, a value of the wrong type, or one out of range.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise UsageError(f"--stage {name} is no training stage.", f"Use one of {', '.join(STAGES)}.")
    types = get_type_hints(Recipe)
    changes: dict[str, Any] = {}
    for field, value in (overrides or {}).items():
        if field not in types or field in ("name", "before"):
            known = ", ".join(f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "before"))
            raise UsageError(f"--set {field}={value}: a recipe has no setting '{field}'.", f"Use one of {known}.")
        changes[field] = _coerce(field, value, types[field])
    recipe = dataclasses.replace(recipe, **changes)
    _check(recipe)
    return recipe


def _coerce(field: str, value: Any, kind: type) -> Any:
    try:
        if kind is int:
            number = float(value)  # "1e3" is a number of steps too
            if number != int(number):
                raise ValueError(value)
            return int(number)
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        want = {int: "a whole number", float: "a number"}.get(kind, "text")
        raise UsageError(f"--set {field}={value}: '{value}' is not {want}.", f"Write it as {field}=VALUE.") from error


def _check(recipe: Recipe) -> None:
    def need(ok: bool, field: str, rule: str) -> None:
        if not ok:
            raise UsageError(f"--set {field}={getattr(recipe, field)}: {field} must be {rule}.", "Change that value.")

    need(recipe.optimiser in OPTIMISERS, "optimiser", "one of " + ", ".join(OPTIMISERS))
    need(recipe.objective in OBJECTIVES, "objective", "one of " + ", ".join(OBJECTIVES))
    for field in ("batch", "resolution", "steps", "layers", "heads", "head_dim", "micro", "patch"):
        need(getattr(recipe, field) >= 1, field, "1 or more")
    for field in ("lr", "interpolation", "clip", "shift", "epsilon"):
        need(0 < getattr(recipe, field) < float("inf"), field, "above 0")
    for field in ("ema", "beta1", "beta2"):
        need(0 <= getattr(recipe, field) < 1, field, "at least 0 and below 1")
    for field in ("dropout", "cooldown"):
        need(0 <= getattr(recipe, field) <= 1, field, "between 0 and 1")
    for field in ("warmup", "weight_decay", "spike"):
        need(getattr(recipe, field) >= 0, field, "0 or more")
    need(recipe.width % 4 == 0, "head_dim", "such that heads * head_dim is a multiple of 4 (two sine axes)")


def accumulation(recipe: Recipe, world: int) -> tuple[int, int]:
    """(micro batch of one device, micro batches per optimiser step) for `world` devices; their product is the device's share.

    Raises UsageError where `world` does not divide the global batch, naming the nearest possible numbers of GPUs.
    """
    if recipe.batch % world:
        possible = [n for n in range(1, recipe.batch + 1) if recipe.batch % n == 0]
        below, above = (
            max(n for n in possible if n < world or n == 1),
            min((n for n in possible if n > world), default=0),
        )
        near = f"{below} or {above}" if above else f"{below}"
        raise UsageError(
            f"--gpus {world} does not divide the global batch {recipe.batch} of stage {recipe.name}.",
            f"Use {near} GPUs, or change the batch with --set batch={max(1, round(recipe.batch / world)) * world}.",
        )
    share = recipe.batch // world
    micro = max(n for n in range(1, min(recipe.micro, share) + 1) if share % n == 0)
    return micro, share // micro


def learning_rate(recipe: Recipe, progress: float, step: int) -> float:
    """The rate of optimiser step `step` (counted from 0) when `progress` (0..1) of the run is over."""
    rate = recipe.lr
    if step < recipe.warmup:
        rate *= (step + 1) / recipe.warmup
    if recipe.cooldown and progress > 1 - recipe.cooldown:
        rate *= max(0.0, (1 - progress) / recipe.cooldown)
    return rate


def table() -> str:
    """The recipe table as aligned text, one row per stage."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    rows = [names] + [[_cell(getattr(recipe, name)) for name in names] for recipe in _ROWS]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "-"
