"""Decoding: limits, orientation, sizes and hashes; odd files are in test_odd_images, colours in test_colour."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import bits_apart, saved, swapped_profile
from PIL import Image

from commonart.core.data.images.decode import (
    DecodeError,
    decode,
    encode,
    probe,
    resize_crop,
)
from commonart.core.data.images.phash import phash


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Red in the top left quarter, a gradient elsewhere: every orientation differs."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    pixels[: height // 2, : width // 2] = (220, 20, 20)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("format", "mime"),
    [(name, f"image/{name.lower()}") for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")],
)
def test_formats(format: str, mime: str) -> None:
    data = saved(picture(), format)
    assert probe(data) == (64, 48, mime)
    image = decode(data)
    assert image.mode == "RGB" and image.size == (64, 48)
    assert np.abs(np.asarray(image.resize((8, 6)), int) - np.asarray(picture().resize((8, 6)), int)).max() < 40


def test_limit_of_pixels_holds_before_pixels_are_read() -> None:
    data = saved(picture(), "PNG")
    assert decode(data, max_pixels=64 * 48).size == (64, 48)
    for reader in (decode, probe):
        with pytest.raises(DecodeError, match="too_many_pixels"):
            reader(data, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(format: str, orientation: int) -> None:
    upright = picture(64, 32)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera held so applies
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = saved(stored, format, exif=exif.tobytes(), **options)
    assert probe(data)[:2] == upright.size
    image = decode(data)
    assert image.size == upright.size
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 6


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(4, 0)
    for format in ("PNG", "TIFF"):
        grey = np.asarray(decode(saved(Image.fromarray(ramp), format)))[0, :, 0]
        assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1


def test_at_least_decodes_a_large_jpeg_smaller_and_alike() -> None:
    large = picture(1600, 1200)
    data = saved(large, "JPEG", quality=95)
    small = decode(data, at_least=64)
    assert 128 <= min(small.size) <= 160
    exact, fast = (np.asarray(resize_crop(image, 64), int) for image in (decode(data), small))
    assert np.abs(exact - fast).mean() < 1.5


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Soft random colours: energy at every low frequency, as photographs have it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [32, (32, 32), (40, 24), 48])
def test_resize_crop_keeps_the_centre(size: int | tuple[int, int]) -> None:
    image = Image.new("RGB", (100, 60), "black")
    image.paste("white", (40, 20, 60, 40))
    out = resize_crop(image, size)
    expected = (size, size) if isinstance(size, int) else size
    assert out.size == expected
    pixels = np.asarray(out.convert("L"), float)
    y, x = (np.average(np.indices(pixels.shape)[axis], weights=pixels) for axis in (0, 1))
    assert abs(y - (expected[1] - 1) / 2) < 0.6 and abs(x - (expected[0] - 1) / 2) < 0.6


def test_area_is_the_mean_and_lanczos_is_sharper() -> None:
    image = photograph(120, 90, 3)
    image.paste("white", (30, 30, 60, 60))
    mean = np.asarray(image.crop((15, 0, 105, 90)), float).reshape(30, 3, 30, 3, 3).mean((1, 3))
    area, lanczos = (np.asarray(resize_crop(image, 30, how), float) for how in ("area", "lanczos"))
    assert np.abs(area - mean).max() <= 1  # rounded twice
    assert np.abs(np.diff(lanczos, axis=1)).mean() > 1.02 * np.abs(np.diff(area, axis=1)).mean()


def test_resize_crop_of_the_right_size_changes_nothing() -> None:
    image = picture(32, 32)
    assert resize_crop(image, 32).tobytes() == image.tobytes()


def test_encode_is_reproducible_and_carries_no_metadata() -> None:
    image = decode(saved(picture(), "JPEG", exif=_exif(), icc_profile=swapped_profile()))
    for format in ("jpg", "png", "webp"):
        first, second = encode(image, format), encode(image.copy(), format)
        assert first == second
        back = Image.open(io.BytesIO(first))
        assert not back.getexif() and "icc_profile" not in back.info
    assert decode(encode(image, "png")).tobytes() == image.tobytes()
    assert decode(encode(image, "webp", 100)).tobytes() == image.tobytes()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "description"
    return exif


def test_phash_tells_copies_from_others() -> None:
    a = photograph(1600, 1200, 1)
    data = saved(a, "JPEG", quality=80)
    assert len(phash(a)) == 16
    copies = [decode(data), decode(data, at_least=64), decode(saved(a.resize((200, 150)), "JPEG", quality=60))]
    assert max(bits_apart(phash(a), phash(copy)) for copy in copies) <= 3
    others = [a.transpose(Image.Transpose.ROTATE_90), *(photograph(320, 240, seed) for seed in range(2, 40))]
    assert min(bits_apart(phash(a), phash(other)) for other in others) >= 12


def test_no_torch_is_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import commonart.core.data.images.decode, commonart.stages.license_filter, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "torch" not in done.stdout.split()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]), st.data())
def test_damaged_bytes_never_raise_anything_else(format: str, data: st.DataObject) -> None:
    good = bytearray(saved(picture(24, 16), format))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        assert decode(cut).mode == "RGB"
    except DecodeError as error:
        assert error.reason


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC: pillow-heif reads it"),
        (b"\xff\x0a\xfb\x06\0", "JPEG XL: convert it"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000: convert it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer: git lfs pull"),
    ],
)
def test_what_is_not_read_is_named(monkeypatch: pytest.MonkeyPatch, start: bytes, sentence: str) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where the extra is not installed
    with pytest.raises(DecodeError, match=sentence):
        decode(start + bytes(100))
