"""What becomes of every odd image file: this table says it, and each row is tested."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from odd_images import (
    BLUE,
    GREEN,
    HEIGHT,
    RED,
    SAND,
    WIDTH,
    alpha,
    broken_png,
    changed,
    chunk,
    exif,
    frames,
    gamma,
    grey,
    held,
    jpeg,
    marked_adobe_rgb,
    noisy,
    pages,
    palette,
    pixel_bomb,
    png,
    primaries,
    profile_bomb,
    rgb,
    saved,
    scene,
    swapped_profile,
    text_bomb,
    tiff,
    ycck,
)  # fmt: skip
from PIL import Image, ImageCms, PngImagePlugin

from commonart.core.data.images.decode import DecodeError, decode, probe

Colour = tuple[int, int, int]
WHITE = (255, 255, 255)


class Shown(NamedTuple):
    """It is used: the colours of its four quarters, in reading order, and how far off they may be."""

    quarters: tuple[Colour, Colour, Colour, Colour] | None = (RED, GREEN, BLUE, SAND)
    within: int = 2
    size: tuple[int, int] = (WIDTH, HEIGHT)


def greys(bits: int = 8) -> tuple[Colour, Colour, Colour, Colour]:
    """The quarters' luma (ITU-R 601), with as many shades as `bits` allow."""
    top = 2**bits - 1
    shades = [
        round((299 * r + 587 * g + 114 * b) / 1000) * top // 255 * 255 // top for r, g, b in (RED, GREEN, BLUE, SAND)
    ]
    return tuple((shade, shade, shade) for shade in shades)  # type: ignore[return-value]


def linear() -> tuple[Colour, Colour, Colour, Colour]:
    """What the scene's numbers are in sRGB when they are light itself (IEC 61966-2-1)."""
    found = []
    for color in (RED, GREEN, BLUE, SAND):
        light = np.array(color) / 255
        found.append(tuple(int(v) for v in np.round((1.055 * light ** (1 / 2.4) - 0.055) * 255)))
    return tuple(found)  # type: ignore[return-value]


AS_IT_IS = Shown()
NEARLY = Shown(within=8)  # JPEG and lossy WebP
HALF_WHITE = Shown((RED, GREEN, WHITE, WHITE))
UPRIGHT = Shown(within=10)
SWAPPED = Shown(((20, 20, 220), (20, 200, 20), (220, 20, 20), (40, 220, 230)), within=6)  # red and blue exchanged
SQUARE_P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
LONG = b"II+\0"

ODD: dict[str, tuple[Callable[[], bytes], Shown | str]] = {
    # No picture at all
    "nothing":                          (lambda: b"", "empty"),
    "text":                             (lambda: b"hello", "not_an_image"),
    "zeros":                            (lambda: bytes(5000), "not_an_image"),
    "page named .jpg":                  (lambda: b"<!DOCTYPE html><html>404</html>", "not_an_image"),
    "SVG":                              (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "ICO":                              (lambda: saved(scene(), "ICO"), "not_an_image"),
    "EPS":                              (lambda: saved(scene(), "EPS"), "not_an_image"),
    "PDF":                              (lambda: saved(scene(), "PDF"), "not_an_image"),
    "PSD":                              (lambda: b"8BPS\0\1" + bytes(100), "not_an_image"),
    "Git LFS pointer":                  (lambda: b"version https://git-lfs.github.com/spec/v1\n", "not_an_image"),
    "JPEG 2000":                        (lambda: saved(scene(), "JPEG2000"), "not_an_image"),
    "PPM":                              (lambda: saved(scene(), "PPM"), "not_an_image"),
    # BMP, AVIF, HEIC, JPEG XL
    "BMP":                              (lambda: saved(scene(), "BMP"), AS_IT_IS),
    "BMP, palette":                     (lambda: saved(scene().quantize(16), "BMP"), NEARLY),
    "BMP, cut":                         (lambda: saved(scene(), "BMP")[:2000], "truncated"),
    "AVIF":                             (lambda: saved(scene(), "AVIF", quality=95), NEARLY),
    "AVIF, transparent":                (lambda: saved(_half(), "AVIF", quality=95), Shown((RED, GREEN, WHITE, WHITE), 8)),
    "AVIF, sRGB is stated":             (lambda: _avif(1, 13), NEARLY),
    "AVIF, HDR":                        (lambda: _avif(9, 16), "unsupported"),
    "AVIF, Display P3 without profile": (lambda: _avif(12, 13), "unsupported"),
    "AVIF, cut":                        (lambda: saved(scene(), "AVIF", quality=95)[:-100], "damaged"),
    "AVIF, two images":                 (lambda: frames("AVIF", 2), "animated"),
    "HEIC":                             (lambda: _heic(), NEARLY),
    "JPEG XL":                          (lambda: b"\xff\x0a\xfb\x06\0" + bytes(100), "not_an_image"),
    "HEIC, cut":                        (lambda: _heic()[:-100], "truncated"),
    # JPEG
    "JPEG, progressive":                (lambda: jpeg(progressive=True), NEARLY),
    "JPEG, colour at a quarter":        (lambda: jpeg(subsampling=2), NEARLY),
    "JPEG, colour at a half":           (lambda: jpeg(subsampling=1), NEARLY),
    "JPEG, grey":                       (lambda: jpeg(scene().convert("L")), Shown(greys(), 4)),
    "JPEG, RGB without luma":           (lambda: jpeg(keep_rgb=True), NEARLY),
    "JPEG, CMYK":                       (lambda: jpeg(scene().convert("CMYK")), NEARLY),
    "JPEG, YCCK":                       (ycck, NEARLY),
    "JPEG, restart markers":            (lambda: jpeg(restart_marker_rows=1), NEARLY),
    "JPEG, a note of 60 kB":            (lambda: jpeg(comment=b"x" * 60_000), NEARLY),
    "JPEG, garbage behind it":          (lambda: jpeg() + b"\xff\xd9 and more" * 50, NEARLY),
    "JPEG, another JPEG behind it":     (lambda: jpeg() + jpeg(Image.new("RGB", (9, 9))), NEARLY),
    "JPEG with a depth map (MPO)":      (lambda: frames("MPO"), NEARLY),
    "JPEG on its side, EXIF":           (lambda: jpeg(held(6), exif=exif(orientation=6)), UPRIGHT),
    "JPEG mirrored, EXIF":              (lambda: jpeg(held(7), exif=exif(orientation=7)), UPRIGHT),
    "JPEG, orientation 0":              (lambda: jpeg(exif=exif(orientation=0)), NEARLY),
    "JPEG, orientation 9":              (lambda: jpeg(exif=exif(orientation=9)), NEARLY),
    "JPEG, EXIF cut short":             (lambda: jpeg(exif=exif(description="x" * 90).tobytes()[:40]), NEARLY),
    "JPEG, EXIF of noise":              (lambda: jpeg(exif=b"Exif\0\0" + bytes(range(256))), NEARLY),
    "JPEG, camera's Adobe RGB":         (lambda: marked_adobe_rgb(scene()), Shown(None)),  # colours: test_colour
    "JPEG, profile":                    (lambda: jpeg(icc_profile=swapped_profile()), SWAPPED._replace(within=10)),
    "JPEG, profile in three parts":     (lambda: jpeg(icc_profile=swapped_profile() + bytes(150_000)), SWAPPED._replace(within=10)),
    "JPEG, profile is noise":           (lambda: jpeg(icc_profile=b"no profile"), NEARLY),
    "JPEG of one pixel":                (lambda: jpeg(Image.new("RGB", (1, 1), RED)), Shown((RED,) * 4, 6, (1, 1))),
    "JPEG, one pixel high":             (lambda: jpeg(Image.new("RGB", (3000, 1), RED)), Shown((RED,) * 4, 6, (3000, 1))),
    "JPEG, middle grey all over": (
        lambda: jpeg(Image.new("RGB", (64, 48), (128, 128, 128))),
        Shown(((128, 128, 128),) * 4, 1),
    ),
    "JPEG, half":                       (lambda: noisy()[:9000], "truncated"),
    "JPEG, last bytes gone":            (lambda: noisy()[:-400], "truncated"),
    "JPEG, end mark gone":              (lambda: noisy()[:-2], "truncated"),
    "JPEG, header only":                (lambda: noisy()[:20], "not_an_image"),
    "JPEG, half, then an end mark":     (lambda: noisy()[:9000] + b"\xff\xd9", "truncated"),
    "JPEG, progressive, likewise":      (lambda: noisy(progressive=True)[:6000] + b"\xff\xd9", "truncated"),
    "JPEG, bytes changed":              (lambda: changed(noisy(), 5000), Shown(None, size=(128, 96))),  # no checksum tells
    # PNG
    "PNG, interlaced":                  (lambda: png(rgb(), color=2, interlaced=True), AS_IT_IS),
    "PNG, 16 bits":                     (lambda: png(rgb(16), 16, color=2), AS_IT_IS),
    "PNG, 16 bits, transparent":        (lambda: png(np.concatenate([rgb(16), alpha(16)], -1), 16, color=6), HALF_WHITE),
    "PNG, 16-bit grey":                 (lambda: png(grey(16), 16, color=0), Shown(greys())),
    "PNG, 16-bit grey, transparent": (
        lambda: png(np.concatenate([grey(16), alpha(16)], -1), 16, color=4),
        Shown((*greys()[:2], WHITE, WHITE)),
    ),
    "PNG, 16-bit grey, one shade transparent": (
        lambda: png(grey(16), 16, color=0, extra=[chunk(b"tRNS", int(grey(16)[-1, 0, 0]).to_bytes(2, "big"))]),
        Shown((greys()[0], greys()[1], WHITE, greys()[3])),
    ),
    "PNG, grey and transparent": (
        lambda: png(np.concatenate([grey(), alpha()], -1), color=4),
        Shown((*greys()[:2], WHITE, WHITE)),
    ),
    "PNG, 1-bit":                       (lambda: png(grey(1), 1, color=0), Shown(greys(1))),
    "PNG, 2-bit":                       (lambda: png(grey(2), 2, color=0), Shown(greys(2))),
    "PNG, 4-bit":                       (lambda: png(grey(4), 4, color=0), Shown(greys(4))),
    "PNG, palette":                     (lambda: png(palette()[0], 2, color=3, extra=[palette()[1]]), AS_IT_IS),
    "PNG, palette, transparent entries": (
        lambda: png(palette()[0], 4, color=3, extra=[palette()[1], chunk(b"tRNS", b"\xff\xff\0\0")]), HALF_WHITE),
    "PNG, transparent":                 (lambda: png(np.concatenate([rgb(), alpha()], -1), color=6), HALF_WHITE),
    "PNG, one colour transparent":      (
        lambda: png(rgb(), color=2, extra=[chunk(b"tRNS", bytes((0, BLUE[0], 0, BLUE[1], 0, BLUE[2])))]),
        Shown((RED, GREEN, WHITE, SAND)),
    ),
    "PNG, gamma 1":                     (lambda: png(rgb(), color=2, extra=[gamma(1.0)]), Shown(linear(), 3)),
    "PNG, gamma of sRGB":               (lambda: png(rgb(), color=2, extra=[gamma(1 / 2.2), primaries(*SRGB)]), AS_IT_IS),
    "PNG, gamma 1, but marked sRGB":    (lambda: png(rgb(), color=2, extra=[chunk(b"sRGB", b"\0"), gamma(1.0)]), AS_IT_IS),
    "PNG, gamma 0":                     (lambda: png(rgb(), color=2, extra=[gamma(0)]), AS_IT_IS),
    "PNG, primaries all zero":          (lambda: png(rgb(), color=2, extra=[primaries(*[0] * 8)]), AS_IT_IS),
    "PNG, wide primaries":              (lambda: png(rgb(), color=2, extra=[primaries(*SQUARE_P3)]), Shown(None)),  # test_colour
    "PNG, profile":                     (lambda: saved(scene(), "PNG", icc_profile=swapped_profile()), SWAPPED),
    "PNG, palette and profile":         (lambda: saved(scene().quantize(4), "PNG", icc_profile=swapped_profile()), SWAPPED),
    "PNG, profile and transparent": (
        lambda: saved(_half(), "PNG", icc_profile=swapped_profile()),
        Shown((*SWAPPED.quarters[:2], WHITE, WHITE), 6),  # type: ignore[index]
    ),
    "PNG, on its side, EXIF":           (lambda: saved(held(8), "PNG", exif=exif(orientation=8)), AS_IT_IS),
    "PNG, half":                        (lambda: saved(scene(), "PNG")[:120], "truncated"),
    "PNG, data cut, parts whole":       (lambda: broken_png(lambda data: _idat(data[: len(data) // 2])), "truncated"),
    "PNG, end chunk gone":              (lambda: saved(scene(), "PNG")[:-12], AS_IT_IS),  # every pixel is there
    "PNG, bytes changed":               (lambda: changed(saved(scene(), "PNG"), 60), "damaged"),
    "PNG, bytes changed, sum put right": (lambda: broken_png(lambda data: _idat(changed(data, 20))), "damaged"),
    "PNG, the same with a text behind": (lambda: _with_text(broken_png(lambda data: _idat(changed(data, 20)))), "damaged"),
    "PNG, wrong checksum":              (lambda: png(rgb(), color=2, extra=[chunk(b"IDAT", b"", 1)]), "damaged"),
    "PNG, no pixels wide":              (lambda: png(rgb()[:, :0], color=2), "not_an_image"),
    "PNG, garbage behind it":           (lambda: saved(scene(), "PNG") + bytes(99), AS_IT_IS),
    "PNG, pixel bomb":                  (pixel_bomb, "too_many_pixels"),
    "PNG, 2 MB of packed text":         (lambda: _long_text("zTXt"), AS_IT_IS),
    "PNG, 2 MB of packed UTF-8":        (lambda: _long_text("iTXt"), AS_IT_IS),
    "PNG, a profile of 2 MB":           (lambda: saved(scene(), "PNG", icc_profile=_large_profile()), AS_IT_IS),
    "PNG, text bomb":                   (text_bomb, "damaged"),
    "PNG, profile bomb":                (profile_bomb, "damaged"),
    "PNG, moving":                      (lambda: frames("PNG", duration=100), "animated"),
    # WebP
    "WebP":                             (lambda: saved(scene(), "WEBP", quality=95), Shown(within=14)),
    "WebP, lossless":                   (lambda: saved(scene(), "WEBP", lossless=True), AS_IT_IS),
    "WebP, transparent":                (lambda: saved(_half(), "WEBP", lossless=True), HALF_WHITE),
    "WebP, profile":                    (lambda: saved(scene(), "WEBP", lossless=True, icc_profile=swapped_profile()), SWAPPED),
    "WebP on its side, EXIF":           (lambda: saved(held(5), "WEBP", lossless=True, exif=exif(orientation=5)), AS_IT_IS),
    "WebP, moving":                     (lambda: frames("WEBP", duration=100), "animated"),
    "WebP, half":                       (lambda: saved(scene(), "WEBP", lossless=True)[:60], "truncated"),
    "WebP, bytes changed":              (lambda: changed(saved(_many_colors(), "WEBP", lossless=True), 60, 20), "damaged"),
    # GIF
    "GIF":                              (lambda: saved(scene(), "GIF"), AS_IT_IS),
    "GIF, not interlaced":              (lambda: saved(scene(), "GIF", interlace=0), AS_IT_IS),
    "GIF, transparent entry":           (lambda: saved(_see_through(), "GIF", transparency=2), Shown((RED, GREEN, WHITE, SAND))),
    "GIF, end mark gone":               (lambda: saved(scene(), "GIF")[:-1], AS_IT_IS),
    "GIF, half":                        (lambda: saved(_many_colors(), "GIF")[:1500], "truncated"),
    "GIF, moving":                      (lambda: frames("GIF", duration=100), "animated"),
    "GIF, a canvas of 65,535 squared":  (lambda: _large_canvas(), "too_many_pixels"),
    # TIFF
    "TIFF":                             (lambda: tiff(rgb()), AS_IT_IS),
    "TIFF, big-endian":                 (lambda: tiff(rgb(), order=">"), AS_IT_IS),
    "TIFF, colours in planes":          (lambda: tiff(rgb(), planes=True), AS_IT_IS),
    "TIFF, BigTIFF":                    (lambda: saved(scene(), "TIFF", big_tiff=True), AS_IT_IS),
    "TIFF, LZW":                        (lambda: saved(scene(), "TIFF", compression="tiff_lzw"), AS_IT_IS),
    "TIFF, deflate":                    (lambda: saved(scene(), "TIFF", compression="tiff_adobe_deflate"), AS_IT_IS),
    "TIFF, packbits":                   (lambda: saved(scene(), "TIFF", compression="packbits"), AS_IT_IS),
    "TIFF, JPEG inside":                (lambda: saved(scene(), "TIFF", compression="jpeg", quality=95), Shown(within=14)),
    "TIFF, fax": (
        lambda: saved(scene().convert("1", dither=0), "TIFF", compression="group4"),
        Shown(((0, 0, 0),) * 3 + (WHITE,)),
    ),
    "TIFF, palette":                    (lambda: saved(scene().quantize(4), "TIFF"), AS_IT_IS),
    "TIFF, 16 bits":                    (lambda: tiff(rgb(16), 16), AS_IT_IS),
    "TIFF, 16 bits, big-endian":        (lambda: tiff(rgb(16), 16, order=">"), AS_IT_IS),
    "TIFF, 16-bit grey":                (lambda: tiff(grey(16), 16), Shown(greys())),
    "TIFF, 16-bit grey, white is zero": (lambda: tiff(65535 - grey(16), 16, t262=0), Shown(greys())),
    "TIFF, grey, white is zero":        (lambda: tiff(255 - grey(), t262=0), Shown(greys())),
    "TIFF, transparent":                (lambda: tiff(np.concatenate([rgb(), alpha()], -1), t338=2), HALF_WHITE),
    "TIFF, transparent, premultiplied": (lambda: tiff(np.concatenate([rgb() * (alpha() > 0), alpha()], -1), t338=1), HALF_WHITE),
    "TIFF, CMYK":                       (lambda: saved(scene().convert("CMYK"), "TIFF"), AS_IT_IS),
    "TIFF, Lab": (
        lambda: saved(Image.new("LAB", (64, 48), (128, 128, 128)), "TIFF"),
        Shown(((119, 119, 119),) * 4, 4),
    ),
    "TIFF, profile":                    (lambda: saved(scene(), "TIFF", icc_profile=swapped_profile()), SWAPPED),
    "TIFF on its side":                 (lambda: saved(held(6), "TIFF", exif=exif(orientation=6)), AS_IT_IS),
    "TIFF with a thumbnail":            (lambda: pages(1), AS_IT_IS),
    "TIFF of two pages":                (lambda: pages(0), "animated"),
    "TIFF, 32-bit":                     (lambda: saved(Image.new("I", (8, 8), 70_000), "TIFF"), "unsupported"),
    "TIFF, floating point":             (lambda: saved(Image.new("F", (8, 8), 0.5), "TIFF"), "unsupported"),
    "TIFF, half":                       (lambda: saved(scene(), "TIFF")[:4000], "truncated"),
    "TIFF, no strips":                  (lambda: LONG + bytes(40), "not_an_image"),
}  # fmt: skip


def _idat(data: bytes) -> bytes:
    return chunk(b"IDAT", data)


def _with_text(png: bytes) -> bytes:
    return png[:-12] + chunk(b"tEXt", b"Comment\0none") + png[-12:]


def _long_text(kind: str) -> bytes:
    """As WebUI (parameters) and ComfyUI (a workflow) write it."""
    notes = PngImagePlugin.PngInfo()
    (notes.add_itxt if kind == "iTXt" else notes.add_text)("workflow", "a prompt " * 250_000, zip=True)
    return saved(scene(), "PNG", pnginfo=notes)


def _large_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2_000_000)


def _avif(primaries: int, transfer: int) -> bytes:
    """An AVIF that states these codes of ISO/IEC 23091-2."""
    data = saved(scene(), "AVIF", quality=95, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    return data[:at] + primaries.to_bytes(2, "big") + transfer.to_bytes(2, "big") + data[at + 4 :]


def _heic() -> bytes:
    """What the extra `heic` reads."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    return saved(scene(), "HEIF", quality=95)


def _half() -> Image.Image:
    image = scene()
    image.putalpha(Image.fromarray(alpha()[..., 0].astype(np.uint8)))
    return image


def _see_through() -> Image.Image:
    image = Image.fromarray(palette()[0][..., 0].astype(np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE, *SAND])
    return image


def _many_colors() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def _large_canvas() -> bytes:
    data = bytearray(saved(scene(), "GIF"))
    data[6:10] = b"\xff\xff\xff\xff"
    return bytes(data)


def test_there_are_many() -> None:
    assert len(ODD) >= 100


@pytest.mark.parametrize("name", ODD)
def test_outcome(name: str) -> None:
    make, outcome = ODD[name]
    data = make()
    if isinstance(outcome, str):
        with pytest.raises(DecodeError) as caught:
            decode(data)
        assert caught.value.reason == outcome, caught.value.detail
        return
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", outcome.size)
    assert probe(data)[:2] == outcome.size
    assert not image.info  # nothing of the old file is written into the next
    if outcome.quarters is not None:
        width, height = image.size
        places = [(x * width // 4, y * height // 4) for y in (1, 3) for x in (1, 3)]
        seen = [image.getpixel(place) for place in places]
        assert np.abs(np.array(seen, int) - np.array(outcome.quarters, int)).max() <= outcome.within, seen


@pytest.mark.parametrize("name", [name for name in ODD if name.startswith("JPEG")])
def test_decoding_small_has_the_same_outcome(name: str) -> None:
    """At an eighth of its size, a JPEG is refused for the same reason."""
    make, outcome = ODD[name]
    data = make()
    if isinstance(outcome, str):
        with pytest.raises(DecodeError) as caught:
            decode(data, at_least=4)
        assert caught.value.reason == outcome
    else:
        assert decode(data, at_least=4).mode == "RGB"


def test_what_is_decoded_can_be_decoded_again() -> None:
    for make, outcome in ODD.values():
        if not isinstance(outcome, str):
            image = decode(make())
            out = io.BytesIO()
            image.save(out, "PNG")
            assert decode(out.getvalue()).tobytes() == image.tobytes()
