"""Pixels of any mode and colour space -> 8-bit sRGB on white, as a careful viewer shows them.

What the numbers of a file mean is said, in this order, by its ICC profile, a PNG's sRGB chunk, a PNG's gAMA and cHRM, or
a camera's mark that it wrote Adobe RGB (DCF 2.0: EXIF interoperability index R03); where nothing says it, sRGB is meant.
All conversions are littleCMS', relative colorimetric with black point compensation.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# The mode of an image -> the colour space that its ICC profile must be for.
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
# x and y of white, red, green and blue.
_SRGB_XY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # IEC 61966-2-1
_ADOBE_XY = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)  # Adobe RGB (1998), 4.3.1
_ADOBE_GAMMA = 2.19921875
_SRGB_GAMMA = 2.2  # what a PNG's gAMA of 45455 says, and sRGB is meant by it
_D50 = np.array([0.9642, 1.0, 0.8249])  # ICC.1:2022, 7.2.16
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0
_EXIF_IFD, _INTEROP_IFD, _COLOUR_SPACE, _INTEROP_INDEX, _UNCALIBRATED = 0x8769, 0xA005, 0xA001, 1, 0xFFFF


class UnsupportedMode(ValueError):
    """Pixels whose white is not defined, or whose mode no image has."""


def to_srgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB in sRGB on white, same size; `image` itself where it is that already. `image` is loaded.

    Raises UnsupportedMode for 32-bit or floating-point pixels, or a mode that no image has.
    """
    profile = image.info.get("icc_profile") or _implied_profile(image)
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
        raise UnsupportedMode(f"mode {image.mode}")
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
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
            values = 65535 - values  # Pillow does so at 8 bits only
        scaled = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        if isinstance(through := image.info.get("transparency"), int):
            scaled.putalpha(Image.fromarray(np.where(values == through, 0, 255).astype(np.uint8)))
        return scaled
    if image.mode in ("I", "F"):
        depth = "32-bit" if image.mode == "I" else "floating-point"
        raise UnsupportedMode(f"{depth} pixels have no fixed white")
    return image


def _managed(image: Image.Image, profile: bytes | None) -> Image.Image:
    lab = image.mode == "LAB"  # says itself which colours it means, and Pillow converts it through ICC only
    transform = _transform(None if lab else profile, image.mode) if profile or lab else None
    if transform is None and image.mode == "L" and profile:
        # A grey image may carry the profile of the RGB one that it was.
        image = image.convert("RGB")
        transform = _transform(profile, "RGB")
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")  # to convert RGB would only copy it
    managed = ImageCms.applyTransform(image, transform)
    assert managed is not None  # only with inPlace=True
    return managed


@lru_cache(maxsize=64)
def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an image's profile to sRGB; None when the profile is sRGB, damaged, or for another colour space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        if isinstance(source, ImageCms.ImageCmsProfile):
            if source.profile.xcolor_space.strip() != _SPACES[mode]:
                return None
            if mode == "RGB" and (source.profile.profile_description or "").startswith("sRGB"):
                return None
        # A fine table costs 0.1 s per CMYK profile, and keeps the darkest colours within a visible step.
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.HIGHRESPRECALC
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _implied_profile(image: Image.Image) -> bytes | None:
    """The profile of an image that carries none, but says in another way that it is not sRGB."""
    if image.format == "PNG" and "srgb" not in image.info:
        gamma = image.info.get("gamma") or 1 / _SRGB_GAMMA
        places = image.info.get("chromaticity") or _SRGB_XY
        usual = abs(gamma * _SRGB_GAMMA - 1) < 0.05 and np.allclose(places, _SRGB_XY, atol=0.002)
        return None if usual else matrix_profile(1 / gamma, tuple(places))
    if image.format in ("JPEG", "MPO", "TIFF") and _says_adobe_rgb(image):
        return matrix_profile(_ADOBE_GAMMA, _ADOBE_XY)
    return None


def _says_adobe_rgb(image: Image.Image) -> bool:
    if image.format != "TIFF" and "exif" not in image.info:
        return False
    try:
        exif = image.getexif()
        camera = exif.get_ifd(_EXIF_IFD)
        if camera.get(_COLOUR_SPACE) != _UNCALIBRATED:
            return False
        interop = camera.get(_INTEROP_IFD)
        index = (interop if isinstance(interop, dict) else exif.get_ifd(_INTEROP_IFD)).get(_INTEROP_INDEX, "")
        return str(index).strip("\0 ") == "R03"
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return False


@lru_cache(maxsize=64)
def matrix_profile(gamma: float, places: Sequence[float]) -> bytes | None:
    """Return an ICC v2 display profile for an RGB space, or None where the primaries span none.

    `gamma`: light = value ** gamma; `places`: x and y of white, red, green and blue (CIE 1931).
    Source: ICC.1:2001-04, sections 6.3.1.2 and 6.5; adaptation to D50 by Bradford.
    """
    try:
        white, *primaries = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in zip(*[iter(places)] * 2, strict=True))
        columns = np.array(primaries).T
        columns = columns * np.linalg.solve(columns, white)  # so that 1, 1, 1 is white
        scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
        columns = np.linalg.inv(_BRADFORD) @ (scale[:, None] * (_BRADFORD @ columns))
        colors = [_xyz(column) for column in (*columns.T, _D50)]
        curve = struct.pack(">4s4xIHxx", b"curv", 1, round(gamma * 256))
    except (ZeroDivisionError, ValueError, np.linalg.LinAlgError, struct.error):
        return None
    text = b"implied\0"
    description = struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(78)
    tags = {
        b"desc": description + bytes(-len(description) % 4), b"cprt": struct.pack(">4s4x", b"text") + b"none\0\0\0\0",
        b"wtpt": colors[3], b"rXYZ": colors[0], b"gXYZ": colors[1], b"bXYZ": colors[2],
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header + bytes(28) + _xyz(_D50)[8:] + bytes(48) + table + body


def _xyz(values: np.ndarray) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(float(value) * 65536) for value in values))
