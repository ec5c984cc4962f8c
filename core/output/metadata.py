"""Marks in every image that a model made: what it is, and how to make it again.

- **XMP** `Iptc4xmpExt:DigitalSourceType` = `trainedAlgorithmicMedia`, IPTC's machine-readable form for images made by a
  trained model (NewsCodes "Digital Source Type"), which serves the EU AI Act's Art. 50(2).
- **settings**, one JSON object: prompt, model, revision, seed, steps and so on. A PNG keeps it as an iTXt chunk with the
  keyword `commonart` (UTF-8, so Japanese survives); JPEG and WebP keep it inside the XMP packet.

No clock is written: the same call makes the same bytes, as long as C2PA does not sign them (`core.output.c2pa`), whose
manifests have a new name each time. Sources: Adobe's XMP specification, part 3; PNG specification (third edition), 11.3.3.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from commonart.core.data.files import atomic_write
from commonart.core.data.images import decode
from commonart.core.errors import CommonArtError, UsageError

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SETTINGS_KEYWORD = "commonart"
XMP_KEYWORD = "XML:com.adobe.xmp"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_OURS = "https://ns.commonart.org/1.0/"
_DESCRIPTION = 0x010E  # EXIF's ImageDescription
_JPEG_XMP_LIMIT = 65_000  # one APP1 segment holds 65,533 bytes, 29 of them the name of the packet

# JSON may hold these raw, XML and UTF-8 may not: they are written as \uXXXX escapes.
_NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class MarkOptions:
    """What is written into each file."""

    settings: bool = True  # prompt and settings
    synthetic: bool = True  # the mark of synthetic media; without it neither of `c2pa` and `watermark`
    sign: tuple[str, str] | None = None  # files of a certificate chain and its key, for C2PA
    c2pa: bool = True  # sign with the installation's own key where `sign` names none
    watermark: bool = True  # in images that are large enough for it
    log: str | None = None  # file that gets a line for every image


DEFAULT_MARKS = MarkOptions()


@dataclass(frozen=True, slots=True)
class Marks:
    """What an image says about itself; None where it says nothing."""

    digital_source_type: str | None
    settings: dict[str, Any] | None

    @property
    def synthetic(self) -> bool:
        return self.digital_source_type == TRAINED_ALGORITHMIC_MEDIA


def format_of(path: str | os.PathLike[str], flag: str = "-o") -> str:
    """Return Pillow's format name for the ending of `path`, which `flag` named. Raises UsageError for any other ending."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise UsageError(
            f"{flag} {path}: images are written as .png, .jpg or .webp, not as {ending or 'a name without an ending'}.",
            "Use one of these endings" + (", or name a folder." if flag == "-o" else "."),
        )
    return FORMATS[ending]


def packet(settings: Mapping[str, Any] | None = None) -> str:
    """Return the XMP packet that marks an image as made by a trained model; with `settings`, it holds them too."""
    ours = ""
    if settings is not None:
        text = escape(dump(settings), quote=False)
        ours = f'\n   <commonart:settings xmlns:commonart="{_OURS}">{text}</commonart:settings>'
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
   <Iptc4xmpExt:DigitalSourceType>{TRAINED_ALGORITHMIC_MEDIA}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>commonart</xmp:CreatorTool>{ours}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def dump(settings: Mapping[str, Any]) -> str:
    """Return `settings` as one line of JSON that PNG, XML and UTF-8 can all hold; Japanese stays readable."""
    text = json.dumps(dict(settings), ensure_ascii=False, sort_keys=True)
    return _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def check_folder(folder: Path) -> None:
    """Raise CommonArtError beforehand for a folder that cannot be written to."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommonArtError(f"{folder}: the folder is not writable.", "Choose another one, or change its permissions.")


def check_output(path: str | os.PathLike[str], flag: str, overwrite: bool) -> None:
    """Raise, before work begins, what would keep a file from being written at the end of it.

    Raises:
        UsageError: the file exists and `overwrite` is false.
        CommonArtError: its folder is missing or not writable.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise already_exists(path, flag)
    if not path.parent.is_dir():
        raise CommonArtError(f"{flag} {path}: there is no folder {path.parent}.", "Create it, or choose another one.")
    if not path.is_char_device() and not path.is_fifo():
        check_folder(path.parent)


def save(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    marked: bool = True,
    overwrite: bool = False,
    finish: Callable[[bytes, str], bytes] | None = None,
    cleaned: bool = False,
) -> Path:
    """Write `image` with its marks; no partial image ever has the final name.

    Args:
        path: in a folder that exists.
        settings: how the image was made; None writes none.
        marked: write the XMP DigitalSourceType.
        finish: (the file's bytes, Pillow's name of its format) -> what is written: where `core.output.c2pa` signs.
        cleaned: as `core.data.files.atomic_write` takes it.

    Raises:
        UsageError: an ending that is not an image's, or the path exists and `overwrite` is false.
        CommonArtError: the folder cannot be written, the disk is full, the settings do not fit into a JPEG, or
            `finish` cannot sign.
    """
    path = Path(path)
    options = save_options(path, settings, marked)
    if path.exists() and not overwrite:
        raise already_exists(path)
    try:
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with atomic_write(path, cleaned=cleaned) as file:
            whole = io.BytesIO()
            image.save(whole, **options)
            file.write(finish(whole.getvalue(), options["format"]) if finish else whole.getvalue())
            if path.exists() and not overwrite:  # taken by another process in the meantime
                raise already_exists(path)
    except OSError as problem:
        what = f"{path} cannot be written ({problem.strerror or problem})."
        raise CommonArtError(what, "Choose an existing, writable folder with free space.") from problem
    return path


def read(path: str | os.PathLike[str] | BinaryIO) -> Marks:
    """Return the marks of an image, from its header alone. Raises CommonArtError for a file that is missing or not one."""
    PngImagePlugin.MAX_TEXT_CHUNK = decode.MAX_TEXT
    try:
        with Image.open(path) as image:
            info = dict(image.info)
            described = image.getexif().get(_DESCRIPTION) if "exif" in info else None
    except FileNotFoundError:
        raise CommonArtError(f"{path} does not exist.", "Name an image.") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; name an image file.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as problem:
        raise CommonArtError(f"{path} is not an image ({problem}).", "Name a PNG, JPEG or WebP file.") from problem
    source_type, settings = _parse(info.get("xmp") or info.get(XMP_KEYWORD))
    if SETTINGS_KEYWORD in info:
        settings = _settings(str(info[SETTINGS_KEYWORD])) or settings
    elif settings is None and isinstance(described, str):  # an unmarked JPEG or WebP
        settings = _settings(described)
    return Marks(source_type, settings)


def settings_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the settings in an image's marks; None where it has none, or is not an image."""
    with suppress(CommonArtError):
        return read(path).settings
    return None


def save_options(path: Path, settings: Mapping[str, Any] | None, marked: bool) -> dict[str, Any]:
    """Return what Pillow is to write. Raises for an ending, or for settings that are too long for its format."""
    kind = format_of(path)
    if kind == "PNG":
        chunks = PngInfo()
        if marked:
            chunks.add_itxt(XMP_KEYWORD, packet())
        if settings is not None:
            chunks.add_itxt(SETTINGS_KEYWORD, dump(settings))
        return {"format": kind, "pnginfo": chunks}
    options: dict[str, Any] = {"format": kind, "quality": 95}
    if marked:
        xmp = packet(settings).encode()
        if kind == "JPEG" and len(xmp) > _JPEG_XMP_LIMIT:
            raise CommonArtError(
                f"{path}: {len(xmp):,} bytes of settings do not fit into a JPEG, which takes {_JPEG_XMP_LIMIT:,}.",
                "Write a PNG, or leave the settings out with --no-metadata.",
            )
        options["xmp"] = xmp
    elif settings is not None:
        # Without the mark there is no packet, and these two formats have no other room for text of any length.
        options["exif"] = Image.Exif()
        options["exif"][_DESCRIPTION] = json.dumps(dict(settings), sort_keys=True)  # ASCII by its definition
    return options


def _parse(xmp: bytes | str | None) -> tuple[str | None, dict[str, Any] | None]:
    if not xmp:
        return None, None
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entity bombs: no XMP writer needs either
        return None, None
    start, end = text.find("<x:xmpmeta"), text.rfind("</x:xmpmeta>")
    if start < 0 or end < 0:
        start, end = text.find("<rdf:RDF"), text.rfind("</rdf:RDF>")
    body = text[start : text.find(">", end) + 1] if 0 <= start < end else text
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return None, None
    source_type, settings = None, None
    for node in root.iter():
        name = f"{{{_IPTC}}}DigitalSourceType"
        if name in node.attrib:  # XMP allows a property as an attribute, as an element, or as a resource
            source_type = node.attrib[name]
        if node.tag == name:
            source_type = (node.text or "").strip() or node.attrib.get(f"{{{_RDF}}}resource")
        if node.tag == f"{{{_OURS}}}settings" and node.text:
            settings = _settings(node.text)
    return source_type, settings


def _settings(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def already_exists(path: str | os.PathLike[str], flag: str = "-o") -> UsageError:
    """Return the error for a file in the way, which `flag` named."""
    return UsageError(f"{flag} {path} already exists.", "Choose another name, or pass --overwrite to replace it.")
