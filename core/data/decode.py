"""Bytes from anywhere -> RGB pixels as their photographer meant them, or a `DecodeError` with a reason code.

    commonart shard raw/ -o shards/ --size 256

Formats: JPEG, PNG, WebP, GIF and TIFF, one picture each. Pixels come out upright (EXIF), in sRGB (ICC), 8 bits, with
transparency on white. Limits are errors, truncation too: nothing is filled in and nothing is guessed. No torch.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's own threshold for a bomb: 256 MiB of RGB
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
# Format by Pillow's name -> (MIME type, file extension). MPO is a JPEG with further pictures behind the first.
MIMES = {
    "JPEG": ("image/jpeg", "jpg"),
    "MPO":  ("image/jpeg", "jpg"),
    "PNG":  ("image/png", "png"),
    "WEBP": ("image/webp", "webp"),
    "GIF":  ("image/gif", "gif"),
    "TIFF": ("image/tiff", "tif"),
}  # fmt: skip
EXTENSIONS = dict(MIMES.values())

# EXIF tag 0x0112 -> what puts the picture upright (EXIF 2.32, 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# The mode of a picture -> the colour space that its ICC profile must be for.
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}

# What Pillow warns of is an error here, or does not touch the pixels; a million records would print it a million times.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class DecodeError(Exception):
    """An image that is not used. `reason` is a code: empty, not_an_image, too_many_pixels, animated, truncated,
    unsupported, damaged; `detail` says what the decoder said."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class Probe(NamedTuple):
    """What the header says: the upright size in pixels, and the MIME type."""

    width: int
    height: int
    mime: str


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Probe:
    """Read the header only, at about 30 us; pixels may still turn out to be damaged.

    Raises:
        DecodeError: empty, not_an_image, too_many_pixels, damaged.
    """
    with _open(data, max_pixels) as image:
        width, height = image.size
        # Pillow turns TIFF by itself, and reports the size that it will have.
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return Probe(width, height, MIMES[image.format or ""][0])


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int = 0) -> Image.Image:
    """Decode one picture to RGB, upright, sRGB, on white.

    Args:
        max_pixels: the largest width x height that is decoded.
        at_least: when the result will be scaled down to this many pixels, a JPEG may be decoded at 1/2, 1/4 or 1/8 of
            its size by its own transform, as long as both sides stay at least twice that long.

    Raises:
        DecodeError: see there.
    """
    with _open(data, max_pixels) as image:
        try:
            # Phones write further pictures (depth, gain map) into one JPEG; only the first is the photograph.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise DecodeError("animated", f"{image.format} with several pictures")
            if at_least and image.format == "JPEG":
                image.draft(None, _draft_size(image.size, 2 * at_least))
            image.load()
            upright = _UPRIGHT.get(_orientation(image))
            pixels = _to_srgb(image)
            # Pillow would write the old profile and EXIF into whatever these pixels are saved as.
            pixels.info = {}
            return pixels if upright is None else pixels.transpose(upright)
        except DecodeError:
            raise
        except Exception as error:  # hostile bytes make Pillow's readers raise nearly any type
            raise _reading(error) from error


def resize_crop(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Scale with Lanczos so that `size` (side, or width x height) is covered, and cut out the centre, in one pass."""
    width, height = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    across, down = width * scale, height * scale
    left, top = (image.width - across) / 2, (image.height - down) / 2
    return image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + across, top + down))


def encode(image: Image.Image, format: str, quality: int = 95) -> bytes:
    """The bytes of an RGB image as `jpg` (4:4:4), `png` or `webp`, without metadata: same pixels, same bytes.

    Args:
        quality: 1 to 100 for jpg and webp; WebP at 100 is lossless. PNG always is.
    """
    out = io.BytesIO()
    if format == "jpg":
        image.save(out, "JPEG", quality=quality, subsampling=0)
    elif format == "png":
        image.save(out, "PNG", compress_level=6)
    elif format == "webp":
        image.save(out, "WEBP", quality=quality, lossless=quality == 100, method=4)
    else:
        raise ValueError(f"{format} is none of jpg, png, webp")
    return out.getvalue()


def phash(image: Image.Image) -> str:
    """The 64-bit perceptual hash of a picture, 16 hexadecimal digits: 8 x 8 lowest DCT terms of 32 x 32 grey pixels
    against their median (Zauner 2010, section 3.2.1). Near-duplicates differ in few bits."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    basis = _dct_basis()
    # Rounding keeps the bits of flat areas, where all terms are zero but for float noise, the same everywhere.
    terms = np.round(basis @ grey @ basis.T, 2).ravel()
    bits = np.packbits(terms > np.median(terms[1:]))
    return bits.tobytes().hex()


def phash_distance(a: str, b: str) -> int:
    """In how many of 64 bits two perceptual hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise DecodeError("empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError("not_an_image", _looks_like(data)) from error
    except Image.DecompressionBombError as error:
        raise DecodeError("too_many_pixels", str(error)) from error
    except Exception as error:
        raise _reading(error) from error
    if image.width * image.height > max_pixels:
        raise DecodeError("too_many_pixels", f"{image.width} x {image.height}")
    return image


def _reading(error: Exception) -> DecodeError:
    text = str(error)
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return DecodeError("too_many_pixels", text)
    cut = ("truncated", "premature", "incomplete", "unexpected end", "not enough image data")
    reason = "truncated" if isinstance(error, EOFError) or any(word in text.lower() for word in cut) else "damaged"
    return DecodeError(reason, text or type(error).__name__)


def _looks_like(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<svg")):
        return "a page or XML"
    return f"begins with {data[:8].hex()}"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _draft_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB in sRGB on white."""
    profile = image.info.get("icc_profile")
    image = _eight_bits(image)
    alpha: Image.Image | None = None
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("P", "YCbCr", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in _SPACES:
        raise DecodeError("unsupported", f"mode {image.mode}")
    pixels = _managed(image, profile)
    if alpha is None:
        return pixels
    white = Image.new("RGB", pixels.size, (255, 255, 255))
    white.paste(pixels, mask=alpha)
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits (Pillow's own conversion clips at 255); 32-bit and floating point have no scale."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        values = np.asarray(image).astype(np.uint32)
        scaled = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}
        return scaled
    if image.mode in ("I", "F"):
        raise DecodeError(
            "unsupported", f"{'32-bit' if image.mode == 'I' else 'floating-point'} pixels have no fixed white"
        )
    return image


def _managed(image: Image.Image, profile: bytes | None) -> Image.Image:
    lab = image.mode == "LAB"  # says itself which colours it means, and Pillow converts it through ICC only
    transform = _transform(None if lab else profile, image.mode) if profile or lab else None
    managed = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
    assert managed is not None  # only with inPlace=True
    return managed


@lru_cache(maxsize=64)
def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a picture's profile to sRGB; None when the profile is sRGB, damaged, or for another colour space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        if isinstance(source, ImageCms.ImageCmsProfile):
            if source.profile.xcolor_space.strip() != _SPACES[mode]:
                return None
            if mode == "RGB" and (source.profile.profile_description or "").startswith("sRGB"):
                return None
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=1)
def _dct_basis() -> np.ndarray:
    """The first 8 rows of the DCT-II of 32 points, float32 [8, 32]."""
    k, n = np.arange(8)[:, None], np.arange(32)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / 64).astype(np.float32)
