"""An imperceptible watermark, and the test that finds it again: 48 bits that survive JPEG, scaling, crops and mirroring.

The image is scaled so that its shorter side has 256 pixels. There a tile of 128 x 128, repeated, adds a wave of known
phase at each of 472 middle frequencies: seven for each bit, whose sign is the bit, and the others as a pilot, from which
the detector learns scale and offset. No weights and no training: phases and frequencies follow from a hash, and the
embedder, which knows the image and the detector, spends its energy on the waves that the image itself works against.

What the detector looks for (scale, offset, mirroring) depends on no sign of the payload. So on an image that does not
hold the payload, whatever it shows, each of its bits matches with chance 1/2, and the p-value is exactly binomial. The key
is public, as this file is: the mark shows that an image came from here, not that nobody put it there on purpose.

Sources: spread spectrum, Cox et al. 1997 (doi:10.1109/83.650120); informed by the image, Malvar and Florencio 2003
(doi:10.1109/TSP.2003.809385); a tile against crops, Kutter 1998 (doi:10.1117/12.337428); phase-only correlation, Horner
and Gianino 1984 (doi:10.1364/AO.23.000812). tests/benchmarks/watermark.py measures it.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 256  # of the shorter side where the mark is embedded and looked for; smaller images are not marked
BITS = 48
LIMIT = 1e-6  # p-values below it are a find
STRENGTHS = (46.0, 44.0, 42.0)  # PSNR in dB: the first at which the mark survives a trial JPEG by a margin

_TILE = 128
_WAVES = 7  # of each bit
_BAND = (7.0, 21.0)  # cycles per tile: below, images are strong; above, half the size or JPEG loses it
_SCALES = [1.01**-i for i in range(25)]  # of what is left of the shorter side: from all of it to four fifths
_PEAKS = 8  # offsets that are looked at more closely, by scale
_ROUNDS = 8
_MARGIN = 0.45  # mean alignment of the waves after the trial JPEG, of 1

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]
Waves = npt.NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class Detection:
    """What the detector read. `p_value`: the chance that an image without the payload matches in so many bits."""

    bits: Bits
    matches: int
    p_value: float

    @property
    def found(self) -> bool:
        return self.p_value < LIMIT


def payload(name: str = "commonart") -> Bits:
    """Return the bits that stand for a name, bool [BITS]."""
    return np.unpackbits(np.frombuffer(hashlib.shake_256(name.encode()).digest(BITS // 8), np.uint8)).astype(bool)


def p_value(matches: int) -> float:
    """Return the chance that at least so many of BITS coins fall as foretold."""
    return sum(math.comb(BITS, k) for k in range(matches, BITS + 1)) / 2**BITS


def embed(image: Image.Image, bits: Bits | None = None) -> Image.Image:
    """Return an RGB image with `bits` (default: this project's) in it; one with a side below SIDE as it is.

    The result depends on image and bits alone. Its PSNR is at least the last of STRENGTHS, rounding aside.
    """
    if min(image.size) < SIDE:
        return image
    bits = payload() if bits is None else bits
    luma = _luma(image)
    tile, mask = _tile_against(luma, bits)
    pattern = _repeat(tile, luma.shape) * mask
    small = pattern / _size(pattern)
    for psnr in STRENGTHS:
        if _survives(luma + _deviation(psnr) * small, bits):
            break
    rgb = np.asarray(image.convert("RGB"), np.float32)
    if luma.shape != rgb.shape[:2]:
        pattern = np.asarray(Image.fromarray(pattern).resize(image.size, Image.Resampling.BICUBIC))
    return Image.fromarray(_bytes(rgb + (pattern * (_deviation(psnr) / _size(pattern)))[..., None]))


def detect(image: Image.Image, bits: Bits | None = None) -> Detection:
    """Read the mark of an image, and test whether it is `bits` (default: this project's).

    An image with a side below SIDE is enlarged, since it may be a marked one that was made smaller.
    """
    bits = payload() if bits is None else bits
    read = _locate(_whiten(_luma(image))) > 0
    matches = int((read == bits).sum())
    return Detection(read, matches, p_value(matches))


@lru_cache(maxsize=1)
def _waves() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Waves]:
    """Return rows and columns in the half spectrum of a tile, and phases: _WAVES for each bit, then the pilot's."""
    row, column = np.arange(_TILE)[:, None], np.arange(_TILE // 2 + 1)[None]
    radius = np.hypot(np.minimum(row, _TILE - row), column)
    # Level and upright waves are left out: edges of things made by hand, and of JPEG's blocks, are there.
    places = np.flatnonzero((radius >= _BAND[0]) & (radius <= _BAND[1]) & (row > 0) & (column > 0))
    digest = hashlib.shake_256(b"commonart watermark 1").digest(16 * len(places))
    order, phase = np.frombuffer(digest, "<u8").reshape(2, -1)
    places = places[np.argsort(order)]
    waves = np.exp(2j * np.pi * (phase / 2.0**64)).astype(np.complex64)
    return places // (_TILE // 2 + 1), places % (_TILE // 2 + 1), waves


def _luma(image: Image.Image) -> Floats:
    """Return brightness 0..255, float32 [h, w], the shorter side SIDE pixels."""
    grey = image.convert("RGB").convert("L")
    scale = SIDE / min(grey.size)
    size = (round(grey.width * scale), round(grey.height * scale))
    if size != grey.size:
        grey = grey.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(grey, np.float32)


def _mean(values: Floats, radius: int) -> Floats:
    """Return the mean over a window of 2 radius + 1 pixels around each."""
    sums = np.pad(values, ((radius + 1, radius), (radius + 1, radius)), mode="reflect").cumsum(0, np.float64).cumsum(1)
    side = 2 * radius + 1
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return (windows / (side * side)).astype(np.float32)


def _contrast(luma: Floats, radius: int) -> tuple[Floats, Floats]:
    """Return what stands out from its surroundings, and how much does on average around each pixel."""
    detail = luma - _mean(luma, 3)
    return detail, np.sqrt(np.maximum(_mean(detail * detail, radius), 0))


def _whiten(luma: Floats) -> Floats:
    """Return the details, those of busy places weakened: the matched filter for a mark that is uneven as `_mask` is."""
    detail, contrast = _contrast(luma, 3)
    whitened: Floats = detail / (contrast + 2) ** 2
    return whitened


def _mask(luma: Floats) -> Floats:
    """Return the strength of the mark at each pixel: more where the image is busy and hides it."""
    _, contrast = _contrast(luma, 4)
    mask: Floats = np.clip(np.sqrt((contrast + 2) / (contrast.mean() + 2)), 0.5, 3)
    return mask


def _repeat(tile: Floats, shape: tuple[int, ...]) -> Floats:
    return np.tile(tile, (-(-shape[0] // _TILE), -(-shape[1] // _TILE)))[: shape[0], : shape[1]]


def _spectrum(whitened: Floats) -> Waves:
    """Return the half spectrum of the tile that an image is folded to, [_TILE, _TILE // 2 + 1]."""
    height, width = whitened.shape
    padded = np.pad(whitened, ((0, -height % _TILE), (0, -width % _TILE)))
    folded = padded.reshape(padded.shape[0] // _TILE, _TILE, -1, _TILE).sum((0, 2))
    return np.fft.rfft2(folded).astype(np.complex64, copy=False)


def _alignment(spectrum: Waves, mirrored: bool = False) -> Waves:
    """Return for each wave how it stands to its phase in the key, |value| < 1: the real part is what is read."""
    rows, columns, phases = _waves()
    found = spectrum[-rows % _TILE, columns].conj() if mirrored else spectrum[rows, columns]
    size = np.abs(found)
    aligned: Waves = found * phases.conj() / (size + 0.5 * size.mean() + 1e-9)
    return aligned


def _read(aligned: Waves, places: npt.ArrayLike = 0) -> Floats:
    """Return what is read of each bit with the tile at each of `places`, row * _TILE + column, [places, BITS].

    Its sign is the bit.
    """
    rows, columns, _ = _waves()
    count = BITS * _WAVES
    row, column = np.divmod(np.atleast_1d(places)[:, None], _TILE)
    turned = aligned[:count] * _turns()[(rows[:count] * row + columns[:count] * column) % _TILE]
    read: Floats = turned.real.reshape(-1, BITS, _WAVES).sum(2)
    return read


@lru_cache(maxsize=1)
def _turns() -> Waves:
    return np.exp(2j * np.pi * np.arange(_TILE) / _TILE).astype(np.complex64)


def _locate(whitened: Floats) -> Floats:
    """Return what is read of each bit at the scale and offset that fit best, by the pilot and by the size of the bits."""
    rows, columns, _ = _waves()
    count = BITS * _WAVES
    best, values = -math.inf, np.zeros(BITS, np.float32)
    for scale in _SCALES:
        size = (round(whitened.shape[1] * scale), round(whitened.shape[0] * scale))
        spectrum = _spectrum(np.asarray(Image.fromarray(whitened).resize(size, Image.Resampling.BICUBIC)))
        for mirrored in (False, True):
            aligned = _alignment(spectrum, mirrored)
            pilot = np.zeros((_TILE, _TILE // 2 + 1), np.complex64)
            pilot[rows[count:], columns[count:]] = aligned[count:]
            fits = np.fft.irfft2(pilot).ravel() * (_TILE * _TILE / 2)
            places = np.argpartition(fits, -_PEAKS)[-_PEAKS:]
            read = _read(aligned, places)
            fit = fits[places] + np.abs(read).sum(1)
            if fit.max() > best:
                best, values = fit.max(), read[fit.argmax()]
    return values


def _tile_against(luma: Floats, bits: Bits) -> tuple[Floats, Floats]:
    """Return the tile that marks this image, [_TILE, _TILE], and the mask of its strength.

    Waves of bits that the image hides get more, and of those the ones that a little of it turns.
    """
    rows, columns, phases = _waves()
    pilots = len(phases) - BITS * _WAVES
    signs = np.concatenate([np.repeat(np.where(bits, 1.0, -1.0), _WAVES), np.ones(pilots)])
    group = np.concatenate([np.repeat(np.arange(BITS), _WAVES), np.full(pilots, BITS)])
    mask, strength = _mask(luma), np.ones(len(phases))
    for turn in range(_ROUNDS):
        spectrum = np.zeros((_TILE, _TILE // 2 + 1), np.complex64)
        spectrum[rows, columns] = strength * signs * phases
        tile = np.fft.irfft2(spectrum).astype(np.float32)
        if turn == _ROUNDS - 1:
            break
        pattern = _repeat(tile, luma.shape) * mask
        marked = luma + pattern * (_deviation(STRENGTHS[-1]) / _size(pattern))
        aligned = _alignment(_spectrum(_whiten(marked))) * signs
        mean = np.bincount(group, aligned.real) / np.bincount(group)
        size = np.abs(aligned)
        gain = (
            ((aligned.imag / np.maximum(size, 1e-6)) ** 2 + 0.1)
            * (1 - size)
            * np.exp((mean.mean() - mean) / 0.3)[group]
        )
        strength = strength + 0.5 * gain / gain.mean() * strength.mean()
    return tile, mask


def _survives(marked: Floats, bits: Bits) -> bool:
    """Return whether a JPEG of quality 75 keeps every bit of a marked brightness, and the waves well aligned."""
    file = io.BytesIO()
    Image.fromarray(_bytes(marked)).save(file, "JPEG", quality=75)
    aligned = _alignment(_spectrum(_whiten(_luma(Image.open(file)))))
    read = _read(aligned)[0] * np.where(bits, 1, -1)
    return bool(read.min() > 0 and (read.sum() + aligned[BITS * _WAVES :].real.sum()) / len(aligned) > _MARGIN)


def _bytes(values: Floats) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _size(values: Floats) -> float:
    return float(np.sqrt((values * values).mean()))


def _deviation(psnr: float) -> float:
    return float(255 / 10 ** (psnr / 20))
