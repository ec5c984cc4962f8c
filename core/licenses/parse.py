"""What a source said about rights -> one `License`, or None: unknown is never guessed.

    commonart license-filter --explain "表示 4.0 国際"

Every form is matched as a whole: one word that is not understood makes the answer None, so that "CC BY, but ask me
first" can never pass as CC BY. URLs are read by `urls`, expressions and templates by `expressions`.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from commonart.core.licenses import expressions, urls
from commonart.core.licenses.creative_commons import COMBINATIONS, PLACES, PORTS, VERSIONS, WORDS, creative_commons
from commonart.core.licenses.license import License
from commonart.core.licenses.table import EUROPEANA, FILLERS, OTHERS, PUBLIC_DOMAIN, RIGHTS_STATEMENTS, SINGLES, TEXTS

_FILLER = re.compile(
    "|".join(rf"\b{word}\b" if word.isascii() else word for word in sorted(FILLERS, key=len, reverse=True))
)
LONGEST = 500  # characters; a statement that is longer is a text to be read by a person
_VERSION = re.compile(r"(?<![\d.])(?:\bversion |\bver\.? ?|バージョン ?|v)?(\d\.\d)(?![\d.])")
_WHOLE_VERSION = re.compile(r" ([1-4])(?=$| )")  # "CC BY 4"
_CC_LEAD = re.compile(
    r"^(?:the )?(?:cc|creative ?commons|クリエイティブ ?コモンズ) ?(?:license |licence |ライセンス ?)?(?:の ?)?"
)
# What a licence's name is wrapped in: "This work is licensed under a ...". Only these; "not licensed under" is none.
_ENGLISH = re.compile(
    r"(?:(?:(?:this|the) (?:work|image|photo|photograph|picture|file|media|content) is )?"
    r"(?:licensed|released|published|made available|available) under (?:the terms of )?(?:a |an |the )?"
    r"|licen[cs]e |rights )(.+)"
)
_JAPANESE = re.compile(
    r"(?:この|本)(?:作品|画像|写真|著作物)は ?(.+?) ?(?:の下に|の下で|のもとで|で)(?:提供|公開|ライセンス)されています"
)
# A name beside another form of the same licence: "X (Y)", "[X](Y)", "<a href=Y>X</a>", "X: https://..."
_PAIRS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<a\s[^<>]*?href=[\"'](?P<b>[^\"'<>]+)[\"'][^<>]*>(?P<a>[^<>]+)</a>",
        r"\[(?P<a>[^\[\]]+)\]\((?P<b>[^()\s]+)\)",
        r"(?P<a>.+?)\s*[(<（](?P<b>[^()<>（）]+)[)>）]",
        r"(?P<a>.+?)[\s:,–-]+(?P<b>https?://\S+)",
        r"(?P<a>CC[^|]+?) (?:Deed|Legal Code) \| (?P<b>[^|]+?)(?: \| Creative Commons)?",  # the title of a deed
    )
)


def normalize(raw: str | None) -> License | None:
    """The licence that `raw` names: a URL, an SPDX id or expression, a Wikimedia template, a `LicenseRef-` of this
    project, a name in English or Japanese.

    None for anything that is not understood as a whole. Bare numbers are not understood either: see `sources.flickr`.
    """
    return None if not raw or len(raw) > LONGEST else _normalize(raw)


@lru_cache(maxsize=65536)
def _normalize(raw: str) -> License | None:
    text = raw.strip()
    if found := _single(text):
        return found
    for a, b in _pairs(text):
        first, second = _single(a), _single(b)
        if first is not None and second is not None:
            return agreed(first, second)
    return None


def agreed(a: License, b: License) -> License | None:
    """The more exact of two statements about one work, or None when they contradict each other."""
    return a if a == b or _vaguer(b, a) else b if _vaguer(a, b) else None


def _vaguer(a: License, b: License) -> bool:
    """Whether `a` says the same as `b` with less detail: no version, no reason for being in the public domain, or a
    choice that `b` has made.
    """
    if a.all_of:
        parts = b.all_of or (b,)
        return (
            a != b
            and all(any(p == q or _vaguer(p, q) for q in parts) for p in a.all_of)
            and all(any(p == q or _vaguer(p, q) for p in a.all_of) for q in parts)
        )
    return a != b and (
        (a.id == f"LicenseRef-{b.family}" and bool(b.family))
        or (a == PUBLIC_DOMAIN and b.basis in ("dedication", "mark", "statute"))
        or b in a.any_of
    )


def fold(text: str) -> str:
    """Case, width, punctuation and blanks taken out of a name: `ＣＣ　BY-SA (4.0)` -> `cc by sa 4.0`."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = text.replace("・", "").replace("©", " copyright ").replace("(c)", " copyright ")
    return " ".join(re.sub(r"[\s\-‐‑–—―−_/,:;()\[\]「」『』、。]+|\.(?!\d)", " ", text).split())


@cache
def ids() -> dict[str, License]:
    """Every identifier that this package can answer with, in lower case -> its licence."""
    every = [*SINGLES, *OTHERS, *RIGHTS_STATEMENTS.values(), *EUROPEANA.values()]
    for elements in [*COMBINATIONS, "nc", "nc-sa", "nd", "nc-nd", "sa"]:
        for version in ("", *VERSIONS):
            for port in ("", *PORTS.get(version, ())):
                found = creative_commons(elements, version, port)
                every += [found] if found is not None else []
    return {known.id.lower(): known for known in every}


def _single(text: str) -> License | None:
    """One form of one licence."""
    known = ids().get(text.lower())
    if known is not None:
        return known
    if text.isascii() and ("/" in text or ".org" in text):
        url = text.lower()
        page = urls.SPDX.fullmatch(url)
        if found := ids().get(page[1]) if page else urls.from_url(url):
            return found
    if found := expressions.template(text) or expressions.expression(text, ids()):
        return found
    folded = fold(text)
    wrapped = _ENGLISH.fullmatch(folded) or _JAPANESE.fullmatch(folded)
    return _from_text(folded) or (_from_text(wrapped[1]) if wrapped else None)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for pattern in _PAIRS:
        if match := pattern.fullmatch(text):
            yield match["a"].strip(), match["b"].strip()


def _from_text(text: str) -> License | None:
    """A folded name: words of one licence, its version, then its jurisdiction; `FILLERS` may stand anywhere."""
    if text in TEXTS:
        return TEXTS[text]
    versions = _VERSION.findall(text)
    if len(set(versions)) > 1:
        return None
    version = versions[0] if versions else ""
    bare = _bare(_VERSION.sub(" ", text))
    if bare in TEXTS:
        # These tools exist in one version; Flickr's names never carry one.
        found = TEXTS[bare]
        return found if version in ("", "1.0") else None
    if not version and (whole := _WHOLE_VERSION.search(text)):
        version = f"{whole[1]}.0"
        before, after = text[: whole.start()], text[whole.end() :]
    else:
        match = _VERSION.search(text)
        before, after = (text[: match.start()], text[match.end() :]) if match else (text, "")
    head, tail = _bare(before), _bare(_VERSION.sub(" ", after))
    lead = _CC_LEAD.match(f"{head} ")
    named = f"{head} "[lead.end() :].strip() if lead else head
    if lead is None and not (version and re.match(r"表示|帰属|attribution\b", head)):
        return None
    if not named:  # "CC 4.0 BY"
        named, tail = tail, ""
    port = PLACES.get(tail, "") if tail else ""
    if tail and not port:
        return None
    elements = _elements(named)
    return creative_commons("-".join(elements), version, port) if "by" in elements else None


def _elements(text: str) -> list[str]:
    """`by nc sa`, `attribution non commercial`, `表示 継承` -> their elements; [] when a word is none, or is doubled."""
    found: list[str] = []
    while text := text.strip():
        word = next((w for w in _longest_first() if text.startswith(w) and _ends(text, w)), "")
        if not word or WORDS[word] in found:
            return []
        found.append(WORDS[word])
        text = text[len(word) :]
    return found


@cache
def _longest_first() -> tuple[str, ...]:
    return tuple(sorted(WORDS, key=len, reverse=True))


def _ends(text: str, word: str) -> bool:
    """Whether `word` ends where it stands; Japanese needs no blank after it."""
    return not word.isascii() or not text[len(word) : len(word) + 1].strip() or not text[len(word)].isalnum()


def _bare(text: str) -> str:
    """`text` without FILLERS."""
    return " ".join(_FILLER.sub(" ", text).split())
