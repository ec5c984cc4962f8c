"""Whether what run.json says of its cost can be true: steps, images, operations and energy against its recipe and curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from commonart.core.errors import CommonArtError
from commonart.core.recipes import Recipe

SECONDS = 1.0  # by which clocks are read apart
FEWER, MORE = 0.5, 2.0  # of the tokens of a text: the last step's are in no line of metrics.jsonl
ALL = 300  # tokens of a text at most, where run.json does not say how many its encoder reads

Run = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def of_cost(run: Run, curves: Rows) -> list[str]:
    """Return how steps, images, hours and energy of run.json contradict its recipe and its curves."""
    return [*_steps(run, curves), *_energy(run)]


def of_transformer(run: Run, curves: Rows) -> list[str]:
    """Return how parameters and operations of run.json contradict the transformer in it, which a captioner's has not."""
    try:
        return list(_transformer(run, curves))
    except (CommonArtError, KeyError, TypeError, ValueError) as error:  # a recipe with other fields than this version's
        return [f"its recipe and transformer cannot be read: {error}"]


def _steps(run: Run, curves: Rows) -> Iterator[str]:
    compute, batch = run["compute"], run["recipe"]["batch"]
    step, images, seconds = (compute[name] for name in ("step", "images", "seconds"))
    if images != step * batch:
        yield f"{step:,} steps of {batch:,} images are {step * batch:,}, and it says {images:,}"
    reached = max((row["step"] for row in curves if "step" in row), default=0)
    if reached > step:
        yield f"its curves reach step {reached:,}, and it says {step:,}"
    lasted = max((row["seconds"] for row in curves if row.get("seconds") is not None), default=0)
    if lasted > seconds + SECONDS:
        yield f"its curves last {lasted:,.0f} seconds, and it says {seconds:,.0f}"
    if odd := [row["step"] for row in curves if "images" in row and row["images"] != row["step"] * batch]:
        yield f"its curves have other images at step {odd[0]:,} than steps times batch"


def _energy(run: Run) -> Iterator[str]:
    compute = run["compute"]
    devices, seconds, energy = compute["devices"], compute["seconds"], compute.get("energy_kwh")
    if abs(sum(each["seconds"] for each in devices) - seconds) > SECONDS:
        yield f"its devices worked for other than {seconds:,.0f} seconds"
    known = all(each.get("watts") is not None for each in devices)
    used = sum(each["watts"] * each["count"] * each["seconds"] for each in devices) / 3.6e6 if known else None
    if (energy is None) != (used is None) or (used is not None and abs(used - energy) > 1e-3 * used):
        yield f"watts times seconds are {used} kWh, and it says {energy}"


def _transformer(run: Run, curves: Rows) -> Iterator[str]:
    """What contradicts the transformer that recipe, autoencoder and text encoder make; its operations, computed again."""
    from commonart.core.model.config import PixArtConfig
    from commonart.core.training import cost
    from commonart.core.training.run import config_of

    said, text, compute = dict(run["transformer"]), run["text_encoder"], run["compute"]
    count = said.pop("parameters")
    config, recipe = PixArtConfig.from_dict(said, "run.json"), Recipe(**run["recipe"])
    if config != config_of(
        recipe, (run["autoencoder"]["channels"], config.sample_size, config.sample_size), text["width"]
    ):
        yield "its transformer is not that of its recipe"
    if count != (weights := cost.parameters(config)):
        yield f"its transformer has {weights:,} parameters, and it says {count:,}"
    tokens = [row["tokens"] for row in curves if row.get("tokens")]
    most = text.get("max_tokens") or ALL
    fewest, longest = (FEWER * min(tokens), min(MORE * max(tokens), most)) if tokens else (0, most)
    low, high = (
        3 * cost.forward_flops(config, recipe, config.sample_size, each, routed) * compute["images"]
        for each, routed in ((fewest, bool(recipe.skipping[0])), (longest, False))
    )
    if not low <= compute["flops"] <= high:
        yield f"{compute['images']:,} images take {low:.3g} to {high:.3g} FLOP, and it says {compute['flops']:.3g}"
