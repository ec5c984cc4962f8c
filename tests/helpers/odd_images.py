"""Odd image files, written by hand where Pillow cannot write them: what test_odd_images shows to the decoder.

All of them show `scene()`, as well as their kind of file can: four quarters of one colour each.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

RED, GREEN, BLUE, SAND = (220, 20, 20), (20, 200, 20), (20, 20, 220), (230, 220, 40)
WIDTH, HEIGHT = 64, 48


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Red, green, blue and sand, from the top left in reading order."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, SAND
    return Image.fromarray(pixels)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    return saved(image or scene(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def noisy(**options: Any) -> bytes:
    """A JPEG whose data are long enough to be cut in many places."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), "JPEG", quality=90, **options)


def frames(format: str, count: int = 2, **options: Any) -> bytes:
    """A file of several images, each a little different."""
    several = [Image.new("RGB", (WIDTH, HEIGHT), (9 * n, 0, 0)) for n in range(1, count)]
    return saved(scene(), format, save_all=True, append_images=several, **options)


def exif(**tags: int | str) -> Image.Exif:
    made = Image.Exif()
    for name, value in tags.items():
        made[{"orientation": 0x0112, "description": 0x010E}[name]] = value
    return made


def held(orientation: int) -> Image.Image:
    """The scene as the sensor sees it when the camera is held so (EXIF 2.32, 4.6.4)."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    return scene().transpose(Image.Transpose(undo[orientation])) if orientation in undo else scene()


def marked_adobe_rgb(pixels: Image.Image) -> bytes:
    """A JPEG as cameras set to Adobe RGB write it: no profile, EXIF says uncalibrated, interoperability R03 (DCF 2.0)."""
    made = Image.Exif()
    made.get_ifd(0x8769)[0xA001] = 0xFFFF
    made.get_ifd(0x8769)[0xA005] = {1: "R03"}
    return jpeg(pixels, exif=made)


def ycck() -> bytes:
    """Adobe's four-component JPEG with luma and chroma of the inks: Pillow writes CMYK, so the marker is changed."""
    inks = np.asarray(scene().convert("CMYK"))
    ycc = np.asarray(Image.fromarray(np.ascontiguousarray(inks[..., :3])).convert("YCbCr"))
    stored = Image.fromarray(np.concatenate([255 - ycc, inks[..., 3:]], axis=-1), "CMYK")
    data = jpeg(stored)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def changed(data: bytes, at: int, count: int = 8) -> bytes:
    return data[:at] + bytes(255 - byte for byte in data[at : at + count]) + data[at + count :]


# PNG, by its specification (www.w3.org/TR/png-3)


def chunk(kind: bytes, data: bytes, crc: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ crc)


def png(
    samples: np.ndarray, depth: int = 8, *, color: int, interlaced: bool = False, extra: Iterable[bytes] = ()
) -> bytes:
    """A PNG of samples [height, width, channels] of `depth` bits; `color`: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""
    height, width = samples.shape[:2]
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [samples[y::down, x::across] for y, x, down, across in adam7] if interlaced else [samples]
    rows = b""
    for part in passes:
        for row in part if part.shape[1] else ():
            rows += b"\0" + _packed(row.reshape(-1), depth)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    body = b"".join([chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + body


def _packed(values: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return values.astype(">u2").tobytes()
    if depth == 8:
        return values.astype(np.uint8).tobytes()
    bits = (values[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def rgb(depth: int = 8) -> np.ndarray:
    """The scene's samples at 8 or 16 bits, int [height, width, 3]."""
    return np.asarray(scene(), int) * (257 if depth == 16 else 1)


def grey(depth: int = 8) -> np.ndarray:
    """The scene in grey at 1 to 16 bits, int [height, width, 1]."""
    return np.asarray(scene().convert("L"), int)[..., None] * (2**depth - 1) // 255


def alpha(depth: int = 8) -> np.ndarray:
    """The lower half is transparent, int [height, width, 1]."""
    shown = np.zeros((HEIGHT, WIDTH, 1), int)
    shown[: HEIGHT // 2] = 2**depth - 1
    return shown


def palette() -> tuple[np.ndarray, bytes]:
    """The scene as indices 0 to 3, and the PLTE chunk."""
    quarters = np.indices((HEIGHT, WIDTH)) // np.array([HEIGHT // 2, WIDTH // 2])[:, None, None]
    return (2 * quarters[0] + quarters[1])[..., None], chunk(b"PLTE", bytes((*RED, *GREEN, *BLUE, *SAND)))


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries(*places: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in places)))


def broken_png(change: Callable[[bytes], bytes]) -> bytes:
    """A PNG with its parts, as its data are changed by `change` after compression."""
    data = saved(scene(), "PNG")
    start = data.index(b"IDAT") - 4
    size = struct.unpack(">I", data[start : start + 4])[0]
    return data[:start] + change(data[start + 8 : start + 8 + size]) + data[start + 12 + size :]


def pixel_bomb() -> bytes:
    """A PNG of a few kB that claims 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(5_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "x" * 80_000_000, zip=True)
    return saved(scene(), "PNG", pnginfo=notes)


def profile_bomb() -> bytes:
    """A PNG whose colour profile unpacks to 100 MB."""
    packed = chunk(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(100_000_000)))
    return png(rgb(), color=2, extra=[packed])


# TIFF, by its specification (TIFF 6.0)


def tiff(
    samples: np.ndarray, depth: int = 8, *, order: str = "<", planes: bool = False, **tags: int | tuple[int, ...]
) -> bytes:
    """An uncompressed TIFF of samples [height, width, channels]; `tags` by number, as t262=2."""
    height, width, channels = samples.shape
    kind = np.dtype(f"{order}u{depth // 8}")
    strips = [samples[..., n] for n in range(channels)] if planes else [samples]
    data = [np.ascontiguousarray(strip).astype(kind).tobytes() for strip in strips]
    starts = [8 + sum(map(len, data[:n])) for n in range(len(data))]
    entries: dict[int, int | tuple[int, ...]] = {
        256: width, 257: height, 258: (depth,) * channels, 259: 1, 262: 2 if channels >= 3 else 1,
        273: tuple(starts), 277: channels, 278: height, 279: tuple(map(len, data)), 284: 2 if planes else 1,
        **{int(name[1:]): value for name, value in tags.items()},
    }  # fmt: skip
    body = b"".join(data)
    directory, beside = struct.pack(f"{order}H", len(entries)), b""
    behind = 8 + len(body) + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            beside, packed = beside + packed, struct.pack(f"{order}I", behind + len(beside))
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(body)) + body + directory + bytes(4) + beside


def pages(second: int) -> bytes:
    """A TIFF of two pages, whose second has this NewSubfileType."""
    small = scene(16, 12)
    small.encoderinfo = {"tiffinfo": {254: second}}  # type: ignore[attr-defined]
    return saved(scene(), "TIFF", save_all=True, append_images=[small])


# Colour profiles


def swapped_profile() -> bytes:
    """sRGB's profile with the red and the blue primary exchanged: unmistakable."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")
    return data.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def bits_apart(a: str, b: str) -> int:
    """In how many of 64 bits two perceptual hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()
