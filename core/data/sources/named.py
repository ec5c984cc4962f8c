"""Sources by name, as a table: where each lies, which column is what, who wrote its captions, what its card states.

Where a column is not what this table says, `fetch` stops with the columns that there are; `--column-map` corrects it.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.files import cache_folder, write_bytes
from commonart.core.errors import CommonArtError, reason
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.policies import POLICIES

Captions = tuple[tuple[str, str, str, bool], ...]
LOOKED_AT = "2026-11-28T00:00:00Z"  # when cards and columns were last compared with this table


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set of the hub."""

    name: str
    repo: str
    columns: Mapping[str, str] = field(default_factory=dict)  # record field -> column, where it is there; "" for none
    captions: Captions = ()  # (column, maker, licence of the text, whether a model wrote it)
    set_license: str = ""  # what its card states of all works together, for those whose row states nothing
    id_pattern: str = ""  # of the work's id in its addresses, where no column holds it
    rows: str = ""
    notes: str = ""  # what is known and not known of its size and columns


# A card's `license:` is mostly that of the list (Megalith's says MIT), so that it is never taken for the works': what is said of
# those stands in the card's text, and is written here by hand.
_FLICKR_ID = r"(?:flickr\.com/photos/[^/]+/|/)(\d{5,})(?:_[0-9a-z]+(?:_[0-9a-z]{1,2})?\.\w+|/?)$"
_PD12M = {
    "source_id": "id",
    "image_url": "url",
    "license_url": "license",
    "license_raw": "",
    "md5": "hash",
    "collection": "source",
}
HUB_SOURCES = {source.name: source for source in (
    # doi 10.48550/arXiv.2310.16825; its siblings (by-sa, by-nc, ...) share the columns: the licence is judged row by row
    # No column says which BLIP-2 wrote the captions, and the terms of the one on OPT forbid training: a name of no model here.
    HubSource("commoncatalog-cc-by", "common-canvas/commoncatalog-cc-by",
              {"source_id": "photoid", "source_url": "pageurl", "author": "unickname", "license_raw": "licensename",
               "license_url": "licenseurl", "title": "title", "image_url": ""},
              (("blip2_caption", "blip-2", "", True), ("caption", "commoncatalog", "", False)),
              rows="14.6 M", notes="JPEGs in parquet, each row with its licence; total size not known"),
    # links to Flickr: url, url_highres, url_source
    HubSource("megalith-10m", "madebyollin/megalith-10m",
              {"image_url": "url_highres", "fallback_url": "url", "source_url": "url_source"},
              set_license="One of: No known copyright restrictions; United States Government Work; CC0; Public Domain Mark",
              id_pattern=_FLICKR_ID, rows="10 M",
              notes="links without pixels, captions or licences; its maker guesses that 1 to 2 % are wrong"),
    # the part of ArtBench-10 in the public domain, 256 x 256
    HubSource("artbench-pd", "alfredplpl/artbench-pd-256x256",
              {"author": "artist", "source_url": "url", "image_url": ""},
              (("captions", "artbench-pd", "", True),), "CC0-1.0",
              rows="46.3 k", notes="256 x 256 images in parquet; no row states a licence"),
    # two revisions: `image` alone, whose captions in metadata.csv could be joined by position only, which is refused; and
    # image, url_source, caption, width, height
    HubSource("smithsonian-oa", "aipicasso/soa-full-florence2", {"source_url": "url_source", "image_url": ""},
              (("caption", "florence2", "", True),), "CC0-1.0",
              rows="1.05 M", notes="images in parquet; older revisions hold `image` alone and get no captions"),
    HubSource("pd12m", "Spawning/PD12M", _PD12M, (("caption", "florence2", "CDLA-Permissive-2.0", True),),
              rows="12.4 M", notes="links to storage of its own, with MD5; each row with its licence; total size not known"),
    HubSource("pd3m", "Spawning/PD3M", _PD12M, (("caption", "florence2", "CDLA-Permissive-2.0", True),),
              rows="3.3 M", notes="the subset of pd12m with the highest aesthetic scores; same columns"),
    # the fields of its .json, as public readers of the tars use them: Title, source, License, URL (the work's page)
    HubSource("art-museums-pd", "Mitsua/art-museums-pd-440k",
              {"title": "Title", "license_raw": "License", "source_url": "URL", "image_url": "", "collection": "source"},
              rows="294 k", notes="WebDataset tars of about 5 GB; which of its captions a model wrote is not known"),
)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CocoSource:
    """Annotations in COCO's layout inside an archive: `members` are read, in this order."""

    name: str
    archive: str
    members: tuple[str, ...]
    maker: str  # of the captions, which are CC BY 4.0 in both
    rows: str = "123,287"
    notes: str = ""


COCO_SOURCES = {source.name: source for source in (
    CocoSource("coco2017", "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
               ("annotations/captions_train2017.json", "annotations/captions_val2017.json"), "coco-annotators",
               notes="annotations of 241 MB, of which two members are read; each image with its Flickr licence"),
    # ids and files are those of COCO 2014
    CocoSource("stair", "https://github.com/STAIR-Lab-CIT/STAIR-captions/raw/master/stair_captions_v1.2.tar.gz",
               ("stair_captions_v1.2_train.json", "stair_captions_v1.2_val.json"), "stair-annotators",
               notes="Japanese captions of the images of COCO 2014"),
)}  # fmt: skip
RANGE = 8 << 20  # bytes of an archive that are asked for at a time
COCO_2014 = "http://images.cocodataset.org/{split}/{name}"
NAMES = (*HUB_SOURCES, *COCO_SOURCES)


def annotation_files(source: CocoSource, limits: Limits = Limits()) -> list[Path]:  # noqa: B008 - frozen
    """Return the JSON files of a source, in the cache; what is not there is downloaded, of a zip those members alone.

    Raises CommonArtError where the archive cannot be downloaded, or holds other files.
    """
    home = cache_folder() / "annotations" / source.name
    paths = [home / Path(member).name for member in source.members]
    if all(path.is_file() for path in paths):
        return paths
    # A site's robots.txt speaks of works; this is the list that the site publishes for download.
    patient = replace(limits, max_bytes=1 << 30, seconds=3600.0, opt_outs=False)
    try:
        with DownloadClient(patient) as client:
            if source.archive.endswith(".zip"):
                read: Callable[[str], bytes] = zipfile.ZipFile(
                    io.BufferedReader(_Remote(client, source.archive), RANGE)
                ).read
            else:
                read = _tar_members(client.submit(source.archive).result().data)
            for path, member in zip(paths, source.members, strict=True):
                write_bytes(path, read(member))
    except (DownloadError, KeyError, zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise CommonArtError(
            f"{source.name}: {source.archive} could not be read: {reason(error)}.",
            f"Try again, or download it yourself and name its JSON files: commonart fetch {paths[0].name}.",
        ) from error
    return paths


def _tar_members(data: bytes) -> Callable[[str], bytes]:
    """A member by its last name: whatever folder the archive puts it in."""

    def read(name: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            file = next((tar.extractfile(m) for m in tar if m.isreg() and Path(m.name).name == name), None)
            if file is None:
                raise KeyError(f"it holds no {name}")
            return file.read()

    return read


class _Remote(io.RawIOBase):
    """A file on the web, read by ranges."""

    def __init__(self, client: DownloadClient, url: str) -> None:
        self.client, self.url, self.offset = client, url, 0
        self.size = client.submit(url, "0-0").result().total

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.offset = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.offset, io.SEEK_END: self.size}[whence]
        return self.offset

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        end = min(self.size, self.offset + len(view))
        if end <= self.offset:
            return 0
        data = self.client.submit(self.url, f"{self.offset}-{end - 1}").result().data
        view[: len(data)] = data
        self.offset += len(data)
        return len(data)


def source_table() -> list[str]:
    """Return the sources by name as lines of text: rows, what each policy says of them, and what is known."""
    rows = [("source", "rows", *POLICIES, f"known on {LOOKED_AT[:10]}")]
    for source in HUB_SOURCES.values():
        stated = normalize(source.set_license)
        verdicts = [
            "row by row" if stated is None else "all" if each.allows(stated) else "none" for each in POLICIES.values()
        ]
        rows.append((source.name, source.rows, *verdicts, source.notes))
    rows += [(each.name, each.rows, *("row by row" for _ in POLICIES), each.notes) for each in COCO_SOURCES.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
