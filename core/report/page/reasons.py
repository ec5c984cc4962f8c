"""The words for the stages, and for why each of them left records out: by the codes of their notes."""

from __future__ import annotations

from commonart.core.report.page.text import Pair

STAGES: dict[str, Pair] = {
    "fetch": ("Fetched", "取得"),
    "license-filter": ("Licences checked", "ライセンスの選別"),
    "caption": ("Captioned", "キャプションの生成"),
    "translate": ("Translated", "翻訳"),
    "shard": ("Decoded and packed", "デコードとシャード化"),
    "encode-text": ("Texts encoded", "テキストのエンコード"),
    "encode-image": ("Images encoded", "画像のエンコード"),
    "train": ("Trained on", "学習"),
}
REASONS: dict[str, Pair] = {
    "license_not_allowed": ("licence not allowed", "許可されないライセンス"),
    "license_unknown": ("licence not known", "ライセンス不明"),
    "license_conflict": ("contradictory licences", "ライセンスの矛盾"),
    "heldout": ("held out for testing", "検証用に取り置き"),
    "blocklisted": ("on the blocklist", "ブロックリストに記載"),
    "opt_out": ("opted out", "オプトアウト"),
    "duplicate": ("duplicate", "重複"),
    "duplicate_key": ("key used twice", "キーの重複"),
    "too_small": ("too small", "小さすぎる"),
    "too_many_pixels": ("too many pixels", "画素数が多すぎる"),
    "too_many_bytes": ("file too large", "ファイルが大きすぎる"),
    "unreadable": ("cannot be decoded", "デコードできない"),
    "image_unreadable": ("cannot be decoded", "デコードできない"),
    "not_an_image": ("not an image", "画像ではない"),
    "no_image": ("no image", "画像がない"),
    "no_captions": ("no caption", "キャプションがない"),
    "too_few_captions": ("too few captions", "キャプションが足りない"),
    "split_conflict": ("contradictory split", "分割の矛盾"),
    "no_text_features": ("text not encoded", "テキストが未エンコード"),
    "no_latents": ("image not encoded", "画像が未エンコード"),
    "caption_of_refused_model": ("written by a model whose terms forbid it", "規約が禁じるモデルの出力"),
    "caption_of_unknown_model": ("written by a model that is not known", "不明なモデルの出力"),
    "caption_license_not_allowed": ("licence not allowed", "許可されないライセンス"),
    "wrong_language": ("wrong language", "言語が違う"),
    "repetition": ("repetitions", "繰り返し"),
    "model_error": ("model failed", "モデルの失敗"),
    "http_404": ("gone from its address (HTTP 404)", "アドレスに存在しない（HTTP 404）"),
    "http_410": ("gone from its address (HTTP 410)", "アドレスに存在しない（HTTP 410）"),
    "timeout": ("no answer in time", "時間内に応答がない"),
    "other_file": ("not an image file", "画像以外のファイル"),
}
