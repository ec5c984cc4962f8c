"""Decoding: each odd file has a written outcome, and what comes out is what a photographer would expect."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from commonart.core.data.decode import (
    DecodeError,
    decode,
    encode,
    probe,
    resize_crop,
)
from commonart.core.data.likeness import phash, phash_distance


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Red in the top left quarter, a gradient elsewhere: every orientation differs."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    pixels[: height // 2, : width // 2] = (220, 20, 20)
    return Image.fromarray(pixels)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)  # type: ignore[arg-type]
    return out.getvalue()


def animation(format: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return saved(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


def bomb() -> bytes:
    """A PNG of a few kB that claims 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(5_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "x" * 80_000_000, zip=True)
    return saved(picture(), "PNG", pnginfo=notes)


JPEG = saved(picture(), "JPEG")
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing":          (lambda: b"", "empty"),
    "text":             (lambda: b"hello", "not_an_image"),
    "page named .jpg":  (lambda: b"<!DOCTYPE html><html>404</html>", "not_an_image"),
    "SVG":              (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "BMP":              (lambda: saved(picture(), "BMP"), "not_an_image"),
    "ICO":              (lambda: saved(picture(), "ICO"), "not_an_image"),
    "EPS":              (lambda: saved(picture(), "EPS"), "not_an_image"),
    "PDF":              (lambda: saved(picture(), "PDF"), "not_an_image"),
    "half a JPEG":      (lambda: JPEG[: len(JPEG) // 2], "truncated"),
    "JPEG, no last byte": (lambda: saved(picture(256, 256), "JPEG")[:-400], "truncated"),
    "JPEG header only": (lambda: JPEG[:20], "not_an_image"),
    "half a PNG":       (lambda: saved(picture(), "PNG")[:120], "truncated"),
    "half a WebP":      (lambda: saved(picture(), "WEBP")[:60], "damaged"),
    "half a GIF":       (lambda: saved(picture(), "GIF")[:900], "truncated"),
    "half a TIFF":      (lambda: saved(picture(), "TIFF")[:4000], "truncated"),
    "PNG, bytes flipped": (lambda: _flipped(saved(picture(), "PNG")), "damaged"),
    "pixel bomb":       (bomb, "too_many_pixels"),
    "text bomb":        (text_bomb, "damaged"),
    "moving GIF":       (lambda: animation("GIF"), "animated"),
    "moving PNG":       (lambda: animation("PNG"), "animated"),
    "moving WebP":      (lambda: animation("WEBP"), "animated"),
    "TIFF of two pages": (lambda: animation("TIFF"), "animated"),
    "32-bit TIFF":      (lambda: saved(Image.new("I", (8, 8), 70_000), "TIFF"), "unsupported"),
    "float TIFF":       (lambda: saved(Image.new("F", (8, 8), 0.5), "TIFF"), "unsupported"),
}  # fmt: skip


def _flipped(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 10
    return data[:at] + bytes(255 - byte for byte in data[at : at + 8]) + data[at + 8 :]


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    make, reason = BAD[name]
    with pytest.raises(DecodeError) as caught:
        decode(make())
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("format", "mime"),
    [(name, f"image/{name.lower()}") for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")],
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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(format: str, orientation: int) -> None:
    upright = picture(64, 32)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera held so applies
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    data = saved(stored, format, exif=exif, **options)
    assert probe(data)[:2] == upright.size
    image = decode(data)
    assert image.size == upright.size
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 6


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(4, 0)
    for format in ("PNG", "TIFF"):
        grey = np.asarray(decode(saved(Image.fromarray(ramp), format)))[0, :, 0]
        assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1


def test_transparency_shows_white_and_hides_what_is_under_it() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    for format in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        seen = decode(saved(image, format, **options))
        assert seen.getpixel((3, 3)) == (255, 255, 255)
        assert seen.getpixel((0, 0)) == (0, 0, 255)
        assert seen.getpixel((1, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_of_tiff_and_png(mode: str) -> None:
    grey = Image.new("L", (8, 8), 255)
    image = grey.convert(mode)
    seen = decode(saved(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert seen.mode == "RGB" and seen.getpixel((4, 4)) == (255, 255, 255)


def test_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 200, 10, 1, 2, 3])
    image.putpixel((0, 0), 1)
    seen = decode(saved(image, "PNG", transparency=0))
    assert seen.getpixel((3, 3)) == (255, 255, 255) and seen.getpixel((0, 0)) == (1, 2, 3)


def test_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (50, 60, 70))
    seen = decode(saved(image, "PNG", transparency=(9, 9, 9)))
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (50, 60, 70)]


def test_lab_tiff_becomes_the_colour_it_means() -> None:
    lab = Image.new("LAB", (4, 4), (128, 128, 128))  # L 50, a and b 0
    red, green, blue = decode(saved(lab, "TIFF")).getpixel((1, 1))  # type: ignore[misc]
    assert max(red, green, blue) - min(red, green, blue) <= 2 and 115 <= green <= 123


def swapped_profile() -> bytes:
    """sRGB's profile with the red and the blue primary exchanged: a wide, unmistakable profile without a file."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = bytearray(bytes(data).replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ"))
    return bytes(data).replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def test_colour_profile_is_applied() -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    for format in ("PNG", "TIFF", "JPEG"):
        red, green, blue = decode(saved(image, format, icc_profile=swapped_profile())).getpixel((4, 4))  # type: ignore[misc]
        assert blue > 250 and red < 10 and green < 10


def test_srgb_damaged_and_foreign_profiles_change_nothing() -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, b"no profile", srgb[:100]):
        assert decode(saved(image, "PNG", icc_profile=profile)).getpixel((4, 4)) == (200, 100, 50)


def test_mpo_is_the_photograph_that_stands_first() -> None:
    out = io.BytesIO()
    picture().save(out, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert probe(out.getvalue()) == (64, 48, "image/jpeg")
    assert decode(out.getvalue()).size == (64, 48)


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
    assert max(phash_distance(phash(a), phash(copy)) for copy in copies) <= 3
    others = [a.transpose(Image.Transpose.ROTATE_90), *(photograph(320, 240, seed) for seed in range(2, 40))]
    assert min(phash_distance(phash(a), phash(other)) for other in others) >= 12


def test_no_torch_is_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import commonart.core.data.decode, commonart.stages.license_filter, sys; print(*sys.modules)"
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
