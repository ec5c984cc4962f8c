"""The words that templated prompts are made of, in English and Japanese: everyday things, and the scenes that nano knows.

Nouns, counters and verbs are chosen so that every combination that `templated_prompts` makes is something that people say
in either language, and something that can be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Noun(NamedTuple):
    """A thing that can be drawn and counted."""

    en: str
    plural: str
    ja: str
    counter: str  # 2匹, 2個
    takes: str = (
        ""  # kinds of attributes: c color, m material, p pattern, s size; b bears other things, t stands on them
    )
    animate: bool = False  # いる, not ある


class Color(NamedTuple):
    """A color: `ja` stands before a noun, `ja_noun` is its name."""

    en: str
    ja: str
    ja_noun: str


class Attribute(NamedTuple):
    """A material, pattern or size: `en` and `ja` stand before a noun, `is_en` and `is_ja` say it of one."""

    kind: str  # of Noun.takes
    en: str
    ja: str
    is_en: str
    is_ja: str


class Relation(NamedTuple):
    """Where the subject is, seen from the anchor: SUBJECT `en` ANCHOR, ANCHORの`ja`に."""

    name: str
    en: str
    ja: str
    needs: tuple[str, str] = ("", "")  # letters of `takes` that subject and anchor must have


class Vocabulary(NamedTuple):
    """Words that go together, and what a picture of them is called."""

    nouns: tuple[Noun, ...]
    colors: tuple[Color, ...]
    attributes: tuple[Attribute, ...]
    relations: tuple[Relation, ...]
    most: int  # of one thing
    medium: Mapping[str, str]
    shown_ja: str
    colored: bool = False  # every thing has a color: models of scenes know none without


_RED, _ORANGE, _YELLOW = (
    Color("red", "赤い", "赤"),
    Color("orange", "オレンジ色の", "オレンジ"),
    Color("yellow", "黄色い", "黄色"),
)
_GREEN, _BLUE, _PURPLE = Color("green", "緑色の", "緑"), Color("blue", "青い", "青"), Color("purple", "紫色の", "紫")
_PINK, _BROWN = Color("pink", "ピンク色の", "ピンク"), Color("brown", "茶色い", "茶色")
_WHITE, _BLACK = Color("white", "白い", "白"), Color("black", "黒い", "黒")
_LEFT, _RIGHT = Relation("left", "to the left of", "左"), Relation("right", "to the right of", "右")

EVERYDAY = Vocabulary(
    nouns=(
        Noun("cat",      "cats",      "猫",         "匹", "", True),
        Noun("dog",      "dogs",      "犬",         "匹", "", True),
        Noun("rabbit",   "rabbits",   "うさぎ",     "匹", "", True),
        Noun("horse",    "horses",    "馬",         "頭", "", True),
        Noun("cow",      "cows",      "牛",         "頭", "", True),
        Noun("bird",     "birds",     "鳥",         "羽", "", True),
        Noun("apple",    "apples",    "りんご",     "個", "t"),
        Noun("cup",      "cups",      "カップ",     "個", "cmpt"),
        Noun("bowl",     "bowls",     "ボウル",     "個", "cmt"),
        Noun("vase",     "vases",     "花瓶",       "個", "cmpt"),
        Noun("bottle",   "bottles",   "ボトル",     "本", "cmt"),
        Noun("spoon",    "spoons",    "スプーン",   "本", "mt"),
        Noun("candle",   "candles",   "ろうそく",   "本", "ct"),
        Noun("book",     "books",     "本",         "冊", "ct"),
        Noun("clock",    "clocks",    "時計",       "個", "cmt"),
        Noun("ball",     "balls",     "ボール",     "個", "cpt"),
        Noun("hat",      "hats",      "帽子",       "個", "cpt"),
        Noun("bag",      "bags",      "かばん",     "個", "cpt"),
        Noun("cushion",  "cushions",  "クッション", "個", "cp"),
        Noun("umbrella", "umbrellas", "傘",         "本", "cp"),
        Noun("balloon",  "balloons",  "風船",       "個", "cp"),
        Noun("flower",   "flowers",   "花",         "本", "c"),
        Noun("box",      "boxes",     "箱",         "個", "cmpb"),
        Noun("chair",    "chairs",    "椅子",       "脚", "cmb"),
        Noun("bench",    "benches",   "ベンチ",     "台", "cmb"),
        Noun("table",    "tables",    "テーブル",   "台", "cmb"),
        Noun("bicycle",  "bicycles",  "自転車",     "台", "c"),
        Noun("car",      "cars",      "車",         "台", "c"),
        Noun("bus",      "buses",     "バス",       "台", "c"),
        Noun("tent",     "tents",     "テント",     "張", "cp"),
    ),
    colors=(_RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _PURPLE, _PINK, _BROWN, _WHITE, _BLACK),
    attributes=(
        Attribute("m", "wooden",     "木製の",         "made of wood",    "木製"),
        Attribute("m", "glass",      "ガラス製の",     "made of glass",   "ガラス製"),
        Attribute("m", "metal",      "金属製の",       "made of metal",   "金属製"),
        Attribute("m", "plastic",    "プラスチック製の", "made of plastic", "プラスチック製"),
        Attribute("p", "striped",    "縞模様の",       "striped",         "縞模様"),
        Attribute("p", "polka-dot",  "水玉模様の",     "covered in polka dots", "水玉模様"),
        Attribute("p", "checkered",  "チェック柄の",   "checkered",       "チェック柄"),
    ),
    relations=(
        _LEFT, _RIGHT,
        Relation("front",  "in front of", "前"),
        Relation("behind", "behind",      "後ろ"),
        Relation("on",     "on top of",   "上", ("t", "b")),
    ),
    most=5,
    medium={"en": "photo", "ja": "写真"},
    shown_ja="写っている",
)  # fmt: skip

# What `core.nano.scene_reader` reads; the names are those of `core.nano.scenes`.
SCENES = Vocabulary(
    nouns=(
        Noun("circle",   "circles",   "丸",   "つ", "cs"),
        Noun("square",   "squares",   "四角", "つ", "cs"),
        Noun("triangle", "triangles", "三角", "つ", "cs"),
        Noun("star",     "stars",     "星",   "つ", "cs"),
        Noun("cross",    "crosses",   "十字", "つ", "cs"),
        Noun("ring",     "rings",     "輪",   "つ", "cs"),
    ),
    colors=(_RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _PURPLE, _PINK, _BROWN),
    attributes=(
        Attribute("s", "small", "小さな", "small", "小さい"),
        Attribute("s", "large", "大きな", "large", "大きい"),
    ),
    relations=(_LEFT, _RIGHT, Relation("above", "above", "上"), Relation("below", "below", "下")),
    most=3,
    medium={"en": "picture", "ja": "絵"},
    shown_ja="描かれている",
    colored=True,
)  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five")
