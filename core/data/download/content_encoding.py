"""`Content-Encoding`: what a server stores compressed is decompressed, within the limit of bytes.

`Accept-Encoding: identity` asks for nothing compressed, but some objects are stored so. A word that names no compression
(aws-chunked, UTF-8, none) changes nothing, as in browsers.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import zstandard

from commonart.core.data.download.limits import DownloadError

_UNREADABLE = frozenset({"br", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip"})


def decode(body: bytes, values: Sequence[str], max_bytes: int, *, cut: bool = False) -> bytes:
    """Undo the encodings that the header's `values` name, the last one first; of a `cut` body as far as it goes.

    Raises DownloadError: encoded (a compression that is not supported, or damaged) or too_many_bytes.
    """
    for encoding in reversed([word.strip().lower() for value in values for word in value.split(",")]):
        try:
            if encoding in ("gzip", "x-gzip"):
                body = _inflate(body, zlib.MAX_WBITS | 16, max_bytes, cut)
            elif encoding == "deflate":  # with zlib's header, as the standard says, or without, as many servers do
                wrapped = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
                body = _inflate(body, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS, max_bytes, cut)
            elif encoding == "zstd":
                body = zstandard.ZstdDecompressor().stream_reader(body).read(max_bytes + 1)
            elif encoding in _UNREADABLE:
                raise DownloadError("encoded", encoding)
        except (zlib.error, zstandard.ZstdError) as error:
            raise DownloadError("encoded", f"{encoding}: {error}"[:200]) from error
        if len(body) > max_bytes and not cut:
            raise DownloadError("too_many_bytes", f"more than {max_bytes:,}")
    return body


def _inflate(body: bytes, wbits: int, max_bytes: int, cut: bool) -> bytes:
    inflated = bytearray()
    while body and len(inflated) <= max_bytes:  # a gzip file may have several members
        stream = zlib.decompressobj(wbits)
        inflated += stream.decompress(body, max_bytes + 1 - len(inflated))
        if not stream.eof and not cut and len(inflated) <= max_bytes:
            raise zlib.error("the data end too early")
        if inflated and stream.eof and not stream.unused_data.startswith(body[:2]):
            break  # what follows is padding
        body = stream.unused_data
    return bytes(inflated)
