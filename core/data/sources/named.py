"""The sources of the paper by name, as a table: where each lies, which column is what, who wrote its captions.

    commonart fetch commoncatalog-cc-by --list | commonart license-filter | commonart fetch - -o raw/

Where a column is not what this table says, `fetch` stops with the columns that there are; `--column-map` mends it.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.files import write_bytes
from commonart.core.errors import CommonArtError

Captions = tuple[tuple[str, str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set of the hub. `license` is what it says of all its works where no row says more."""

    name: str
    repo: str
    columns: dict[str, str] = field(default_factory=dict)  # record field -> column; "" for none
    captions: Captions = ()  # (column, maker, licence of the text, whether a model wrote it)
    license: str = ""


# Columns as FACTS and the data sets' cards tell them (November 2026). A hub's card names the licence of the list, not of the
# works, so that a work's own licence always comes first; artbench-pd and smithsonian-oa have none per work.
HUB_SOURCES = {source.name: source for source in (
    # doi 10.48550/arXiv.2310.16825; its siblings (by-sa, by-nc, ...) share the columns: the licence is judged row by row
    HubSource("commoncatalog-cc-by", "common-canvas/commoncatalog-cc-by",
              {"source_id": "photoid", "source_url": "pageurl", "author": "unickname", "license_raw": "licensename",
               "license_url": "licenseurl", "title": "title", "image_url": ""},
              (("blip2_caption", "blip2", "", True), ("caption", "commoncatalog", "", False))),
    # links to Flickr; column names are not documented, so they are looked for
    HubSource("megalith-10m", "madebyollin/megalith-10m"),
    # the part of ArtBench-10 in the public domain, 256 x 256
    HubSource("artbench-pd", "alfredplpl/artbench-pd-256x256",
              {"author": "artist", "source_url": "url", "image_url": ""},
              (("captions", "artbench-pd", "", True),), "CC0-1.0"),
    # Smithsonian Open Access; its captions lie in a metadata.csv joined by position alone, which is refused
    HubSource("smithsonian-oa", "aipicasso/soa-full-florence2", {"image_url": ""}, (), "CC0-1.0"),
)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CocoSource:
    """Annotations in COCO's layout inside an archive: `members` are read, in this order."""

    name: str
    archive: str
    members: tuple[str, ...]
    maker: str  # of the captions, which are CC BY 4.0 in both


COCO_SOURCES = {source.name: source for source in (
    CocoSource("coco2017", "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
               ("annotations/captions_train2017.json", "annotations/captions_val2017.json"), "coco-annotators"),
    # ids and files are those of COCO 2014
    CocoSource("stair", "https://github.com/STAIR-Lab-CIT/STAIR-captions/raw/master/stair_captions_v1.2.tar.gz",
               ("stair_captions_v1.2_train.json", "stair_captions_v1.2_val.json"), "stair-annotators"),
)}  # fmt: skip
RANGE = 8 << 20  # bytes of an archive that are asked for at a time
COCO_2014 = "http://images.cocodataset.org/{split}/{name}"
NAMES = (*HUB_SOURCES, *COCO_SOURCES)


def annotation_files(source: CocoSource, limits: Limits = Limits()) -> list[Path]:  # noqa: B008 - frozen
    """The JSON files of a source, in the cache; what is not there is downloaded, of a zip those members alone.

    Raises:
        CommonArtError: the archive cannot be downloaded, or holds other files.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "commonart" / "annotations" / source.name
    paths = [home / Path(member).name for member in source.members]
    if all(path.is_file() for path in paths):
        return paths
    # A site's robots.txt speaks of works; this is the list that the site publishes for download.
    patient = replace(limits, max_bytes=1 << 30, seconds=3600.0, opt_outs=False)
    try:
        with DownloadClient(patient) as client:
            read = _zip(client, source) if source.archive.endswith(".zip") else _tar(client, source)
            for path, member in zip(paths, source.members, strict=True):
                write_bytes(path, read(member))
    except (DownloadError, KeyError, zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise CommonArtError(
            f"{source.name}: {source.archive} could not be read: {error}.",
            f"Try again, or download it yourself and name its JSON files: commonart fetch {paths[0].name}.",
        ) from error
    return paths


def _zip(client: DownloadClient, source: CocoSource) -> Callable[[str], bytes]:
    return zipfile.ZipFile(io.BufferedReader(_Remote(client, source.archive), RANGE)).read


def _tar(client: DownloadClient, source: CocoSource) -> Callable[[str], bytes]:
    """A member by its last name: whatever folder the archive puts it in."""
    data = io.BytesIO(client.submit(source.archive).result().data)

    def read(name: str) -> bytes:
        data.seek(0)
        with tarfile.open(fileobj=data) as tar:
            file = next((tar.extractfile(m) for m in tar if m.isreg() and Path(m.name).name == name), None)
            if file is None:
                raise KeyError(f"it holds no {name}")
            return file.read()

    return read


class _Remote(io.RawIOBase):
    """A file on the web, read by ranges."""

    def __init__(self, client: DownloadClient, url: str) -> None:
        self.client, self.url, self.at = client, url, 0
        self.size = client.submit(url, "0-0").result().total

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self.at + len(buffer))
        if end <= self.at:
            return 0
        data = self.client.submit(self.url, f"{self.at}-{end - 1}").result().data
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
