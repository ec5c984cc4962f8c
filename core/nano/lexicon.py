"""The words for scenes in English and Japanese, and the tokens that matter in a text.

`grammar.caption` writes the words of the *_WORDS tables; `facts.parse` also reads the synonyms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from commonart.core.data.text import language_of

Words = Mapping[str, Mapping[str, tuple[str, ...]]]  # language -> name -> ways to say it

COLOR_WORDS: Final[Words] = {
    "en": {name: (name,) for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")},
    "ja": {
        "red":    ("赤い", "赤い", "赤の"),
        "orange": ("オレンジ色の", "オレンジの"),
        "yellow": ("黄色い", "黄色の"),
        "green":  ("緑の", "緑色の"),
        "blue":   ("青い", "青い", "青の"),
        "purple": ("紫の", "紫色の"),
        "pink":   ("ピンクの", "ピンク色の"),
        "brown":  ("茶色の", "茶色い"),
    },
}  # fmt: skip
SHAPE_WORDS: Final[Words] = {
    "en": {
        "circle":   ("circle", "circle", "disc"),
        "square":   ("square",),
        "triangle": ("triangle",),
        "star":     ("star",),
        "cross":    ("cross", "cross", "plus sign"),
        "ring":     ("ring", "ring", "hoop"),
    },
    "ja": {
        "circle":   ("丸", "丸", "円"),
        "square":   ("四角", "四角", "正方形"),
        "triangle": ("三角", "三角形"),
        "star":     ("星", "星", "星形"),
        "cross":    ("十字", "十字", "十字形"),
        "ring":     ("輪", "リング"),
    },
}  # fmt: skip
SIZE_WORDS: Final[Words] = {
    "en": {"small": ("small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")},
    "ja": {"small": ("小さな", "小さい"), "medium": ("中くらいの",), "large": ("大きな", "大きい")},
}
# English: preposition, article, noun.
BACKGROUND_WORDS: Final[Words] = {
    "en": {
        "grassland": ("on the grassland", "on the grass", "in a meadow"),
        "sea":       ("on the sea", "on the sea", "on the ocean"),
        "desert":    ("in the desert", "in a desert"),
        "snow":      ("on the snow", "on the snow", "on a snowfield"),
        "night sky": ("in the night sky", "in a night sky"),
    },
    "ja": {
        "grassland": ("草原", "草原", "野原"),
        "sea":       ("海",),
        "desert":    ("砂漠",),
        "snow":      ("雪原", "雪原", "雪"),
        "night sky": ("夜空",),
    },
}  # fmt: skip
PLACE_WORDS: Final[Words] = {
    "en": {
        "top left":     ("at the top left", "in the top left corner", "in the upper left"),
        "top":          ("at the top", "near the top"),
        "top right":    ("at the top right", "in the top right corner", "in the upper right"),
        "left":         ("on the left", "on the left side"),
        "centre":       ("in the centre", "in the middle", "in the center"),
        "right":        ("on the right", "on the right side"),
        "bottom left":  ("at the bottom left", "in the bottom left corner", "in the lower left"),
        "bottom":       ("at the bottom", "near the bottom"),
        "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right"),
    },
    "ja": {
        "top left":     ("左上",),
        "top":          ("上の方", "上側"),  # 「草原の上に」 would be "on the grassland"
        "top right":    ("右上",),
        "left":         ("左", "左側"),
        "centre":       ("真ん中", "中央"),
        "right":        ("右", "右側"),
        "bottom left":  ("左下",),
        "bottom":       ("下の方", "下側"),
        "bottom right": ("右下",),
    },
}  # fmt: skip

# (kind, name) -> words that are read but not written.
_SYNONYMS: Final[Mapping[str, Mapping[tuple[str, str], str]]] = {
    "en": {
        ("color", "purple"): "violet",
        ("shape", "circle"): "circles disk disks discs dot",
        ("shape", "square"): "squares",
        ("shape", "triangle"): "triangles",
        ("shape", "star"): "stars",
        ("shape", "cross"): "crosses plus",
        ("shape", "ring"): "rings hoops donut doughnut annulus",
        ("size", "small"): "tiny",
        ("size", "medium"): "mid-sized middle-sized",
        ("size", "large"): "huge",
        ("background", "grassland"): "grassland grasslands meadow grass prairie lawn grass_field grassy_field",
        ("background", "sea"): "sea ocean water",
        ("background", "desert"): "desert sand",
        ("background", "snow"): "snow snowfield snow_field snowy_field snowy_plain snowy",
        ("background", "night sky"): "night_sky night starry_sky",
    },
    "ja": {
        ("color", "red"): "赤 赤色 真っ赤",
        ("color", "orange"): "オレンジ オレンジ色 橙 橙色 だいだい色",
        ("color", "yellow"): "黄 黄色",
        ("color", "green"): "緑 緑色 みどり",
        ("color", "blue"): "青 青色",
        ("color", "purple"): "紫 紫色",
        ("color", "pink"): "ピンク ピンク色 桃色",
        ("color", "brown"): "茶 茶色",
        ("shape", "circle"): "円形 まる 丸形",
        ("shape", "square"): "四角形 真四角",
        ("shape", "triangle"): "正三角形",
        ("shape", "star"): "星型",
        ("shape", "cross"): "十字型 クロス プラス",
        ("shape", "ring"): "輪っか わっか 円環 ドーナツ形",
        ("size", "small"): "小さ 小型",
        ("size", "medium"): "中くらい 中ぐらい 中サイズ 中型",
        ("size", "large"): "大き 大型",
        ("background", "grassland"): "草地 芝生 草はら",
        ("background", "sea"): "大海原 海原 海上 海面",
        ("background", "desert"): "砂地 砂丘",
        ("background", "snow"): "雪景色 雪野原 雪の原",
        ("background", "night sky"): "夜の空 星空 夜",
    },
}
_EN_DOWN: Final = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_JA_DIRECTION: Final = {
    "左上": "top left", "右上": "top right", "左下": "bottom left", "右下": "bottom right",
    "上の中央": "top", "中央上": "top", "下の中央": "bottom", "中央下": "bottom",
    "左の中央": "left", "中央左": "left", "右の中央": "right", "中央右": "right",
    "真ん中": "centre", "まん中": "centre", "真中": "centre", "中央": "centre", "中心": "centre",
    "左斜め上": "top left", "右斜め上": "top right", "左斜め下": "bottom left", "右斜め下": "bottom right",
    "上": "top", "下": "bottom", "左": "left", "右": "right",
}  # fmt: skip
_EN_STEP: Final = {"above": "top", "over": "top", "below": "bottom", "under": "bottom", "beneath": "bottom"}


@dataclass(frozen=True, slots=True)
class Token:
    """A word that matters.

    Its kind is color, shape, size, background or place; or a relation, whose value is the direction: of ("above X"), it
    ("above it"), after (「Xの上」).
    """

    kind: str
    value: str
    start: int
    end: int


def tokens(text: str, lang: str | None = None) -> list[Token]:
    """Return the words that matter, in order. `lang` None: the language that the text is in."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if lang is None:
        lang = "ja" if language_of(text) == "ja" else "en"
    if lang not in ("en", "ja"):
        raise ValueError(f"captions are read in en or ja, not {lang!r}")
    words = list(_words(text, lang))
    return list(_en_places(words, text) if lang == "en" else _ja_places(words, text))


@lru_cache(maxsize=2)
def _lexicon(lang: str) -> tuple[re.Pattern[str], Mapping[str, tuple[str, str]]]:
    words: dict[str, tuple[str, str]] = {}
    tables = {"color": COLOR_WORDS, "shape": SHAPE_WORDS, "size": SIZE_WORDS}
    if lang == "ja":  # in English, the synonyms have its bare nouns
        tables["background"] = BACKGROUND_WORDS
    for kind, table in tables.items():
        words |= {word: (kind, name) for name, ways in table[lang].items() for word in ways}
    for (kind, name), more in _SYNONYMS[lang].items():
        words |= {word.replace("_", " "): (kind, name) for word in more.split()}
    if lang == "ja":
        words |= {word: ("place", name) for word, name in _JA_DIRECTION.items()}
    else:
        words |= {word: ("place", name) for word, name in _EN_DOWN.items() if word not in ("upper", "lower")}
        words |= {word: ("place", word) for word in ("left", "right")}
        for middle in ("centre", "center", "middle"):
            words[middle] = ("place", "centre")
            for word, name in (*_EN_DOWN.items(), ("left", "left"), ("right", "right")):
                words |= {f"{word} {middle}": ("place", name), f"{middle} {word}": ("place", name)}
        for down, row in _EN_DOWN.items():
            for column in ("left", "right"):
                words[f"{down} {column}"] = ("place", f"{row} {column}")
        words |= {word: ("step", name) for word, name in _EN_STEP.items()}
    longest_first = sorted(words, key=len, reverse=True)
    either = "|".join(re.escape(word).replace(r"\ ", r"[\s-]+") for word in longest_first)
    return re.compile(rf"\b(?:{either})\b" if lang == "en" else either), words


def _words(text: str, lang: str) -> Iterator[Token]:
    pattern, words = _lexicon(lang)
    for match in pattern.finditer(text):
        word = match[0] if match[0] in words else re.sub(r"[\s-]+", " ", match[0])
        kind, value = words[word]
        yield Token(kind, value, match.start(), match.end())


_EN_AFTER: Final = re.compile(r"(?:[\s-]hand)?(?:\s(?:side|corner|edge|part|half|end))?(?:\s(of))?\s?(?:(it)\b)?")


def _en_places(words: list[Token], text: str) -> Iterator[Token]:
    """Distinguish "on the left of the snow" (a place), "left of a circle" and "to its left" (relations)."""
    for i, token in enumerate(words):
        if token.kind not in ("place", "step"):
            yield token
            continue
        after = _EN_AFTER.match(text, token.end)
        following = words[i + 1] if i + 1 < len(words) else None
        close = following is not None and not re.search(r"[,.;:]", text[token.end : following.start])
        of_thing = close and following is not None and following.kind in ("color", "shape", "size")
        its = re.search(r"\b(?:its|their)\s$", text[max(token.start - 8, 0) : token.start]) or (after and after[2])
        if its:
            yield Token("it", token.value, token.start, token.end)
        elif of_thing and (token.kind == "step" or (after and after[1] and token.value != "centre")):
            yield Token("of", token.value, token.start, token.end)
        elif token.kind == "place":
            yield token


def _ja_places(words: list[Token], text: str) -> Iterator[Token]:
    """Distinguish 「草原の左上」 (a place), 「丸の左上」「その左上」 (relations) and 「草原の上に」 ("on it")."""
    for i, token in enumerate(words):
        if token.kind != "place":
            yield token
            continue
        rest, bare = text[token.end :], token.end - token.start == 1
        joined = words[i - 1].kind if i and text[words[i - 1].end : token.start] == "の" else ""
        if bare and re.match(r"[\u4e00-\u9fff](?<![側端隅寄辺部半])", rest):
            continue  # 上着, 右手: part of another word
        on_it = bare and token.value == "top" and not re.match(r"側|端|隅|辺|寄|部|半|の方|のほう", rest)
        if joined == "shape":
            yield Token("after", token.value, token.start, token.end)
        elif re.search(r"(?:その|それの)$", text[max(token.start - 3, 0) : token.start]):
            yield Token("it", token.value, token.start, token.end)
        elif not (on_it and joined == "background"):
            yield token
