"""Bytes from anywhere -> RGB pixels as their photographer meant them, or a `DecodeError` with a reason code.

Formats: JPEG, PNG, WebP, GIF, TIFF, AVIF and BMP, and with the extra `heic` HEIC; one image each. Pixels come out upright
(EXIF), in sRGB (ICC), 8 bits, with transparency on white. Truncation is an error: nothing is filled in or guessed.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import suppress
from typing import NamedTuple

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from commonart.core.data.images.color import UnsupportedMode, to_srgb
from commonart.core.data.images.integrity import jpeg_is_complete, png_chunks, png_is_complete

MAX_PIXELS = 89_478_485  # Pillow's own threshold for a bomb: 256 MiB of RGB
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")
# Format by Pillow's name -> (MIME type, file extension). MPO is a JPEG with further images behind the first.
MIMES = {
    "JPEG": ("image/jpeg", "jpg"),
    "MPO":  ("image/jpeg", "jpg"),
    "PNG":  ("image/png", "png"),
    "WEBP": ("image/webp", "webp"),
    "GIF":  ("image/gif", "gif"),
    "TIFF": ("image/tiff", "tif"),
    "AVIF": ("image/avif", "avif"),
    "BMP":  ("image/bmp", "bmp"),
    "HEIF": ("image/heic", "heic"),
}  # fmt: skip
EXTENSIONS = dict(MIMES.values())
RESAMPLES = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}

# EXIF tag 0x0112 -> what puts the image upright (EXIF 2.32, 4.6.4).
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
_SAYING = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # the chunks of a PNG that may hold EXIF or XMP
_HEIC = re.compile(rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)(?!.{4,40}avif)", re.DOTALL)
# How files of formats begin that are not read.
_NOT_READ = {
    "HEIC": _HEIC,
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n"),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "PSD": re.compile(rb"8BPS"),
    "PDF": re.compile(rb"%PDF"),
}
# ISO/IEC 14496-12, 12.1.5: primaries and transfer (ISO/IEC 23091-2).
_NCLX = re.compile(rb"colrnclx(..)(..)", re.DOTALL)
_SRGB_CODES = ({1, 2}, {1, 2, 6, 13, 14, 15})  # and what is not stated; curves of video are shown as sRGB's
_ON_ITS_SIDE = (5, 6, 7, 8)
_SUBFILE, _REDUCED = 254, 1  # TIFF 6.0, NewSubfileType: a reduced copy of another page

# WebUI and ComfyUI write whole workflows into their PNGs; of all text together Pillow still takes 64 MiB at most.
MAX_TEXT = 16 << 20  # bytes
PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
# What Pillow warns of is an error here, or does not touch the pixels; a million records would print it a million times.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class DecodeError(Exception):
    """An image that is not used. `reason` is a code: empty, not_an_image, too_many_pixels, animated, truncated,
    unsupported, damaged; `detail` says what the decoder said."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class Probe(NamedTuple):
    """What the header says: the upright size in pixels, and the MIME type."""

    width: int
    height: int
    mime: str


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Probe:
    """Read the header only, at about 30 us; pixels may still turn out to be damaged.

    Raises DecodeError: empty, not_an_image, too_many_pixels, damaged.
    """
    return ProbedImage(data, max_pixels).probe


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | tuple[int, int] = 0) -> Image.Image:
    """Decode one image to RGB, upright, sRGB, on white; see `ProbedImage.pixels`. Raises DecodeError."""
    return ProbedImage(data, max_pixels).pixels(at_least)


def decode_within(data: bytes, side: int) -> Image.Image:
    """Decode an image to RGB whose longer side has at most `side` pixels.

    Raises:
        DecodeError: as `decode`.
    """
    probed = ProbedImage(data)
    scale = min(1.0, side / max(probed.probe.width, probed.probe.height))
    size = max(1, round(probed.probe.width * scale)), max(1, round(probed.probe.height * scale))
    pixels = probed.pixels(size)  # a JPEG at a fraction of its size
    return pixels if pixels.size == size else pixels.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


class ProbedImage:
    """An image whose header was read, `probe`, and which can then be decoded, once. Raises as the function `probe`."""

    __slots__ = ("_data", "_image", "_orientation", "probe")

    def __init__(self, data: bytes, max_pixels: int = MAX_PIXELS) -> None:
        self._data, self._image = data, _open(data, max_pixels)
        self._orientation = _orientation(self._image, data)
        width, height = self._image.size
        # Pillow turns TIFF by itself, and reports the size that it will have.
        if self._image.format != "TIFF" and self._orientation in _ON_ITS_SIDE:
            width, height = height, width
        self.probe = Probe(width, height, MIMES[self._image.format or ""][0])

    def pixels(self, at_least: int | tuple[int, int] = 0) -> Image.Image:
        """RGB, upright, sRGB, on white. Raises DecodeError.

        When the result will be scaled down to cover `at_least` (side, or width x height, upright), a JPEG may be decoded at
        1/2, 1/4 or 1/8 of its size by its own transform, as long as it stays at least twice that large.
        """
        with self._image as image:
            try:
                if _several(image):
                    raise DecodeError("animated", f"{image.format} with several images")
                jpeg = image.format in ("JPEG", "MPO")
                draft = _draft(at_least, self._orientation) if at_least and jpeg else None
                if draft is not None:
                    image.draft(None, draft)
                image.load()
                if jpeg and not jpeg_is_complete(self._data, image, draft):
                    raise DecodeError("truncated", "the JPEG ends before its image")
                if image.format in ("AVIF", "HEIF") and not image.info.get("icc_profile"):
                    _check_srgb(self._data)
                if image.format == "PNG" and not png_is_complete(self._data):
                    raise DecodeError("damaged", "a checksum does not fit")
                pixels = to_srgb(image)
                # Pillow would write the old profile and EXIF into whatever these pixels are saved as.
                pixels.info = {}
                upright = None if image.format == "TIFF" else _UPRIGHT.get(self._orientation)
                return pixels if upright is None else pixels.transpose(upright)
            except DecodeError:
                raise
            except UnsupportedMode as error:
                raise DecodeError("unsupported", str(error)) from error
            except Exception as error:  # hostile bytes make Pillow's readers raise nearly any type
                raise _reading(error, self._data) from error


def resize_crop(image: Image.Image, size: int | tuple[int, int], resample: str = "lanczos") -> Image.Image:
    """Scale so that `size` (side, or width x height) is covered, and cut out the centre, in one pass.

    `resample`: lanczos (sharper; where the scale is below 1/6, whole pixels are averaged to three times the size first), or
    area: the mean of what a pixel covers, at a third of the cost.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    across, down = width * scale, height * scale
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), RESAMPLES[resample], box=box, reducing_gap=3.0)


def encode(image: Image.Image, format: str, quality: int = 95) -> bytes:
    """Return the bytes of an RGB image as `jpg` (4:4:4), `png` or `webp`, without metadata: same pixels, same bytes.

    `quality`: 1 to 100 for jpg and webp; WebP at 100 is lossless. PNG always is.
    """
    out = io.BytesIO()
    if format == "jpg":
        image.save(out, "JPEG", quality=quality, subsampling=0)
    elif format == "png":
        image.save(out, "PNG", compress_level=6)
    elif format == "webp":
        image.save(out, "WEBP", quality=quality, lossless=quality == 100, method=4)
    else:
        raise ValueError(f"format must be jpg, png or webp, not {format}")
    return out.getvalue()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise DecodeError("empty")
    formats = _formats_of(data)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        if data[4:12] in (b"ftypavif", b"ftypavis") or formats != FORMATS:
            raise DecodeError("damaged", "it begins as an AVIF or HEIC, and cannot be read") from error
        raise DecodeError("not_an_image", _looks_like(data)) from error
    except Image.DecompressionBombError as error:
        raise DecodeError("too_many_pixels", str(error)) from error
    except Exception as error:
        raise _reading(error, data) from error
    if image.width * image.height > max_pixels:
        raise DecodeError("too_many_pixels", f"{image.width} x {image.height}")
    return image


def _reading(error: Exception, data: bytes) -> DecodeError:
    text = str(error)
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return DecodeError("too_many_pixels", text)
    cut = ("truncated", "premature", "incomplete", "unexpected end", "not enough image data")
    # A WebP says how long it is, and its decoder only that it failed.
    short = data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    early = short or isinstance(error, EOFError) or any(word in text.lower() for word in cut)
    return DecodeError("truncated" if early else "damaged", text or type(error).__name__)


def _formats_of(data: bytes) -> tuple[str, ...]:
    """The formats to try: HEIC alone where the bytes begin like it and the package that reads it is installed."""
    if _HEIC.match(data):
        with suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
            return ("HEIF",)
    return FORMATS


def _looks_like(data: bytes) -> str:
    if format := next((name for name, start in _NOT_READ.items() if start.match(data)), ""):
        return f"{format}: {'pillow-heif reads it (the extra heic), or ' if format == 'HEIC' else ''}convert it"
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<svg")):
        return "a page or XML"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: git lfs pull downloads the file"
    return f"begins with {data[:8].hex()}"


def _orientation(image: Image.Image, data: bytes) -> int:
    try:
        if image.format == "HEIF":  # its reader has turned the pixels
            return 1
        if image.format == "PNG":
            if not any(kind in _SAYING for kind, _, _ in png_chunks(data)):
                return 1
            # Pillow decodes all pixels to look behind them, and after a failure `load` would pass with half an image.
            with Image.open(io.BytesIO(data), formats=("PNG",)) as other:
                return int(other.getexif().get(_ORIENTATION, 1))
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _check_srgb(data: bytes) -> None:
    """Raise UnsupportedMode where an AVIF or HEIC states other primaries or another transfer curve than sRGB's."""
    if match := _NCLX.search(data, 0, 1 << 16):
        codes = [int.from_bytes(code, "big") for code in match.groups()]
        if any(code not in known for code, known in zip(codes, _SRGB_CODES, strict=True)):
            raise UnsupportedMode("HDR or wide-gamut pixels without an ICC profile")


def _several(image: Image.Image) -> bool:
    """Whether there is more than one image. A camera's depth map or thumbnail behind its photograph does not count."""
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":  # an MPO's first image is the photograph, whatever follows
        return False
    if image.format != "TIFF" or count > 8:
        return True
    kinds = []
    for page in range(1, count):
        image.seek(page)
        kinds.append(image.tag_v2.get(_SUBFILE, 0) & _REDUCED)  # type: ignore[attr-defined]
    image.seek(0)
    return not all(kinds)


def _draft(at_least: int | tuple[int, int], orientation: int) -> tuple[int, int]:
    """The least (width, height) to decode to, as the file stores them: twice what the result will be."""
    width, height = (at_least, at_least) if isinstance(at_least, int) else at_least
    return (2 * height, 2 * width) if orientation in _ON_ITS_SIDE else (2 * width, 2 * height)
