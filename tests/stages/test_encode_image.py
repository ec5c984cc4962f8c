"""encode-image on tiny random autoencoders: what is stored is what the autoencoder says."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_encoders as tiny
import torch

from commonart.core.data.features import plan as feature_plan
from commonart.core.data.features.format import Features
from commonart.core.data.images.decode import decode
from commonart.core.data.shards.reader import read_bytes, read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, TooManyFailures
from commonart.core.model.autoencoder import Autoencoder, to_pixels
from commonart.stages import encode_image as encode_stage
from commonart.stages.encode_image import encode_image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny.shards(tmp_path / "shards")


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("store", ["fp16", "bf16", "fp32"])
def test_every_image_is_stored(tmp_path: Path, source: Path, levels: int, store: str) -> None:
    tiny.vae(tmp_path / "vae", levels=levels)
    summary = encode_image(str(source), model=str(tmp_path / "vae"), store=store, device="cpu", batch=3)
    assert (summary.stage, summary.read, summary.written, summary.dropped) == ("encode-image", 12, 12, {})
    autoencoder = Autoencoder.load(tmp_path / "vae", device="cpu")
    read = Features(source / "image")
    read.check(source, full=True)
    assert read.meta.settings == {"factor": 2 ** (levels - 1), "scaling": 0.5, "shift": 0.1}
    assert (read.meta.kind, read.meta.width, read.meta.store) == ("image", 4, store)
    for path in sorted(source.glob("*.tar")):
        records = list(read_shard(path))
        latents = tiny.stored(read, path.stem)
        assert list(latents) == [r["key"] for r in records]
        for record in records:
            expected = autoencoder.encode(to_pixels([decode(read_bytes(record["image"]))]))
            for a, b in zip(expected, latents[record["key"]], strict=True):
                np.testing.assert_allclose(a[0].numpy(), b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("said", [True, False])
def test_buckets_share_batches_and_keep_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    """Images of several sizes come in the shard's order, and one batch holds as many of a size as it can."""
    tiny.vae(tmp_path / "vae")
    sizes = [(32, 32), (48, 16), (16, 48)] * 5
    path = tmp_path / "shards" / "00000.tar"
    with ShardWriter(path) as writer:
        for n, size in enumerate(sizes):
            record = {"key": f"k{n}", **({"width": size[0], "height": size[1]} if said else {})}
            writer.add_record(record, tiny.jpeg(size, (15 * n, 0, 0)), "jpg")
    batches: list[tuple[int, ...]] = []
    real = Autoencoder.encode

    def counted(self: Autoencoder, images: torch.Tensor, batch: int = 16) -> object:
        batches.append(tuple(images.shape[i] for i in (0, 3, 2)))
        return real(self, images, batch)

    monkeypatch.setattr(Autoencoder, "encode", counted)
    asked: list[int] = []
    monkeypatch.setattr(
        "commonart.core.model.feature_encoding.require_space", lambda folder, needed, what: asked.append(needed)
    )
    encode_image(str(tmp_path / "shards"), model=str(tmp_path / "vae"), device="cpu", batch=4)
    assert sorted(batches) == sorted((n, *size) for size in sizes[:3] for n in (4, 1))
    read = Features(tmp_path / "shards" / "image")
    assert asked == [(read.folder / "00000.tar").stat().st_size]  # sizes that a record leaves out are looked up
    latents = tiny.stored(read, "00000")
    assert list(latents) == [f"k{n}" for n in range(15)]
    autoencoder = Autoencoder.load(tmp_path / "vae", device="cpu")
    for n, (width, height) in enumerate(sizes):
        mean, std = latents[f"k{n}"]
        assert mean.shape == std.shape == (4, height // 4, width // 4)
        alone = real(autoencoder, to_pixels([decode(read_bytes(f"{path}#k{n}.jpg"))]))[0][0].numpy()
        np.testing.assert_allclose(mean, alone, rtol=1e-2, atol=1e-3)


def test_pixels_that_wait_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that say no size, all of different ones: they are encoded before all of them lie in memory."""
    tiny.vae(tmp_path / "vae")
    with ShardWriter(tmp_path / "shards" / "00000.tar") as writer:
        for n in range(12):
            writer.add_record({"key": f"k{n}"}, tiny.jpeg((16, 16 + 4 * n)), "jpg")
    monkeypatch.setattr("commonart.stages.encode_image.WAITING", 1)
    decoded: list[int] = []
    real_encode, real_decode = Autoencoder.encode, encode_stage.decode
    waiting: list[int] = []

    def counted(self: Autoencoder, images: torch.Tensor, batch: int = 16) -> object:
        waiting.append(len(decoded) - len(waiting))
        return real_encode(self, images, batch)

    monkeypatch.setattr(encode_stage, "decode", lambda data: decoded.append(1) or real_decode(data))
    monkeypatch.setattr("commonart.core.data.threads.cpu_count", lambda: 1)
    monkeypatch.setattr(Autoencoder, "encode", counted)
    encode_image(str(tmp_path / "shards"), model=str(tmp_path / "vae"), device="cpu", batch=3)
    assert len(decoded) == 12 and max(waiting) <= 4


def test_bad_images_are_counted_and_nothing_else_is_lost(tmp_path: Path) -> None:
    tiny.vae(tmp_path / "vae")
    with ShardWriter(tmp_path / "shards" / "00000.tar") as writer:
        writer.add_record({"key": "good"}, tiny.jpeg(), "jpg")
        writer.add_record({"key": "text"}, b"this is no picture", "jpg")
        writer.add_record({"key": "odd"}, tiny.jpeg((30, 32)), "jpg")
        writer.add("bare", {"json": b'{"key": "bare"}'})
        writer.add_record({"key": "cut"}, tiny.jpeg((64, 64))[:700], "jpg")
        writer.add_record({"key": "another", "shard_sha256": "c" * 64}, tiny.jpeg(), "jpg")
    with pytest.raises(TooManyFailures) as error:
        encode_image(str(tmp_path / "shards"), model=str(tmp_path / "vae"), device="cpu")
    dropped = error.value.summary.dropped
    assert sum(dropped.values()) == 5 and dropped["size"] == dropped["changed"] == 1 and dropped["no_image"] == 1
    assert list(Features(tmp_path / "shards" / "image").spans("00000")) == ["good"]
    again = encode_image(str(tmp_path / "shards"), model=str(tmp_path / "vae"), device="cpu", max_failures=1)
    assert again.dropped == dropped


def test_resume_and_tasks_give_the_same_bytes(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.vae(tmp_path / "vae")
    model = str(tmp_path / "vae")
    encode_image(str(source), model=model, device="cpu")
    expected = content(source / "image")
    shutil.rmtree(source / "image")
    for index in (1, 0):
        encode_image(str(source), model=model, device="cpu", task=Task(index, 2))
    assert content(source / "image") == expected
    monkeypatch.setattr(Autoencoder, "load", None)  # the next call finds all of it done
    assert encode_image(str(source), model=model, device="cpu").written == 12


def test_what_has_no_deviation_takes_half_the_room(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DC-AE's latents are stored without one, their size is known before, and they are read with a deviation of 0."""
    tiny.dc_ae(tmp_path / "dc")
    asked: list[int] = []
    monkeypatch.setattr(
        "commonart.core.model.feature_encoding.require_space", lambda folder, needed, what: asked.append(needed)
    )
    encode_image(str(source), model=str(tmp_path / "dc"), device="cpu", store="fp32")
    read = Features(source / "image")
    assert asked == [sum(path.stat().st_size for path in read.folder.glob("*.tar"))]
    spans = read.spans("00000")
    assert max(size for _, size in spans.values()) < 1.3 * 8 * 8 * 8 * 4  # a mean of 8 x 8 x 8, and a header
    autoencoder = Autoencoder.load(tmp_path / "dc", device="cpu")
    for record in read_shard(source / "00000.tar"):
        mean, std = tiny.stored(read, "00000")[record["key"]]
        expected = autoencoder.encode(to_pixels([decode(read_bytes(record["image"]))]))[0][0].numpy()
        np.testing.assert_allclose(mean, expected, atol=1e-5)
        assert std.shape == mean.shape and not std.any()


def test_another_model_is_not_mixed_in(tmp_path: Path, source: Path) -> None:
    tiny.vae(tmp_path / "a")
    tiny.vae(tmp_path / "b", scaling_factor=0.25)
    encode_image(str(source), model=str(tmp_path / "a"), device="cpu")
    with pytest.raises(CommonArtError, match=r"other settings .revision.*--overwrite"):
        encode_image(str(source), model=str(tmp_path / "b"), device="cpu")
    encode_image(str(source), str(tmp_path / "other"), model=str(tmp_path / "b"), device="cpu")
    Features(tmp_path / "other").check(source)


def test_a_short_disk_is_refused_at_once(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.vae(tmp_path / "vae")
    monkeypatch.setattr(feature_plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CommonArtError, match="The image features of all shards would take about"):
        encode_image(str(source), model=str(tmp_path / "vae"), device="cpu")
    assert not (source / "image").exists()
