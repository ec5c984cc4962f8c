"""What training measures: metrics.jsonl and TensorBoard, one line every N steps, the same whether interrupted or not.

    {"step": 100, "loss": 0.91, "lr": 2e-05, "grad_norm": 0.4, "images_per_second": 212.0, "loss_by_t": [...], ...}
    {"step": 100, "clip_en": 27.1, "clip_ja": 25.9, ...}     # of the images sampled at that step: core/metrics/prompt_following.py
    {"step": 100, "heldout_loss": 0.93, "training_loss": 0.92, "gap": -0.01, ...}   # core/training/heldout.py

`loss_by_t` is the mean loss of each tenth of the timesteps 0..1000, from little noise to pure noise (null: none was among them).
Where every step since the line before was skipped, `loss`, `grad_norm` and `tokens` are null.
`mfu` is the share of the device's measured matrix rate that the model's own arithmetic reached; recomputed blocks do not count.
"""

from __future__ import annotations

import errno
import importlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch
from torch import Tensor

from commonart.core.data.files import write_bytes
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.recipes import Recipe
from commonart.core.training.distributed import World

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BINS = 10
TRACKERS = ("wandb", "trackio")
_LOSS, _NORM, _STEPS, _SKIPPED, _TOKENS, _SUMS, _COUNTS, _ALIGNED = 0, 1, 2, 3, 4, 5, 5 + BINS, 5 + 2 * BINS
_SIZE = _ALIGNED + 1

Line = dict[str, Any]  # of metrics.jsonl
Tracker = Callable[[dict[str, float], int], Any]


class Meter:
    """Sums since the last line, kept on the device so that adding to them waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs have no float64.
        self.sums = torch.zeros(_SIZE, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self._now = torch.zeros_like(self.sums)  # of the step that is being computed
        self._window: tuple[float, int, float] = (time.monotonic(), -1, 0.0)

    def add(
        self,
        loss_B: Tensor,
        timestep_B: Tensor | None,
        batch: int,
        tokens: Tensor | int,
        aligned_B: Tensor | None = None,
    ) -> None:
        """Add the losses (B,) of one micro batch of a global `batch`, at timesteps (B,) in 0..1000, and its tokens of text.

        `aligned_B`: what is minimized beside them.
        """
        loss = loss_B.to(self.sums.dtype)
        self._now[_LOSS] += loss.sum() / batch
        self._now[_TOKENS] += tokens / batch
        if aligned_B is not None:
            self._now[_ALIGNED] += aligned_B.detach().sum() / batch
        if timestep_B is None:
            return
        bins = (timestep_B * (BINS / 1000)).long().clamp_(0, BINS - 1)
        self._now.index_add_(0, _SUMS + bins, loss)
        self._now.index_add_(0, _COUNTS + bins, torch.ones_like(loss))

    def step(self, norm: Tensor, used: bool, world: World) -> None:
        """Close an optimizer step, which leaves no NaN in the sums where it was skipped (not `used`)."""
        if used:
            self.sums += self._now
        if world.is_main and used:  # every process has the same norm: the first counts it
            self.sums[_NORM] += norm.to(self.sums.dtype)
            self.sums[_STEPS] += 1
        elif world.is_main:
            self.sums[_SKIPPED] += 1
        self._now.zero_()

    def gather(self, world: World) -> list[float]:
        """Return the sums of all processes; from now on the first one holds them."""
        total = world.all_reduce_sum(self.sums)
        self.sums.copy_(total) if world.is_main else self.sums.zero_()
        return [float(value) for value in total.tolist()]

    def loss(self) -> float:
        """Return the mean loss since the last line, after `gather` on the first process; NaN without a step."""
        return float(self.sums[_LOSS] / self.sums[_STEPS])

    def tokens(self) -> float:
        """Return the mean tokens of a text since the last line, after `gather` on the first process; 0 without a step."""
        return float(self.sums[_TOKENS] / self.sums[_STEPS]) if self.sums[_STEPS] else 0.0

    def restore(self, sums: list[float]) -> None:
        """Restore what `gather` returned."""
        self.sums[: len(sums)].copy_(torch.tensor(sums, dtype=self.sums.dtype))

    def line(
        self, step: int, rate: float, images: int, count: int, world: World, elapsed: float, paused: float
    ) -> Line:
        """Return the line of `step`, and start anew. `count`: images of an epoch; `paused`: seconds in checkpoints and samples."""
        sums = self.gather(world)
        self.sums.zero_()
        now, (before, seen, rest) = time.monotonic(), self._window
        self._window = (now, images, paused)
        seconds = now - before - (paused - rest)
        loss, norm, tokens = (sums[n] / sums[_STEPS] if sums[_STEPS] else None for n in (_LOSS, _NORM, _TOKENS))
        by_t = [s / n if n else None for s, n in zip(sums[_SUMS:_COUNTS], sums[_COUNTS:_ALIGNED], strict=True)]
        aligned = sums[_ALIGNED] / sums[_STEPS] if sums[_STEPS] else 0.0
        return {
            "step": step,
            "epoch": images / count,
            "images": images,
            "loss": loss,
            **({"alignment_loss": aligned} if aligned else {}),
            "lr": rate,
            "grad_norm": norm,
            "skipped": int(sums[_SKIPPED]),
            "tokens": tokens,
            **(
                {"loss_by_t": by_t} if any(sums[_COUNTS:_ALIGNED]) or loss is None else {}
            ),  # a captioner has no timesteps
            "images_per_second": round((images - seen) / seconds, 3) if seen >= 0 and seconds > 0 else None,
            "seconds": round(elapsed, 3),
        }


class Speed:
    """What images per second mean for this run: `mfu` and `seconds_left` of a line."""

    def __init__(self, flops: Callable[[float], float], world: World, dtype: torch.dtype, recipe: Recipe) -> None:
        self.flops, self.recipe = flops, recipe  # flops: of an image, by its number of text tokens
        self.world, self.dtype, self._peak = world, dtype, 0.0

    def of(self, line: Line, progress: float) -> Line:
        """Return what to add to `line`. `progress`: 0..1 of the run, by steps or by the time budget."""
        rate = line["images_per_second"]
        if not rate or not self.world.is_main:
            return {"mfu": None, "seconds_left": None}
        self._peak = self._peak or self.world.size * matrix_rate(self.world.device, self.dtype)
        flops = self.flops(line["tokens"] or 0)
        by_steps = (self.recipe.steps - line["step"]) * self.recipe.batch / rate
        by_clock = line["seconds"] * (1 - progress) / progress if progress else by_steps
        return {"mfu": round(rate * flops / self._peak, 4), "seconds_left": round(min(by_steps, by_clock), 1)}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of square matrix products on `device`, the best of a few: what MFU is a share of."""
    size, products = (8192, 10) if device.type == "cuda" else (1024, 1)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(products):
            product = a @ b
        product[0, 0].item()  # waits for the device
        seconds.append((time.perf_counter() - start) / products)
    return 2 * size**3 / min(seconds[1:])


class MetricsFile:
    """metrics.jsonl and TensorBoard's twin of it. Where not `active` (other processes than the first) it writes nothing."""

    def __init__(self, path: Path, active: bool = True, tracker: Tracker | None = None) -> None:
        self.path, self.active, self.tracker = path, active, tracker
        self.last: Line = {}  # of training
        self.scored = self.measured = -1  # step of the last scores, and of the last held-out loss
        self._step = 0
        self._events: SummaryWriter | None = None

    def write(self, line: dict[str, Any]) -> None:
        """Append one line: of training, which has a `loss`, a `heldout_loss`, or scores. Raises CommonArtError where it cannot."""
        if "loss" in line:
            self.last = line
        elif "heldout_loss" in line:
            self.measured = line["step"]
        else:
            self.scored = line["step"]
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            # What an interrupted run wrote beyond its checkpoint, TensorBoard drops from there on.
            self._events = self._events or SummaryWriter(self.path.parent / "tensorboard", purge_step=self._step + 1)
            for name, value in _numbers(line).items():
                self._events.add_scalar(name, value, line["step"])
            self._events.flush()
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise CommonArtError(
                f"{self.path} cannot be written ({error.strerror or error}).",
                f"{'Free some space' if full else 'Make the folder writable'}; the same command continues.",
            ) from error
        if self.tracker is not None:
            self.tracker(_numbers(line), line["step"])

    def cut(self, step: int) -> None:
        """Keep the lines up to `step`: those after the checkpoint that is resumed are computed again."""
        lines = [line for line in read(self.path) if line["step"] <= step]
        self.last = next((line for line in reversed(lines) if "loss" in line), {})
        others = [line for line in lines if "loss" not in line]
        self.scored = max((line["step"] for line in others if "heldout_loss" not in line), default=-1)
        self.measured = max((line["step"] for line in others if "heldout_loss" in line), default=-1)
        self._step, self._events = step, None
        if self.active and self.path.exists():
            write_bytes(self.path, b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))


def tracker(name: str, run: Path, config: dict[str, Any]) -> Tracker:
    """Return where `--track NAME` sends every line: wandb or trackio, whose interfaces agree.

    Raises UsageError for another name, and CommonArtError where it is not installed.
    """
    if name not in TRACKERS:
        raise UsageError(f"--track {name} is not a known tracker.", f"One of {', '.join(TRACKERS)}.")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise CommonArtError(f"--track {name}: {name} is not installed.", f"uv pip install {name}.") from error
    same = {"id": run.name} if name == "wandb" else {}  # trackio finds a run again by its name
    module.init(project="commonart", name=run.name, config=config, resume="allow", **same)
    return lambda values, step: module.log(values, step=step)


def _numbers(line: Line) -> dict[str, float]:
    lists = ((name, values) for name, values in line.items() if isinstance(values, list))
    bins = {f"{name}/{n}": value for name, values in lists for n, value in enumerate(values)}
    numbers = ((name, value) for name, value in {**line, **bins}.items() if isinstance(value, int | float))
    return {name: float(value) for name, value in numbers if name != "step"}


def read(path: str | Path) -> list[Line]:
    """Return the lines of a metrics.jsonl without one that a kill cut off; [] where there is no file."""
    lines: list[Line] = []
    with suppress(FileNotFoundError, orjson.JSONDecodeError):
        for text in Path(path).read_bytes().splitlines():
            lines.append(orjson.loads(text))
    return lines
