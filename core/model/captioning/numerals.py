"""The numbers in a text as values, from digits, English words and kanji: a translation may write three as 三つ or 3.

lost_number("three dogs in 1,200 m", "1200メートルにいる犬が三匹", "en", "ja")    # ""
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_CARDINALS = {word: value for value, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
))} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip
# What stands for a number without being one: it may answer one in the other language, and is never asked for.
_IMPLIED_EN = (
    {word: i + 1 for i, word in enumerate(_MONTHS)}
    | {month[:3]: i + 1 for i, month in enumerate(_MONTHS)}
    | {word: i + 1 for i, word in enumerate(_ORDINALS)}
    | {word[:-1] + "ies": value for word, value in _CARDINALS.items() if value >= 20}
    | {"both": 2, "pair": 2, "couple": 2, "twin": 2, "twins": 2, "duo": 2, "double": 2, "twice": 2, "either": 2}
    | {
        "trio": 3,
        "triple": 3,
        "triplets": 3,
        "fours": 4,
        "quartet": 4,
        "decade": 10,
        "dozen": 12,
        "noon": 12,
        "midnight": 0,
    }
)
_IMPLIED_JA = {
    "両": 2, "双": 2, "ペア": 2, "カップル": 2, "対": 2, "ダブル": 2, "ツイン": 2, "ふたり": 2, "ふたつ": 2, "ツー": 2,
    "立体": 3, "トリオ": 3, "トリプル": 3, "みっつ": 3, "スリー": 3, "よっつ": 4, "フォー": 4, "いつつ": 5, "ファイブ": 5,
    "むっつ": 6, "シックス": 6, "ななつ": 7, "セブン": 7, "やっつ": 8, "エイト": 8, "ここのつ": 9, "ナイン": 9, "テン": 10,
    "イレブン": 11, "正午": 12, "半分": 50,
}  # fmt: skip
_KANJI = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0}
_SMALL, _LARGE = {"十": 10, "百": 100, "千": 1000}, {"万": 10**4, "億": 10**8, "兆": 10**12}
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_JAPANESE = re.compile(rf"(?:{_DIGITS}|[〇零一二三四五六七八九十百千万億兆])+")
# Kanji are numbers for certain only before a counter: 三匹, but not 三重県. Of these, some words count nothing.
_COUNTER = re.compile(
    "[つ人匹本枚個台頭羽冊軒歳才年月日時分秒色隻艘脚杯皿着件名組種段階世度円輪株棟カヶか箱束]|メートル|センチ|キロ"
)
_IDIOM = re.compile(
    "三日月|二日酔|三脚|三つ編|四つん|[二三四]つ折|二人三|二人乗|千羽|十分|二枚目|三枚目|十八番|三つ揃|七五三"
)
_ERAS = {"令和": 2018, "平成": 1988, "昭和": 1925, "大正": 1911, "明治": 1867}
_ENGLISH = re.compile(rf"(?P<digits>{_DIGITS})|[a-z]+")


def lost_number(original: str, translation: str, source: str, target: str) -> str:
    """Return the first number of a text that its translation does not hold; "" where it holds them all.

    One is never asked for (一人の男性 is a man). Where another language than English and Japanese is read
    or written, only digits above twelve are.
    """
    original, translation = (unicodedata.normalize("NFKC", text).casefold() for text in (original, translation))
    known = {source, target} <= {"en", "ja"}
    found = set(_implied(translation, target))
    for value, text, _ in _numbers(translation, target):
        found |= {value, value * 10} if f"{text}割" in translation else {value}
    plain = re.sub(r"(?<=\d)[.,\s](?=\d)", "", translation)
    for value, text, certain in _numbers(original, source):
        if not certain or value == 1 or not (known or (text[0].isdigit() and value > 12)):
            continue
        if not found & _same(value, text, original) and re.sub(r"\D", "", text or "-") not in re.findall(r"\d+", plain):
            return text
    return ""


def _same(value: float, text: str, original: str) -> set[float]:
    """The values that say the same: hours of the other clock, years of the other calendar, tenths."""
    same = {value}
    if value <= 24:
        same |= {value + 12, value - 12}
    same |= {value + first for era, first in _ERAS.items() if f"{era}{text}" in original}
    if f"{text}割" in original:
        same.add(value * 10)
    return same


def _numbers(text: str, lang: str) -> Iterator[tuple[float, str, bool]]:
    """Yield (value, as written, whether it is a number for certain)."""
    yield from _japanese(text) if lang == "ja" else _english(text)


def _japanese(text: str) -> Iterator[tuple[float, str, bool]]:
    idioms = {i for match in _IDIOM.finditer(text) for i in range(*match.span())}
    for match in _JAPANESE.finditer(text):
        written = match[0]
        digits = written[0].isdigit() and written[0] not in _KANJI
        certain = digits or (_COUNTER.match(text, match.end()) is not None and match.start() not in idioms)
        yield _kanji_value(written), written, certain


def _kanji_value(text: str) -> float:
    parts = re.findall(rf"{_DIGITS}|.", text)
    if not any(part in _SMALL or part in _LARGE for part in parts):  # 二〇二六
        digits = "".join(str(_KANJI[part]) if part in _KANJI else part.replace(",", "") for part in parts)
        return float(digits) if digits.count(".") < 2 else 0.0
    total = section = 0.0
    number: float | None = None
    for part in parts:
        if part in _LARGE:
            section += number or 0
            total, section, number = total + (section or 1) * _LARGE[part], 0.0, None
        elif part in _SMALL:
            section, number = section + (1 if number is None else number) * _SMALL[part], None
        else:
            digit = float(_KANJI[part]) if part in _KANJI else float(part.replace(",", ""))
            number = digit if number is None else number * 10 + digit
    return total + section + (number or 0)


def _english(text: str) -> Iterator[tuple[float, str, bool]]:
    value: float | None = None  # of the number whose words are being read
    total, written, end = 0.0, "", 0
    tokens = [*_ENGLISH.finditer(text), None]
    for token in tokens:
        word = token[0] if token else ""
        near = token is not None and text[end : token.start()] in (" ", "-", " - ")
        if word in _SCALES:
            value = (value if value is not None and near else 1) * _SCALES[word]
            if word != "hundred":
                total, value = total + value, 0
            written, end = f"{written} {word}".strip(), token.end() if token else 0
            continue
        number = float(word.replace(",", "")) if token and token["digits"] else _CARDINALS.get(word)
        if number is None and word == "and" and near and written.split()[-1:] and written.split()[-1] in _SCALES:
            end = token.end() if token else 0
            continue
        continues = value is not None and near and number is not None and not (token and token["digits"])
        if continues and value is not None and number is not None and (
            (value % 100 >= 20 and value % 10 == 0 and 0 < number < 10) or (value % 100 == 0 and number < 100 and (value or total))
        ):  # fmt: skip
            value, written = value + number, f"{written} {word}"
        else:
            if value is not None:
                # A two-tone car is ツートン, an eighteen-wheeler a 大型トラック: such words may go.
                compound = (
                    text[end : end + 1] == "-" and not text[end:].startswith("-year") and not written[0].isdigit()
                )
                yield total + value, written, not compound
            value, total, written = number, 0.0, word if number is not None else ""
        end = token.end() if token else 0


def _implied(text: str, lang: str) -> Iterator[float]:
    if lang == "ja":
        yield from (value for word, value in _IMPLIED_JA.items() if word in text)
    else:
        yield from (_IMPLIED_EN[word] for word in re.findall("[a-z]+", text) if word in _IMPLIED_EN)
