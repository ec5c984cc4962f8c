"""Which images are copies of each other: a perceptual hash of 64 bits, the colours beside it, and the search for both.

Copies that were saved again, scaled or brightened a little differ in at most NEAR bits; crops and mirror images do not
count as copies. Among 29 photographs of COCO unrelated ones differ in 20 bits or more. The hash sees no colour: of 3,000
generated scenes 45,628 pairs are near that show different things, and 947 of them have the colours in common too, while
of 329 images, each changed in eleven ways (JPEG, WebP, scale, brightness, contrast, saturation), no copy is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from PIL import Image

NEAR = 4  # bits; of a hash that has as many ones as zeros, two differ in an even number
TELLING = 24  # ones; an image that is flat, or half of it, has fewer (of 32), and its hash says too little
BLOCKS = 6  # parts of a hash: two hashes that differ in NEAR bits agree in BLOCKS - NEAR of them at least
CELLS = 3  # the colours are those of CELLS x CELLS parts of an image
CHROMA = 2 * CELLS * CELLS  # bytes
PART = 1 << 21  # hashes that are compared at once: about 100 MB
# The first 8 rows of the DCT-II of 32 points, float32 [8, 32].
_DCT = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32) + 1) / 64).astype(np.float32)


def phash(image: Image.Image) -> str:
    """Return the 64-bit perceptual hash of an RGB image, 16 hexadecimal digits: 8 x 8 lowest DCT terms of 32 x 32
    grey pixels against their median (Zauner 2010, section 3.2.1). Near-duplicates differ in few bits."""
    # 36 of a large image's pixels tell as much of each of the 32 x 32 as all of them (16 do not: four times as many
    # copies are missed), in less than half the time.
    sampled = image.resize((192, 192), Image.Resampling.NEAREST).convert("L").reduce(6)
    # Rounding keeps the bits of flat areas, where all terms are zero but for float noise, the same everywhere.
    terms = np.round(_DCT @ np.asarray(sampled, dtype=np.float32) @ _DCT.T, 2).ravel()
    bits = np.packbits(terms > np.sort(terms[1:])[31])  # the median of 63, without the checks of np.median
    return bits.tobytes().hex()


def chroma(image: Image.Image) -> str:
    """Return the colours of an RGB image: mean Cb and Cr (0..255) of 3 x 3 parts, row by row, 36 hexadecimal digits."""
    means = image.resize((96, 96), Image.Resampling.NEAREST).reduce(96 // CELLS).convert("YCbCr")
    return np.asarray(means)[..., 1:].tobytes().hex()


def chroma_values(text: str) -> np.ndarray:
    """Return the colours that `chroma` wrote as uint8 [CHROMA]; grey where they are damaged."""
    try:
        values = np.frombuffer(bytes.fromhex(text), np.uint8)
    except ValueError:
        values = np.zeros(0, np.uint8)
    return values if len(values) == CHROMA else np.full(CHROMA, 128, np.uint8)


def colors_alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return for each row of two uint8 [n, CHROMA] whether the colours are those of copies, bool [n].

    Each value may differ by 6 of 255, for compression, and by a fifth of its distance from grey, for contrast.
    """
    a, b = a.astype(np.int16) - 128, b.astype(np.int16) - 128
    result: np.ndarray = (np.abs(a - b) <= 6 + np.maximum(np.abs(a), np.abs(b)) // 5).all(axis=-1)
    return result


def fingerprint(phash: str, sha256: str) -> int:
    """Return what an image is compared by, 64 bits, never 0: its perceptual hash where that tells enough, else its
    bytes' hash, so that two white pages are copies only when they are the same file."""
    try:
        value = int(phash, 16) if len(phash) == 16 else 0
    except ValueError:
        value = 0
    return value if value.bit_count() >= TELLING else int(sha256[:16], 16) or 1


def copies(prints: np.ndarray, colors: np.ndarray | None = None, *, part: int = PART) -> np.ndarray:
    """For each fingerprint the row that it is a copy of, or -1 where it is kept. int64, same length.

    In the order of the rows: one is a copy when an earlier one that is kept differs in at most NEAR bits and, where `colors`
    (uint8 [n, CHROMA]) are given, is `colors_alike`, or when it is a copy of such a copy with the same fingerprint; of several
    the earliest is named. What comes later changes nothing. 0 is no fingerprint: neither a copy nor copied. `part`: how many
    (uint64) are sorted and compared at once; it bounds memory, not the result.

    Source of the search, by blocks that agree: Manku, Jain, Das Sarma, "Detecting near-duplicates for web crawling", 2007.
    """

    def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.ones(len(a), bool) if colors is None else colors_alike(colors[a], colors[b])

    kept_by = np.full(len(prints), -1, dtype=np.int64)
    for rows in _alike(prints, np.uint64(2**64 - 1), part):
        while len(rows):  # each time the first that is left of every print, with those of its colours
            same = prints[rows[1:]] == prints[rows[:-1]]
            starts = np.flatnonzero(np.concatenate([[True], ~same]))
            first = np.repeat(rows[starts], np.diff(np.append(starts, len(rows))))
            found = (rows == first) | alike(rows, first)
            kept_by[rows[found]] = np.where(rows == first, -1, first)[found]
            rows = rows[~found]
    kept_by[prints == 0] = -1
    distinct = np.flatnonzero((kept_by < 0) & (prints != 0))
    pairs = [pair[alike(*pair.T)] for pair in (distinct[found] for found in _near_pairs(prints[distinct], part))]
    if pairs:
        near = np.unique(np.concatenate(pairs), axis=0)  # by the later one, then by the earlier one
        for later, earlier in near.tolist():
            if kept_by[later] < 0 and kept_by[earlier] < 0:
                kept_by[later] = earlier
    # A copy of what turned out to be a copy itself: name the one that is kept.
    chained = np.flatnonzero(kept_by >= 0)
    behind = kept_by[kept_by[chained]]
    kept_by[chained[behind >= 0]] = behind[behind >= 0]
    return kept_by


def _near_pairs(prints: np.ndarray, part: int) -> Iterator[np.ndarray]:
    """Pairs (later, earlier) of rows whose prints differ in at most NEAR bits, int64 (n, 2); some come twice."""
    # Every sixth bit, so that each block has some of the low frequencies, which tell most.
    blocks = [np.uint64(sum(1 << bit for bit in range(start, 64, BLOCKS))) for start in range(BLOCKS)]
    for chosen in combinations(blocks, BLOCKS - NEAR):
        mask = np.bitwise_or.reduce(chosen)
        for rows in _alike(prints, mask, part):
            here = prints[rows]
            keys = here & mask
            ahead, step = np.arange(len(rows) - 1), 1
            while len(ahead := ahead[ahead + step < len(rows)]):
                ahead = ahead[keys[ahead] == keys[ahead + step]]
                close = ahead[np.bitwise_count(here[ahead] ^ here[ahead + step]) <= NEAR]
                if len(close):
                    yield np.stack([rows[close + step], rows[close]], axis=1)
                step += 1


def _alike(prints: np.ndarray, mask: np.uint64, part: int) -> Iterator[np.ndarray]:
    """All rows in parts of about `part`, so that prints which are equal under `mask` stand side by side in one of them,
    in the order of the rows."""
    count = -(-len(prints) // part)
    for number in range(count):
        rows = []
        for start in range(0, len(prints), part):
            keys = prints[start : start + part] & mask
            # Fibonacci hashing spreads the keys over the parts, whichever bits the mask leaves.
            with np.errstate(over="ignore"):
                hashed = (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
            rows.append(np.flatnonzero(hashed % np.uint64(count) == np.uint64(number)) + start)
        members = np.concatenate(rows)
        if len(members):
            yield members[np.argsort(prints[members] & mask, kind="stable")]
