"""What a source said about rights -> one `License`, or None: unknown is never guessed.

Every form is matched as a whole: one word that is not understood makes the answer None, so that "CC BY, but ask me
first" can never pass as CC BY. URLs are read by `urls`, expressions and templates by `expressions`.
"""

import re
import unicodedata
from functools import lru_cache

from commonart.core.licenses import expressions, urls
from commonart.core.licenses.creative_commons import ELEMENT_NAMES, JURISDICTIONS, creative_commons
from commonart.core.licenses.license import ONE_OF, License, one_of
from commonart.core.licenses.table import FILLERS, PUBLIC_DOMAIN, TEXTS, known_licenses

_FILLER = re.compile(
    "|".join(rf"\b{word}\b" if word.isascii() else word for word in sorted(FILLERS, key=len, reverse=True))
)
# The longest name first; Japanese needs no blank after it.
_ELEMENT = re.compile("|".join(
    rf"{name}(?!\w)" if name.isascii() else name for name in sorted(ELEMENT_NAMES, key=len, reverse=True)
))  # fmt: skip
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
    """Return the licence that `raw` names: a URL, an SPDX id or expression, a Wikimedia template, a `LicenseRef-` of this
    project, a name in English or Japanese, or "One of: " and several of these with semicolons between them.

    None for anything that is not understood as a whole. Bare numbers are not understood either: see `statements.flickr`.
    """
    return None if not raw or len(raw) > LONGEST else _normalize(raw)


@lru_cache(maxsize=65536)
def _normalize(raw: str) -> License | None:
    text = raw.strip()
    if license := _parse_single(text) or _parse_one_of(text):
        return license
    for pattern in _PAIRS:
        if match := pattern.fullmatch(text):
            first, second = _parse_single(match["a"].strip()), _parse_single(match["b"].strip())
            if first is not None and second is not None:
                return more_specific(first, second)
    return None


def _parse_one_of(text: str) -> License | None:
    """`One of: CC0; Public Domain Mark`, or the id of such a statement. Each part must be known."""
    if text[:7].lower() == "one of:":
        parts = text[7:].split(";")
    elif text.startswith(ONE_OF):
        parts = text.removeprefix(ONE_OF).split("..")
    else:
        return None
    licenses = [license for part in parts if (license := _parse_single(part.strip()))]
    return one_of(licenses) if len(licenses) == len(parts) else None


def more_specific(a: License, b: License) -> License | None:
    """Return the more specific of two statements about one work, or None when they contradict each other."""
    return a if a == b or _is_vaguer(b, a) else b if _is_vaguer(a, b) else None


def _is_vaguer(a: License, b: License) -> bool:
    """Whether `a` says as `b` with less detail: no version or reason for being in the public domain, or a choice left open."""
    if a.all_of:
        operands = b.all_of or (b,)
        return (
            a != b
            and all(any(p == q or _is_vaguer(p, q) for q in operands) for p in a.all_of)
            and all(any(p == q or _is_vaguer(p, q) for p in a.all_of) for q in operands)
        )
    return a != b and (
        (a.id == f"LicenseRef-{b.family}" and bool(b.family))
        or (a == PUBLIC_DOMAIN and b.basis in ("dedication", "mark", "statute"))
        or b in a.any_of
    )


def simplify(text: str) -> str:
    """Remove case, width, punctuation and repeated blanks from a name: `ＣＣ　BY-SA (4.0)` -> `cc by sa 4.0`."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = text.replace("・", "").replace("©", " copyright ").replace("(c)", " copyright ")
    return " ".join(re.sub(r"[\s\-‐‑–—―−_/,:;()\[\]「」『』、。]+|\.(?!\d)", " ", text).split())


def _parse_single(text: str) -> License | None:
    """The licence of a text that names it once, in one of the forms."""
    if license := known_licenses().get(text.lower()):
        return license
    if text.isascii() and ("/" in text or ".org" in text) and (license := urls.from_url(text.lower())):
        return license
    if license := expressions.parse_template(text) or expressions.parse_expression(text):
        return license
    name = simplify(text)
    wrapped = _ENGLISH.fullmatch(name) or _JAPANESE.fullmatch(name)
    return _parse_name(name) or (_parse_name(wrapped[1]) if wrapped else None)


def _parse_name(text: str) -> License | None:
    """A simplified name: the words of one licence, its version, then its jurisdiction; `FILLERS` may stand anywhere."""
    if text in TEXTS:
        return TEXTS[text]
    versions = _VERSION.findall(text)
    if len(set(versions)) > 1:
        return None
    version = versions[0] if versions else ""
    if license := TEXTS.get(_without_fillers(_VERSION.sub(" ", text))):
        # These tools exist in one version; Flickr's names never carry one.
        return license if version in ("", "1.0") else None
    if not version and (whole := _WHOLE_VERSION.search(text)):
        version = f"{whole[1]}.0"
        before, after = text[: whole.start()], text[whole.end() :]
    else:
        match = _VERSION.search(text)
        before, after = (text[: match.start()], text[match.end() :]) if match else (text, "")
    head, tail = _without_fillers(before), _without_fillers(_VERSION.sub(" ", after))
    lead = _CC_LEAD.match(f"{head} ")
    elements = f"{head} "[lead.end() :].strip() if lead else head
    if lead is None and not (version and re.match(r"表示|帰属|attribution\b", head)):
        return None
    if not elements:  # "CC 4.0 BY"
        elements, tail = tail, ""
    port = JURISDICTIONS.get(tail, "") if tail else ""
    if tail and not port:
        return None
    codes = _element_codes(elements)
    return creative_commons("-".join(codes), version, port) if "by" in codes else None


def _element_codes(text: str) -> list[str]:
    """`by nc sa`, `attribution non commercial`, `表示 継承` -> their codes; [] when a word is unknown or repeated."""
    codes: list[str] = []
    while text := text.strip():
        match = _ELEMENT.match(text)
        if match is None or ELEMENT_NAMES[match[0]] in codes:
            return []
        codes.append(ELEMENT_NAMES[match[0]])
        text = text[match.end() :]
    return codes


def _without_fillers(text: str) -> str:
    return " ".join(_FILLER.sub(" ", text).split())
