"""The page's words, in English and in Japanese."""

from __future__ import annotations

from typing import Any

Pair = tuple[str, str]  # English, Japanese

TITLE: Pair = ("what it was trained on, and what it does", "学習データと性質")
TITLE_OF_DATA: Pair = ("what is in it", "内容")
KIND: Pair = ("Model report", "モデル報告書")
KIND_OF_DATA: Pair = ("Data report", "データ報告書")
SKIP: Pair = ("Skip to the content", "本文へ")
LANGUAGE = "Language / 言語"
CONTENTS = "Contents / 目次"

# The first three sentences.
MODEL: Pair = (
    "{name} is a text-to-image model with {parameters} parameters for images of {side} × {side} pixels, {origin}.",
    "{name} は、文から {side} × {side} 画素の画像を生成する、パラメーター数 {parameters}のモデルです。{origin}",
)
CAPTIONER: Pair = (
    "{name} is a model that describes images, {origin}.",
    "{name} は、画像を文で説明するモデルです。{origin}",
)
FROM_NOTHING: Pair = ("trained from scratch", "ゼロから学習しました。")
FROM_MODEL: Pair = ("trained from the weights of {start}", "{start} の重みから学習しました。")
LEARNED: Pair = (
    "It learned from {works} images with {captions} captions: {licenses}.",
    "学習に使った画像は {works} 枚、キャプションは {captions} 件です（{licenses}）。",
)
COST: Pair = (
    "Training took {steps} steps and {time} on {devices}: {flops} floating-point operations{energy}.",
    "学習は {steps} ステップ、{devices} で {time}、浮動小数点演算 {flops} 回{energy}です。",
)
ENERGY: Pair = (", at most about {kwh} kWh", "、電力量は多くても約 {kwh} kWh ")
NO_ENERGY: Pair = ("; the energy is not known", "、電力量は不明")
DATA: Pair = (
    "{name} is a data set of {works} images with {captions} captions.",
    "{name} は、画像 {works} 枚、キャプション {captions} 件のデータセットです。",
)
DATA_LICENSES: Pair = ("Their licences: {licenses}.", "ライセンス：{licenses}。")
NO_RUN: Pair = (
    "This report is of the data alone; no training run was given with it.",
    "この報告書はデータだけのもので、学習の記録は渡されていません。",
)
UNDER: Pair = ("{count} under {license}", "{license} が {count} 枚")
UNLICENSED: Pair = ("{count} without a licence", "ライセンスの記載がないものが {count} 枚")
MORE_LICENSES: Pair = ("{count} under {kinds} other licences", "ほか {kinds} 種のライセンスが {count} 枚")

SECTIONS: dict[str, Pair] = {
    "data": ("What it was trained on", "学習データ"),
    "contents": ("What is in it", "内容"),
    "history": ("From fetched to trained", "取得から学習まで"),
    "training": ("Training", "学習の経過"),
    "evaluation": ("Evaluation", "評価"),
    "audit": ("Does it give its training images away?", "学習画像は漏れるか（監査）"),
    "models": ("Models that took part", "関わったモデル"),
    "cost": ("What it has cost", "計算の費用"),
    "works": ("The works", "作品"),
    "files": ("Other files of this card", "このカードのほかのファイル"),
}

# Charts: anchor -> (title, unit).
IMAGES: Pair = ("images, and their share", "画像数と割合")
CAPTIONS: Pair = ("captions, and their share", "キャプション数と割合")
CHARTS: dict[str, tuple[Pair, Pair]] = {
    "licenses": (("Licences", "ライセンス"), IMAGES),
    "sources": (("Sources", "出典"), IMAGES),
    "languages": (("Languages of the captions", "キャプションの言語"), CAPTIONS),
    "captioners": (("Who wrote the captions", "キャプションの作成者"), CAPTIONS),
    "caption_words": (("Length of the captions in words", "キャプションの長さ（語数）"), CAPTIONS),
    "sizes": (("Sizes in pixels", "大きさ（画素）"), IMAGES),
}
LONGER: Pair = ("longer side", "長辺")
NOT_STATED = "not stated / 記載なし"
TRANSLATED: Pair = ("A → B: by A, translated by B", "A → B：A が作成し B が翻訳")
BY_PEOPLE: Pair = ("by people: {names}", "人による：{names}")
AUTHOR_COUNT: Pair = ("Most frequent authors: ", "作品の多い作者：")
LICENSE_TEXTS: Pair = ("Licence texts: ", "ライセンス本文：")
TRACED: Pair = (
    "Every one of the {works} records states its {stated}.",
    "{works} 件の記録すべてに{stated}が記されています。",
)
FIELDS: dict[str, Pair] = {
    "license": ("licence", "ライセンス"), "source": ("source", "出典"), "author": ("author", "作者"),
    "title": ("title", "題名"), "address": ("address of the work", "作品のアドレス"), "sha256": ("SHA-256", "SHA-256"),
    "observed": ("date of the licence", "ライセンスの確認日"),
}  # fmt: skip
UNTRACED: Pair = ("What the records do not state", "記録に記載のないもの")
CONFLICTS: Pair = (
    "Images that are in the data under more than one licence: {count}. LICENSES.md names them.",
    "{count} 枚の画像に、記録ごとに異なるライセンスがあります。LICENSES.md に示します。",
)

# The way of the records.
HISTORY: Pair = (
    "Each step as its own record tells it: how many records went in, how many came out, and why the others did not.",
    "各段階の記録による、入った件数、出た件数、除かれた理由です。",
)
STEP: Pair = ("Step", "段階")
IN: Pair = ("In", "入")
OUT: Pair = ("Out", "出")
LOST: Pair = ("Lost", "除外")
REMAINING: Pair = ("Remaining", "残り")
SHARE: Pair = ("Share", "割合")
GAP: Pair = ("taken away between these steps; no record says by what", "この間に除かれた。何によるかの記録はない")
ADDED: Pair = ("added between these steps; no record says from where", "この間に加わった。どこからかの記録はない")
BEGINS: Pair = ("nothing is recorded of what came before this step", "この段階より前の記録はない")
CHANGED: Pair = ("its file was changed by another tool", "ファイルがほかの道具で変更された")
NOT_ALL: Pair = ("shards without a manifest, not counted here", "記録のないシャード（ここでは数えない）")
CAPTION_GONE: Pair = ("captions: {reason}", "キャプション：{reason}")
SETTINGS: Pair = ("Settings of each step", "各段階の設定")

# Training, evaluation, audit.
LOSS: Pair = ("Loss by training step", "学習ステップごとの損失")
LOSS_UNIT: Pair = ("mean squared error of the prediction; lower is better", "予測の平均二乗誤差。小さいほどよい")
FOLLOWED: Pair = ("Prompts followed, by training step", "学習ステップごとの指示への追従")
FOLLOWED_UNIT: Pair = (
    "share of the sampled images that show what the prompt asks for",
    "生成画像のうち、指示どおりのものの割合",
)
SERIES: dict[str, Pair] = {
    "loss": ("while training", "学習中"), "training_loss": ("training images, averaged weights", "学習画像（平均した重み）"),
    "heldout_loss": ("held-out images, averaged weights", "検証画像（平均した重み）"),
    "color_en": ("colour, English prompt", "色（英語）"), "shape_en": ("shape, English prompt", "形（英語）"),
    "color_ja": ("colour, Japanese prompt", "色（日本語）"), "shape_ja": ("shape, Japanese prompt", "形（日本語）"),
}  # fmt: skip
PREVIEW: Pair = ("Sampled at step {step}", "ステップ {step} での生成")
PREVIEW_UNIT: Pair = ("fixed prompts and noise, not chosen", "固定した指示とノイズによる。選別なし")
PREVIEW_ALT = "Images sampled at step {step} / ステップ {step} の生成画像: {prompts}"
METRIC: Pair = ("Measure", "指標")
COUNT: Pair = ("Images", "画像数")
LOWER: Pair = ("lower is better", "小さいほどよい")
HIGHER: Pair = ("higher is better", "大きいほどよい")
JUDGED: Pair = ("{better}, by {judge}", "{better}、判定：{judge}")
REAL: Pair = ("real images: {value}", "実画像：{value}")
SPLITS: dict[str, Pair] = {
    "heldout": ("Captions of held-out images", "検証画像のキャプション"),
    "train": ("Captions of training images", "学習画像のキャプション"),
    "": ("Captions of the reference images", "基準画像のキャプション"),
}
FACTS: dict[str, Pair] = {
    "color": ("Colour right", "色の一致"), "shape": ("Shape right", "形の一致"),
    "background": ("Background right", "背景の一致"), "place": ("Place right", "位置の一致"),
    "all": ("Colour, shape, background and place right", "色・形・背景・位置がすべて一致"), "size": ("Size right", "大きさの一致"),
}  # fmt: skip
QUESTIONS: Pair = ("Questions answered with yes", "質問への肯定率")
SCORES: Pair = ("Scores of {name}", "{name} の評価値")
SCORED: Pair = (
    "By language of the prompt, with 95 % intervals where they are known; {steps} sampler steps, guidance {guidance}, seed {seed}.",
    "指示文の言語ごとの値（わかるものは 95 % 区間つき）。生成 {steps} ステップ、ガイダンス {guidance}、シード {seed}。",
)
GUIDED: Pair = ("Guided at noise levels {low} to {high} only.", "ガイダンスはノイズ水準 {low}〜{high} のみ。")
OF_IMAGES: Pair = ("{kind}, {count} images", "{kind}、画像 {count} 枚")
PROMPTS: dict[str, Pair] = {
    "unseen": ("Prompts never seen", "見たことのない指示文"),
    "held-out pairs": ("Prompts with pairs of words never seen together", "見たことのない語の組み合わせの指示文"),
    "templated": ("Templated prompts", "定型の指示文"),
}  # fmt: skip
TABLE_2: Pair = ("Beside the paper's table 2", "論文の表2との比較")
TABLE_2_NOTE: Pair = (
    "The other rows are the paper's own ({source}: 30,000 images), not measured here. A distance of {count} images cannot be "
    "compared with them.",
    "ほかの行は論文の値（{source}、3 万枚）で、ここでの測定ではありません。{count} 枚での距離とは比べられません。",
)
TABLE_2_SAME: Pair = (
    "The other rows are the paper's own ({source}), not measured here.",
    "ほかの行は論文の値（{source}）で、ここでの測定ではありません。",
)
MODEL_HEAD: Pair = ("Model", "モデル")
TESTED: Pair = (
    "{members} {called} were compared with {heldout} held-out ones by {attacks} tests. Below p {level} the verdict is "
    "a leak.",
    "{called} {members} 枚と未学習画像 {heldout} 枚を {attacks} 種の検定で比べました。p が {level} 未満なら漏洩と判定します。",
)
WOULD: Pair = (
    "A leak with an AUC of {auc} would have been found, four times in five.",
    "AUC {auc} の漏洩なら、五回に四回は見つかったはずです。",
)
WOULD_NOT: Pair = ("With so few images no leak could have been found.", "この枚数ではどんな漏洩も見つかりません。")
AUC: Pair = ("How well training images can be told apart (AUC)", "学習画像の判別のしやすさ（AUC）")
AUC_UNIT: Pair = (
    "0.5 is guessing, 1 is certainty; dot and 95 % interval, AUC, corrected p",
    "0.5 は当て推量、1 は完全な判別。点と 95 % 区間、AUC、補正済み p",
)
BLIND: Pair = ("blind judge", "盲検")
REPLICATION: Pair = ("Near copies: {copies} of {generated} images.", "類似画像：{generated} 枚中 {copies} 枚。")
EXTRACTION: Pair = ("Extraction: {captions} captions were tried.", "取り出し：キャプション {captions} 件を試行。")
NOT_OURS: Pair = (
    "No run record was compared: that these images are the training set is an assumption of the audit.",
    "学習記録とは照合されておらず、これらが学習画像だというのは監査の仮定です。",
)

# Models, cost, works, files.
LEDGER: Pair = (
    "Each of these models was trained before, on the data named here; “not disclosed” where its makers do not state them.",
    "どのモデルも、ここに記したデータで事前に学習されています。作成者が明かしていないものは「非公開」です。",
)
ROLES: dict[str, Pair] = {
    "text encoder": ("text encoder", "テキストエンコーダー"), "autoencoder": ("autoencoder", "オートエンコーダー"),
    "captioner": ("captioner", "キャプションの生成"), "translator": ("translator", "キャプションの翻訳"),
    "scorer": ("scorer", "評価"),
    "initial weights": ("initial weights", "初期の重み"), "vision tower": ("vision tower", "視覚エンコーダー"),
    "language model": ("language model", "言語モデル"), "audit reference": ("reference model of the audit", "監査の参照モデル"),
}  # fmt: skip
TRAINED_ON: Pair = ("Trained on: {what}.", "学習データ：{what}。")
STATED: Pair = ("Source", "出典")
TERMS_OF: dict[str, Pair] = {  # the registry's words for the terms on what a model writes
    "free": ("free", "制限なし"), "use-restrictions": ("restricted uses", "用途の制限あり"),
    "share-alike": ("share alike", "継承あり"), "restricted": ("restricted", "制限あり"),
    "non-commercial": ("non-commercial", "営利利用不可"), "unknown": ("not known", "不明"), "not known": ("not known", "不明"),
    "accepted by the user": ("accepted by the user", "利用者が同意"),
}  # fmt: skip
TERMS: Pair = ("terms of its outputs: {terms}", "出力の利用条件：{terms}")
OPERATIONS: Pair = ("Operations", "演算")
OPERATIONS_VALUE: Pair = (
    "{flops} FLOP, forward and backward, without the frozen encoders",
    "{flops} FLOP（順伝播と逆伝播、凍結したエンコーダーを除く）",
)
THRESHOLD: Pair = ("EU threshold", "EU の基準")
BELOW: Pair = (
    "{share} of 10²³ FLOP, from which the EU presumes a general-purpose model",
    "10²³ FLOP（EU が汎用モデルと推定する量）の {share}",
)
TIME: Pair = ("Time", "時間")
DEVICES: Pair = ("Devices", "装置")
ENERGY_HEAD: Pair = ("Energy", "電力量")
ENERGY_HOW: Pair = (
    "at most about {kwh} kWh: the boards' default power limit × time, without the rest of the machines",
    "多くても約 {kwh} kWh（装置の定格電力 × 時間。機械のほかの部分を除く）",
)
ENERGY_UNKNOWN: Pair = ("not known: the power of a device is not", "不明（装置の消費電力が不明）")
STEPS: Pair = ("Steps", "ステップ")
STEPS_VALUE: Pair = (
    "{steps} steps of {batch} images each, {images} images in all",
    "{steps} ステップ（1 ステップ {batch} 枚、延べ {images} 枚）",
)
CODE: Pair = ("Code", "コード")
MODIFIED: Pair = ("with changes that were not committed", "未コミットの変更あり")
SAMPLE: Pair = (
    "{shown} of {works} works, drawn by a hash of their keys: nobody chose them. ATTRIBUTION names them all.",
    "{works} 点のうち {shown} 点。キーのハッシュで抽出し、人は選んでいません。全作品は ATTRIBUTION にあります。",
)
ALL_WORKS: Pair = ("All {works} works.", "全 {works} 点です。")
FIND: Pair = ("Search title, author, licence, caption", "題名・作者・ライセンス・キャプションを検索")
FOUND: Pair = ("{found} found, {shown} shown", "{found} 件一致、{shown} 件表示")
MORE: Pair = ("Show more", "さらに表示")
NO_THUMB: Pair = ("not shown: its licence", "ライセンスにより非表示")
NO_PIXELS: Pair = ("cannot be decoded", "デコードできません")
UNTITLED: Pair = ("untitled", "無題")
NO_AUTHOR: Pair = ("author not stated", "作者の記載なし")
NO_LICENSE: Pair = ("no licence stated", "ライセンスの記載なし")
BY: Pair = ("by ", "作者：")
FROM: Pair = ("from ", "出典：")
FURTHER: Pair = ("and {count} more", "ほか {count} 件")
CARD: Pair = ("the card, as the Hugging Face hub reads it", "Hugging Face 用のカード")


def filled(pair: Pair, **values: Any) -> Pair:
    """Return a text in both languages with its `{names}` filled in, by values that may be in both languages themselves."""
    english, japanese = ({k: v[n] if isinstance(v, tuple) else v for k, v in values.items()} for n in (0, 1))
    return pair[0].format(**english), pair[1].format(**japanese)
