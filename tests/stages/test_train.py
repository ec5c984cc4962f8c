"""Training from end to end at toy size: what a run leaves behind, and that it goes on bit for bit."""

from __future__ import annotations

import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tiny_encoders as tiny
import torch
from safetensors.torch import load_file
from tiny_runs import FACTOR, TINY, bright, dataset, dry_run, lines, refused, shards, start, state

from commonart.core import recipes
from commonart.core.data.features.format import Features
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import MadeFrom, write_manifest
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.training_index import read_index
from commonart.core.errors import EXIT_PREEMPTED, CommonArtError, Preempted
from commonart.core.generation.components import locate
from commonart.core.generation.request import ModelSpec
from commonart.core.model.config import PixArtConfig
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.output import c2pa
from commonart.core.training import checkpoint, cost, logging, trainer
from commonart.core.training.dataset import open_shards

__all__ = ["shards"]  # the fixture


def signalled(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Once, while step `step` is computed, `number` arrives."""
    real = trainer.Trainer.train_step

    def stepped(self: trainer.Trainer, *args: Any) -> None:
        real(self, *args)
        if self.state.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(trainer.Trainer, "train_step", stepped)


def test_a_run_folder_and_a_falling_loss(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = start(shards, run, {"steps": 60, "lr": 0.03}, log_every=10, checkpoint_every=25, keep=2)
    assert (done.step, done.images, done.skipped, done.stopped) == (60, 480, 0, "done")
    found = logging.read(run / "metrics.jsonl")
    assert [line["step"] for line in found] == [10, 20, 30, 40, 50, 60]
    assert found[-1]["loss"] < 0.5 * found[0]["loss"] and found[-1]["loss"] == done.loss
    assert found[0]["epoch"] == 4.0 and found[-1]["grad_norm"] > 0 and len(found[0]["loss_by_t"]) == 10
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-0000050", "step-0000060"]  # 25 was pruned
    assert done.checkpoint == run / "checkpoints" / "step-0000060"
    about = orjson.loads((run / "run.json").read_bytes())
    assert (about["stage"], about["objective"], about["recipe"]["lr"], about["seed"]) == ("nano", "flow", 0.03, 0)
    assert (about["data"]["images"], about["data"]["captions"], about["init"]) == (20, 40, {"from": "nothing"})
    assert about["text_encoder"]["name"] == "m" and about["autoencoder"]["factor"] == FACTOR
    assert about["versions"]["torch"] and about["transformer"]["num_layers"] == 1
    summary = done.as_json()
    assert summary["stage"] == "train" and summary["step"] == 60 and orjson.dumps(summary)


def test_the_average_follows_the_weights(shards: Path, tmp_path: Path) -> None:
    done = start(shards, tmp_path / "run", {"ema": 0.9})
    assert done.checkpoint is not None
    model, mean = (PixArt.load(done.checkpoint / name).state_dict() for name in ("transformer", "ema"))
    assert any(not torch.equal(model[name], mean[name]) for name in model)
    found = checkpoint.newest(tmp_path / "run")
    assert found is not None and found.weights == done.checkpoint / "ema"
    without = start(shards, tmp_path / "without", {"ema": 0})
    assert without.checkpoint is not None and not (without.checkpoint / "ema").exists()
    assert checkpoint.read(without.checkpoint).weights == without.checkpoint / "transformer"


RECIPES: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "accumulated": {"micro_batch": 2, "caption_dropout": 0.5},
    "CAME": {"optimizer": "CAME", "objective": "eps", "lr": 1e-3},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stopped_run_goes_on_bit_for_bit(shards: Path, tmp_path: Path, recipe: str) -> None:
    # Lines are written every second step and the run stops at the third: sums of half a line are carried over, too.
    more = RECIPES[recipe]
    start(shards, tmp_path / "whole", more)
    start(shards, tmp_path / "parts", {**more, "steps": 3})
    assert state(tmp_path / "parts")["step"] == 3
    start(shards, tmp_path / "parts", more)
    assert state(tmp_path / "parts") == state(tmp_path / "whole")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole") and len(lines(tmp_path / "parts")) == 3


def test_reading_threads_change_nothing(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(shards, tmp_path / "memory")
    monkeypatch.setattr("commonart.core.training.dataset._budget", lambda: 0)
    start(shards, tmp_path / "disk", workers=2)
    assert state(tmp_path / "disk") == state(tmp_path / "memory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_call_goes_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before, more = signal.getsignal(number), {"cooldown": 0.5}
    start(shards, tmp_path / "whole", more)
    with monkeypatch.context() as patch:
        signalled(patch, 3, number)
        with pytest.raises(
            Preempted, match=r"asked training to stop; step 3 is saved\. Start the same command"
        ) as told:
            start(shards, tmp_path / "run", more)
    assert told.value.code == EXIT_PREEMPTED == 75 and signal.getsignal(number) == before
    said = told.value.summary.as_json()
    assert (said["in"], said["out"], said["step"], said["run"]) == (24, 24, 3, str(tmp_path / "run"))
    assert said["loss"] > 0 and said["images_per_second"] > 0
    assert state(tmp_path / "run")["step"] == 3
    assert start(shards, tmp_path / "run", more).stopped == "done"
    assert state(tmp_path / "run") == state(tmp_path / "whole")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(shards: Path, tmp_path: Path) -> None:
    first = start(shards, tmp_path / "run")
    before = state(tmp_path / "run"), lines(tmp_path / "run")
    again = start(shards, tmp_path / "run")
    assert (again.step, again.images, again.loss, again.checkpoint) == (6, 48, first.loss, first.checkpoint)
    assert (state(tmp_path / "run"), lines(tmp_path / "run")) == before


def test_a_killed_run_computes_again_what_was_not_saved(shards: Path, tmp_path: Path) -> None:
    """Lines of metrics after the newest checkpoint belong to steps that are computed again."""
    run = tmp_path / "run"
    start(shards, run, checkpoint_every=4)
    expected = lines(run)
    (run / "checkpoints" / "step-0000006" / "state.json").unlink()
    start(shards, run)
    assert lines(run) == expected and state(run)["step"] == 6
    for folder in (run / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    refused(CommonArtError, 1, "Every checkpoint in", "another run", lambda: start(shards, run))
    assert lines(run) == expected  # what is left of it is not cut
    shutil.rmtree(run / "checkpoints")
    start(shards, run)
    assert lines(run) == expected


def test_the_time_budget_ends_a_run(shards: Path, tmp_path: Path) -> None:
    done = start(shards, tmp_path / "run", {"steps": 100_000, "cooldown": 0.5}, max_seconds=0.5)
    assert done.stopped == "time" and 0 < done.step < 100_000 and done.seconds >= 0.5
    assert state(tmp_path / "run")["step"] == done.step
    again = start(shards, tmp_path / "run", {"steps": 100_000, "cooldown": 0.5}, max_seconds=0.5)
    assert (again.stopped, again.step) == ("time", done.step)


def test_heldout_records_are_never_trained_on(tmp_path: Path) -> None:
    heldout = {1, 4, 13}

    def poisoned(record: Record) -> np.ndarray:
        return np.full_like(bright(record), math.nan) if int(record["key"][1:]) in heldout else bright(record)

    data = dataset(tmp_path / "shards", poisoned, heldout)
    index = read_index(data)
    assert index.heldout == 3 and list(index.keys) == [f"k{n}" for n in range(20) if n not in heldout]
    done = start(data, tmp_path / "run", {"steps": 12})  # 96 images: every one of the 17 five times
    assert done.skipped == 0 and math.isfinite(done.loss)
    about = orjson.loads((tmp_path / "run" / "run.json").read_bytes())["data"]
    assert (about["images"], about["heldout"], about["left_out"]) == (17, 3, {})


def test_a_step_without_a_finite_gradient_is_skipped(tmp_path: Path) -> None:
    def poisoned(record: Record) -> np.ndarray:
        return np.full_like(bright(record), math.nan) if record["key"] == "k7" else bright(record)

    done = start(dataset(tmp_path / "shards", poisoned), tmp_path / "run", {"batch": 4, "steps": 10})
    assert done.skipped == 2  # 40 images are two epochs, and each holds it once
    assert sum(line["skipped"] for line in lines(tmp_path / "run")) == 2
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path / "run"))
    assert done.checkpoint is not None
    weights = load_file(done.checkpoint / "ema" / "diffusion_pytorch_model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_run_that_diverged_stops_and_names_the_images(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CommonArtError, match=r"not finite in 5 steps in a row, up to step \d+; .*images k\d+, k"
    ) as told:
        start(shards, tmp_path / "run", {"lr": 1e30, "warmup": 0, "steps": 20})
    assert told.value.code == 1 and "--set lr=" in told.value.fix


def test_a_dry_run_says_what_would_happen(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = dry_run("nano", data=str(shards), out=str(run), overrides={**TINY, "micro_batch": 2}, gpus=2)
    assert not run.exists()
    assert (told["world_size"], told["micro_batch"], told["grad_accum_steps"]) == (2, 2, 2)
    assert (told["text"]["name"], told["image"]["factor"], told["init"]) == ("m", FACTOR, "none")
    assert told["recipe"]["head_dim"] == 16 and orjson.dumps(told)
    assert "00000.tar has no manifest" in told["images"]
    done = start(shards, run, {"micro_batch": 2})
    assert done.checkpoint is not None
    assert told["parameters"] == PixArt.load(done.checkpoint / "transformer").parameters_count


def test_a_dry_run_counts_what_runs_on_the_fly() -> None:
    from diffusers import AutoencoderDC

    calm2 = {"model_type": "llama", "vocab_size": 65024, "hidden_size": 4096, "intermediate_size": 11008,
             "num_hidden_layers": 32, "num_attention_heads": 32}  # fmt: skip
    eight, sixteen = (cost.text_encoder(calm2, how, 100) for how in ("quanto-int8", ""))
    assert 7.1e9 < eight.weights < 7.3e9 and 13.4e9 < sixteen.weights < 13.6e9
    assert eight.flops == sixteen.flops == pytest.approx(100 * 2 * 6.48e9, rel=0.01)
    sdxl = {"block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2}  # fmt: skip
    small, large = (cost.autoencoder(sdxl, side) for side in (256, 512))
    assert (
        160e6 < small.weights < 170e6 and 4 <= large.flops / small.flops < 4.2  # attention grows faster
    )
    flux = {**sdxl, "_class_name": "AutoencoderKLFlux2"}
    assert cost.autoencoder(flux, 256).weights == pytest.approx(small.weights, rel=0.02)
    with torch.device("meta"):
        counted = sum(p.numel() for p in AutoencoderDC().parameters())
    assert cost.autoencoder({"_class_name": "AutoencoderDC"}, 256).weights == 2 * counted
    config, recipe = PixArtConfig(sample_size=64), recipes.resolve("512")
    sizes: dict[str, Any] = {"sizes": cost.Sizes(64, 100), "world_size": 32, "micro_batch": 4}
    without = cost.account(config, recipe, **sizes)
    told = cost.account(config, recipe, **sizes, encoders={"text_encoder": eight, "autoencoder": large})
    more = told["memory_bytes_per_device"]["total"] - without["memory_bytes_per_device"]["total"]
    assert more == eight.weights + large.weights
    assert told["flops_per_step"] - without["flops_per_step"] == pytest.approx(128 * (eight.flops + large.flops))


def test_a_dry_run_knows_the_sizes_of_other_parts(tmp_path: Path) -> None:
    """By the table where nothing is here, by config.json where a folder is; of a model that sees, the language model."""
    settings: dict[str, Any] = {"data": "nowhere/", "gpus": 1}
    plain = dry_run("256-early", **settings)["parameters"]
    named = dry_run("256-early", autoencoder="dc-ae-f32c32", overrides={"patch": 1}, **settings)
    assert named["parameters"] - plain == 1152 * (32 - 16) + (64 - 32) * 1153  # of patches in, and of patches out
    tiny.qwen(tmp_path / "qwen", "Qwen3VL")
    tiny.flux2_vae(tmp_path / "pipeline" / "vae", channels=8)
    told = dry_run("256-early", text_encoder=str(tmp_path / "qwen"), autoencoder=str(tmp_path / "pipeline"), **settings)
    encoder = TextEncoder.load(tmp_path / "qwen", "fp32", device="cpu")
    weights = told["memory_bytes_per_device"]
    assert weights["text_encoder"] == 2 * sum(p.numel() for p in encoder.model.parameters())
    assert plain - told["parameters"] == 1152 * (4096 - tiny.WIDTH) - (1152 * (32 - 16) + (64 - 32) * 1153)


def test_a_dry_run_plans_beside_images_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ShardWriter(tmp_path / "00000.tar") as writer:
        writer.add_record({"key": "a", "width": 64, "height": 64}, b"not read", "png")
    planned = dry_run("512", data=str(tmp_path), gpus=32)
    problem = f"{tmp_path} holds images of 64x64 pixels; stage 512 trains on 512x512."
    assert capsys.readouterr().err == f"warning: {problem} The plan is for data that fit.\n"
    assert planned.pop("images") == f"unknown: {problem}"
    elsewhere = dry_run("512", data="nowhere/", gpus=32)
    assert {**planned, "data": "nowhere/"} == {name: value for name, value in elsewhere.items() if name != "images"}


def test_a_dry_run_counts_images_and_plans_for_another_machine(tmp_path: Path) -> None:
    noted = dataset(tmp_path / "shards")
    for tar in noted.glob("*.tar"):
        write_manifest(tar, MadeFrom("shard", "", {}), read=10, written=10, dropped={}, failed=0, sha256="")
    assert dry_run("nano", data=str(noted), overrides=TINY)["images"] == 20
    told = dry_run("512", data="nowhere/", gpus=32)
    assert told["images"] == "unknown: --data nowhere/ does not exist."
    assert (told["world_size"], told["micro_batch"], told["grad_accum_steps"]) == (32, 4, 1)
    assert 0.6e9 < told["parameters"] < 0.62e9


def test_weights_to_start_from(shards: Path, tmp_path: Path) -> None:
    first, source = start(shards, tmp_path / "first"), str(tmp_path / "first")
    still = {"lr": 1e-12, "warmup": 0, "weight_decay": 0}
    second = start(shards, tmp_path / "second", still, init=source)
    assert first.checkpoint is not None and second.checkpoint is not None
    old = PixArt.load(first.checkpoint / "ema").state_dict()  # a stage starts from the average of the one before
    new = PixArt.load(second.checkpoint / "transformer").state_dict()
    assert all(torch.allclose(new[name], old[name], atol=1e-9) for name in old)
    about = orjson.loads((tmp_path / "second" / "run.json").read_bytes())
    assert about["init"] == {"from": source, "step": 6}
    start(shards, tmp_path / "second", {**still, "steps": 7}, init=source)
    assert orjson.loads((tmp_path / "second" / "run.json").read_bytes())["init"] == about["init"]
    deeper = {"layers": 2}
    wrong = lambda: start(shards, tmp_path / "third", deeper, init=source)  # noqa: E731
    refused(CommonArtError, 1, "num_layers 1; stage and data ask for 2", "--init", wrong)


def test_a_damaged_checkpoint_is_skipped(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    start(shards, run, checkpoint_every=4)
    whole = state(run)
    weights = run / "checkpoints" / "step-0000006" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    capsys.readouterr()
    assert start(shards, run, checkpoint_every=4).step == 6
    said = capsys.readouterr()
    assert "step-0000006 is damaged" in said.err and "It is skipped." in said.err and said.out == ""
    assert state(run) == whole


def test_models_that_run_on_the_fly_draw_samples_and_are_found_again(tmp_path: Path) -> None:
    data = tiny.shards(tmp_path / "shards", count=1, each=8)
    tiny.llama(tmp_path / "llama")
    tiny.vae(tmp_path / "vae")
    models = {"text_encoder": str(tmp_path / "llama"), "autoencoder": str(tmp_path / "vae")}
    run = tmp_path / "run"
    done = start(data, run, {"resolution": 32, "steps": 3}, sample_every=2, **models)
    assert done.step == 3 and math.isfinite(done.loss)
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["step-0000002.png", "step-0000003.png"]
    assert (c2pa.read(run / "samples" / "step-0000003.png") or {})["state"] == "Trusted"
    found = lines(run)
    scores = [line for line in found if "loss" not in line]
    assert [line["step"] for line in scores] == [2, 3]
    for name in ("clip_en", "clip_ja", "color_en", "shape_ja"):
        assert all(0 <= line[name] <= 100 for line in scores)
        assert any(name.encode() in file.read_bytes() for file in (run / "tensorboard").iterdir())
    start(data, run, {"resolution": 32, "steps": 3}, sample_every=2, **models)
    assert lines(run) == found
    about = orjson.loads((run / "run.json").read_bytes())
    assert (about["text_encoder"]["name"], about["text_encoder"]["width"]) == (models["text_encoder"], tiny.WIDTH)
    assert (about["autoencoder"]["factor"], about["text_encoder"]["cached"]) == (4, False)
    assert done.checkpoint is not None
    found = locate(ModelSpec(str(run)))
    assert found.transformer == done.checkpoint / "ema" and found.objective == "flow" and found.revision == "step-3"
    assert (found.text_encoder, found.autoencoder) == (tmp_path / "llama", tmp_path / "vae")


def test_memory_and_disk_give_the_same_batches(shards: Path) -> None:
    parts = [Features(shards / "text")], [Features(shards / "image")]
    assert parts[0][0].mean_caption_tokens() == 3  # 2.6
    memory = open_shards(shards, *parts, quiet=True)
    disk = open_shards(shards, *parts, budget=0, quiet=True)
    assert (memory.resident, disk.resident) == (True, False)
    rows, chosen = np.array([3, 0, 19]), np.array([6, -1, 39])  # row 0 without its caption
    for a, b in zip(
        *(each.source.batch(each.source.fetch(rows, chosen), torch.device("cpu")) for each in (memory, disk)),
        strict=True,
    ):
        assert (a is b is None) or torch.equal(a.float(), b.float())  # nothing is seen without REPA


def test_two_processes_compute_the_same_steps(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "one", log_every=1)
    done = start(shards, tmp_path / "two", log_every=1, gpus=2)
    assert (done.step, done.images, done.stopped) == (6, 48, "done")
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([line[name] for line in two], [line[name] for line in one], rtol=1e-4)
    for name in ("transformer", "ema"):
        parts = [PixArt.load(tmp_path / run / "checkpoints/step-0000006" / name).state_dict() for run in ("one", "two")]
        assert all(torch.allclose(parts[0][key], parts[1][key], atol=1e-4) for key in parts[0])
