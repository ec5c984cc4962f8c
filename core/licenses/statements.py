"""Statements about rights that are more than one string: what each big source says, checked against itself.

    record["license_url"], record["license_raw"], record["license"]      judge
    flickr.photos.licenses.getInfo: number, name, URL                      flickr
    Smithsonian Open Access: online_media.media[]                          smithsonian
    Europeana: edm:rights of the item and of the WebResource               europeana
    Wikimedia: imageinfo's extmetadata                                     wikimedia
    a row or sidecar that holds one of the last three as it came           stated_in

All answer (licence, "") or (None, reason code): `license_unknown`, nothing was understood; `license_conflict`, the parts
contradict each other, or one of them is not understood; `license_restricted:...`, something besides the licence forbids.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from commonart.core.licenses.license import License
from commonart.core.licenses.parse import LONGEST, agreed, normalize
from commonart.core.licenses.table import FLICKR, FLICKR_4_0, NO_KNOWN
from commonart.core.licenses.urls import WORK

Verdict = tuple[License | None, str]
UNKNOWN, CONFLICT, RESTRICTED = "license_unknown", "license_conflict", "license_restricted"
_SILENT = frozenset({"", "NOASSERTION"})


def judge(*said: str | None) -> Verdict:
    """All that is said about one work -> one verdict. The statements must agree, apart from one being less exact.

    A statement that is not understood is a conflict beside one that is: it may say "for members only".
    """
    # What is too long to be read is cut, so that the memory of verdicts stays bounded; it stays too long.
    return _judge(*(text if not text or len(text) <= LONGEST else text[: LONGEST + 1] for text in said))


@lru_cache(maxsize=65536)
def _judge(*said: str | None) -> Verdict:
    found: License | None = None
    unread = False
    for text in said:
        if text is None or _silent(text):
            continue
        this = normalize(text)
        if this is None:
            unread = True
        elif found is None:
            found = this
        elif (found := agreed(found, this)) is None:
            return None, CONFLICT
    if found is None:
        return None, UNKNOWN
    return (None, CONFLICT) if unread else (found, "")


def _silent(text: str) -> bool:
    """Whether nothing about rights is said: a blank, or the page of the work itself."""
    return text.strip() in _SILENT or WORK.fullmatch(text.strip()) is not None


def flickr(number: int | str, name: str = "", url: str = "") -> Verdict:
    """Flickr's numeric `license`, checked against the name and the URL where the source gives them.

    Numbers above 10 (the 4.0 suite of 2025) need the name or the URL: their order is not established.
    """
    try:
        index = int(number)
    except ValueError:
        return None, UNKNOWN
    meant = FLICKR.get(index)
    found, problem = judge(name, url)
    if found is None:
        # A name or URL that is not understood contradicts every number.
        return (meant, "") if meant is not None and _silent(name) and _silent(url) else (None, problem)
    if index in FLICKR_4_0:
        whole = found.id.startswith("CC-BY") and found.id.endswith("-4.0")
        return (found, "") if whole else (None, CONFLICT)
    both = agreed(meant, found) if meant is not None else None
    # "CC BY" is less exact than number 4, never the other way round: a number says its version.
    return (meant, "") if both is not None and both == meant else (None, CONFLICT if meant else UNKNOWN)


def smithsonian(media: Mapping[str, Any]) -> Verdict:
    """One entry of `online_media.media`. The image's right is its own `usage.access`, never `metadata_usage`."""
    usage = media.get("usage")
    access = usage.get("access") if isinstance(usage, Mapping) else None
    if not isinstance(access, str) or not isinstance(usage, Mapping):
        return None, UNKNOWN
    text = usage.get("text")
    return judge(access, text if isinstance(text, str) else None)


def europeana(item: Any, web_resource: Any = None) -> Verdict:
    """`edm:rights` of the item (ore:Aggregation), overridden by that of the WebResource; a string, list or language map."""
    for rights in (_texts(web_resource), _texts(item)):
        if rights:
            return judge(*rights)
    return None, UNKNOWN


def wikimedia(extmetadata: Mapping[str, Any]) -> Verdict:
    """`extmetadata` of a file on a Wikimedia wiki: licence code, short name, URL and terms must agree.

    `Restrictions` (personality, trademarked, insignia, ...) are no copyright, but what a model may not learn freely
    either: refused, with the codes in the reason. `NonFree` files are refused too.
    """

    def value(name: str) -> str:
        entry = extmetadata.get(name)
        found = entry.get("value") if isinstance(entry, Mapping) else entry
        return str(found).strip() if found is not None else ""

    if value("NonFree").lower() not in ("", "false", "0"):
        return None, f"{RESTRICTED}:nonfree"
    if restrictions := value("Restrictions"):
        return None, f"{RESTRICTED}:{'+'.join(sorted(filter(None, restrictions.lower().split('|'))))[:80]}"
    url, short = value("LicenseUrl"), value("LicenseShortName")
    if short == "No restrictions" and normalize(url) == NO_KNOWN:  # Commons' short name for Flickr's statement
        short = ""
    return judge(url, short, value("License"), value("UsageTerms") if value("UsageTerms") != "No restrictions" else "")


def stated_in(row: Mapping[str, Any]) -> Verdict | None:
    """What a row says in one of these sources' own fields: `extmetadata`, `usage`, `edmRights`; None when it has none."""
    if isinstance(extmetadata := row.get("extmetadata"), Mapping):
        return wikimedia(extmetadata)
    if isinstance(row.get("usage"), Mapping):
        return smithsonian(row)
    if row.get("edmRights") or row.get("webResourceEdmRights"):
        return europeana(row.get("edmRights"), row.get("webResourceEdmRights"))
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) and value.strip() else []
