"""What a source offers, as records without pixels: by name, from the hub, a folder, a COCO JSON, a list of URLs.

    commonart fetch commoncatalog-cc-by --list
    commonart fetch photos/ --license "CC BY 4.0" --list
    commonart fetch captions_val2017.json --list
    commonart fetch list.csv --list

`list_source` picks by what SOURCE is. A record says where its pixels are in `image` (a file) or `image_url`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from commonart.core.data.download.limits import Limits
from commonart.core.data.jsonl import Keys
from commonart.core.data.record import Record
from commonart.core.data.sources.coco import list_coco
from commonart.core.data.sources.duplicates import mark_duplicates
from commonart.core.data.sources.folder import list_folder
from commonart.core.data.sources.hub import list_hub
from commonart.core.data.sources.named import COCO_SOURCES, HUB_SOURCES, NAMES, annotation_files
from commonart.core.data.sources.url_list import LIST_SUFFIXES, list_urls
from commonart.core.errors import CommonArtError


def list_source(
    source: str,
    *,
    license: str = "",
    lang: str = "en",
    column_map: Mapping[str, str] | None = None,
    images: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[Record]:
    """Return the records of a named source, a hub data set, a folder, a COCO JSON or a list of URLs, in a fixed order.

    One whose key an earlier one has comes as `PassedOver`, to be dropped.

    Args:
        license: what the user says about works whose source says nothing.
        lang: the language of captions without one; Japanese is recognised by its letters.
        column_map: record field -> column name, for lists whose columns have other names.
        images: the folder that holds the files that a COCO JSON names.
        limits: of the download of annotations.

    Raises:
        CommonArtError: SOURCE is missing, empty, or not something that can be read.
    """
    path = Path(source)
    if source.startswith("hf:") or source in HUB_SOURCES:
        return mark_duplicates(list_hub(source, license, lang, column_map or {}), source)
    if source in COCO_SOURCES:
        named = COCO_SOURCES[source]
        files = annotation_files(named, limits)
        return mark_duplicates(
            chain.from_iterable(list_coco(file, license, lang, images, named) for file in files), source
        )
    if path.is_dir():
        tables = sorted(path.glob("*.parquet"))
        if tables:  # as img2dataset leaves them beside its shards
            keys = Keys()
            return chain.from_iterable(list_urls(table, license, lang, column_map or {}, keys) for table in tables)
        return list_folder(path, license, lang)
    if not path.exists():
        raise CommonArtError(
            f"{source} does not exist.",
            f"Give a folder of images, a COCO .json, a list of URLs, scenes, {', '.join(NAMES)}, or hf:OWNER/NAME.",
        )
    if source.endswith(LIST_SUFFIXES):
        return list_urls(path, license, lang, column_map or {})
    if source.endswith(".json"):
        return mark_duplicates(list_coco(path, license, lang, images), source)
    raise CommonArtError(
        f"{source} is not a source that fetch can read.",
        f"Known: a folder of images, a COCO .json, {', '.join((*LIST_SUFFIXES, *NAMES))}, hf:OWNER/NAME, scenes, "
        "and - for records on stdin.",
    )
