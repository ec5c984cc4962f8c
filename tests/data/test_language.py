"""One language identifier for captions and prompts."""

from __future__ import annotations

import pytest

from commonart.core.data.text import language_of


@pytest.mark.parametrize(
    "text",
    ["富士山", "東京駅夜景", "夕焼けの海", "ﾌｼﾞｻﾝ", "佐々木", "髙橋", "𠮷野家", "頰", "葛飾北斎 神奈川沖浪裏", "富士山 Mt. Fuji",
     "Canon EOS R5で撮影した桜", "草原の左上に赤い丸", "噓", "機関車 D51"],
)  # fmt: skip
def test_japanese_with_and_without_kana(text: str) -> None:
    assert language_of(text) == "ja"


@pytest.mark.parametrize("text", ["红色的圆形", "一只猫坐在沙发上", "简体中文", "这是一张照片", "约翰・史密斯", "她們"])
def test_chinese_is_not_called_japanese(text: str) -> None:
    assert language_of(text) == "zh"


@pytest.mark.parametrize(
    "text", ["", "a red circle", "Café", "Mount Fuji (富士山) at dawn", "①", "！？", "1970", "ー・"]
)
def test_everything_else_is_english(text: str) -> None:
    assert language_of(text) == "en"


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("富士山", "ja"), ("東京駅夜景", "ja"), ("夕焼けの海", "ja"), ("ｶﾀｶﾅ", "ja"), ("カタカナ", "ja"), ("红色的圆", "zh"),
        ("빨간 원", "ko"), ("a red circle", "en"), ("Mt. Fuji (富士山)", "ja"), ("ein Kreis", "en"), ("", "en"),
    ],
)  # fmt: skip
def test_the_script_of_a_caption_tells_its_language(text: str, lang: str) -> None:
    assert language_of(text, "en") == lang
