"""Features of sets: alike whatever the order, the names, the batch and the threads; what cannot be read is counted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from commonart.core.errors import CommonArtError
from commonart.core.metrics import features, fid
from commonart.core.metrics.features import Encoder
from commonart.core.metrics.image_set import ImageRef, collect


def picture(seed: int, width: int = 30, height: int = 20) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def folder(path: Path, seeds: list[int]) -> list[ImageRef]:
    path.mkdir()
    for place, seed in enumerate(seeds):
        picture(seed).save(path / f"{place:03d}.png")
    return [ImageRef(str(file), {}) for file in sorted(path.iterdir())]


def pooled(calls: list[int] | None = None) -> Encoder:
    """Six means of the pixels: any function of them shows whether they are the same."""

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        if calls is not None:
            calls.append(len(pixels))
        return torch.nn.functional.adaptive_avg_pool2d(pixels, (1, 2)).flatten(1)

    return Encoder("pooled", fid.encoder("clean", network=embed).prepare, embed)


def distance(a: features.ImageFeatures, b: features.ImageFeatures) -> float:
    rows = [found.rows["pooled"][found.order] for found in (a, b)]
    return fid.frechet(*map(fid.fit, rows))


def test_order_names_batch_and_threads_change_no_score(tmp_path):
    seeds = list(range(12))
    items, real = folder(tmp_path / "a", seeds), folder(tmp_path / "real", list(range(50, 60)))
    renamed = folder(tmp_path / "b", seeds[::-1])
    reference = features.extract(real, [pooled()])
    wanted = features.extract(items, [pooled()], workers=1)
    for other in (
        features.extract(items[::-1], [pooled()]),
        features.extract(renamed, [pooled()], workers=4),
        features.extract(items, [pooled()], batch=5, workers=3),
    ):
        assert other.digest == wanted.digest
        assert distance(other, reference) == pytest.approx(distance(wanted, reference), abs=1e-6)
    backward = features.extract(items[::-1], [pooled()])
    assert np.array_equal(backward.rows["pooled"][::-1], wanted.rows["pooled"]), "rows stand in the order of the items"


def test_a_corrupt_image_is_left_out_and_counted(tmp_path):
    items = folder(tmp_path / "a", [1, 2, 3, 4])
    whole = features.extract([items[0], items[3]], [pooled()])
    Path(items[1].pointer).write_bytes(b"no picture")
    data = Path(items[2].pointer).read_bytes()
    Path(items[2].pointer).write_bytes(data[: len(data) // 2])
    found = features.extract(items, [pooled()])
    assert found.kept == [0, 3] and np.array_equal(found.rows["pooled"], whole.rows["pooled"])
    assert (
        set(found.failed) == {items[1].pointer, items[2].pointer} and "not_an_image" in found.failed[items[1].pointer]
    )
    with pytest.raises(CommonArtError, match=r"None of the 1 images can be read: .*001.png"):
        features.extract([items[1]], [pooled()])
    gone = ImageRef(str(tmp_path / "gone.png"), {})
    assert "cannot be read" in features.extract([items[0], gone], [pooled()]).failed[gone.pointer]


def test_a_reference_is_measured_once_for_each_content(tmp_path):
    items, calls = folder(tmp_path / "a", [1, 2, 3]), list[int]()
    cache = tmp_path / "cache"
    Path(items[1].pointer).write_bytes(b"no picture")
    first = features.extract(items, [pooled(calls)], cache=cache)
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = [ImageRef(item.pointer.replace("/a/", "/moved/"), {}) for item in items]
    again = features.extract(moved, [pooled(calls)], cache=cache)
    assert calls == [2], "another place is the same content"
    assert np.array_equal(again.rows["pooled"], first.rows["pooled"]) and again.kept == first.kept == [0, 2]
    assert list(again.failed) == [moved[1].pointer] and again.resolution == "30x20"
    features.extract(moved, [pooled(calls)], cache=cache, side=16)
    picture(9).save(moved[0].pointer)
    features.extract(moved, [pooled(calls)], cache=cache)
    assert calls == [2, 2, 2], "another size or another image is measured anew"
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    assert len(features.extract(moved, [pooled(calls)], cache=cache).kept) == 2 and calls[-1] == 2


def test_files_and_shards_are_read_alike_upright_and_in_srgb(tmp_path):
    """clean-fid reads a file as it is stored: a photograph on its side, colours of another space taken for sRGB."""
    plain = picture(1)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    lab = ImageCms.profileToProfile(
        plain, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    tagged = io.BytesIO()
    lab.save(tagged, "TIFF", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    (tmp_path / "plain.png").write_bytes(_png(plain))
    (tmp_path / "turned.png").write_bytes(turned.getvalue())
    (tmp_path / "tagged.tif").write_bytes(tagged.getvalue())
    items = [ImageRef(str(tmp_path / name), {}) for name in ("plain.png", "turned.png", "tagged.tif")]
    upright, from_exif, from_profile = features.extract(items, [pooled()]).rows["pooled"]
    assert np.allclose(upright, from_exif, atol=1e-4)
    assert np.allclose(upright, from_profile, atol=4), "eight bits of Lab are coarse"


def test_records_without_pictures(tmp_path):
    records = tmp_path / "records.jsonl"
    records.write_text('{"key":"a","captions":[{"text":"a star","lang":"en"}]}\n')
    with pytest.raises(CommonArtError, match="1 records, and none of them points at an image") as error:
        collect(str(records))
    assert "commonart fetch" in error.value.fix


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
