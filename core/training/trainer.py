"""The training loop: batches in, checkpoints, metrics.jsonl and sample grids out.

    outcome = fit(model, source, recipe, "runs/512", options, world)     # stages/train.py calls it

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
from typing import Any, Literal, cast

import torch
from torch import nn

from commonart.core import launch, log
from commonart.core.errors import EXIT_PREEMPTED, Preempted
from commonart.core.model import diffusion, weights
from commonart.core.model.device import autocast
from commonart.core.model.transformer import PixArt
from commonart.core.model.weights import WEIGHTS
from commonart.core.recipes import Recipe, accumulation, learning_rate
from commonart.core.training import batches, checkpoint, fsdp, optimizers
from commonart.core.training.batches import Plan, Source
from commonart.core.training.distributed import World
from commonart.core.training.ema import Ema
from commonart.core.training.gradient_guard import GradientGuard, out_of_memory
from commonart.core.training.logging import Meter, MetricsFile, Speed, tracker

OPTIMIZER_FILE = "optimizer.safetensors"
# (model with the averaged weights, step): writes the sample grid, and says the scores of its pictures where there are any
Draw = Callable[[PixArt, int], Mapping[str, float] | None]
Stop = Literal["done", "time", "preempted"]


@dataclass(frozen=True, slots=True)
class Options:
    """What does not change the model that a step computes. Times in seconds, the rest in steps; 0 turns a habit off."""

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
    """What a call of `fit` did."""

    step: int
    images: int
    skipped: int
    seconds: float  # of the run, earlier calls included
    loss: float  # mean of the last metrics line, or of all steps where none was written; NaN without a step
    images_per_second: float  # of this call, without checkpoints and samples
    stop: Stop
    checkpoint: Path | None


@dataclass(slots=True)
class _State:
    """What a checkpoint holds beside tensors."""

    step: int = 0
    images: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    meter: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


class Trainer:
    """One run being trained. `fit` makes it and drives it; the model's weights are trained in place, in float32."""

    def __init__(
        self,
        model: PixArt,
        source: Source,
        recipe: Recipe,
        run: Path,
        options: Options,
        world: World,
        warn: checkpoint.Warn,
    ) -> None:
        self.recipe, self.run, self.options, self.world = recipe, run, options, world
        self.source, self.model, self.warn = source, model.train(), warn
        self.model.gradient_checkpointing = options.checkpointing
        wrapped = world.wrap(self.model)  # before its parameters are taken: FSDP replaces them
        self.micro_batch, self.parts = accumulation(recipe, world.size)
        self.plan = Plan(options.seed, recipe.batch, recipe.caption_dropout)
        self.named = list(self.model.named_parameters())
        self.params: list[nn.Parameter] = [param for _, param in self.named]
        self.optimizer = optimizers.make(self.named, recipe)
        self.ema = Ema(self.model, recipe.ema) if recipe.ema else None
        self.state, self.meter = _State(), Meter(world.device)
        follow = tracker(options.track, run, asdict(recipe)) if options.track and world.first else None
        self.metrics = MetricsFile(run / "metrics.jsonl", world.first, follow)
        self.guard = GradientGuard(recipe.spike, options.patience)
        self.forward = cast(PixArt, torch.compile(wrapped) if options.compile else wrapped)
        self.objective = diffusion.check_objective(recipe.objective)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Optimizer, average, counters and metrics of a checkpoint whose transformer is the model already."""
        from safetensors.torch import load_file

        values = found.values
        optimizers.load_state(self.optimizer, self.named, load_file(found.folder / OPTIMIZER_FILE), values["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(load_file(found.folder / "ema" / WEIGHTS))
        self.state = _State(**values["loop"])
        self.guard.norms = self.state.norms
        # The meter's sums are of all processes together: the first one carries them on.
        self.meter.restore(self.state.meter if self.world.first else [])
        self.metrics.cut(self.state.step)

    def save(self) -> Path | None:
        """A checkpoint of this step (by the first process; the others wait). Its folder."""
        self.state.meter, self.state.norms = self.meter.gather(self.world), self.guard.norms
        folder, first = None, self.world.first
        tensors, values = optimizers.state_of(self.optimizer, self.named)
        tensors = fsdp.gather(tensors, first)
        models = {"transformer": fsdp.gather(dict(self.named), first)}
        if self.ema is not None:
            models["ema"] = fsdp.gather(self.ema.state_dict(), first)
        if first:

            def write(part: Path) -> None:
                for name, state in models.items():
                    self.model.save(part / name, state=state)
                weights.save({name: tensor.cpu() for name, tensor in tensors.items()}, part / OPTIMIZER_FILE)

            loop = {name: getattr(self.state, name) for name in _State.__dataclass_fields__}
            folder = checkpoint.save(
                self.run, self.state.step, write, {"loop": loop, "optimizer": values}, keep=self.options.keep
            )
        self.world.wait()
        return folder

    @contextmanager
    def averaged(self) -> Iterator[PixArt]:
        """The model for the first process to draw with: with the averaged weights, where there are any. All enter it."""
        if self.world.sharded:  # whole, for the others do not take part in the drawing
            state = fsdp.gather(self.ema.state_dict() if self.ema else dict(self.named), self.world.first)
            yield PixArt.of(self.model.config, state).to(self.world.device).eval() if state else self.model
            return
        if not self.world.first:
            yield self.model
            return
        self.model.eval()
        with self.ema.swap() if self.ema is not None else nullcontext():
            yield self.model
        self.model.train()

    def step(self, stream: Iterator[tuple[list[str], Any]], rate: float) -> None:
        """One optimizer step: every micro batch of this device, the exchange, the clip, the update."""
        recipe, device = self.recipe, self.world.device
        draws = self.plan.generator(self.state.step, device)
        first = self.world.rank * self.micro_batch * self.parts
        noise = posterior = time_B = None
        keys: list[str] = []
        for part in range(self.parts):
            names, fetched = next(stream)
            keys += names
            batch = self.source.batch(fetched, device)
            if noise is None or posterior is None or time_B is None:
                # Drawn for the whole global batch and cut: the same numbers for any number of devices.
                whole = (recipe.batch, *batch.mean_BCHW.shape[1:])
                noise = torch.randn(whole, generator=draws, device=device)
                posterior = torch.randn(whole, generator=draws, device=device)
                time_B = diffusion.draw_times(recipe.batch, self.objective, draws)
            mine = slice(first + part * self.micro_batch, first + (part + 1) * self.micro_batch)
            latents = batch.mean_BCHW.float()
            if batch.std_BCHW is not None:
                latents = latents + batch.std_BCHW.float() * posterior[mine]
            last = part == self.parts - 1
            # Under autocast the first product takes the states as they are stored: a detour through float32 changes nothing.
            text = batch.text_BLT.float() if self.options.dtype == torch.float32 else batch.text_BLT
            with self.world.accumulate(self.forward, last):
                with autocast(device, self.options.dtype):
                    loss_B, timestep_B = diffusion.loss(
                        self.forward, latents, text, batch.mask_BL, self.objective,
                        noise_BCHW=noise[mine], time_B=time_B[mine], shift=recipe.flow_shift,
                    )  # fmt: skip
                # Summed over the processes by their mean: hence the world's size.
                (loss_B.sum() * (self.world.size / recipe.batch)).backward()
            tokens = batch.text_BLT.shape[0] * batch.text_BLT.shape[1] if batch.mask_BL is None else batch.mask_BL.sum()
            self.meter.add(loss_B.detach(), timestep_B, recipe.batch, tokens)
        norm = fsdp.whole(nn.utils.clip_grad_norm_(self.params, recipe.max_grad_norm))
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
        """Share of the run that is over, by steps or by the time budget, whichever is ahead."""
        share = self.state.step / self.recipe.steps
        return max(share, elapsed / self.options.max_seconds) if self.options.max_seconds else share

    def fetch(self, step: int, part: int) -> tuple[list[str], Any]:
        """One micro batch of this device as the source read it, with its images' keys. Runs in a reading thread."""
        first = (self.world.rank * self.parts + part) * self.micro_batch
        rows, captions = self.plan.micro_batch(self.source, step, first, self.micro_batch)
        return [self.source.keys[row] for row in rows], self.source.fetch(rows, captions)


def fit(
    model: PixArt,
    source: Source,
    recipe: Recipe,
    run: str | Path,
    options: Options,
    world: World,
    *,
    resume: checkpoint.Checkpoint | None = None,
    draw: Draw | None = None,
    warn: checkpoint.Warn = log.warn,
    on_step: Callable[[int], None] | None = None,
    stop: launch.Stop | None = None,
) -> Outcome:
    """Trains `model` on `source` until the recipe's steps or the time budget are over. SIGTERM, SIGUSR1 and
    Ctrl-C end it early.

    `resume` continues that checkpoint, whose transformer `model` must hold. `draw` writes a sample grid. `on_step` is called
    after every step. `stop` is that of the caller, who listens to signals already. Raises Preempted after a signal, when the
    checkpoint is on disk, and CommonArtError where no gradient can be used, or memory or disk are full.
    """
    listen = launch.stoppable(str(run)) if stop is None else nullcontext(stop)
    with listen as listening, out_of_memory(accumulation(recipe, world.size)[0], options.checkpointing):
        trainer = Trainer(model, source, recipe, Path(run), options, world, warn)
        return _drive(trainer, resume, draw, on_step, listening)


def _drive(
    trainer: Trainer,
    resume: checkpoint.Checkpoint | None,
    draw: Draw | None,
    on_step: Callable[[int], None] | None,
    listening: launch.Stop,
) -> Outcome:
    recipe, options, world = trainer.recipe, trainer.options, trainer.world
    if resume is not None:
        trainer.restore(resume)
    else:
        trainer.metrics.cut(0)  # of a run that was killed before its first checkpoint
    state, saved_at = trainer.state, (resume.step if resume else -1)
    folder = resume.folder if resume else None
    began, start, paused = time.monotonic() - state.elapsed, state.images, 0.0
    entered = time.monotonic()
    stop: Stop = "done"
    code = EXIT_PREEMPTED
    config = trainer.model.config
    speed = Speed(config, config.sample_size, world, options.dtype, recipe.batch, recipe.steps)
    stream = batches.stream(trainer.fetch, state.step, recipe.steps, trainer.parts, options.workers)
    bar = log.progress("train", total=recipe.steps, unit=" steps", quiet=options.quiet or not world.first)
    listening.saves = True
    with bar as tick:
        tick(state.step)
        while state.step < recipe.steps:
            told, elapsed = world.most(float(listening.told), time.monotonic() - began)
            if told:  # of several signals, and several processes, Ctrl-C has the highest code
                stop, code = "preempted", int(told)
                break
            if options.max_seconds and elapsed >= options.max_seconds:
                state.elapsed, stop = elapsed, "time"
                break
            rate = learning_rate(recipe, trainer.progress(elapsed), state.step)
            trainer.step(stream, rate)
            tick(1)
            state.elapsed = time.monotonic() - began
            if _due(state.step, options.log_every):
                count = len(trainer.source.keys)
                line = trainer.meter.line(state.step, rate, state.images, count, world, state.elapsed, paused)
                trainer.metrics.write({**line, **speed.of(line, trainer.progress(state.elapsed))})
            pause = time.monotonic()
            if draw is not None and _due(state.step, options.sample_every):
                _draw(trainer, draw)  # before the checkpoint, which would leave the scores behind if it were the last
            if _due(state.step, options.checkpoint_every):
                folder, saved_at = trainer.save(), state.step
            paused += time.monotonic() - pause
            if on_step is not None:
                on_step(state.step)
        stream.close()
        busy = time.monotonic() - entered - paused
        if saved_at != state.step:
            folder = trainer.save()
        if (
            draw is not None
            and stop != "preempted"
            and options.sample_every
            and not _due(state.step, options.sample_every)
        ):
            _draw(trainer, draw)
    if stop == "preempted":
        raise Preempted(
            f"{trainer.run}: a signal asked training to stop; step {state.step} is saved.",
            "Start the same command again to continue.",
            code,
        )
    per_second = (state.images - start) / busy if busy > 0 else 0.0
    # A run that ended before its first line has a loss all the same.
    loss = trainer.metrics.last["loss"] if trainer.metrics.last else trainer.meter.loss()
    loss = math.nan if loss is None else loss
    return Outcome(state.step, state.images, state.skipped, state.elapsed, loss, per_second, stop, folder)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _draw(trainer: Trainer, draw: Draw) -> None:
    """The sample grid, with the averaged weights, by the first process."""
    step, metrics = trainer.state.step, trainer.metrics
    with trainer.averaged() as model:
        scores = draw(model, step) if trainer.world.first else None
    if scores and metrics.judged < step:  # a run that is over is drawn again when it is started again
        metrics.write({"step": step, **scores})
    trainer.world.wait()
