"""Statements about rights that take more than one string: what each large source says, checked against itself.

    record["license_url"], record["license_raw"], record["license"]      resolve_license
    flickr.photos.licenses.getInfo: number, name, URL                      flickr
    Smithsonian Open Access: online_media.media[]                          smithsonian
    Europeana: edm:rights of the item and of the WebResource               europeana
    Wikimedia: imageinfo's extmetadata                                     wikimedia
    a row or sidecar that holds one of the last three as it came           resolve_structured

All return (licence, "") or (None, reason code): `license_unknown`, nothing was understood; `license_conflict`, the statements
contradict each other, or one of them is not understood; `license_restricted:...`, something besides the licence forbids.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from commonart.core.licenses.license import License
from commonart.core.licenses.parse import LONGEST, more_specific, normalize
from commonart.core.licenses.table import FLICKR, FLICKR_4_0, NO_KNOWN
from commonart.core.licenses.urls import WORK_PAGE

Verdict = tuple[License | None, str]
UNKNOWN, CONFLICT, RESTRICTED = "license_unknown", "license_conflict", "license_restricted"
# Of a row or sidecar: what Wikimedia, Smithsonian Open Access and Europeana call their statements.
STRUCTURED_FIELDS = ("extmetadata", "usage", "edmRights", "webResourceEdmRights")
# How `fetch` ends a statement that it has refused already, after what the work's row said beside it.
_REFUSED = re.compile(rf"(?:.*: )?({CONFLICT}|{RESTRICTED}:[a-z+-]{{1,80}})", re.DOTALL)
_SILENT = frozenset({"", "NOASSERTION"})


def resolve_license(*statements: str | None) -> Verdict:
    """Return the verdict on all statements about one work, which must agree, apart from one being less specific.

    A statement that is not understood is a conflict beside one that is: it may say "for members only".
    """
    # What is too long to be read is cut, so that the memory of verdicts stays bounded; it stays too long.
    return _resolve(*(text if not text or len(text) <= LONGEST else text[: LONGEST + 1] for text in statements))


@lru_cache(maxsize=65536)
def _resolve(*statements: str | None) -> Verdict:
    license: License | None = None
    some_unknown = False
    for text in statements:
        if text is None or _says_nothing(text):
            continue
        stated = normalize(text)
        if stated is None and (refused := _REFUSED.fullmatch(text.strip())):
            return None, refused[1]
        if stated is None:
            some_unknown = True
        elif license is None:
            license = stated
        elif (license := more_specific(license, stated)) is None:
            return None, CONFLICT
    if license is None:
        return None, UNKNOWN
    return (None, CONFLICT) if some_unknown else (license, "")


def _says_nothing(text: str) -> bool:
    """Whether a text says nothing about rights: a blank, or the page of the work itself."""
    return text.strip() in _SILENT or WORK_PAGE.fullmatch(text.strip()) is not None


def flickr(number: int | str, name: str = "", url: str = "") -> Verdict:
    """Return the verdict on Flickr's numeric `license`, checked against the name and the URL where the source gives them.

    Numbers above 10 (the 4.0 suite of 2025) need the name or the URL: their order is not established.
    """
    try:
        index = int(number)
    except ValueError:
        return None, UNKNOWN
    by_number = FLICKR.get(index)
    stated, problem = resolve_license(name, url)
    if stated is None:
        # A name or URL that is not understood contradicts every number.
        silent = _says_nothing(name) and _says_nothing(url)
        return (by_number, "") if by_number is not None and silent else (None, problem)
    if index in FLICKR_4_0:
        of_the_suite = stated.id.startswith("CC-BY") and stated.id.endswith("-4.0")
        return (stated, "") if of_the_suite else (None, CONFLICT)
    if by_number is None:
        return None, UNKNOWN
    # "CC BY" is less specific than number 4, never the other way round: a number says its version.
    return (by_number, "") if more_specific(by_number, stated) == by_number else (None, CONFLICT)


def smithsonian(media: Mapping[str, Any]) -> Verdict:
    """Return the verdict on one entry of `online_media.media`: by its own `usage.access`, never by `metadata_usage`."""
    usage = media.get("usage")
    if not isinstance(usage, Mapping) or not isinstance(usage.get("access"), str):
        return None, UNKNOWN
    return resolve_license(usage["access"], usage["text"] if isinstance(usage.get("text"), str) else None)


def europeana(item: Any, web_resource: Any = None) -> Verdict:
    """Return the verdict on `edm:rights` of the item (ore:Aggregation), overridden by that of the WebResource.

    Each is a string, a list or a map of languages.
    """
    return resolve_license(*(_texts(web_resource) or _texts(item)))


def wikimedia(extmetadata: Mapping[str, Any]) -> Verdict:
    """Return the verdict on `extmetadata` of a file on a Wikimedia wiki: licence code, short name, URL and terms must agree.

    `Restrictions` (personality, trademarked, insignia, ...) are not copyright, but a model may not learn such images
    freely either: refused, with the codes in the reason. `NonFree` files are refused too.
    """

    def value(name: str) -> str:
        entry = extmetadata.get(name)
        text = entry.get("value") if isinstance(entry, Mapping) else entry
        return str(text).strip() if text is not None else ""

    if value("NonFree").lower() not in ("", "false", "0"):
        return None, f"{RESTRICTED}:nonfree"
    if restrictions := value("Restrictions"):
        return None, f"{RESTRICTED}:{'+'.join(sorted(filter(None, restrictions.lower().split('|'))))[:80]}"
    url, short = value("LicenseUrl"), value("LicenseShortName")
    if short == "No restrictions" and normalize(url) == NO_KNOWN:  # Commons' short name for Flickr's statement
        short = ""
    terms = value("UsageTerms")
    return resolve_license(url, short, value("License"), terms if terms != "No restrictions" else "")


def resolve_structured(row: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict on one of these sources' own fields, `extmetadata`, `usage`, `edmRights`; None without any."""
    if isinstance(extmetadata := row.get("extmetadata"), Mapping):
        return wikimedia(extmetadata)
    if isinstance(row.get("usage"), Mapping):
        return smithsonian(row)
    if row.get("edmRights") or row.get("webResourceEdmRights"):
        return europeana(row.get("edmRights"), row.get("webResourceEdmRights"))
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) and value.strip() else []
