"""Colour: what comes out is what the profile means, by our own arithmetic and by littleCMS at its most careful."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from odd_images import gamma, jpeg, marked_adobe_rgb, png, primaries, saved
from PIL import Image, ImageCms

from commonart.core.data.images.decode import decode

D50 = np.array([0.96422, 1.0, 0.82521])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65 = (0.3127, 0.329)
# Space -> x and y of red, green and blue (IEC 61966-2-1; Adobe RGB (1998); SMPTE EG 432-1 with D65).
SPACES = {
    "sRGB":      ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}  # fmt: skip


def to_xyz(space: str) -> np.ndarray:
    """Linear RGB -> XYZ relative to D50, float64 [3, 3]."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in SPACES[space]]).T
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    columns = columns * np.linalg.solve(columns, white)
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD @ columns


def to_light(space: str, values: np.ndarray) -> np.ndarray:
    if space == "Adobe RGB":
        return values**2.19921875
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_light(space: str, light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    if space == "Adobe RGB":
        return light ** (1 / 2.19921875)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def to_lab(xyz: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of XYZ [..., 3] relative to D50."""
    t = xyz / D50
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def srgb_lab(pixels: np.ndarray) -> np.ndarray:
    return to_lab(to_light("sRGB", pixels / 255) @ to_xyz("sRGB").T)


def ciede2000(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula", 2005, equations 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(two, -1, 0)
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = (h2 - h1 + 180) % 360 - 180
    turn = np.where(c1 * c2 == 0, 0, turn)
    light, chroma, hue = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    mean, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = np.where(c1 * c2 == 0, h1 + h2, (h1 + turn / 2) % 360)
    t = 1 - 0.17 * np.cos(np.radians(h - 30)) + 0.24 * np.cos(np.radians(2 * h))
    t = t + 0.32 * np.cos(np.radians(3 * h + 6)) - 0.20 * np.cos(np.radians(4 * h - 63))
    s_l = 1 + 0.015 * (mean - 50) ** 2 / np.sqrt(20 + (mean - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    r = -np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2)))) * 2 * np.sqrt(c**7 / (c**7 + 25.0**7))
    x, y, z = light / s_l, chroma / s_c, hue / s_h
    return np.sqrt(x**2 + y**2 + z**2 + r * y * z)


def test_the_ruler_itself() -> None:
    """Pairs 1, 7, 17 and 25 of Sharma's table 1."""
    pairs = np.array(
        [
            [(50, 2.6772, -79.7751), (50, 0, -82.7485)],
            [(50, 0, 0), (50, -1, 2)],
            [(50, 2.5, 0), (73, 25, -18)],
            [(60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387)],
        ]
    )
    assert np.allclose(ciede2000(pairs[:, 0], pairs[:, 1]), [2.0425, 2.3669, 27.1492, 1.2644], atol=5e-5)


def profile(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC v2 profile (ICC.1:2001-04)."""
    tags = {b"desc": struct.pack(">4s4xI", b"desc", 5) + b"test\0" + bytes(79), b"cprt": b"text\0\0\0\0none", **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02100000, kind, space, pcs, b"acsp")
    return header + bytes(28) + xyz(D50)[8:] + bytes(48) + table + body


def xyz(values: np.ndarray) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(float(v) * 65536) for v in values))


def rgb_profile(space: str) -> bytes:
    """Colorants, and the curve as 4096 points."""
    curve = np.round(to_light(space, np.linspace(0, 1, 4096)) * 65535).astype(">u2").tobytes()
    tags = {b"wtpt": xyz(D50)}
    for letter, column in zip("rgb", to_xyz(space).T, strict=True):
        tags[f"{letter}XYZ".encode()] = xyz(column)
        tags[f"{letter}TRC".encode()] = struct.pack(">4s4xI", b"curv", 4096) + curve
    return profile(b"RGB ", b"XYZ ", b"mntr", tags)


def inks(cmyk: np.ndarray) -> np.ndarray:
    """XYZ of four inks (0 to 1) [..., 4] printed over each other: each lets a part of the light through."""
    through = np.array([[0.93, 0.30, 0.12], [0.18, 0.88, 0.25], [0.03, 0.14, 0.90], [1.0, 1.0, 1.0]])
    light = np.prod(1 - cmyk[..., None] * through, axis=-2)
    return light @ to_xyz("sRGB").T


def cmyk_profile(grid: int = 13) -> bytes:
    """A printer's profile: `inks` as a table of 13 x 13 x 13 x 13 L*a*b* colours, 171 kB (lut16Type, 6.5.7)."""
    steps = np.linspace(0, 1, grid)
    lab = to_lab(inks(np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), -1)).reshape(-1, 3))
    coded = np.clip(
        np.round(np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], -1)), 0, 65535
    )
    identity = struct.pack(">2H", 0, 65535)
    unit = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table = struct.pack(">4s4x4B", b"mft2", 4, 3, grid, 0) + unit + struct.pack(">2H", 2, 2)
    table += identity * 4 + coded.astype(">u2").tobytes() + identity * 3
    return profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": xyz(D50), b"A2B0": table})


CMYK = cmyk_profile()


def patches(values: np.ndarray, mode: str) -> Image.Image:
    """Values [n, channels] as a row of squares of 16 pixels, which JPEG at its best leaves alone."""
    return Image.fromarray(np.repeat(np.repeat(values[None], 16, 0), 16, 1).astype(np.uint8), mode)


def seen(data: bytes) -> np.ndarray:
    return np.asarray(decode(data), float)[8, 8::16]


def in_gamut(space: str, count: int = 400) -> np.ndarray:
    """8-bit values of a space whose colours sRGB can show, [n, 3]."""
    colors = np.random.default_rng(7).random((count, 3))
    light = to_light("sRGB", colors) @ np.linalg.inv(np.linalg.inv(to_xyz("sRGB")) @ to_xyz(space)).T
    return np.round(from_light(space, light) * 255)


def meant(space: str, values: np.ndarray) -> np.ndarray:
    return to_lab(to_light(space, values / 255) @ to_xyz(space).T)


BEST = {"quality": 100, "subsampling": 0}
RGB_FILES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "P3 in PNG":        ("Display P3", lambda image: saved(image, "PNG", icc_profile=rgb_profile("Display P3"))),
    "P3 in TIFF":       ("Display P3", lambda image: saved(image, "TIFF", icc_profile=rgb_profile("Display P3"))),
    "P3 in WebP":       ("Display P3", lambda image: saved(image, "WEBP", lossless=True, icc_profile=rgb_profile("Display P3"))),
    "P3 in JPEG":       ("Display P3", lambda image: jpeg(image, **BEST, icc_profile=rgb_profile("Display P3"))),
    "Adobe RGB in PNG": ("Adobe RGB", lambda image: saved(image, "PNG", icc_profile=rgb_profile("Adobe RGB"))),
    "Adobe RGB in JPEG": ("Adobe RGB", lambda image: jpeg(image, **BEST, icc_profile=rgb_profile("Adobe RGB"))),
    "a camera's Adobe RGB": ("Adobe RGB", marked_adobe_rgb),
    "PNG's own primaries": ("Adobe RGB", lambda image: png(
        np.asarray(image), color=2,
        extra=[gamma(1 / 2.19921875), primaries(*D65, *(v for xy in SPACES["Adobe RGB"] for v in xy))],
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", RGB_FILES)
def test_wide_rgb_is_what_it_means(name: str) -> None:
    """By arithmetic: CIEDE2000 at most 2 for 400 colours, and far less in the mean; untouched numbers would be far off."""
    space, make = RGB_FILES[name]
    values = in_gamut(space)
    found = seen(make(patches(values, "RGB")))
    distance = ciede2000(srgb_lab(found), meant(space, values))
    lossy = "JPEG" in name or "camera" in name
    assert distance.max() <= 2 and distance.mean() < (0.35 if not lossy else 0.6)
    assert np.percentile(distance, 99) <= 2
    assert ciede2000(srgb_lab(values), meant(space, values)).max() > 4


def careful(image: Image.Image, icc: bytes, mode: str) -> np.ndarray:
    """littleCMS without its short cuts, colours that sRGB cannot show included."""
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.HIGHRESPRECALC
    made = ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), outputMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=flags,
    )  # fmt: skip
    assert made is not None
    return np.asarray(made, float)[8, 8::16]


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB", "CMYK"])
def test_at_most_2_from_littlecms(name: str) -> None:
    channels = 4 if name == "CMYK" else 3
    values = np.random.default_rng(3).integers(0, 256, (500, channels))
    image = patches(values, "CMYK" if name == "CMYK" else "RGB")
    icc = CMYK if name == "CMYK" else rgb_profile(name)
    found, reference = seen(saved(image, "TIFF", icc_profile=icc)), careful(image, icc, image.mode)
    assert ciede2000(srgb_lab(found), srgb_lab(reference)).max() <= 2


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_is_what_its_profile_means(format: str) -> None:
    """A printer's table of 171 kB, in a JPEG over three segments; colours that sRGB can show."""
    values = np.random.default_rng(5).integers(0, 200, (400, 4))
    light = inks(values / 255) @ np.linalg.inv(to_xyz("sRGB")).T
    assert (light >= 0).all() and (light <= 1).all()
    image = patches(values, "CMYK")
    data = saved(image, "TIFF", icc_profile=CMYK) if format == "TIFF" else jpeg(image, quality=100, icc_profile=CMYK)
    distance = ciede2000(srgb_lab(seen(data)), to_lab(inks(values / 255)))
    assert distance.mean() < 0.6 and np.percentile(distance, 99) <= 2
    plain = srgb_lab(np.asarray(image.convert("RGB"), float)[8, 8::16])
    assert ciede2000(plain, to_lab(inks(values / 255))).max() > 10  # without the profile


def test_grey_with_a_gamma_of_its_own() -> None:
    curve = struct.pack(">4s4xIH", b"curv", 1, round(1.8 * 256))
    icc = profile(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": xyz(D50), b"kTRC": curve})
    values = np.arange(0, 256, 5)[:, None]
    found = seen(saved(patches(values[:, 0], "L"), "PNG", icc_profile=icc))
    assert ciede2000(srgb_lab(found), to_lab((values / 255) ** 1.8 * D50)).max() <= 2


def test_srgb_damaged_and_foreign_profiles_change_nothing() -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for icc in (srgb, lab, CMYK, b"no profile", srgb[:100]):
        assert decode(saved(image, "PNG", icc_profile=icc)).getpixel((4, 4)) == (200, 100, 50)


def test_a_grey_picture_with_the_profile_of_a_colour_one() -> None:
    grey = decode(saved(Image.new("L", (8, 8), 128), "PNG", icc_profile=rgb_profile("Adobe RGB"))).getpixel((4, 4))
    assert grey == (128, 128, 128) or max(abs(v - 127) for v in grey) <= 2  # type: ignore[union-attr]
