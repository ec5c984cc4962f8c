"""Train the transformer on a folder of shards: one stage of the recipe table, resumed by the same command.

A run folder holds run.json (what was resolved), metrics.jsonl, samples/ and checkpoints/.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commonart.core import launch, log, recipes, slurm
from commonart.core.data.files import check_writable
from commonart.core.data.training_index import data_sets
from commonart.core.errors import EXIT_FAILED, CommonArtError
from commonart.core.licenses.policies import load_policy
from commonart.core.settings import Settings, TrainingSummary

if TYPE_CHECKING:
    import torch

    from commonart.core.training.dataset import TrainingData
    from commonart.core.training.distributed import World
    from commonart.core.training.encoders import Encoders
    from commonart.core.training.preview import Preview

SCORED = 32  # prompts that are sampled for their scores, where none are given


def run(settings: Settings) -> TrainingSummary | None:
    """Train until the recipe's steps or `max_seconds` are over.

    The same call again continues the run, and returns at once where nothing is left to do. With `gpus` above 1, alone, it
    starts that many processes and waits for them. Of processes that were started together (srun, torchrun) the first returns
    what was done, and the others None.

    Raises:
        UsageError: an unknown stage or setting, a world size that does not divide the batch, a device that is not there.
        CommonArtError: unsuited data, features or weights, a run of other settings, a loss that stays NaN, a full disk.
        Preempted: SIGTERM, SIGUSR1 or Ctrl-C came, and the run's state is on disk.
    """
    settings.check()
    data_sets(settings.data)  # raises for a folder that is not there
    load_policy(settings.policy)  # and for an unknown one
    check_writable(settings.run)
    if launch.must_spawn(settings.gpus):
        return _spawn(settings, settings.gpus or 1)
    with launch.stoppable(str(settings.run)) as stop:
        slurm.adopt_step()
        recipes.accumulation(settings.recipe, launch.world_size())
        from commonart.core.training.distributed import join

        world = join(settings.device, settings.fsdp)
        with world.peer_errors():
            try:
                summary = _train(settings, world, stop)
            except CommonArtError:
                world.shutdown()
                raise
            world.shutdown()  # not after a lost process: nobody would answer
    return summary if world.is_main else None


def _spawn(settings: Settings, count: int) -> TrainingSummary:
    from commonart.core.model.device import check_count

    recipes.accumulation(settings.recipe, count)
    check_count(count, settings.device)
    command = [sys.executable, "-m", "commonart.stages.train", json.dumps(asdict(settings))]
    result = launch.spawn(command, count)
    saved = result["checkpoint"]
    return TrainingSummary(**{**result, "run": Path(result["run"]), "checkpoint": Path(saved) if saved else None})


def _train(settings: Settings, world: World, stop: launch.StopRequest) -> TrainingSummary:
    from commonart.core.model import tread
    from commonart.core.training import checkpoint, cost, encoders, trainer
    from commonart.core.training import heldout as heldout_loss
    from commonart.core.training import run as runs

    folder, warn = settings.run, log.warn if world.is_main else lambda _: None
    if settings.recipe.trains:
        from commonart.core.training import captioner_run

        return captioner_run.train(settings, world, stop)
    dtype = runs.dtype_of(settings, world.device)

    # The data, and what encodes them where that is not done yet.
    used = encoders.Encoders(settings, world.device)
    data = used.open_data(quiet=settings.quiet or not world.is_main)

    # The transformer's sizes, and the micro batch that fits beside it.
    config = runs.config_of(settings.recipe, data.shape, data.width)
    shards = world.size if world.sharded else 1
    sizes = cost.Sizes(data.shape[1], runs.USUAL_TOKENS, settings.checkpointing, shards)
    chosen = "micro_batch" in settings.overrides
    recipe = settings.recipe if chosen else cost.fit_micro_batch(config, settings.recipe, world, sizes)
    cost.check_fits(config, recipe, recipes.accumulation(recipe, world.size)[0], world.device, sizes)

    few = tread.warning(recipe.tread, (config.sample_size // config.patch_size) ** 2)
    if few and not settings.quiet:
        warn(few)

    with runs.held(settings, world, warn) as begin:
        # Its weights: of the run's newest checkpoint, of --init, or new ones; and whether this is still the same run.
        resume = checkpoint.newest(folder, warn)
        model, origin = runs.open_model(settings, config, resume)
        described = runs.describe(
            settings, recipe, data.index.describe(data.source.weights), used.describe(), model, origin, dtype
        )
        begin(described, resume, origin)
        preview = _preview(settings, used, data, dtype) if settings.sample_every and world.is_main else None
        measure = settings.heldout_every and world.is_main
        heldout = heldout_loss.open_heldout(used, data, settings, recipe, dtype) if measure else None
        if data.resident and world.device.type == "cpu":
            settings = replace(settings, workers=0)

        def left_out() -> dict[str, dict[str, int]]:
            records, captions = {**data.index.left_out, **data.damaged}, dict(data.index.captions_left_out)
            return {"left_out": records, "captions_left_out": captions}

        return trainer.train(
            model, data.source, recipe, settings, world, resume=resume, preview=preview, heldout=heldout, stop=stop,
            left_out=left_out,
        )  # fmt: skip


def _preview(settings: Settings, used: Encoders, data: TrainingData, dtype: torch.dtype) -> Preview:
    """What samples the grid of a step, and scores its images and some more by how well they follow their prompts."""
    from commonart.core.metrics import prompt_following
    from commonart.core.training.preview import GRID, Preview

    name = settings.clip or settings.recipe.scorer
    prompts = list(settings.prompts) or data.index.prompts(SCORED if name else GRID)
    scorer = prompt_following.open_scorer(name, prompts, settings.accept_terms) if name else None
    shown = None if settings.prompts else GRID
    preview = Preview(prompts, settings, used.text_encoder(), used.autoencoder(), data.shape, dtype, scorer, shown)
    used.release_text_encoder()
    return preview


def _child() -> int:
    """One process of `launch.spawn`: its argument is the settings; it reports what it did, or its error."""
    launch.stop_with_starter()
    try:
        summary = run(Settings(**json.loads(sys.argv[1])))
    except CommonArtError as error:
        if not launch.report(error):
            raise
        return error.code or EXIT_FAILED
    if summary is not None:
        values = asdict(summary)
        launch.report({name: str(value) if isinstance(value, Path) else value for name, value in values.items()})
    return 0


if __name__ == "__main__":
    sys.exit(_child())
