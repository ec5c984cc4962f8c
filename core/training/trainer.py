"""The training loop: batches in, checkpoints, metrics.jsonl and sample grids out.

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
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from commonart.core import launch, log
from commonart.core.errors import Preempted, telling
from commonart.core.model import alignment, repa, sra, weights
from commonart.core.model.transformer import PixArt
from commonart.core.recipes import Recipe, accumulation, learning_rate
from commonart.core.settings import Settings, TrainingSummary
from commonart.core.training import batches, checkpoint, float8, fsdp, optimizers, provenance
from commonart.core.training.batches import BatchSampler, Samples, Source
from commonart.core.training.cost import out_of_memory
from commonart.core.training.criterion import Criterion, DiffusionLoss
from commonart.core.training.distributed import World
from commonart.core.training.ema import Ema
from commonart.core.training.gradient_guard import GradientGuard
from commonart.core.training.logging import Meter, MetricsFile, Speed, tracker
from commonart.core.training.run import dtype_of

if TYPE_CHECKING:
    from commonart.core.training.captioner import CaptionModel

OPTIMIZER_FILE, ALIGNMENT_FILE = "optimizer.safetensors", "alignment.safetensors"
# (model with the averaged weights, step): writes the sample grid, and returns the scores of its images where there are any
SamplePreview = Callable[[PixArt, int], Mapping[str, float] | None]
# The same: returns the line of the step for metrics.jsonl (core.training.heldout)
Measure = Callable[[PixArt, int], Mapping[str, Any]]


@dataclass(slots=True)
class LoopState:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    images: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    meter: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    counted: int = 0  # images whose operations are in `flops`: those up to the last line of metrics.jsonl
    flops: float = 0.0


class Trainer:
    """One run being trained. `train` makes it and drives it; the model's weights are trained in place, in float32.

    Parameters that need no gradient are frozen: no checkpoint holds them.
    """

    def __init__(
        self, model: PixArt | CaptionModel, source: Samples, recipe: Recipe, settings: Settings, world: World,
        criterion: Criterion | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.settings, self.world = recipe, settings, world
        self.dtype = dtype_of(settings, world.device)  # of the matrix products
        self.source, self.model = source, model.train()
        self.model.gradient_checkpointing = settings.checkpointing
        if recipe.aligned:
            transformer, channels = cast(PixArt, model), cast(Source, source).vision_width
            widths = sra.widths(transformer.config) if recipe.sra else repa.widths(transformer.config, channels)
            transformer.alignment = alignment.make_head(widths, recipe.aligned, settings.seed)
        if settings.float8:
            float8.convert(self.model, world.device)
        wrapped = world.wrap(self.model)  # before its parameters are taken: FSDP replaces them
        self.micro_batch, self.grad_accum_steps = accumulation(recipe, world.size)
        self.sampler = BatchSampler(settings.seed, recipe.batch, recipe.caption_dropout)
        self.named = [(name, param) for name, param in self.model.named_parameters() if param.requires_grad]
        self.params: list[nn.Parameter] = [param for _, param in self.named]
        self.head = {name: param for name, param in self.named if name.startswith(alignment.PREFIX)}
        self.weights = {name: param for name, param in self.named if name not in self.head}
        self.optimizer = optimizers.make(self.named, recipe, self.dtype)
        self.ema = Ema(self.model, recipe.ema) if recipe.ema else None
        self.state, self.meter, self.devices = LoopState(), Meter(world.device), provenance.devices(world)
        track = tracker(settings.track, settings.run, asdict(recipe)) if settings.track and world.is_main else None
        self.metrics = MetricsFile(settings.run / "metrics.jsonl", world.is_main, track)
        self.guard = GradientGuard(recipe.spike)
        self.forward = cast(PixArt, torch.compile(wrapped) if settings.compile else wrapped)
        self.criterion = criterion or DiffusionLoss(
            cast(PixArt, model).config, cast(Source, source), recipe, self.sampler, self.dtype, settings.compile
        )

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Take over optimizer, average, counters and metrics of a checkpoint whose weights are the model's already."""
        from safetensors.torch import load_file

        values = saved.values
        optimizers.load_state(self.optimizer, self.named, load_file(saved.folder / OPTIMIZER_FILE), values["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(load_file(next((saved.folder / "ema").glob("*.safetensors"))))
        head = load_file(saved.folder / ALIGNMENT_FILE) if self.head else {}
        for name, param in self.head.items():
            param.data.copy_(fsdp.shard_like(head[name], param))
        self.state = LoopState(**values["loop"])
        self.guard.norms = self.state.norms
        # The meter's sums are of all processes together: the first one carries them on.
        self.meter.restore(self.state.meter if self.world.is_main else [])
        self.metrics.cut(self.state.step)

    def save(self) -> Path | None:
        """Write a checkpoint of this step (the first process; the others wait). Return its folder there."""
        self.state.meter, self.state.norms = self.meter.gather(self.world), self.guard.norms
        is_main = self.world.is_main
        tensors, values = optimizers.state_of(self.optimizer, self.named)
        tensors = fsdp.gather(tensors, is_main)
        models = {self.model.FOLDER: fsdp.gather(self.weights, is_main)}
        head = fsdp.gather(self.head, is_main)
        if self.ema is not None:
            models["ema"] = fsdp.gather(self.ema.state_dict(), is_main)

        def write(part: Path) -> None:
            for name, state in models.items():
                self.model.save(part / name, state=state)
            weights.save({name: tensor.cpu() for name, tensor in tensors.items()}, part / OPTIMIZER_FILE)
            if head:
                weights.save({name: tensor.cpu() for name, tensor in head.items()}, part / ALIGNMENT_FILE)

        run, keep, values = self.settings.run, self.settings.keep, {"loop": asdict(self.state), "optimizer": values}
        folder = checkpoint.save(run, self.state.step, write, values, keep) if is_main else None
        if is_main:
            state, (_, flops) = self.state, self.flops(self.meter.tokens())
            provenance.save(run, self.devices, step=state.step, images=state.images, seconds=state.elapsed, flops=flops)
        self.world.barrier()
        return folder

    @contextmanager
    def averaged(self) -> Iterator[Any]:
        """Lend the model to sample with: with the averaged weights, where there are any. All processes enter it."""
        if self.world.sharded or self.settings.float8:
            # Whole, for the other processes do not sample; and a new one, for the layers of this one multiply in 8 bits.
            state = fsdp.gather(self.ema.state_dict() if self.ema else self.weights, self.world.is_main)
            config = cast(PixArt, self.model).config
            yield PixArt.of(config, state).to(self.world.device).eval() if state else self.model
        elif not self.world.is_main:
            yield self.model
        else:
            self.model.eval()
            with self.ema.swap() if self.ema is not None else nullcontext():
                yield self.model
            self.model.train()

    def train_step(self, micro_batches: Iterator[tuple[list[str], Any]], rate: float, progress: float = 0.0) -> None:
        """Do one optimizer step: every micro batch of this device, the exchange, the clip, the update."""
        recipe, device = self.recipe, self.world.device
        first = self.world.rank * self.micro_batch * self.grad_accum_steps
        keys: list[str] = []
        drawn = recipe.batch * recipe.draws
        for n in range(self.grad_accum_steps):
            names, fetched = next(micro_batches)
            keys += names
            samples = slice(first + n * self.micro_batch, first + (n + 1) * self.micro_batch)
            last = n == self.grad_accum_steps - 1
            with self.world.accumulate(self.forward, last):
                losses = self.criterion(self.forward, fetched, self.state.step, samples, device, progress)
                aligned = losses.alignment_B
                total_B = losses.loss_B if aligned is None else losses.loss_B + aligned
                # Summed over the processes by their mean: hence the world's size.
                (total_B.sum() * (self.world.size / drawn)).backward()
            self.meter.add(losses.loss_B.detach(), losses.timestep_B, drawn, losses.tokens * recipe.draws, aligned)
        norm = fsdp.full_tensor(nn.utils.clip_grad_norm_(self.params, recipe.max_grad_norm))
        used = self.guard.admit(norm.item(), keys, self.state.step)  # the one wait for the device in a step
        self.state.skipped += not used
        if used:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if self.ema is not None:
                # A young average follows fast: what it started from is not worth remembering.
                self.ema.decay = min(recipe.ema, (1 + self.state.step) / (10 + self.state.step))
                self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.step(norm, used, self.world)
        self.state.step += 1
        self.state.images += recipe.batch

    def flops(self, tokens: float) -> tuple[int, float]:
        """Return (images, operations) of the run so far; `tokens`: the mean of a text since the last line of metrics.jsonl."""
        state = self.state
        return state.images, state.flops + self.criterion.flops(tokens) * (state.images - state.counted)

    def progress(self, elapsed: float) -> float:
        """Return the share of the run that is over, by steps or by the time budget, whichever is ahead."""
        return max(self.state.step / self.recipe.steps, elapsed / (self.settings.max_seconds or math.inf))

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

    def measure(self, heldout: Measure | None) -> None:
        """Write the held-out loss, of the averaged weights (the process that has `heldout`; the others wait)."""
        step = self.state.step
        with self.averaged() as model:
            if heldout is not None and self.metrics.measured < step:
                self.metrics.write({**heldout(model, step)})
        self.world.barrier()


def train(
    model: PixArt | CaptionModel,
    source: Samples,
    recipe: Recipe,
    settings: Settings,
    world: World,
    *,
    resume: checkpoint.Checkpoint | None = None,
    preview: SamplePreview | None = None,
    heldout: Measure | None = None,
    stop: launch.StopRequest | None = None,
    criterion: Criterion | None = None,
    left_out: Callable[[], dict[str, Any]] = dict,
) -> TrainingSummary:
    """Train `model` on `source` until the steps of `recipe` or the time budget are over.

    Args:
        resume: the checkpoint to continue, whose weights `model` must hold.
        preview: writes the sample grids; of the first process.
        heldout: measures the loss of held-out images; of the first process.
        stop: that of the caller, who listens to signals already.
        criterion: what is minimized (default: the loss of a denoising transformer).
        left_out: what the summary says of the data, as its fields `left_out` and `captions_left_out`.

    Raises:
        Preempted: SIGTERM, SIGUSR1 or Ctrl-C came, and the checkpoint is on disk.
        CommonArtError: no gradient can be used, or memory or disk are full. Errors carry `summary`.
    """
    listening = launch.stoppable(str(settings.run)) if stop is None else nullcontext(stop)
    with listening as stop, out_of_memory(accumulation(recipe, world.size)[0], settings.checkpointing):
        trainer = Trainer(model, source, recipe, settings, world, criterion)
        if resume is not None:
            trainer.restore(resume)
        else:
            trainer.metrics.cut(0)  # of a run that was killed before its first checkpoint
        return _loop(trainer, resume, preview, heldout, stop, left_out)


def _loop(
    trainer: Trainer, resume: checkpoint.Checkpoint | None, preview: SamplePreview | None, heldout: Measure | None,
    stop: launch.StopRequest, left_out: Callable[[], dict[str, Any]],
) -> TrainingSummary:  # fmt: skip
    recipe, settings, world, state = trainer.recipe, trainer.settings, trainer.world, trainer.state
    folder, saved_at = (resume.folder, resume.step) if resume else (None, -1)
    started, first_image, paused = time.monotonic(), state.images, 0.0
    began = started - state.elapsed  # the run, earlier calls included
    stopped, exit_code, ended = "done", 0, 0.0
    measured_every = 0 if recipe.trains else settings.heldout_every
    speed = Speed(trainer.criterion.flops, world, trainer.dtype, recipe)
    micro_batches = batches.stream(trainer.fetch, state.step, recipe.steps, trainer.grad_accum_steps, settings.workers)

    def summary() -> TrainingSummary:
        """What is done by now."""
        busy = (ended or time.monotonic()) - started - paused
        # A run that ended before its first line has a loss all the same.
        loss = trainer.metrics.last["loss"] if trainer.metrics.last else trainer.meter.loss()
        return TrainingSummary(
            settings.run, folder, state.step, state.images, state.skipped, state.elapsed,
            loss=math.nan if loss is None else loss,
            images_per_second=(state.images - first_image) / busy if busy > 0 else 0.0, stopped=stopped, **left_out(),
        )  # fmt: skip

    stop.loop_saves = True
    quiet = settings.quiet or not world.is_main
    with telling(summary), log.progress("train", total=recipe.steps, unit=" steps", quiet=quiet) as tick:
        tick(state.step)
        while state.step < recipe.steps:
            stop_code, elapsed = world.all_reduce_max(float(stop.exit_code), time.monotonic() - began)
            if stop_code:  # of several signals, and several processes, Ctrl-C has the highest code
                exit_code = int(stop_code)
                break
            if settings.max_seconds and elapsed >= settings.max_seconds:
                state.elapsed, stopped = elapsed, "time"
                break
            progress = trainer.progress(elapsed)
            rate = learning_rate(recipe, progress, state.step)
            trainer.train_step(micro_batches, rate, progress)
            tick(1)
            state.elapsed = time.monotonic() - began
            if _due(state.step, settings.log_every):
                count = len(trainer.source.keys)
                line = trainer.meter.line(state.step, rate, state.images, count, world, state.elapsed, paused)
                state.counted, state.flops = trainer.flops(line["tokens"] or 0)
                trainer.metrics.write({**line, **speed.of(line, trainer.progress(state.elapsed))})
            pause = time.monotonic()
            if _due(state.step, measured_every):
                trainer.measure(heldout)
            if _due(state.step, settings.sample_every):  # before the checkpoint, else the last one lacks the scores
                trainer.preview(preview)
            if _due(state.step, settings.checkpoint_every):
                folder, saved_at = trainer.save(), state.step
            paused += time.monotonic() - pause
        micro_batches.close()
        ended = time.monotonic()
        if saved_at != state.step:
            folder = trainer.save()
        if measured_every and not exit_code and not _due(state.step, measured_every):
            trainer.measure(heldout)
        if settings.sample_every and not exit_code and not _due(state.step, settings.sample_every):
            trainer.preview(preview)
        if exit_code:
            raise Preempted(
                f"{settings.run}: a signal asked training to stop; step {state.step} is saved.",
                "Start the same command again to continue.",
                exit_code,
            )
    return summary()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
