"""What a card cannot promise: sentences that hold for this run, in English and in Japanese."""

from __future__ import annotations

from commonart.core.report.croissant import annotators
from commonart.core.report.facts import Facts
from commonart.core.report.ledger import UNDISCLOSED
from commonart.core.report.markdown import escaped, many


def limits(facts: Facts) -> list[str]:
    """Return what the card cannot promise, in English sentences that hold for this run."""
    said = []
    for name, count in facts.untraced.items():
        if name.startswith("left_out:"):
            said.append(f"{many(count, 'record')} left out ({escaped(name.partition(':')[2])}): not known which.")
        else:
            said.append(f"{count:,} of {facts.works:,} works do not state their {name}.")
    if facts.rewritten:
        said.append(
            "The shards were written again since the training: the works have the same keys and hashes, but whether licences, "
            "authors and captions are still those of the training is not known."
        )
    if facts.removed:
        were = "work that it was trained on was" if facts.removed == 1 else "works that it was trained on were"
        said.append(
            f"{facts.removed:,} {were} removed from the shards since ({', '.join(facts.removed_on)}): no count names them, "
            "and what the model has learned of them stays in it."
        )
    for row in facts.history:
        if row.get("lost"):
            said.append(
                f"{many(row['lost'], 'record')} went missing before `{row['stage']}`, by no stage that left a note."
            )
        if row.get("unknown_before"):
            said.append(f"What happened before `{row['stage']}` is not known: nothing that it read had a note.")
        if row.get("changed"):
            said.append(f"What `{row['stage']}` wrote was changed by another tool before the next stage read it.")
    if facts.conflicting:
        said.append(f"Images that stand in the data under different licences: {facts.conflicting:,} (LICENSES.md).")
    outside = [model for model in facts.models if model.source != "this project" and model.role != "scorer"]
    if outside:
        hidden = sum(model.trained_on == UNDISCLOSED.english for model in outside)
        more = f", and of {hidden:,} it is not disclosed on what" if hidden else ""
        said.append(
            f"{many(len(outside), 'model')} from elsewhere took part, trained on other data than these works{more} (COMPONENTS.md)."
        )
    if any(model.role == "initial weights" for model in facts.models):
        said.append(
            "It began from other weights: what those were trained on is not in the counts, nor in the cost, above."
        )
    if "machine-generated" in annotators(facts):
        said.append(
            "Captions by models are not descriptions by people: they may be wrong, and repeat their makers' biases."
        )
    said.append("A licence is what the source stated when it was asked; whether the source was right is not checked.")
    return said  # fmt: skip


def limits_ja(facts: Facts) -> list[str]:
    """Return the same in Japanese."""
    names = {
        "source": "出典",
        "license": "ライセンス",
        "author": "作者",
        "address": "所在",
        "title": "題名",
        "sha256": "ハッシュ",
    }
    said = []
    for name, count in facts.untraced.items():
        if name.startswith("left_out:"):
            said.append(f"除外された {count:,} 件（{escaped(name.partition(':')[2])}）がどれかは分からない。")
        else:
            said.append(f"{facts.works:,} 点のうち {count:,} 点は{names.get(name, name)}が記されていない。")
    if facts.rewritten:
        said.append(
            "学習後にシャードが書き直された。作品のキーとハッシュは同じだが、ライセンス、作者、説明文が学習時のままかは分からない。"
        )
    if facts.removed:
        said.append(
            f"学習に使われた {facts.removed:,} 点が、その後シャードから削除された（{'、'.join(facts.removed_on)}）。"
            "上の数には含まれないが、モデルが学んだものは残っている。"
        )
    for row in facts.history:
        if row.get("lost"):
            said.append(f"`{row['stage']}` の前で {row['lost']:,} 件が、記録のない処理により失われた。")
        if row.get("unknown_before"):
            said.append(f"`{row['stage']}` より前の記録はない。")
        if row.get("changed"):
            said.append(f"`{row['stage']}` の出力は、次の段階の前に別の道具で変更された。")
    if facts.conflicting:
        said.append(f"異なるライセンスで重複する画像：{facts.conflicting:,} 点（LICENSES.md）。")
    if outside := [model for model in facts.models if model.source != "this project" and model.role != "scorer"]:
        hidden = sum(model.trained_on == UNDISCLOSED.english for model in outside)
        more = f"、うち {hidden:,} 個は学習データが非公開である" if hidden else ""
        said.append(
            f"これらの作品以外で学習された外部のモデル {len(outside):,} 個が関わっている{more}（COMPONENTS.md）。"
        )
    if any(model.role == "initial weights" for model in facts.models):
        said.append("既存の重みから学習を始めた。その学習データと計算量は上の数に含まれない。")
    if "machine-generated" in annotators(facts):
        said.append("モデルによる説明文は人の記述ではなく、誤りや偏りを含みうる。")
    said.append("ライセンスは出典が示したものであり、その正しさまでは確かめていない。")
    return said
