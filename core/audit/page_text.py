"""The sentences of the audit's page, in English and in Japanese, for a reader who knows no statistics.

`{members}` and `{captions}` are what TERMS calls them: with --keys, the works in question are no training images yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TERMS = {
    False: {
        "members": "training images", "captions": "training captions",
        "members_ja": "学習画像", "captions_ja": "学習キャプション",
    },
    True: {
        "members": "works in question", "captions": "captions of the works in question",
        "members_ja": "対象の作品", "captions_ja": "対象の作品の説明文",
    },
}  # fmt: skip
SHORT_JA = {
    "leaks": "漏洩あり", "no leak found": "漏洩は見つからず", "groups differ": "群が異なり判断不可",
    "copies": "複製あり", "no copies found": "複製は見つからず", "too few to tell": "少なすぎて判断不可",
    "extracted": "取り出せた", "nothing extracted": "取り出せず",
}  # fmt: skip
VERDICTS = {
    "leaks": (
        "The model gives the {members} away: its behaviour tells them from images that it never saw, as it would of images "
        "that it was trained on.",
        "このモデルは{members_ja}を漏らしています。学習に使っていない画像とは振る舞いが異なり、学習に使った画像に対するのと同じ振る舞いをします。",
    ),
    "no leak found": (
        "No leak was found. A smaller leak than the one named below may exist: this is no proof that there is none.",
        "漏洩は見つかりませんでした。下に示す大きさより小さな漏洩はありえます。漏洩がないことの証明ではありません。",
    ),
    "groups differ": (
        "Nothing can be said about the model: the two groups of images differ by themselves, without it.",
        "モデルについては何も言えません。比べた二つの画像群が、モデルと無関係に、もともと違っています。",
    ),
    "copies": (
        "Images made from {captions} come closer to the {members} than following a caption explains: the model copies.",
        "{captions_ja}から生成した画像は、説明文に従うだけでは説明できないほど{members_ja}に近く、モデルは複製しています。",
    ),
    "no copies found": (
        "No copies beyond what following a caption explains were found among the images that were made.",
        "生成した画像の中に、説明文に従うだけでは説明できない複製は見つかりませんでした。",
    ),
    "too few to tell": (
        "Too few images were made to tell it from chance: not even all against none would be a finding.",
        "生成した画像が少なすぎて、偶然と区別できません。一方がすべて、他方がゼロでも発見にはなりません。",
    ),
    "extracted": (
        "Images can be extracted from the {members}: one caption gives the same image of them again and again.",
        "{members_ja}を取り出せます。一つの説明文から、その同じ画像が繰り返し生成されます。",
    ),
    "nothing extracted": (
        "None of the {members} could be extracted with the captions that were tried.",
        "試した説明文では、{members_ja}を取り出せませんでした。",
    ),
}
KEYS = (
    "The question is whether the works that a file of keys names were in the training set. Nobody has said that they were. The "
    "answer holds only if the held-out images are of the same kind and were never available to the model's makers.",
    "問いは、リストに挙げた作品が学習に使われたかどうかです。使われたとは前提していません。"
    "未学習画像が同じ種類で、モデルの作り手が一度も入手できなかった場合にだけ、答えは成り立ちます。",
)
POWER = (
    "How much would have been seen: a leak as large as an AUC of {least:.3f} by {name} would have been called a leak in four of "
    "five audits like this one (its power is 80 %). What is smaller goes unseen more often than that.",
    "どれだけの漏洩なら見つかったか：{name} の AUC が {least:.3f} ほどの漏洩なら、このような監査の五回に四回は漏洩と判定されます"
    "（検出力 80 %）。それより小さな漏洩は、見逃されることが増えます。",
)
STRONGEST = (
    "How strong the leak is: {name} has an AUC of {auc}, where 0.5 is guessing and 1 is certainty.",
    "漏洩の強さ：{name} の AUC は {auc} です（0.5 は当て推量、1 は完全な判別）。",
)
NO_POWER = (
    "So few images would show no leak at all: even a perfect attack would not be called a finding in four of five audits.",
    "画像が少なすぎて、どんな漏洩も見つかりません。完全な攻撃でも、五回に四回は発見と判定されるほどになりません。",
)
MEMBERSHIP = (
    "Each attack gives every image a score. The AUC is the chance that one of the {members} scores higher than an image "
    "that the model never saw: 0.5 is guessing, 1 is certainty, and far below 0.5 is a finding as well. p is the chance that "
    "some attack of all these looks so strong where nothing leaks; below {level:g} the verdict is a leak.",
    "各攻撃は画像ごとに点数を付けます。AUC は、{members_ja}の点数が未学習画像より高い確率で、0.5 は当て推量、1 は完全な判別です。"
    "0.5 を大きく下回る値も発見です。"
    "p は、漏洩がないのに、いずれかの攻撃が偶然これほど強く見える確率で、{level:g} 未満なら漏洩と判定します。",
)
SMALLEST = (
    "The smallest AUC that would be found is the leak that four of five audits like this one would call a leak. With a reference "
    "model, each attack is the difference of its scores on the two models; the last columns are each model alone.",
    "「見つかる最小の AUC」は、このような監査の五回に四回が漏洩と判定する大きさです。参照モデルがあるとき、"
    "各攻撃は二つのモデルの点数の差です。最後の列は各モデル単独の値です。",
)
RATES = (
    "TPR at 1 % FPR: the share of the {members} that are recognised when one unseen image in a hundred is accused wrongly. "
    "A dash means that {others:,} unseen images are too few to measure it; they carry no rate below {smallest:.2%}. "
    "With fewer than some 430 unseen images the interval of this rate reaches down to 0.",
    "FPR 1 % での TPR は、未学習画像の百枚に一枚を誤って学習画像と呼ぶときに、言い当てられる{members_ja}の割合です。"
    "「-」は、未学習画像 {others:,} 枚では測れないことを表します。{smallest:.2%} 未満の率は測れません。"
    "未学習画像がおよそ 430 枚より少ないと、この率の区間は 0 まで広がります。",
)
AXES = (
    "The curves: how many of the {members} each attack recognises, for every share of unseen images that are accused wrongly. "
    "The dashed line is guessing.",
    "曲線：横軸は誤って学習画像と呼ばれる未学習画像の割合（偽陽性率）、縦軸は言い当てられる{members_ja}の割合（真陽性率）です。"
    "破線は当て推量です。",
)
CARRIED = (
    "Does a threshold carry over? It is fixed on one half of the images and its rates are measured on the other, many times.",
    "しきい値はほかの画像でも通用するか。画像の半分で決めたしきい値の率を、残りの半分で繰り返し測ります。",
)
CURVE = (
    "AUC of the loss and of CLiD at each time of the diffusion alone (0 is the image, 1,000 is noise).",
    "拡散の各時刻だけで測った損失と CLiD の AUC（横軸は時刻で、0 は画像、1,000 はノイズ）。",
)
BLIND = (
    "The blind judge never saw the model: it looks at the images, their file size, how well they compress, and the length of "
    "their captions. Where it tells the groups apart, what an attack finds may be the images' difference, not the model's memory.",
    "盲検の判定器はモデルを見ません。画像そのもの、ファイルの大きさ、圧縮のしやすさ、説明文の長さだけを見ます。"
    "これで二群を区別できるなら、攻撃が見つけたものは、モデルの記憶ではなく画像群の違いかもしれません。",
)
SET = (
    "Was this set as a whole in the training set? One answer for all images together, which is more certain than one for each.",
    "この画像の集まりは学習に使われたか。一枚ごとではなく全体への一つの答えで、一枚ごとの判定より確かです。",
)
SET_ANSWERS = {
    True: (
        "Yes: chance makes unseen images look so much like training images with p {p:.3f} only.",
        "はい。未学習の画像が偶然これほど学習画像らしく見える確率は p {p:.3f} にすぎません。",
    ),
    False: (
        "Not shown: chance makes unseen images look like this with p {p:.3f}. That is no proof that they were not used.",
        "示されていません。未学習の画像でも偶然 p {p:.3f} でこう見えます。使われなかった証明ではありません。",
    ),
}
SET_DIFFER = (
    "No statement: the two groups differ by themselves, without the model.",
    "判断できません。二つの画像群が、モデルと無関係に、もともと違っています。",
)
NO_SET = (
    "Not tested: fewer than 70 images on a side.",
    "検定していません。どちらかの群が 70 枚未満です。",
)
REPLICATION = (
    "An image is made from each of {made:,} {captions}, and the nearest of the {members} is looked for. It counts as a "
    "copy where it is nearer (similarity above {limit:.3f}) than 95 % of the {members} are to each other, twins left "
    "out. The control: images from captions that the model never saw.",
    "{captions_ja} {made:,} 件からそれぞれ画像を生成し、最も近い{members_ja}を探します。{members_ja}どうしの 95 %（重複を除く）より"
    "近い（類似度 {limit:.3f} 超）ものを複製と数えます。対照は、モデルが見ていない説明文から生成した画像です。",
)
EXTRACTION = (
    "{seeds} images were made of each caption. Where at least {clique} of them are nearly the same, the model may be drawing one "
    "memorised image; where that is the caption's own image, it is extracted.",
    "説明文ごとに {seeds} 枚を生成しました。{clique} 枚以上がほぼ同じなら、"
    "記憶した一枚を描いている可能性があり、それが説明文の元の画像なら取り出せたことになります。",
)
PROMPTS = (
    "How much a caption alone decides the image is measured at the first step. {rate:.2%} of unseen captions at most are above the "
    "threshold of {threshold:.4g}. A caption that says much can be above it too: a flag is a reason to look, no proof. "
    "`commonart sample --refuse-memorised` refuses such prompts by this file.",
    "説明文だけで画像がどれほど決まるかを最初のステップで測ります。未学習の説明文でしきい値 {threshold:.4g} を超えるのは"
    "最大 {rate:.2%} です。詳しい説明文も超えることがあり、印は調べる理由であって証明ではありません。"
    "`commonart sample --refuse-memorised` はこのファイルに従って拒否します。",
)
FLAGGED = (
    "{share:.1%} of {count:,} {captions} are above the threshold.",
    "{captions_ja} {count:,} 件の {share:.1%} がしきい値を超えました。",
)
NOT_RUN = ("Not run in this audit.", "この監査では実施していません。")
LIMITS = (
    (
        "A leak that is found is evidence that the model remembers the {members}; it does not say that a given output "
        "infringes a right.",
        "見つかった漏洩は、モデルが{members_ja}を記憶している証拠です。個々の出力が権利を侵害するとは言っていません。",
    ),
    (
        "No leak found means that these attacks on these images found none. Stronger attacks, and other images, may.",
        "漏洩なしとは、これらの攻撃と画像では見つからなかったという意味です。より強い攻撃や別の画像では見つかるかもしれません。",
    ),
    (
        "Groups differ means that nothing is said about the model, neither that it leaks nor that it does not. Compare images of "
        "one source.",
        "群が異なるとは、漏洩があるともないとも言えないという意味です。同じ出所の画像どうしで比べてください。",
    ),
    (
        "No statement about one single image follows from an AUC: its scores overlap with those of images never seen.",
        "AUC から一枚の画像については何も言えません。点数は未学習の画像と重なっています。",
    ),
    (
        "An interval holds the true value in 95 of 100 audits. p is how often chance alone does this, not the probability that the "
        "model is innocent; one honest model in a hundred is accused at this level.",
        "区間は 100 回の監査のうち 95 回で真の値を含みます。p は偶然だけでこうなる割合で、漏洩がない確率ではありません。"
        "この水準では、漏洩のないモデルも百に一つは漏洩と判定されます。",
    ),
    (
        "Whether the images named here were the training set is only as sure as the run's own record of it.",
        "ここに挙げた画像が学習に使われたかどうかは、学習の記録と同じ程度にしか確かではありません。",
    ),
)
FROM_RUN = {
    True: (
        "The data are, by their fingerprint, those that the run was trained on.",
        "データは、指紋が学習記録と一致しています。",
    ),
    False: (
        "That these data are the model's training set is an assumption: no run record was compared.",
        "このデータが学習に使われたことは仮定です。学習記録との照合はしていません。",
    ),
}
# What the rows of the tables are called.
NAMES = {
    "classifier": "classifier on the images / 画像の分類器", "file_bytes": "file size / ファイルの大きさ",
    "png_bytes": "size without loss / 可逆圧縮での大きさ", "caption_length": "caption length / 説明文の長さ",
    "combined": "combined / 総合", "twin": "has a twin / 重複あり", "no_caption": "no caption / 説明文なし",
    "no_image": "no image / 画像なし", "too_small": "too small / 小さすぎ", "unreadable": "unreadable / 読めない",
    "not_trained_on": "not trained on / 学習から除外", "seed": "seed / 乱数の種", "lang": "caption language / 説明文の言語",
    "times": "timesteps / 時刻の数", "draws": "noises / ノイズの数", "permutations": "permutations / 並べ替えの数",
    "objective": "objective / 学習目標", "size": "pixels / 画素", "precision": "precision / 精度",
    "steps": "sampling steps / 生成ステップ", "guidance": "guidance / ガイダンス",
}  # fmt: skip


def terms(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what the members of an audit are called: training images, or the works in question."""
    return TERMS[result["question"] != "training set"]
