"""Trainings that take a second: shards with made-up features, a run of them, and all that it left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commonart.core.data.drops import Drop
from commonart.core.data.features import format
from commonart.core.data.features import plan as feature_plan
from commonart.core.data.features.format import Meta
from commonart.core.data.record import HELDOUT_PERCENT, Record, captions, split_of
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError
from commonart.core.settings import Settings
from commonart.core.training import checkpoint, logging
from commonart.core.training.dry_run import plan
from commonart.stages import train as stage

WIDTH, SIDE, FACTOR = 8, 4, 4  # of text states; of latents; pixels of one latent on a side
TINY = {
    "layers": 1, "heads": 1, "head_dim": 16, "batch": 8, "micro_batch": 8, "steps": 6, "warmup": 2, "cooldown": 0,
    "resolution": SIDE * FACTOR, "patch": 2, "optimizer": "AdamW", "lr": 1.5e-3, "weight_decay": 0.01,
}  # fmt: skip
UNTIMED = ("seconds", "images_per_second", "mfu", "seconds_left")
Latent = Callable[[Record], np.ndarray]


def bright(record: Record) -> np.ndarray:
    """Latents around 2: a model that learns nothing but their mean has a falling loss."""
    values = np.random.default_rng(sum(record["key"].encode())).normal(2, 0.3, (4, SIDE, SIDE))
    return values.astype(np.float32)


def sha256(split: str) -> str:
    """A hash that falls into `split`."""
    number = HELDOUT_PERCENT if split == "train" else 0
    assert split_of(f"{number:08x}" + "0" * 56) == split
    return f"{number:08x}" + "0" * 56


def encode(source: Path, kind: str, states: Callable[[Record], Any], model: str = "m") -> None:
    """Features of `source` whose values `states` makes of a record: what encode-text and encode-image write."""
    settings = {"revision": "r1", "precision": "float32", "store": "bf16"}
    work = feature_plan.plan_features(f"encode-{kind}", kind, str(source), None, settings, Task(0, 1), False)
    own = {"max_tokens": 8} if kind == "text" else {"factor": FACTOR, "scaling": 1.0, "shift": 0.0}
    meta = Meta(kind, model, "r1", "float32", "bf16", WIDTH if kind == "text" else 4, own)
    feature_plan.write_meta(work.out, meta, np.ones((1, WIDTH), np.float32) if kind == "text" else None, False)

    def of(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
        for one in records:
            if kind == "text":
                yield one["key"], format.pack_text(states(one), one, "bf16")
            else:
                mean = states(one)
                yield one["key"], format.pack_latent(mean, np.full_like(mean, 0.1), one, "bf16")

    feature_plan.write_features(work, of)


def texts(record: Record) -> list[np.ndarray]:
    """One state a letter, at most 5: captions of different lengths."""
    return [
        np.random.default_rng(len(each["text"])).normal(0, 1, (min(len(each["text"]), 5), WIDTH)).astype(np.float32)
        for each in captions(record)
    ]


def dataset(
    folder: Path, latent: Latent = bright, heldout: Iterable[int] = (), caption: bool = True,
    more: Mapping[int, Record] | None = None,
) -> Path:  # fmt: skip
    """20 records in two shards, with features beside them where they have captions; those numbered in `heldout` are held out.

    `more`: what else some of them say, by their number.
    """
    for shard in range(2):
        with ShardWriter(folder / f"{shard:05d}.tar") as writer:
            for n in range(10 * shard, 10 * shard + 10):
                said = [{"text": "a" * (1 + n % 3), "lang": "en"}, {"text": "b" * (2 + n % 4), "lang": "ja"}]
                split = "heldout" if n in set(heldout) else "train"
                about = {"key": f"k{n}", "license": "CC0-1.0", "sha256": sha256(split)}
                record = {**about, "captions": said if caption else [], **(more or {}).get(n, {})}
                writer.add_record(record, b"not read: its latents are there", "jpg")
    if caption:
        encode(folder, "text", texts)
        encode(folder, "image", latent)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("data") / "shards")


def train(name: str, **settings: Any) -> stage.TrainingSummary:
    """`commonart train --stage NAME`, with fields of `Settings`."""
    done = stage.run(Settings(name, **settings))
    assert done is not None
    return done


def dry_run(name: str, calibrate: float = 0.0, **settings: Any) -> dict[str, Any]:
    """`commonart train --stage NAME --dry-run`, with fields of `Settings`."""
    return plan(Settings(name, **settings), calibrate)


def settings_of(data: Path, out: Path, more: dict[str, Any] | None = None, **settings: Any) -> Settings:
    """A run of a second on `data`; `more` overrides its recipe."""
    settings = {"log_every": 2, "device": "cpu", "precision": "fp32", "quiet": True, **settings}
    return Settings("nano", data=str(data), out=str(out), overrides={**TINY, **(more or {})}, **settings)


def start(data: Path, out: Path, more: dict[str, Any] | None = None, **settings: Any) -> stage.TrainingSummary:
    done = stage.run(settings_of(data, out, more, **settings))
    assert done is not None
    return done


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without what the clock says."""
    return [{k: v for k, v in line.items() if k not in UNTIMED} for line in logging.read(run / "metrics.jsonl")]


def state(run: Path) -> dict[str, Any]:
    """Everything that the newest checkpoint holds, without what the clock says."""
    found = checkpoint.newest(run)
    assert found is not None
    files = {str(p.relative_to(found.folder)): p.read_bytes() for p in found.folder.rglob("*.safetensors")}
    assert set(files) - {"alignment.safetensors"} == {
        "optimizer.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "ema/diffusion_pytorch_model.safetensors",
    }
    loop = {k: v for k, v in found.values["loop"].items() if k != "elapsed"}
    return {**files, "step": found.step, "loop": loop, "optimizer": found.values["optimizer"]}


def refused(error: type[CommonArtError], code: int, what: str, fix: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error) as told:
        call()
    assert told.value.code == code and what in told.value.what and fix in told.value.fix, told.value
