"""What a card cannot promise: sentences that hold for this run, in English and in Japanese."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from commonart.core.report.facts import Facts
from commonart.core.report.ledger import MEASURING
from commonart.core.report.makers import written
from commonart.core.report.markdown import many

Pair = tuple[str, str]  # English, Japanese
FIELDS: dict[str, Pair] = {
    "source": ("source", "出典"), "license": ("licence", "ライセンス"), "author": ("author", "作者"),
    "address": ("address", "所在"), "title": ("title", "題名"), "sha256": ("SHA-256", "ハッシュ"),
    "observed": ("date of the licence", "ライセンスの確認日"),
}  # fmt: skip  # of a record, by the keys of `Facts.untraced`
REWRITTEN: Pair = (
    "The shards were written again since the training: keys, hashes, licences, authors and captions of the works are those of the "
    "training, but whether their pixels are is not known.",
    "学習後にシャードが書き直された。作品のキー、ハッシュ、ライセンス、作者、キャプションは学習時のままだが、画素が同じかは分からない。",
)
INITIAL: Pair = (
    "It began from other weights: what those were trained on is not in the counts, nor in the cost, above.",
    "既存の重みから学習を始めた。その学習データと計算量は上の数に含まれない。",
)
CAPTIONS: Pair = (
    "Captions by models are not descriptions by people: they may be wrong, and repeat their makers' biases.",
    "モデルによるキャプションは人の記述ではなく、誤りや偏りを含みうる。",
)
NOT_AUDITED: Pair = (
    "It was not audited for memorisation: whether it gives away images that it was trained on is not known (`commonart mia`).",
    "学習画像の記憶は監査していない。学習画像が漏れるかは分からない（`commonart mia`）。",
)
NOT_EVALUATED: Pair = (
    "It was not evaluated: how good its images are, and how well they follow a prompt, is not known (`commonart eval`).",
    "評価していない。画質と、指示文への忠実さは分からない（`commonart eval`）。",
)
LICENSES: Pair = (
    "A licence is what the source stated when it was asked; whether the source was right is not checked.",
    "ライセンスは出典が示したものであり、その正しさまでは確かめていない。",
)


def limits(facts: Facts) -> list[Pair]:
    """Return what the card cannot promise, in sentences that hold for this run."""
    return list(_limits(facts))


def missing(name: str) -> str:
    """Return a key of `Facts.untraced` in words."""
    return f"{FIELDS.get(name, (name,))[0]} is not stated"


def unstated(name: str, count: int, works: int) -> Pair:
    """Return of how many works the records do not state something, by a key of `Facts.untraced`."""
    english, japanese = FIELDS.get(name, (name, name))
    how = "does not state its" if count == 1 else "do not state their"
    return (
        f"{count:,} of {many(works, 'work')} {how} {english}.",
        f"{works:,} 点のうち {count:,} 点は{japanese}が記されていない。",
    )


def _limits(facts: Facts) -> Iterator[Pair]:
    for name, count in facts.untraced.items():
        yield unstated(name, count, facts.works)
    if facts.rewritten:
        yield REWRITTEN
    if facts.removed:
        were = "work that it was trained on was" if facts.removed == 1 else "works that it was trained on were"
        yield (
            f"{facts.removed:,} {were} removed from the shards since ({', '.join(facts.removed_on)}): no count names them, "
            "and what the model has learned of them stays in it.",
            f"学習に使われた {facts.removed:,} 点が、その後シャードから削除された（{'、'.join(facts.removed_on)}）。"
            "上の数には含まれないが、モデルが学んだものは残っている。",
        )
    for row in facts.history:
        yield from _of_stage(row)
    if facts.run is None:
        yield from held_out(facts)
    if facts.conflicting:
        yield (
            f"Images that are in the data under different licences: {facts.conflicting:,} (LICENSES.md).",
            f"異なるライセンスで重複する画像：{facts.conflicting:,} 点（LICENSES.md）。",
        )
    outside = [model for model in facts.models if model.source != "this project" and model.role not in MEASURING]
    if outside:
        hidden = sum(model.undisclosed for model in outside)
        more = f" For {hidden:,} of them, the training data are not disclosed." if hidden else ""
        more_ja = f"うち {hidden:,} 個は学習データが非公開である。" if hidden else ""
        yield (
            f"Other models that took part, trained on data other than these works: {len(outside):,} (COMPONENTS.md).{more}",
            f"これらの作品以外で学習された外部のモデル {len(outside):,} 個が関わっている（COMPONENTS.md）。{more_ja}",
        )
    if any(model.role == "initial weights" for model in facts.models):
        yield INITIAL
    if facts.run is not None and "transformer" in facts.run:
        if facts.audit is None:
            yield NOT_AUDITED
        if not (facts.evaluation or {}).get("scores"):
            yield NOT_EVALUATED
    if written(facts.makers, True):
        yield CAPTIONS
    yield LICENSES


def held_out(facts: Facts) -> Iterator[Pair]:
    """Yield that the shards hold what is not for training: whoever loads them as they are takes all of it for `train`."""
    works = facts.splits.get("heldout", 0) if facts.run is None else (facts.run["data"].get("heldout") or 0)
    if works:
        are = "is" if works == 1 else "are"
        yield (
            f"{many(works, 'record')} of the shards {are} held out from training, which the field `split` of the record states "
            "(`heldout`). Loaders go by files and call all of them train: leave these out before you train.",
            f"シャードのうち {works:,} 件は学習に使わない検証用で、記録の `split` が `heldout` である。"
            "読み込みツールはファイル単位で全件を train とするため、学習の前に除くこと。",
        )


def _of_stage(row: Mapping[str, Any]) -> Iterator[Pair]:
    """What is not known around a stage of `Facts.history`."""
    stage = row["stage"]
    if lost := row.get("lost"):
        yield (
            f"{many(lost, 'record')} went missing before `{stage}`, by no stage that left a note.",
            f"`{stage}` の前で {lost:,} 件が、記録のない処理により失われた。",
        )
    if row.get("unknown_before"):
        yield (
            f"What happened before `{stage}` is not known: nothing that it read had a note.",
            f"`{stage}` より前の記録はない。",
        )
    if row.get("changed"):
        yield (
            f"What `{stage}` wrote was changed by another tool before the next stage read it.",
            f"`{stage}` の出力は、次の段階の前に別の道具で変更された。",
        )
