"""The training loop: batches in, checkpoints, metrics.jsonl and sample grids out.

    outcome = train(model, source, recipe, "runs/512", options, world)     # stages/train.py calls it

One optimizer step is a function of the weights, the seed and the step's number: order, captions, dropped captions, noise and
times are derived from them, never from a generator's history. So a resumed run continues bit for bit (CPU, same world size),
and any number of devices and micro batches computes the same step within rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from commonart.core import launch, log
from commonart.core.errors import Preempted
from commonart.core.model import weights
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe, accumulation, learning_rate
from commonart.core.training import batches, checkpoint, fsdp, optimizers
from commonart.core.training.batches import BatchSampler, Samples, Source
from commonart.core.training.cost import out_of_memory
from commonart.core.training.criterion import Criterion, DiffusionLoss
from commonart.core.training.distributed import World
from commonart.core.training.ema import Ema
from commonart.core.training.gradient_guard import GradientGuard
from commonart.core.training.logging import Meter, MetricsFile, Speed, tracker

if TYPE_CHECKING:
    from commonart.core.training.captioner import CaptionModel

OPTIMIZER_FILE = "optimizer.safetensors"
# (model with the averaged weights, step): writes the sample grid, and returns the scores of its images where there are any
SamplePreview = Callable[[PixArt, int], Mapping[str, float] | None]


@dataclass(frozen=True, slots=True)
class Options:
    """What does not change the model that a step computes. Times in seconds, the rest in steps; 0 turns one off."""

    seed: int = 0
    dtype: torch.dtype = torch.float32  # of the matrix products; the weights stay float32
    max_seconds: float = 0.0  # time budget; the learning rate's schedule then follows the clock where it is ahead
    checkpoint_every: int = 1000
    sample_every: int = 0
    log_every: int = 10
    keep: int = 3
    workers: int = 0  # reading threads
    patience: int = 5  # steps in a row without a usable gradient before the run gives up
    compile: bool = False
    checkpointing: bool = False  # recompute blocks in the backward pass: less memory, a third slower
    track: str = ""  # wandb or trackio, beside metrics.jsonl
    quiet: bool = False


@dataclass(slots=True)
class Outcome:
    """What a call of `train` did."""

    step: int
    images: int
    skipped: int
    seconds: float  # of the run, earlier calls included
    loss: float  # mean of the last metrics line, or of all steps where none was written; NaN without a step
    images_per_second: float  # of this call, without checkpoints and samples
    stopped: Literal["done", "time"]
    checkpoint: Path | None


@dataclass(slots=True)
class LoopState:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    images: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    meter: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


class Trainer:
    """One run being trained. `train` makes it and drives it; the model's weights are trained in place, in float32.

    Parameters that need no gradient are frozen: no checkpoint holds them.
    """

    def __init__(
        self,
        model: PixArt | CaptionModel,
        source: Samples,
        recipe: Recipe,
        run: Path,
        options: Options,
        world: World,
        criterion: Criterion | None = None,
    ) -> None:
        self.recipe, self.run, self.options, self.world = recipe, run, options, world
        self.source, self.model = source, model.train()
        self.model.gradient_checkpointing = options.checkpointing
        wrapped = world.wrap(self.model)  # before its parameters are taken: FSDP replaces them
        self.micro_batch, self.grad_accum_steps = accumulation(recipe, world.size)
        self.sampler = BatchSampler(options.seed, recipe.batch, recipe.caption_dropout)
        self.named = [(name, param) for name, param in self.model.named_parameters() if param.requires_grad]
        self.params: list[nn.Parameter] = [param for _, param in self.named]
        self.optimizer = optimizers.make(self.named, recipe)
        self.ema = Ema(self.model, recipe.ema) if recipe.ema else None
        self.state, self.meter = LoopState(), Meter(world.device)
        track = tracker(options.track, run, asdict(recipe)) if options.track and world.is_main else None
        self.metrics = MetricsFile(run / "metrics.jsonl", world.is_main, track)
        self.guard = GradientGuard(recipe.spike, options.patience)
        self.forward = cast(PixArt, torch.compile(wrapped) if options.compile else wrapped)
        self.criterion = criterion or DiffusionLoss(
            cast(PixArt, model).config, cast(Source, source), recipe, self.sampler, options.dtype
        )

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Take over optimizer, average, counters and metrics of a checkpoint whose weights are the model's already."""
        from safetensors.torch import load_file

        values = saved.values
        optimizers.load_state(self.optimizer, self.named, load_file(saved.folder / OPTIMIZER_FILE), values["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(load_file(next((saved.folder / "ema").glob("*.safetensors"))))
        self.state = LoopState(**values["loop"])
        self.guard.norms = self.state.norms
        # The meter's sums are of all processes together: the first one carries them on.
        self.meter.restore(self.state.meter if self.world.is_main else [])
        self.metrics.cut(self.state.step)

    def save(self) -> Path | None:
        """Write a checkpoint of this step (the first process; the others wait). Return its folder there."""
        self.state.meter, self.state.norms = self.meter.gather(self.world), self.guard.norms
        folder, is_main = None, self.world.is_main
        tensors, values = optimizers.state_of(self.optimizer, self.named)
        tensors = fsdp.gather(tensors, is_main)
        models = {self.model.FOLDER: fsdp.gather(dict(self.named), is_main)}
        if self.ema is not None:
            models["ema"] = fsdp.gather(self.ema.state_dict(), is_main)
        if is_main:

            def write(part: Path) -> None:
                for name, state in models.items():
                    self.model.save(part / name, state=state)
                weights.save({name: tensor.cpu() for name, tensor in tensors.items()}, part / OPTIMIZER_FILE)

            loop = {name: getattr(self.state, name) for name in LoopState.__dataclass_fields__}
            folder = checkpoint.save(
                self.run, self.state.step, write, {"loop": loop, "optimizer": values}, keep=self.options.keep
            )
        self.world.barrier()
        return folder

    @contextmanager
    def averaged(self) -> Iterator[Any]:
        """Lend the model to sample with: with the averaged weights, where there are any. All processes enter it."""
        if self.world.sharded:  # whole, for the others do not take part in the sampling
            state = fsdp.gather(self.ema.state_dict() if self.ema else dict(self.named), self.world.is_main)
            yield (
                PixArt.of(cast(PixArt, self.model).config, state).to(self.world.device).eval() if state else self.model
            )
            return
        if not self.world.is_main:
            yield self.model
            return
        self.model.eval()
        with self.ema.swap() if self.ema is not None else nullcontext():
            yield self.model
        self.model.train()

    def train_step(self, micro_batches: Iterator[tuple[list[str], Any]], rate: float) -> None:
        """Do one optimizer step: every micro batch of this device, the exchange, the clip, the update."""
        recipe, device = self.recipe, self.world.device
        first = self.world.rank * self.micro_batch * self.grad_accum_steps
        keys: list[str] = []
        for n in range(self.grad_accum_steps):
            names, fetched = next(micro_batches)
            keys += names
            samples = slice(first + n * self.micro_batch, first + (n + 1) * self.micro_batch)
            last = n == self.grad_accum_steps - 1
            with self.world.accumulate(self.forward, last):
                losses = self.criterion(self.forward, fetched, self.state.step, samples, device)
                # Summed over the processes by their mean: hence the world's size.
                (losses.loss_B.sum() * (self.world.size / recipe.batch)).backward()
            self.meter.add(losses.loss_B.detach(), losses.timestep_B, recipe.batch, losses.tokens)
        norm = fsdp.full_tensor(nn.utils.clip_grad_norm_(self.params, recipe.max_grad_norm))
        used = self.guard.admit(norm.item(), keys, self.state.step)  # the one wait for the device in a step
        if not used:
            self.state.skipped += 1
        else:
            optimizers.set_rate(self.optimizer, rate)
            self.optimizer.step()
            if self.ema is not None:
                # A young average follows fast: what it started from is not worth remembering.
                self.ema.decay = min(recipe.ema, (1 + self.state.step) / (10 + self.state.step))
                self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.step(norm, used, self.world)
        self.state.step += 1
        self.state.images += recipe.batch

    def progress(self, elapsed: float) -> float:
        """Return the share of the run that is over, by steps or by the time budget, whichever is ahead."""
        share = self.state.step / self.recipe.steps
        return max(share, elapsed / self.options.max_seconds) if self.options.max_seconds else share

    def fetch(self, step: int, n: int) -> tuple[list[str], Any]:
        """Return micro batch `n` of this device as the source read it, with its images' keys. Runs in a reading thread."""
        first = (self.world.rank * self.grad_accum_steps + n) * self.micro_batch
        rows, captions = self.sampler.indices(self.source, step, first, self.micro_batch)
        return [self.source.keys[row] for row in rows], self.source.fetch(rows, captions)

    def preview(self, sample: SamplePreview | None) -> None:
        """Write the sample grid, with the averaged weights (the process that has `sample`; the others wait)."""
        step = self.state.step
        with self.averaged() as model:
            scores = sample(model, step) if sample is not None else None
        if scores and self.metrics.scored < step:  # a run that is over is sampled again when it is started again
            self.metrics.write({"step": step, **scores})
        self.world.barrier()


def train(
    model: PixArt | CaptionModel,
    source: Samples,
    recipe: Recipe,
    run: str | Path,
    options: Options,
    world: World,
    *,
    resume: checkpoint.Checkpoint | None = None,
    preview: SamplePreview | None = None,
    stop: launch.StopRequest | None = None,
    criterion: Criterion | None = None,
) -> Outcome:
    """Train `model` on `source` until the recipe's steps or the time budget are over.

    Args:
        resume: the checkpoint to continue, whose weights `model` must hold.
        preview: writes the sample grids; of the first process.
        stop: that of the caller, who listens to signals already.
        criterion: what is minimized (default: the loss of a denoising transformer).

    Raises:
        Preempted: SIGTERM, SIGUSR1 or Ctrl-C came, and the checkpoint is on disk.
        CommonArtError: no gradient can be used, or memory or disk are full.
    """
    listening = launch.stoppable(str(run)) if stop is None else nullcontext(stop)
    with listening as stop, out_of_memory(accumulation(recipe, world.size)[0], options.checkpointing):
        trainer = Trainer(model, source, recipe, Path(run), options, world, criterion)
        if resume is not None:
            trainer.restore(resume)
        else:
            trainer.metrics.cut(0)  # of a run that was killed before its first checkpoint
        return _loop(trainer, resume, preview, stop)


def _loop(
    trainer: Trainer, resume: checkpoint.Checkpoint | None, preview: SamplePreview | None, stop: launch.StopRequest
) -> Outcome:
    recipe, options, world, state = trainer.recipe, trainer.options, trainer.world, trainer.state
    folder, saved_at = (resume.folder, resume.step) if resume else (None, -1)
    started, first_image, paused = time.monotonic(), state.images, 0.0
    began = started - state.elapsed  # the run, earlier calls included
    stopped: Literal["done", "time"] = "done"
    exit_code = 0
    speed = Speed(trainer.criterion.flops, world, options.dtype, recipe.batch, recipe.steps)
    micro_batches = batches.stream(trainer.fetch, state.step, recipe.steps, trainer.grad_accum_steps, options.workers)
    stop.loop_saves = True
    with log.progress("train", total=recipe.steps, unit=" steps", quiet=options.quiet or not world.is_main) as tick:
        tick(state.step)
        while state.step < recipe.steps:
            stop_code, elapsed = world.all_reduce_max(float(stop.exit_code), time.monotonic() - began)
            if stop_code:  # of several signals, and several processes, Ctrl-C has the highest code
                exit_code = int(stop_code)
                break
            if options.max_seconds and elapsed >= options.max_seconds:
                state.elapsed, stopped = elapsed, "time"
                break
            rate = learning_rate(recipe, trainer.progress(elapsed), state.step)
            trainer.train_step(micro_batches, rate)
            tick(1)
            state.elapsed = time.monotonic() - began
            if _due(state.step, options.log_every):
                count = len(trainer.source.keys)
                line = trainer.meter.line(state.step, rate, state.images, count, world, state.elapsed, paused)
                trainer.metrics.write({**line, **speed.of(line, trainer.progress(state.elapsed))})
            pause = time.monotonic()
            if _due(state.step, options.sample_every):
                trainer.preview(
                    preview
                )  # before the checkpoint, which would leave the scores behind if it were the last
            if _due(state.step, options.checkpoint_every):
                folder, saved_at = trainer.save(), state.step
            paused += time.monotonic() - pause
        micro_batches.close()
        busy = time.monotonic() - started - paused
        if saved_at != state.step:
            folder = trainer.save()
        if options.sample_every and not exit_code and not _due(state.step, options.sample_every):
            trainer.preview(preview)
    if exit_code:
        raise Preempted(
            f"{trainer.run}: a signal asked training to stop; step {state.step} is saved.",
            "Start the same command again to continue.",
            exit_code,
        )
    per_second = (state.images - first_image) / busy if busy > 0 else 0.0
    # A run that ended before its first line has a loss all the same.
    loss = trainer.metrics.last["loss"] if trainer.metrics.last else trainer.meter.loss()
    loss = math.nan if loss is None else loss
    return Outcome(state.step, state.images, state.skipped, state.elapsed, loss, per_second, stopped, folder)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
