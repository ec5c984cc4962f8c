"""The sentences of the audit's page, in English and in Japanese, for a reader who knows no statistics."""

from __future__ import annotations

VERDICTS = {
    "leaks": (
        "The model gives its training images away: its behaviour tells them from images that it never saw.",
        "このモデルは学習画像を漏らしています。学習に使った画像と使っていない画像で、モデルの振る舞いが違います。",
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
        "Images made from training captions come closer to training images than following a caption explains: the model copies.",
        "学習キャプションから生成した画像は、説明文に従うだけでは説明できないほど学習画像に近く、モデルは複製しています。",
    ),
    "no copies found": (
        "No copies beyond what following a caption explains were found among the images that were made.",
        "生成した画像の中に、説明文に従うだけでは説明できない複製は見つかりませんでした。",
    ),
    "too few to tell": (
        "Too few images were made to tell anything: not even all against none would be a finding.",
        "生成した画像が少なすぎて何も言えません。すべて対ゼロでも発見にはなりません。",
    ),
    "extracted": (
        "Training images can be extracted: one caption gives the same training image again and again.",
        "学習画像を取り出せます。一つの説明文から、同じ学習画像が繰り返し生成されます。",
    ),
    "nothing extracted": (
        "No training image could be extracted with the captions that were tried.",
        "試した説明文では、学習画像を取り出せませんでした。",
    ),
}
MEMBERSHIP = (
    "Each attack gives every image a score. The AUC is the chance that an image from the training set scores higher than one "
    "that the model never saw: 0.5 is guessing, 1 is certainty, and far below 0.5 is a finding as well. p is the chance that "
    "some attack of all these looks so strong where nothing leaks; below {level:g} the verdict is a leak.",
    "各攻撃は画像ごとに点数を付けます。AUC は、学習画像の点数が未学習画像より高い確率で、0.5 は当て推量、1 は完全な判別です。"
    "0.5 を大きく下回る値も発見です。"
    "p は、漏洩がないのに、いずれかの攻撃が偶然これほど強く見える確率で、{level:g} 未満なら漏洩と判定します。",
)
RATES = (
    "TPR at 1 % FPR: the share of training images that are recognised when one unseen image in a hundred is accused wrongly. "
    "A dash means that {others:,} unseen images are too few to measure it; they carry no rate below {smallest:.2%}.",
    "FPR 1 % での TPR は、未学習画像の百枚に一枚を誤って学習画像と呼ぶときに、言い当てられる学習画像の割合です。"
    "「-」は、未学習画像 {others:,} 枚では測れないことを表します。{smallest:.2%} 未満の率は測れません。",
)
CARRIED = (
    "Does a threshold carry over? It is fixed on one half of the images and its rates are measured on the other, many times.",
    "しきい値はほかの画像でも通用するか。画像の半分で決めたしきい値の率を、残りの半分で繰り返し測ります。",
)
CURVE = (
    "AUC of the loss and of CLiD at each time of the diffusion alone (0 is the image, 1,000 is noise).",
    "拡散の各時刻だけで測った損失と CLiD の AUC（0 は画像、1,000 はノイズ）。",
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
NO_SET = (
    "Not tested: fewer than 70 images on a side.",
    "検定していません。どちらかの群が 70 枚未満です。",
)
REPLICATION = (
    "An image is made from each of {drawn:,} training captions, and its nearest training image is looked for. It counts as a "
    "copy where it is nearer (similarity above {limit:.3f}) than 95 % of the training images are to each other, twins left "
    "out. The control: images from captions that the model never saw.",
    "学習キャプション {drawn:,} 件からそれぞれ画像を生成し、最も近い学習画像を探します。学習画像どうしの 95 %（重複を除く）より"
    "近い（類似度 {limit:.3f} 超）ものを複製と数えます。対照は、モデルが見ていない説明文から生成した画像です。",
)
EXTRACTION = (
    "{seeds} images were made of each caption. Where at least {clique} of them are nearly the same, the model may be drawing one "
    "memorised image; where that is the training image, it is extracted.",
    "説明文ごとに {seeds} 枚を生成しました。{clique} 枚以上がほぼ同じなら、"
    "記憶した一枚を描いている可能性があり、それが学習画像なら取り出せたことになります。",
)
PROMPTS = (
    "How much a caption alone decides the image is measured at the first step. {rate:.2%} of unseen captions at most are above the "
    "threshold of {threshold:.4g}. A caption that says much can be above it too: a flag is a reason to look, no proof. "
    "`commonart sample --refuse-memorised` refuses such prompts by this file.",
    "説明文だけで画像がどれほど決まるかを最初のステップで測ります。未学習の説明文でしきい値 {threshold:.4g} を超えるのは"
    "最大 {rate:.2%} です。詳しい説明文も超えることがあり、印は調べる理由であって証明ではありません。"
    "`commonart sample --refuse-memorised` はこのファイルに従って拒否します。",
)
NOT_RUN = ("Not run in this audit.", "この監査では実施していません。")
LIMITS = (
    (
        "A leak that is found is evidence that the model remembers the training set; it does not say that a given output "
        "infringes a right.",
        "見つかった漏洩は、モデルが学習画像を記憶している証拠です。個々の出力が権利を侵害するとは言っていません。",
    ),
    (
        "No leak found means that these attacks on these images found none. Stronger attacks, and other images, may.",
        "漏洩なしとは、これらの攻撃と画像では見つからなかったという意味です。より強い攻撃や別の画像では見つかるかもしれません。",
    ),
    (
        "No statement about one single image follows from an AUC: its scores overlap with those of images never seen.",
        "AUC から一枚の画像については何も言えません。点数は未学習の画像と重なっています。",
    ),
    (
        "An interval holds the true value in 95 of 100 audits; one honest model in a hundred is accused at this level.",
        "区間は 100 回の監査のうち 95 回で真の値を含みます。この水準では、漏洩のないモデルも百に一つは漏洩と判定されます。",
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
