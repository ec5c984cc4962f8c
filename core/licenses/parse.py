"""What a source said about rights -> one `License`, or None: unknown is never guessed.

    commonart license-filter --policy strict raw/

Every form is matched as a whole: one word that is not understood makes the answer None, so that "CC BY, but ask me
first" can never pass as CC BY. Sources of the forms: FACTS of the project, section 6; see `table`.
"""

import re
import unicodedata
from functools import cache, lru_cache

from commonart.core.licenses.table import (
    CC0,
    COMBINATIONS,
    FILLERS,
    FLICKR,
    FLICKR_4_0,
    NO_KNOWN,
    ODBL,
    ODC_BY,
    OTHERS,
    PDDC,
    PDDL,
    PDM,
    PLACES,
    PORTS,
    PUBLIC_DOMAIN,
    RIGHTS_STATEMENTS,
    SINGLES,
    TEXTS,
    US_GOVERNMENT,
    VERSIONS,
    WORDS,
    License,
    creative_commons,
)

_LEAD = r"(?:https?:)?(?://)?(?:www\.)?"
# A deed or legal code in some language, and the harmless ways in which tools mark a link.
_PAGE = r"(?:deed|legalcode|rdf)(?:[.-](?:[a-z]{2,3}(?:[-_@][a-z]{2,8})?|txt|plain))?"
_TAIL = rf"/?(?:(?<=/){_PAGE}/?)?(?:\?ref=[\w.-]*)?(?:#[\w.-]*)?"
_CC_LICENCE = re.compile(
    _LEAD
    + r"creativecommons\.org/licenses/([a-z]{2}(?:-[a-z]{2}){0,3})(?:/(\d\.\d)(?:/([a-z]{2,8}(?<!deed)(?<!rdf)))?)?"
    + _TAIL,
    re.ASCII,
)
_CC_PUBLIC = re.compile(
    _LEAD
    + r"creativecommons\.org/"
    + r"(?:publicdomain/(zero|mark)/1\.0|(licenses/publicdomain|publicdomain/certification/1\.0/us))"
    + _TAIL,
    re.ASCII,
)
_RIGHTS = re.compile(
    _LEAD + r"rightsstatements\.org/(?:vocab|page|data)/([a-z-]{3,9})/1\.0/?(?:\?language=\w\w)?", re.ASCII
)
_PAGES: tuple[tuple[re.Pattern[str], License], ...] = tuple(
    (re.compile(_LEAD + pattern, re.ASCII), found)
    for pattern, found in (
        (r"opendatacommons\.org/licenses/pddl(?:/1[-.]0)?(?:/|\.html)?", PDDL),
        (r"opendatacommons\.org/licenses/by(?:/1[-.]0)?(?:/|\.html)?", ODC_BY),
        (r"opendatacommons\.org/licenses/odbl(?:/1[-.]0)?(?:/|\.html)?", ODBL),
        (r"flickr\.com/commons/usage/?", NO_KNOWN),
        (r"usa\.gov/(?:copyright\.shtml|government-works|government-copyright)/?", US_GOVERNMENT),
    )
)
_SPDX_PAGE = re.compile(_LEAD + r"spdx\.org/licenses/([a-z0-9.+-]+?)(?:\.html|\.json)?/?", re.ASCII)
_VERSION = re.compile(r"(?<![\d.])v?(\d\.\d)(?![\d.])")
_CC_LEAD = re.compile(
    r"^(?:the )?(?:cc|creative ?commons|クリエイティブ ?コモンズ) ?(?:license |licence |ライセンス )?"
)
# Words that, in a text which is not understood, must stop a licence that another field names.
_RESTRICTIVE = re.compile(
    r"non.?commercial|no.?deriv|share.?alike|reserved|permission|copyright|\b(?:nc|nd|sa|not|no|only|except)\b|creativecommons\.org"
    r"|非営利|改変|継承|禁|許諾|著作権",
    re.IGNORECASE,
)


@lru_cache(maxsize=65536)
def normalise(raw: str | None) -> License | None:
    """The licence that `raw` names: a URL, an SPDX id, a `LicenseRef-` of this project, a name in English or Japanese.

    None for anything that is not understood as a whole. Bare numbers are not understood either: see `flickr`.
    """
    if not raw or len(raw) > 500:
        return None
    text = raw.strip()
    known = _ids().get(text.lower())
    if known is not None:
        return known
    if text.isascii() and ("/" in text or ".org" in text):
        found = _from_url(text.lower())
        if found is not None:
            return found
    # "Attribution 4.0 International (CC BY 4.0)": a title and its short form, which must say the same.
    if text.endswith(")") and "(" in text:
        outer, _, inner = text[:-1].rpartition("(")
        both = _from_text(fold(outer)), _from_text(fold(inner))
        if both[0] is not None and both[1] is not None:
            return both[0] if both[0] == both[1] else None
    return _from_text(fold(text))


def flickr(number: int | str, name: str = "", url: str = "") -> License | None:
    """The licence behind Flickr's numeric `license`, checked against the name and URL where the source gives them.

    Numbers above 10 (the 4.0 suite of 2025) need the name or URL: their order is not established.
    """
    try:
        index = int(number)
    except ValueError:
        return None
    said = [found for found in (normalise(name), normalise(url)) if found is not None]
    if index in FLICKR_4_0:
        versioned = {found for found in said if found.id.endswith("-4.0")}
        return versioned.pop() if len(versioned) == 1 and len(set(said)) == 1 else None
    found = FLICKR.get(index)
    return found if found is not None and all(other == found for other in said) else None


@lru_cache(maxsize=65536)
def judge(url: str | None, raw: str | None, stated: str | None) -> tuple[License | None, str]:
    """All that a record says (`license_url`, `license_raw`, `license`) -> (licence, "") or (None, reason code).

    The three must agree, apart from one being less exact (no version). `license_conflict`: they do not, or one of them
    is a text that is not understood and speaks of restrictions. `license_unknown`: nothing was understood.
    """
    found: License | None = None
    unread = ""
    for said in (url, raw, stated):
        if not said or said == "NOASSERTION":
            continue
        this = normalise(said)
        if this is None:
            unread = unread or (said if _RESTRICTIVE.search(said) else "")
        elif found is None or _vaguer(found, this):
            found = this
        elif found != this and not _vaguer(this, found):
            return None, "license_conflict"
    if found is None:
        return None, "license_unknown"
    return (None, "license_conflict") if unread else (found, "")


def _vaguer(a: License, b: License) -> bool:
    """Whether `a` says the same as `b` with less detail: no version, or no reason for being in the public domain."""
    return a != b and (
        a.id == f"LicenseRef-{b.family}" or (a == PUBLIC_DOMAIN and b.basis in ("dedication", "mark", "statute"))
    )


def fold(text: str) -> str:
    """Case, width, punctuation and blanks taken out of a name: `ＣＣ　BY-SA (4.0)` -> `cc by sa 4.0`."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = text.replace("・", "").replace("©", " copyright ").replace("(c)", " copyright ")
    return " ".join(re.sub(r"[\s\-–—_/,:;()\[\]「」『』]+|\.(?!\d)", " ", text).split())


@cache
def _ids() -> dict[str, License]:
    """Every identifier that this package can answer with -> its licence, so that `normalise` is idempotent."""
    every = [*SINGLES, *OTHERS, *RIGHTS_STATEMENTS.values()]
    for elements in [*COMBINATIONS, "nc", "nc-sa", "nd", "nc-nd", "sa"]:
        for version in ("", *VERSIONS):
            for port in ("", *PORTS.get(version, ())):
                found = creative_commons(elements, version, port)
                every += [found] if found is not None else []
    return {known.id.lower(): known for known in every}


def _from_url(url: str) -> License | None:
    if match := _CC_LICENCE.fullmatch(url):
        return creative_commons(match[1], match[2] or "", match[3] or "")
    if match := _CC_PUBLIC.fullmatch(url):
        return PDDC if match[2] else CC0 if match[1] == "zero" else PDM
    if match := _RIGHTS.fullmatch(url):
        return RIGHTS_STATEMENTS.get(match[1])
    if match := _SPDX_PAGE.fullmatch(url):
        return _ids().get(match[1])
    return next((found for pattern, found in _PAGES if pattern.fullmatch(url)), None)


def _from_text(text: str) -> License | None:
    """A folded name. Version and fillers may stand anywhere; all that is left must be words of one licence."""
    if text in TEXTS:
        return TEXTS[text]
    versions = sorted(set(_VERSION.findall(text)))
    bare = _without(_VERSION.sub(" ", text), FILLERS)
    if len(versions) > 1:
        return None
    version = versions[0] if versions else ""
    if bare in TEXTS:
        # These tools exist in one version; Flickr's names never carry one.
        found = TEXTS[bare]
        return found if version in ("", "1.0") else None
    lead = _CC_LEAD.match(bare)
    if lead is None and not (version and re.match(r"表示|attribution\b", bare)):
        return None
    return _from_words(bare[lead.end() :] if lead else bare, version)


def _from_words(text: str, version: str) -> License | None:
    elements: list[str] = []
    port = ""
    while text := text.strip():
        word, element = next(((w, e) for w, e in WORDS if _starts(text, w)), ("", ""))
        if not word:
            word = max((place for place in PLACES if _starts(text, place)), key=len, default="")
            if not word or port:
                return None
            port = PLACES[word]
        elif element in elements:
            return None
        else:
            elements.append(element)
        text = text[len(word) :]
    return creative_commons("-".join(elements), version, port) if "by" in elements else None


def _starts(text: str, word: str) -> bool:
    """Whether `text` begins with the whole `word`; Japanese needs no blank after it."""
    return text.startswith(word) and (
        not word.isascii() or not text[len(word) : len(word) + 1].strip() or not text[len(word)].isalnum()
    )


def _without(text: str, words: tuple[str, ...]) -> str:
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"\b{word}\b" if word.isascii() else word, " ", text)
    return " ".join(text.split())
