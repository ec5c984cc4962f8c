"""What an image says about itself: whether a model made it, its settings, who signed it, and what all that proves."""

from __future__ import annotations

import dataclasses
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from commonart.core.data.images import decode
from commonart.core.data.images.decode import DecodeError
from commonart.core.data.images.integrity import png_chunks
from commonart.core.errors import CommonArtError
from commonart.core.output import c2pa, made_log, metadata, watermark
from commonart.core.output.metadata import Marks
from commonart.core.output.watermark import BITS, SIDE, Detection

LOG_SAYS = {
    "file": "The log has this very file: it was made here, and has not changed since.",
    "pixels": "The log has these very pixels: the image was made here. Its file is another one: what stands beside the "
    "pixels (prompt, settings, signature) may have been changed or taken out.",
    "near": "The log has an image that looks like this one, which may be a changed copy of it. Compare them.",
    "none": "The log has neither this file nor its pixels nor an image that looks like it. That proves nothing: an image that was "
    "cropped, mirrored, turned or painted over, or that is flat, is not found by its looks.",
}


def inspect(path: str | os.PathLike[str], log: str | None = None) -> dict[str, Any]:
    """Read every mark of an image.

    Args:
        log: what `sample --log` has written; is the image in it?

    Returns:
        {"image", "synthetic", "digital_source_type", "settings", "c2pa", "watermark", "log", "findings"}: `c2pa` where there
        is a manifest, `log` where it was asked; `findings` says in words what is there, what is missing, and what follows.

    Raises:
        CommonArtError: the file is missing or not an image, its pixels are damaged, or the log cannot be read.
    """
    data, damaged = _readable(path)
    marks = metadata.read(path if not damaged else io.BytesIO(data))
    signed = c2pa.read(path)
    try:
        image = decode.decode(data)
        matches = made_log.find(log, data) if log is not None else None
    except DecodeError as error:
        raise CommonArtError(f"{path}: its pixels cannot be read ({error}).", "Ask for the file again.") from None
    mark, small = watermark.detect(image), min(image.size) < SIDE
    about: dict[str, Any] = {
        # Without a mark nothing is known: null, not false.
        "image": str(path), "synthetic": marks.synthetic or mark.found or _signed_as_synthetic(signed or {}) or None,
        "digital_source_type": marks.digital_source_type, "settings": marks.settings,
        **({"c2pa": signed} if signed else {}),
        "watermark": {"found": mark.found, "matches": mark.matches, "bits": BITS, "p_value": mark.p_value},
    }  # fmt: skip
    if matches is not None:
        about["log"] = dataclasses.asdict(matches)
    findings = [*_findings(marks, signed, mark, small)]
    if damaged:
        kinds = ", ".join("C2PA" if kind == "caBX" else kind for kind in damaged)
        findings.append(
            f"Parts of the PNG are damaged ({kinds}): their checksums do not fit, and they were not read. Its pixels are whole."
        )
    if matches is not None:
        findings.append(LOG_SAYS[matches.how])
        if matches.damaged:
            findings.append(f"{matches.damaged:,} of {matches.lines:,} lines of the log are damaged, and were skipped.")
    return about | {"findings": findings}


def _readable(path: str | os.PathLike[str]) -> tuple[bytes, list[str]]:
    """Return a file's bytes, of a PNG without its damaged side parts, and the kinds of these: browsers leave them out as well."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return b"", []  # what reads it next says so
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data, []
    kept, damaged = data[:8], list[str]()
    with suppress(ValueError):  # too many parts: what reads it next says so
        for kind, start, end in png_chunks(data):
            if kind[:1].islower() and zlib.crc32(memoryview(data)[start:end]) != int.from_bytes(
                data[end : end + 4], "big"
            ):
                damaged.append(kind.decode("ascii", "replace"))
            else:
                kept += data[start - 4 : end + 4]
    return (kept, damaged) if damaged else (data, [])


def _is_whole(signed: Mapping[str, Any]) -> bool:
    """Return whether a C2PA signature fits the file that it is in."""
    return signed.get("state") in ("Valid", "Trusted")


def _signed_as_synthetic(signed: Mapping[str, Any]) -> bool:
    # A manifest that fits another file says nothing of this one.
    return _is_whole(signed) and metadata.TRAINED_ALGORITHMIC_MEDIA in signed.get("digital_source_types", ())


def _findings(marks: Marks, signed: dict[str, Any] | None, mark: Detection, small: bool) -> Iterator[str]:
    signed = signed or {}
    state, signer, problems = signed.get("state"), signed.get("signer"), ", ".join(signed.get("problems", ()))
    if marks.synthetic:
        yield "The metadata says that a trained model made the image. Anyone can write that, or take it out."
    elif marks.settings is not None:
        yield "The metadata holds settings of commonart, but no mark of synthetic media."
    if state == "Trusted":
        yield (
            "The C2PA signature fits, by this installation's own key: pixels and metadata are as they were when it signed them."
        )
    elif state == "Valid":
        yield (
            f"The C2PA signature fits: pixels and metadata are as they were when {signer!r} signed them. "
            "Nobody here vouches for that name."
        )
    elif state == "Invalid":
        yield (
            "The C2PA signature does not fit: the file was changed after it was signed, or the signature is another file's "
            f"({problems})."
        )
    elif state is not None:
        yield f"The C2PA data of the file cannot be read ({problems}): it is damaged, and proves nothing."
    if mark.found:
        yield (
            f"commonart's watermark is in the pixels: {mark.matches} of {BITS} bits, which an image without it shows "
            f"with a chance of {mark.p_value:.1g}. Its key is public, so others can put it into an image too."
        )
        missing = [
            name for name, there in (("metadata", marks.synthetic), ("C2PA signature", state is not None)) if not there
        ]
        if missing:
            yield (
                f"Beside the watermark there is no {' and no '.join(missing)}: that was stripped after the image was "
                "generated, as by a program that writes the file anew, or was never written."
            )
    elif small:
        yield f"There is no watermark: commonart puts none into images with a side below {SIDE} pixels."
    elif _is_whole(signed):
        yield (
            "There is no watermark, and pixels and metadata have not changed since they were signed: the image was made without "
            "one, as contact sheets are, or by another tool."
        )
    elif marks.synthetic:
        yield "There is no watermark: the image was made without, by another tool, or it was changed too much."
    if not (marks.synthetic or marks.settings or state or mark.found):
        yield "No mark was found. That proves nothing: marks can be removed, and most tools write none."
