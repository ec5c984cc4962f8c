"""What the audit's page calls things, in English and in Japanese.

With --keys, the works in question are no training images yet, and are never called so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TERMS = {
    False: {
        "members": "training images", "captions": "training captions", "all": "all training images",
        "own": "their training image", "members_ja": "学習画像", "captions_ja": "学習画像のキャプション", "all_ja": "全学習画像",
        "own_ja": "元の学習画像",
    },
    True: {
        "members": "works in question", "captions": "captions of the works in question", "all": "the works in question",
        "own": "their own image", "members_ja": "対象の作品", "captions_ja": "対象の作品のキャプション", "all_ja": "対象の作品",
        "own_ja": "元の作品",
    },
}  # fmt: skip
SHORT_JA = {
    "leaks": "漏洩あり", "no leak found": "漏洩は見つからず", "groups differ": "群が異なり判断不可",
    "near copies": "類似画像あり", "no near copies found": "類似画像は見つからず", "too few to tell": "少なすぎて判断不可",
    "extracted": "取り出せた", "extracted, rate uncertain": "取り出せた（割合は不確か）", "nothing extracted": "取り出せず",
}  # fmt: skip
# What the rows of the tables are called.
NAMES = {
    "classifier": "classifier on the images / 画像の分類器", "file_bytes": "file size / ファイルの大きさ",
    "png_bytes": "size without loss / 可逆圧縮での大きさ", "caption_length": "caption length / キャプションの長さ",
    "combined": "combined / 総合", "twin": "has a twin / 重複あり", "no_caption": "no caption / キャプションなし",
    "no_image": "no image / 画像なし", "too_small": "too small / 小さすぎ", "unreadable": "unreadable / 読めない",
    "not_trained_on": "not trained on / 学習から除外", "seed": "seed / 乱数の種", "lang": "caption language / キャプションの言語",
    "times": "timesteps / 時刻の数", "draws": "noises / ノイズの数", "permutations": "permutations / 並べ替えの数",
    "objective": "objective / 学習目標", "size": "pixels / 画素", "precision": "precision / 精度",
    "steps": "sampling steps / 生成ステップ", "guidance": "guidance / ガイダンス",
}  # fmt: skip


def terms(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what the members of an audit are called: training images, or the works in question."""
    return TERMS[result["question"] != "training set"]
