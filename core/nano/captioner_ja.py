"""The nano captioner in Japanese: a LLaVA of the nano vision tower and the nano Llama, as `commonart train` makes one.

    commonart nano build -o weights/ --only captioner_ja

Both stages of the recipe table, on scenes in shards, with other sizes: `commonart train --stage captioner-align`, then
`--stage captioner`.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from commonart.core.data.caption_terms import RULES
from commonart.core.data.record import Record, add_caption
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.nano.captioner import describe, share_right
from commonart.core.nano.training import Log, SceneImages, plain_attention, require, unseen
from commonart.core.settings import Settings
from commonart.core.training import captioner_run
from commonart.core.training.distributed import World

SCENES, SHARD = 20_000, 1_000
# What a toy needs beside the stages' own values: more, smaller and longer steps, and an average of the weights.
ALIGN = {"steps": 300, "batch": 32, "micro_batch": 32, "lr": 2e-3, "warmup": 50}
TRAIN = {"steps": 2500, "batch": 32, "micro_batch": 32, "lr": 1e-3, "warmup": 100, "beta2": 0.98, "ema": 0.99}


def write_shards(folder: Path, count: int, seed: int) -> None:
    """Write `count` scenes with one Japanese caption each."""
    rng = np.random.default_rng(seed)
    made = SceneImages(count, seed)
    folder.mkdir(parents=True)
    for first in range(0, count, SHARD):
        with ShardWriter(folder / f"{first // SHARD:05d}.tar") as writer:
            for n in range(first, min(first + SHARD, count)):
                png = io.BytesIO()
                Image.fromarray(made.pixels[n].permute(1, 2, 0).numpy()).save(png, "PNG")
                size = {"width": 64, "height": 64}
                record: Record = {"key": f"scene_{seed}_{n:06d}", "license": "CC0-1.0", "split": "train", **size}
                add_caption(
                    record, describe(made.scenes[n], rng, "ja"), lang="ja", model=RULES, revision="1", license="CC0-1.0"
                )
                writer.add_record(record, png.getvalue(), "png")


def build(folder: Path, seed: int, short: bool, say: Log) -> None:
    """Train the captioner and write it to `folder`; `short`: a few steps, to test the code."""
    tower = require(folder, "vision_tower", "vision_tower")
    require(folder, "text_encoder", "text_encoder")
    work = folder / "run"
    shutil.rmtree(work, ignore_errors=True)
    write_shards(work / "shards", 100 if short else SCENES, seed)
    for stage, overrides in (("captioner-align", ALIGN), ("captioner", TRAIN)):
        settings = Settings(
            stage, data=str(work / "shards"), out=str(work / stage), vision_tower=str(tower), seed=seed,
            language_model=str(folder), overrides={**overrides, **({"steps": 3, "warmup": 1} if short else {})},
            device="cpu", precision="fp32", log_every=50, checkpoint_every=500, keep=1, workers=0, quiet=True,
        )  # fmt: skip
        with plain_attention():
            done = captioner_run.train(settings, World(torch.device("cpu")))
        say(f"{stage} step {done.step} loss {done.loss:.4f} {done.seconds:.0f} s")
    made, target = work / "captioner" / "captioner", folder / "captioner_ja"
    model = LlavaForConditionalGeneration.from_pretrained(made, dtype=torch.float16)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target)
    model.save_pretrained(target)
    (target / "README.md").unlink()  # the registry's row says the same
    shutil.rmtree(work)


@torch.no_grad()
def measure(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the share of facts that captions of `n` unseen scenes state correctly."""
    folder = require(folder, "captioner_ja", "captioner_ja")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    ((_, _, (prompt,)),) = model.config.commonart_prompts
    made, texts = unseen(n, seed), []
    for first in range(0, n, 50):
        pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in made.pixels[first : first + 50]]
        inputs = processor(text=[prompt] * len(pictures), images=pictures, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=96)[:, inputs["input_ids"].shape[1] :]
        texts += processor.batch_decode(ids, skip_special_tokens=True)
    return {"captioner_ja": {"facts": share_right(made.scenes, texts, "ja")}}
