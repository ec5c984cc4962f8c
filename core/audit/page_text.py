"""The sentences of the audit's page, in English and in Japanese, for a reader who knows no statistics.

The names in braces are those of `page_names.TERMS`, or values that the page gives.
"""

from __future__ import annotations

VERDICTS = {
    "leaks": (
        "The model gives the {members} away: it behaves differently on them than on held-out images of the same kind, beyond "
        "what chance explains.",
        "このモデルは{members_ja}を漏らしています。同じ種類の未学習画像に対するときとは、偶然では説明できないほど"
        "振る舞いが異なります。",
    ),
    "no leak found": (
        "No leak was found. A smaller one than is named below may exist, and stronger attacks or other images may show one: "
        "this is no proof that there is none.",
        "漏洩は見つかりませんでした。下に示す大きさより小さな漏洩はありえ、より強い攻撃や別の画像なら見つかるかもしれません。"
        "漏洩がないことの証明ではありません。",
    ),
    "groups differ": (
        "Nothing can be said about the model: the two groups of images differ by themselves, without it. Compare "
        "images of one source.",
        "モデルについては何も言えません。比べた二つの画像群が、モデルと無関係に、もともと違っています。"
        "同じ出典の画像どうしで比べてください。",
    ),
}
PARTS = {  # the verdicts of replication and extraction
    "groups differ": (
        "No verdict: the two groups differ by themselves, so the held-out captions are no fair control.",
        "判定できません。二つの群がもともと違うため、未学習のキャプションは公平な対照になりません。",
    ),
    "near copies": (
        "More near copies come from {captions} than from held-out ones, beyond what chance explains.",
        "{captions_ja}からは、未学習のキャプションからよりも、偶然で説明できないほど多くの類似画像が生じました。",
    ),
    "no near copies found": (
        "No more near copies come from {captions} than chance explains.",
        "{captions_ja}から生じた類似画像は、偶然で説明できる数を超えませんでした。",
    ),
    "too few to tell": (
        "So few captions cannot tell it from chance: not even all against none would be a finding.",
        "キャプションが少なすぎて、偶然と区別できません。一方がすべて、他方がゼロでも発見にはなりません。",
    ),
    "extracted": (
        "Images can be extracted from the {members}: their captions bring them back, more often than chance explains.",
        "{members_ja}を取り出せます。キャプションから、偶然で説明できる頻度を超えて再現されました。",
    ),
    "extracted, rate uncertain": (
        "That images came back is a fact about each of them. Only the rate is uncertain: {of} captions are too "
        "few to tell it from that of held-out ones at the level of {level:g}.",
        "画像が再現されたことは、その一枚ごとの事実です。不確かなのは割合だけです。キャプション {of} 件では、"
        "有意水準 {level:g} で未学習のキャプションの割合と区別できません。",
    ),
    "nothing extracted": (
        "No more images came back than chance explains.",
        "再現された画像は、偶然で説明できる数を超えませんでした。",
    ),
}
KEYS = (
    "The question is whether the works that a file of keys names were in the training set. Nobody has said that they were. The "
    "answer holds only if the held-out images are of the same kind and were never available to the model's makers.",
    "問いは、リストに挙げた作品が学習に使われたかどうかです。使われたとは前提していません。"
    "未学習画像が同じ種類で、モデルの作り手が一度も入手できなかった場合にだけ、答えは成り立ちます。",
)
POWER = (
    "How much would have been seen: a leak with an AUC of {least:.3f} (by {name}) to {most:.3f} (by {last}), or as far below "
    "0.5, would have been called a leak in four of five audits like this one. What is smaller goes unseen more often.",
    "どれだけの漏洩なら見つかったか：AUC が {least:.3f}（{name}）から {most:.3f}（{last}）、または 0.5 を同じだけ下回る漏洩なら、"
    "このような監査の五回に四回は漏洩と判定されます。それより小さな漏洩は、見逃されることが増えます。",
)
STRONGEST = (
    "How strong the leak is: of these attacks (explained below), {name} has an AUC of {auc}; 0.5 is guessing, 1 certainty.",
    "漏洩の強さ：これらの攻撃（下で説明）のうち、{name} の AUC は {auc} です（0.5 は当て推量、1 は完全な判別）。",
)
NO_POWER = (
    "So few images would show no leak at all: even a perfect attack would not be called a finding in four of five audits.",
    "画像が少なすぎて、どんな漏洩も見つかりません。完全な攻撃でも、五回に四回は発見と判定されるほどになりません。",
)
DIFFERENCES = (
    "What differs: {what}. An AUC of 0.1 is as strong as one of 0.9.",
    "違い：{what_ja}。AUC の 0.1 は 0.9 と同じ強さです。",
)
SAMPLE = (
    "The images of either side were drawn at random (by the seed) from those without a twin. Below, the {members} are these; the "
    "held-out images were kept out of training.",
    "両群の画像は、重複のないものから（乱数の種により）無作為に選びました。以下の「{members_ja}」はこれらを指します。"
    "「未学習画像」は、学習に使わず取り分けておいた画像です。",
)
MEMBERSHIP = (
    "Each attack gives every image a score. The AUC is the chance that one of the {members} scores higher than a held-out "
    "image: 0.5 is guessing, 1 is certainty, and far below 0.5 is a finding as well. p is the chance that some attack of all "
    "these looks so strong where nothing leaks (corrected for their number; the intervals are not)",
    "各攻撃は画像ごとに点数を付けます。AUC は、{members_ja}の点数が未学習画像より高い確率で、0.5 は当て推量、1 は完全な判別です。"
    "0.5 を大きく下回る値も発見です。"
    "p は、漏洩がないのに、いずれかの攻撃が偶然これほど強く見える確率です（攻撃の数について補正済み。区間は補正していません）。",
)
BELOW = (
    "; below {level:g} the verdict is a leak.",
    "p が {level:g} 未満なら漏洩と判定します。",
)
BELOW_DIFFER = (
    ". As the groups differ, no p is evidence of a leak here.",
    "群が異なるため、ここではどの p も漏洩の証拠になりません。",
)
GREY = "Not interpretable: the two groups differ by themselves. / 解釈できません：二つの群がもともと違います。"
REFERENCE = (
    "With a reference model, each attack is the difference of its scores on the two models. What is hard for both falls out, but "
    "the scatter of the reference's scores comes in: an attack can be stronger on this model alone.",
    "参照モデルがあるとき、各攻撃は二つのモデルの点数の差です。両方に共通の難しさは消えますが、参照モデルの点数のばらつきが加わるため、"
    "このモデル単独のほうが強い攻撃もあります。",
)
SURPRISE = {
    False: (
        "Attacks on the reference model should find nothing, and found nothing (p {p}).",
        "参照モデルへの攻撃は何も見つけないはずで、実際に何も見つけませんでした（p {p}）。",
    ),
    True: (
        "Attacks on the reference model should find nothing. Here they did find something (p {p}), so the groups differ.",
        "参照モデルへの攻撃は何も見つけないはずですが、ここでは見つけました（p {p}）。したがって二つの群は異なります。",
    ),
}
RATES = (
    "TPR at 1 % FPR: the share of the {members} that are recognised when one held-out image in a hundred is wrongly taken for "
    "one of them. With fewer than some 430 held-out images its interval reaches down to 0.",
    "FPR 1 % での TPR は、未学習画像の百枚に一枚を誤って{members_ja}と呼ぶときに、言い当てられる{members_ja}の割合です。"
    "未学習画像がおよそ 430 枚より少ないと、この率の区間は 0 まで広がります。",
)
NO_RATES = (
    "{others:,} held-out images carry no false positive rate below {smallest}: how much is recognised at 1 % cannot be said.",
    "未学習画像 {others:,} 枚では {smallest} 未満の偽陽性率は測れないため、1 % での率は示せません。",
)
AXES = (
    "The curves: how many of the {members} each attack recognises (upwards), for every share of held-out images wrongly taken "
    "for them (to the right). The thin straight line is guessing.",
    "曲線：横軸は誤って{members_ja}と呼ばれる未学習画像の割合（偽陽性率）、縦軸は言い当てられる{members_ja}の割合（真陽性率）です。"
    "細い直線は当て推量です。",
)
CARRIED = (
    "Does a threshold carry over to other images? {answer}: fixed on one half of the images at an FPR of {set}, it had {low} to "
    "{high} on the other half on average, but up to {worst} in single splits. Round brackets hold 95 % of the splits.",
    "しきい値はほかの画像でも通用するか：{answer_ja}。画像の半分で FPR を {set} に決めたしきい値は、"
    "残りの半分で平均 {low} から {high}、分け方によっては最大 {worst} でした。丸括弧は分け方の 95 % を含みます。",
)
CURVE = (
    "AUC of the loss and of CLiD at each time of the diffusion alone (0 is the image, 1,000 is noise).",
    "拡散の各時刻だけで測った損失と CLiD の AUC（横軸は時刻で、0 は画像、1,000 はノイズ）。",
)
BLIND = (
    "The blind judge never saw the model: it looks at the images and at what the table names. Where it tells the groups "
    "apart, what an attack finds may be the images' difference, not the model's memory.",
    "盲検の判定器はモデルを見ません。画像そのものと、表に挙げたものだけを見ます。"
    "これで二群を区別できるなら、攻撃が見つけたものは、モデルの記憶ではなく画像群の違いかもしれません。",
)
BLIND_ANSWERS = {
    True: (
        "It tells the groups apart (p {p}): nothing is said about the model. Judge: {judge}.",
        "二群を区別しました（p {p}）。モデルについては何も言えません。判定器：{judge_ja}。",
    ),
    False: (
        "It found no difference (p {p}), which is no proof that there is none{least}. Judge: {judge}.",
        "違いは見つかりませんでした（p {p}）。違いがないことの証明ではありません{least_ja}。判定器：{judge_ja}。",
    ),
}
BLIND_POWER = (
    ": one of an AUC of {:.3f} would have been found four times in five",
    "（AUC {:.3f} の違いなら五回に四回は見つかります）",
)
SET = (
    "Was this set as a whole in the training set? One answer for all images together, which is more certain than one for each.",
    "この画像の集まりは学習に使われたか。一枚ごとではなく全体への一つの答えで、一枚ごとの判定より確かです。",
)
SET_ANSWERS = {
    True: (
        "Yes: chance makes held-out images look so much like training images with p {p} only (Welch's t {t:.4g}).",
        "はい。未学習画像が偶然これほど学習画像らしく見える確率は p {p} にすぎません（ウェルチの t {t:.4g}）。",
    ),
    False: (
        "Not shown: chance makes held-out images look like this with p {p} (Welch's t {t:.4g}). That is no proof that they "
        "were not used.",
        "示されていません。未学習画像でも偶然 p {p} でこう見えます（ウェルチの t {t:.4g}）。使われなかった証明ではありません。",
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
    "An image is made from each of {made:,} {captions}, and the nearest of {all} ({compared:,}) is looked for. It is a near "
    "copy where it is nearer (similarity above {limit:.3f}) than 95 % of these are to each other, twins left out. The control "
    "is images from held-out captions: its share is how often mere likeness counts as a near copy. As the limit is this data "
    "set's own, shares of two models cannot be compared.",
    "{captions_ja} {made:,} 件からそれぞれ画像を生成し、{all_ja} {compared:,} 枚から最も近いものを探します。"
    "それらどうしの 95 %（重複を除く）より近い（類似度 {limit:.3f} 超）ものを類似画像と数えます。"
    "対照は未学習のキャプションから生成した画像で、その割合は、単に似ているだけの画像が数えられる頻度です。限界値はデータごとに異なるため、割合をモデルどうしで比べることはできません。",
)
FINDABLE = (
    "At the level of {level:g}, {least} of {of} would have been a finding against the control's {other} of {others}.",
    "有意水準 {level:g} で発見となるのは、対照 {others} 件中 {other} 件に対して、{of} 件中 {least} 件以上でした。",
)
JUDGE = (
    "Similarity by: {judge}; {steps} steps, guidance {guidance:g}. Neither it nor the pixels' distance under extraction is a "
    "legal judgement, whether something is found or nothing.",
    "類似度の計算：{judge_ja}、{steps} ステップ、ガイダンス {guidance:g}。この類似度も、「取り出し」で使う画素の距離も、"
    "発見の有無にかかわらず、法的な判断ではありません。",
)
SMALL_JUDGE = (
    "This small encoder knows only simple drawn scenes, and can call noise similar to a drawn shape: look at the images.",
    "この小さなエンコーダは単純な図形の場面しか知らず、ノイズを図形に似ているとすることもあります。画像そのものを見てください。",
)
EXTRACTION = (
    "{seeds} images were made of each caption. A clique is at least {clique} of them that are nearly the same; where it shows the "
    "caption's own image, that is extracted. Cliques alone show nothing where held-out captions make as many.",
    "キャプションごとに {seeds} 枚を生成しました。{clique} 枚以上がほぼ同じで、それがキャプションの元の画像なら、"
    "取り出せたことになります。"
    "未学習のキャプションからも同じだけ「ほぼ同じ画像」が生じるなら、それだけでは何も示しません。",
)
GAVE_BACK = (
    "{count} of {of} captions gave back {own}, and {other} of {others} held-out captions theirs.",
    "キャプション {of} 件中 {count} 件から{own_ja}が再現されました（未学習のキャプションでは {others} 件中 {other} 件）。",
)
PROMPTS = (
    "How much a caption alone decides the image is measured at the first step. The threshold of {threshold:.4g} is set so that at "
    "most {rate} of held-out captions are above it. A caption that says much can be above it too: a flag is a reason to look, "
    "no proof, and no flag proves nothing. `commonart sample --refuse-memorised` refuses such prompts by this file.",
    "キャプションだけで画像がどれほど決まるかを最初のステップで測ります。しきい値 {threshold:.4g} は、"
    "超える未学習のキャプションが最大 {rate} になるように決めたものです。詳しいキャプションも超えることがあり、"
    "印は調べる理由であって証明ではなく、"
    "印がないことも何の証明にもなりません。"
    "`commonart sample --refuse-memorised` はこのファイルに従って拒否します。",
)
FLAGGED = (
    "{share} of {count:,} {captions} are above the threshold.",
    "{captions_ja} {count:,} 件の {share} がしきい値を超えました。",
)
GUARD = (
    "The threshold would have stopped {stopped} of the {count} captions whose image was extracted.",
    "取り出せた画像のキャプション {count} 件のうち、このしきい値で止められたのは {stopped} 件です。",
)
NO_SHARE = (
    "This share says nothing: the AUC's interval, {auc}, holds 0.5.",
    "AUC の区間 {auc} が 0.5 を含むため、この割合は何も示しません。",
)
NOT_RUN = ("Not run in this audit.", "この監査では実施していません。")
LIMITS = (
    (
        "A leak that is found is evidence that the model remembers the {members}; it does not say that a given output "
        "infringes a right.",
        "見つかった漏洩は、モデルが{members_ja}を記憶している証拠です。個々の出力が権利を侵害するとは言っていません。",
    ),
    (
        "An AUC is of all images together and says nothing about a single one, however near to 1 it is.",
        "AUC は画像全体についての値で、どれほど 1 に近くても、一枚の画像については何も言えません。",
    ),
    (
        "An interval holds the true value in 95 of 100 audits. p is how often chance alone does this, not the probability that "
        "nothing leaked. Each verdict has a level of {level:g} of its own: all attacks together, the blind judge, the "
        "reference, the set, replication, the rate of extraction. Some one of these is wrong "
        "by chance more often than any given one.",
        "区間は 100 回の監査のうち 95 回で真の値を含みます。p は偶然だけでこうなる割合で、漏洩がない確率ではありません。"
        "有意水準 {level:g} は判定ごとのものです（全攻撃、盲検の判定器、参照モデル、集まり全体、類似画像、取り出しの割合）。"
        "そのため、いずれか一つが偶然に誤る頻度は、個々の判定より高くなります。",
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
