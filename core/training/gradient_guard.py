"""What keeps a run from harm: steps that would spoil the weights are skipped, memory that is not there is said in time.

commonart train --stage 512 --set spike=0      # takes every finite gradient, however large
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from commonart.core.errors import CommonArtError
from commonart.core.model import memory
from commonart.core.model.config import PixArtConfig
from commonart.core.recipes import Recipe, accumulation
from commonart.core.training import cost
from commonart.core.training.distributed import World

WINDOW = 100  # gradient norms that a new one is compared with
ENOUGH = 50  # of them, before anything counts as a spike
SURE = 0.75  # of the estimated activations: what is refused does not fit even if the estimate is a third too high
SPARE = 0.92  # of a GPU's free memory, the share that a micro batch is chosen for: allocators leave gaps


@dataclass(slots=True)
class GradientGuard:
    """Which gradients may be used. The same norms give the same answers on every process, and after a restart.

    `spike`: a norm more than so many times the median of the last WINDOW is one; 0 takes them all. After `patience` bad steps
    in a row the run gives up. `norms` belongs into the checkpoint.
    """

    spike: float
    patience: int
    norms: list[float] = field(default_factory=list)
    bad: list[list[str]] = field(default_factory=list)  # keys of the batches skipped in a row

    def admit(self, norm: float, keys: list[str], step: int) -> bool:
        """Whether the gradient of `step` may be used. `keys`: the images of this process's part of the batch.

        Raises CommonArtError, naming images, after `patience` steps in a row whose gradient may not.
        """
        finite = math.isfinite(norm)
        usual = statistics.median(self.norms) if len(self.norms) >= ENOUGH else math.inf
        if finite and not (self.spike and norm > self.spike * usual > 0):
            self.bad.clear()
            self.norms = [*self.norms[1 - WINDOW :], norm]
            return True
        self.bad.append(keys)
        if len(self.bad) < self.patience:
            return False
        names = ", ".join(dict.fromkeys(key for batch in self.bad for key in batch[:4]))
        how = f"{norm:.3g}, where {usual:.3g} is usual," if finite else "not finite"
        raise CommonArtError(
            f"The gradient was {how} in {len(self.bad)} steps in a row, up to step {step}; "
            f"the batches begin with the images {names}.",
            "Lower the rate (--set lr=...), train with --precision fp32, or look at those images."
            + (" --set spike=0 takes large gradients as they are." if finite else ""),
        )


@contextmanager
def out_of_memory(micro_batch: int, checkpointing: bool) -> Iterator[None]:
    """Turns an allocator's error into a sentence that names the setting to lower."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise CommonArtError(
            f"The device's memory is full: {str(error).splitlines()[0].rstrip('.')}.",
            _lower(micro_batch, checkpointing),
        ) from error


def fitting(config: PixArtConfig, recipe: Recipe, world: World, side: int, text: int, checkpointing: bool) -> Recipe:
    """`recipe` with the micro batch that fits the GPUs: its own, or else the largest below it. Other devices take its own.

    `side` and `text` as for `check_fits`. All processes agree on one.
    """
    if world.device.type != "cuda":
        return recipe
    micro_batch, parts = accumulation(recipe, world.size)
    free = SPARE * memory.free(world.device)
    sizes = [size for size in range(1, micro_batch + 1) if micro_batch * parts % size == 0]
    need = {size: cost.memory(config, recipe, size, side, text, checkpointing, world.shards) for size in sizes}
    fit = [size for size in sizes if need[size]["total"] <= free]
    (below,) = world.most(-max(fit, default=1))
    return replace(recipe, micro_batch=-int(below))


def check_fits(
    config: PixArtConfig, recipe: Recipe, micro_batch: int, side: int, text: int, device: torch.device, checkpointing: bool,
    shards: int = 1,
) -> None:  # fmt: skip
    """Raises CommonArtError where the run surely needs more memory than the device has free, before it is taken.

    `side` of the latents; `text`: tokens of a usual caption; `shards`: parts that the model is cut into.
    """
    free = memory.free(device)
    need = cost.memory(config, recipe, micro_batch, side, text, checkpointing, shards)
    surely = need["total"] - (1 - SURE) * need["activations"]
    if surely <= free:
        return
    fixed = need["total"] - need["activations"]
    per_image = SURE * need["activations"] / micro_batch
    most = int((free - fixed) / per_image)
    gib = 2.0**30
    raise CommonArtError(
        f"Stage {recipe.name} needs about {need['total'] / gib:.1f} GiB on each device, of which {fixed / gib:.1f} whatever "
        f"the batch; {device} has {free / gib:.1f} GiB free.",
        f"Train with --set micro_batch={most}."
        if most >= 1
        else _lower(1, checkpointing)
        if fixed <= free
        else "Use a larger device, --set optimizer=AdamW8bit, or --set ema=0.",
    )


def _lower(micro_batch: int, checkpointing: bool) -> str:
    ways: Sequence[str] = [
        *([f"--set micro_batch={micro_batch // 2}"] if micro_batch > 1 else []),
        *(["--checkpointing"] if not checkpointing else []),
    ]
    return f"Train with {' or '.join(ways)}; the batch of a step stays the same." if ways else "Use a larger device."
