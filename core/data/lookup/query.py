"""What a lookup asks for: one of a URL, a hash, an image, an author and a key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from commonart.core.data.lookup.index import fingerprint_of
from commonart.core.data.public_address import public_address
from commonart.core.errors import UsageError, reason

HASHED_AT = 256  # pixels at which an image is decoded for its perceptual hash


class Query(NamedTuple):
    """What is looked for: a `kind` of the blocklist or "image", its value (of an image its sha256), and its fingerprint.

    `plain`: the path of an image that is flat, so that its fingerprint is that of its bytes. `colors`: as `phash.chroma`.
    """

    kind: str
    value: str
    print: int = 0
    plain: str = ""
    colors: str = ""


def query_of(*, url: str = "", sha256: str = "", image: str = "", author: str = "", key: str = "") -> Query:
    """Return the query of a command line. Raises UsageError unless one thing is asked for, and it can be looked for."""
    asked = {"url": url, "sha256": sha256, "image": image, "author": author, "key": key}
    given = {kind: value.strip() for kind, value in asked.items() if value.strip()}
    if len(given) != 1:
        what = " and ".join(f"--{kind}" for kind in given) if given else "none"
        raise UsageError(
            f"lookup needs one of --url, --sha256, --image, --author and --key, and got {what}.", "Give one of them."
        )
    ((kind, value),) = given.items()
    if kind == "image":
        return _image_query(value)
    if kind == "sha256" and (len(value) != 64 or set(value.lower()) - set("0123456789abcdef")):
        raise UsageError(f"--sha256 {value} is not a SHA-256.", "Write 64 hexadecimal digits, or give --image FILE.")
    return Query(kind, public_address(" ".join(value.split())) if kind == "url" else " ".join(value.split()))


def _image_query(path: str) -> Query:
    from commonart.core.data.images.decode import DecodeError, ProbedImage
    from commonart.core.data.images.phash import TELLING, chroma, phash

    try:
        data = Path(path).read_bytes()
        image = ProbedImage(data).pixels(HASHED_AT)
        looks = phash(image)
    except OSError as error:
        raise UsageError(f"--image {path} cannot be read: {reason(error)}.", "Give an image file.") from None
    except DecodeError as error:
        raise UsageError(
            f"--image {path} cannot be decoded: {error.detail}.",
            "Give --sha256 to look for the file by its bytes alone.",
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    plain = path if int(looks, 16).bit_count() < TELLING else ""
    return Query("image", sha256, fingerprint_of({"phash": looks, "sha256": sha256}), plain, chroma(image))


def colors_fit(colors: str, others: Sequence[str]) -> bool:
    """Return whether the colours are those of one of the others; where some are not known, nothing speaks against it."""
    if not colors or not all(others):
        return True
    from commonart.core.data.images.phash import chroma_values, colors_alike

    return any(colors_alike(chroma_values(colors)[None], chroma_values(other)[None])[0] for other in others)
