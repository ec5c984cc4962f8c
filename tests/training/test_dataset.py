"""Training data from real encoders at toy size: cached or on the fly, in memory or on disk, in buckets, damaged."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tiny_encoders as tiny
import torch
from tiny_runs import train

from commonart.core.data.features.format import Features
from commonart.core.data.shards.reader import members
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.training_index import read_index
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.autoencoder import Autoencoder
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.training.batches import NULL, Batch, BatchSampler
from commonart.core.training.dataset import TrainingData, open_shards
from commonart.stages.encode_image import encode_image
from commonart.stages.encode_text import encode_text

SIZES = [(32, 32), (48, 24), (24, 48)]
CPU = torch.device("cpu")


def bucketed(folder: Path, prefix: str = "k", count: int = 18, sizes: list[tuple[int, int]] = SIZES) -> Path:
    """Shards of six images whose sizes take turns, with captions in two languages."""
    for number in range(0, count, 6):
        with ShardWriter(folder / f"{number // 6:05d}.tar") as writer:
            for n in range(number, number + 6):
                width, height = sizes[n % len(sizes)]
                said = [{"text": f"a red circle {'x' * n}", "lang": "en"}, {"text": f"赤い丸 {n}", "lang": "ja"}]
                record = {
                    "key": f"{prefix}{n}",
                    "captions": said,
                    "width": width,
                    "height": height,
                    "license": "CC0-1.0",
                }
                writer.add_record(record, tiny.jpeg((width, height), (12 * n, 90, 5 * n)), "jpg")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    tiny.llama(folder / "llama")
    tiny.vae(folder / "vae")
    return {"text_encoder": str(folder / "llama"), "autoencoder": str(folder / "vae")}


def encode(data: Path, models: dict[str, str]) -> tuple[list[Features], list[Features]]:
    encode_text(str(data), model=models["text_encoder"], precision="fp32", device="cpu", quiet=True)
    encode_image(str(data), model=models["autoencoder"], store="fp32", device="cpu", quiet=True)
    return [Features(data / "text")], [Features(data / "image")]


def steps(opened: TrainingData, count: int, batch: int = 4, dropout: float = 0.25) -> list[tuple[list[str], Batch]]:
    sampler, source = BatchSampler(7, batch, dropout), opened.source
    found = []
    for step in range(count):
        rows, captions = sampler.indices(source, step, 0, batch)
        found.append(([source.keys[row] for row in rows], source.batch(source.fetch(rows, captions), CPU)))
    return found


def alike(one: list[tuple[list[str], Batch]], other: list[tuple[list[str], Batch]], tolerance: float) -> None:
    for (keys, a), (same, b) in zip(one, other, strict=True):
        assert keys == same
        for x, y in zip(a, b, strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                torch.testing.assert_close(x.float(), y.float(), atol=tolerance, rtol=tolerance)


def test_memory_disk_and_on_the_fly_are_the_same_batches_in_buckets(tmp_path: Path, models: dict[str, str]) -> None:
    data = bucketed(tmp_path / "shards")
    text, image = encode(data, models)
    memory, disk = open_shards(data, text, image, quiet=True), open_shards(data, text, image, budget=0)
    live = open_shards(
        data, TextEncoder.load(models["text_encoder"], "fp32", device="cpu"),
        Autoencoder.load(models["autoencoder"], device="cpu"),
    )  # fmt: skip
    assert (memory.resident, disk.resident, live.resident) == (True, False, False)
    assert sorted(memory.shapes) == [(4, 6, 12), (4, 8, 8), (4, 12, 6)] == sorted(live.shapes)
    assert memory.shape == (4, 8, 8)  # the square of that area
    found = steps(memory, 27)
    alike(found, steps(disk, 27), 0)
    alike(found, steps(live, 27), 0.02)  # cached texts are kept in bfloat16
    seen = Counter(key for keys, _ in found for key in keys)
    assert len(seen) == 18 and set(seen.values()) <= {4, 5, 6, 7, 8}  # 108 samples of 18 images
    assert {batch.mean_BCHW.shape[1:] for _, batch in found} == set(map(torch.Size, memory.shapes))


def test_several_sets_are_mixed_by_weight_in_one_batch(tmp_path: Path, models: dict[str, str]) -> None:
    one, two = bucketed(tmp_path / "one", "a", 12, [(32, 32)]), bucketed(tmp_path / "two", "b", 6, [(32, 32)])
    parts = [encode(folder, models) for folder in (one, two)]
    text, image = [t[0] for t, _ in parts], [i[0] for _, i in parts]
    opened = open_shards(f"{one},{two}:4", text, image, quiet=True)
    found = steps(opened, 90)
    seen = Counter(key[0] for keys, _ in found for key in keys)
    assert seen["b"] / seen["a"] == pytest.approx(4 * 6 / 12, rel=0.03)
    assert sum(len({key[0] for key in keys}) == 2 for keys, _ in found) > 60
    alike(found, steps(open_shards(f"{one},{two}:4", text, image, budget=0), 90), 0)


def spoil(path: Path, member: str, at: int = 0, data: bytes = b"\xff" * 16) -> None:
    """Other bytes in a member, and everything else as it was: a disk that forgot."""
    offset, size = members(path)[member]
    with open(path, "r+b") as file:
        file.seek(offset + at % size)
        file.write(data)


@pytest.mark.parametrize("damage", [{}, {"at": -9, "data": b"\x5a"}])  # the header; one byte of the values
def test_damaged_samples_are_named_counted_and_stood_in_for(
    tmp_path: Path, models: dict[str, str], capsys: pytest.CaptureFixture[str], damage: dict[str, Any]
) -> None:
    data = bucketed(tmp_path / "shards")
    text, image = encode(data, models)
    whole = steps(open_shards(data, text, image, quiet=True), 27)
    spoil(data / "text" / "00000.tar", "k3.text.safetensors", **damage)
    spoil(data / "image" / "00001.tar", "k9.latent.safetensors", **damage)
    capsys.readouterr()
    memory, disk = open_shards(data, text, image, quiet=True), open_shards(data, text, image, budget=0)
    said = capsys.readouterr().err
    assert f"{data}/00000.tar#k3 is damaged (broken text features)" in said and said.count("is damaged") == 2
    assert memory.damaged == {"broken text features": 1, "broken latents": 1}
    found, read = steps(memory, 27, dropout=0), steps(disk, 27, dropout=0)
    alike(found, read, 0)
    assert (
        disk.damaged == memory.damaged and capsys.readouterr().err.count("is damaged") == 2
    )  # once, not at every step
    for (keys, batch), (_, before) in zip(found, whole, strict=True):
        for n, key in enumerate(keys):  # those that are whole are where they were
            assert key in ("k3", "k9") or torch.equal(batch.mean_BCHW[n], before.mean_BCHW[n])
    rows = np.array([3, 6, 9, 12])  # of one size: the second stands in for the first, and the fourth for the third
    taken = memory.source.batch(memory.source.fetch(rows, np.array([7, 12, NULL, 24])), CPU)
    for damaged, next_one in ((0, 1), (2, 3)):
        assert torch.equal(taken.mean_BCHW[damaged], taken.mean_BCHW[next_one])
    assert torch.equal(taken.text_BLT[0], taken.text_BLT[1]) and not torch.equal(taken.text_BLT[2], taken.text_BLT[3])


def test_damaged_pictures_on_the_fly_and_the_summary(tmp_path: Path, models: dict[str, str]) -> None:
    data = bucketed(tmp_path / "shards", count=6, sizes=[(32, 32)])
    spoil(data / "00000.tar", "k2.jpg")
    tiny_run = {"layers": 1, "heads": 1, "head_dim": 16, "batch": 6, "micro_batch": 3, "steps": 3, "resolution": 32}
    done = train(
        "nano",
        data=str(data),
        out=str(tmp_path / "run"),
        overrides=tiny_run,
        device="cpu",
        quiet=True,
        workers=0,
        **models,
    )
    assert done.step == 3 and sum(done.as_json()["dropped"].values()) == 1


def test_of_many_damaged_samples_the_first_are_named(
    tmp_path: Path, models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = bucketed(tmp_path / "shards", sizes=[(32, 32)])
    text, image = encode(data, models)
    for n in range(12):
        spoil(data / "image" / f"{n // 6:05d}.tar", f"k{n}.latent.safetensors")
    capsys.readouterr()
    assert open_shards(data, text, image, quiet=True).damaged == {"broken latents": 12}
    said = capsys.readouterr().err
    assert said.count("is damaged") == 10 and said.count("Further damaged images are counted") == 1


def test_data_of_which_nothing_is_left(tmp_path: Path, models: dict[str, str]) -> None:
    data = bucketed(tmp_path / "shards", count=6)
    text, image = encode(data, models)
    for n in range(6):
        spoil(data / "image" / "00000.tar", f"k{n}.latent.safetensors")
    with pytest.raises(CommonArtError, match="100 samples in a row are damaged"):
        open_shards(data, text, image, quiet=True)


def test_a_run_on_buckets(tmp_path: Path, models: dict[str, str]) -> None:
    data = bucketed(tmp_path / "shards")
    encode(data, models)
    small = {"layers": 1, "heads": 1, "head_dim": 16, "batch": 8, "micro_batch": 4, "steps": 5, "resolution": 32}
    small["patch"] = 2  # sides of 6 latents are no multiple of 4
    settings: dict[str, Any] = {"data": str(data), "device": "cpu", "quiet": True, "precision": "fp32"}
    done = train("nano", out=str(tmp_path / "run"), overrides=small, **settings)
    assert done.step == 5 and np.isfinite(done.loss)
    assert orjson.loads((tmp_path / "run" / "run.json").read_bytes())["transformer"]["sample_size"] == 8
    with pytest.raises(CommonArtError, match="images of .* pixels; stage nano trains on 64x64"):
        train("nano", out=str(tmp_path / "other"), overrides={**small, "resolution": 64}, **settings)


def test_a_disk_that_cannot_be_read_there_costs_one_sample(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bucketed(tmp_path / "shards")
    text, image = encode(data, models)
    lost = text[0].spans("00000")["k3"]
    read = Features.read

    def failing(self: Features, shard: str, place: tuple[int, int]) -> bytes:
        if (self.meta.kind, shard, place) == ("text", "00000", lost):
            raise OSError(errno.EIO, "Input/output error")
        return read(self, shard, place)

    monkeypatch.setattr(Features, "read", failing)
    assert open_shards(data, text, image, quiet=True).damaged == {"broken text features": 1}
    opened = open_shards(data, text, image, budget=0)
    (data / "image" / "00002.tar").rename(tmp_path / "gone")
    with pytest.raises(CommonArtError, match=r"image/00002\.tar cannot be read: No such file"):
        steps(opened, 27)


def test_an_image_that_is_not_what_was_sharded_is_damaged(tmp_path: Path, models: dict[str, str]) -> None:
    one, two = tiny.jpeg((32, 32), (200, 0, 0)), tiny.jpeg((32, 32), (0, 0, 200))
    data = tmp_path / "shards"
    with ShardWriter(data / "00000.tar") as writer:
        for key, said, held in (("a", one, one), ("b", two, one)):  # b's pixels are a's, with b's captions
            captions = [{"text": key, "lang": "en"}]
            about = {"width": 32, "height": 32, "split": "train", "shard_sha256": hashlib.sha256(said).hexdigest()}
            writer.add_record({"key": key, "captions": captions, "license": "CC0-1.0", **about}, held, "jpg")
    text = TextEncoder.load(models["text_encoder"], "fp32", device="cpu")
    opened = open_shards(data, text, Autoencoder.load(models["autoencoder"], device="cpu"))
    texts, _ = opened.source.fetch(np.array([0, 1]), np.array([0, 1]))
    assert texts == ["a", "a"] and opened.damaged == {"changed image": 1}


def test_features_that_must_not_be_mixed(tmp_path: Path, models: dict[str, str]) -> None:
    one, two = bucketed(tmp_path / "one", "a", 6), bucketed(tmp_path / "two", "b", 6)
    encode(one, models)
    settings: dict[str, Any] = {"out": str(tmp_path / "run"), "device": "cpu", "quiet": True}
    with pytest.raises(CommonArtError, match=r"one/text holds features, but .*two has none"):
        train("nano", data=f"{one},{two}", **settings)
    encode_text(str(two), model=models["text_encoder"], precision="bf16", device="cpu")
    encode_image(str(two), model=models["autoencoder"], device="cpu")
    with pytest.raises(CommonArtError, match=r"two/text was made with another precision than .*one/text"):
        train("nano", data=f"{one},{two}", **settings)
    with pytest.raises(CommonArtError, match=r"made in float32, but --quantize is quanto-int8"):
        train("nano", data=str(one), quantize="quanto-int8", **settings)
    with pytest.raises(UsageError, match="'0' is not a weight"):
        train("nano", data=f"{one}:0", **settings)


def test_an_encoder_that_changed_since_is_refused(tmp_path: Path) -> None:
    """By train, which needs it for its grid, and by sample, which needs it for every prompt."""
    from commonart.core.generation.components import locate
    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.generation.request import ModelSpec

    data = bucketed(tmp_path / "shards", count=6, sizes=[(32, 32)])
    tiny.llama(tmp_path / "llama")
    tiny.vae(tmp_path / "vae")
    encode(data, {"text_encoder": str(tmp_path / "llama"), "autoencoder": str(tmp_path / "vae")})
    run = tmp_path / "run"
    small = {"layers": 1, "heads": 1, "head_dim": 16, "batch": 4, "micro_batch": 4, "steps": 1, "resolution": 32}
    settings: dict[str, Any] = {"data": str(data), "overrides": small, "device": "cpu", "quiet": True}
    train("nano", out=str(run), **settings)
    with pytest.raises(UsageError, match=r"--quantize bnb-int8 does not fit: .* were made in float32"):
        Pipeline.open(locate(ModelSpec(str(run))), ModelSpec(device="cpu", quantize="bnb-int8"))
    tiny.llama(tmp_path / "llama", seed=1)
    with pytest.raises(CommonArtError, match=r"text was made by .*llama at sha256:"):
        train("nano", out=str(tmp_path / "other"), sample_every=1, **settings)
    with pytest.raises(CommonArtError, match=r"run was trained with .*llama at sha256:"):
        locate(ModelSpec(str(run)))
    assert locate(ModelSpec(str(run), text_encoder=str(tmp_path / "llama"))).text_encoder == tmp_path / "llama"


def test_an_index_of_what_the_tests_use(tmp_path: Path) -> None:
    assert [sum(p.count for p in parts) for parts in read_index(bucketed(tmp_path)).buckets()] == [6, 6, 6]
