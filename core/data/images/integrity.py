"""Whether a file holds all of its image, where Pillow does not say so.

JPEG: libjpeg fills in what is missing before an end mark, grey (baseline) or blurred (progressive); only the last few blocks
of a baseline JPEG, and the last scan of a progressive one, are not looked at. PNG: Pillow compares no checksums of the data.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

from PIL import Image

_SOF2, _SOS, _END = 0xC2, b"\xff\xda", b"\xff\xd9"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
MAX_CHUNKS = 100_000  # libpng cuts 800 MB of data into this number
_NOISE = bytes(range(1, 255, 7)) * 2048


def png_is_complete(data: bytes) -> bool:
    """Return whether the checksums of all data chunks (IDAT) fit. Source: PNG (third edition), 5.3."""
    return all(
        zlib.crc32(memoryview(data)[start:end]) == int.from_bytes(data[end : end + 4], "big")
        for kind, start, end in png_chunks(data)
        if kind == b"IDAT"
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of a PNG's chunks to the last, from kind to checksum. A file that ends early just ends.

    Raises ValueError above MAX_CHUNKS of them: an image has few, and each one costs a turn of this loop.
    """
    offset, kind, count = 8, b"", 0
    while offset + 12 <= len(data) and kind != b"IEND":
        if (count := count + 1) > MAX_CHUNKS:
            raise ValueError("a PNG of too many parts")
        end = offset + 8 + int.from_bytes(data[offset : offset + 4], "big")
        kind = data[offset + 4 : offset + 8]
        yield kind, offset + 4, end
        offset = end + 4


def jpeg_is_complete(data: bytes, image: Image.Image, drafted: tuple[int, int] | None) -> bool:
    """Return whether `image`, loaded from `data` (after `image.draft(None, drafted)`), was decoded without filling in."""
    if image.info.get("progressive"):
        return _all_scans(data)
    # What libjpeg finds no data for is middle grey; an image that ends so by itself is decoded once more.
    last = image.getpixel((image.width - 1, image.height - 1))
    grey = set(last[:3]) == {128} if isinstance(last, tuple) and len(last) == 3 else last == 128 or len(image.mode) == 4
    return not grey or not _ends_early(data, image, drafted)


def _ends_early(data: bytes, image: Image.Image, drafted: tuple[int, int] | None) -> bool:
    """Whether the image changes when noise stands between its data and its end mark: then data were missing."""
    end = data.rfind(_END)
    if end < 0:
        return False
    with Image.open(io.BytesIO(data[:end] + _NOISE + data[end:]), formats=("JPEG",)) as noisy:
        if drafted is not None:
            noisy.draft(None, drafted)
        return noisy.size != image.size or noisy.tobytes() != image.tobytes()


def _all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG give every coefficient of every component to its last bit.

    Source: ITU-T T.81, B.2.2, B.2.3 and G.1.1.
    """
    components, offset = 0, 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:  # the segments before the first scan
        marker = data[offset + 1]
        if marker == _SOF2:
            components = data[offset + 9]
        elif marker == _SOS[1]:
            break
        offset += 2 if marker in _ALONE or marker == 0xFF else 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    exact = set[tuple[int, int]]()  # (component, coefficient) that has its last bit
    names = set[int]()
    # In entropy-coded data every 0xFF is followed by 0 or a restart marker, so this finds scans only.
    while (offset := data.find(_SOS, offset)) >= 0 and offset + 6 < len(data):
        count = data[offset + 4]
        scan = data[offset + 5 : offset + 8 + 2 * count]
        if len(scan) < 2 * count + 3:
            break
        names.update(scan[0 : 2 * count : 2])
        first, last, bits = scan[2 * count], scan[2 * count + 1], scan[2 * count + 2]
        if bits & 0x0F == 0:
            exact.update((name, k) for name in scan[0 : 2 * count : 2] for k in range(first, min(last, 63) + 1))
        offset += 2
    return len(names) == components and len(exact) == 64 * components
