"""COMPONENTS.md: the component ledger, as a table in English and Japanese."""

from __future__ import annotations

from commonart.core.report.facts import Facts
from commonart.core.report.ledger import ModelUsed
from commonart.core.report.markdown import escaped, table

NAME = "COMPONENTS.md"
ROLES = {
    "text encoder": "テキストエンコーダー", "autoencoder": "オートエンコーダー", "vision tower": "視覚エンコーダー",
    "language model": "言語モデル", "captioner": "説明文の生成", "translator": "説明文の翻訳",
    "initial weights": "初期の重み", "scorer": "評価",
}  # fmt: skip
# The registry's words for the terms on what a model writes.
TERMS = {
    "free": "制限なし", "use-restrictions": "用途の制限あり", "share-alike": "継承あり", "restricted": "制限あり",
    "non-commercial": "営利利用不可", "unknown": "不明", "not known": "不明", "accepted by the user": "利用者が同意",
}  # fmt: skip


def render(facts: Facts) -> str:
    """Return COMPONENTS.md."""
    outside = [model for model in facts.models if model.source != "this project"]
    lines = [
        f"# Models that took part in {escaped(facts.name)} / 関わったモデル", "",
        "Licensed images alone do not make a model that owes nothing to others: these models took part in it, and were",
        "trained before. What they were trained on is said here as far as it is known. /",
        "許諾済みの画像だけで学習しても、関わった既存のモデルの学習データは別の問題である。分かる範囲で次に記す。", "",
        *table(
            ("model", "role", "revision", "licence", "terms on its output", "trained on", "stated at"),
            [_row(model) for model in facts.models],
        ),
        *japanese(facts),
    ]  # fmt: skip
    undisclosed = [model for model in outside if model.undisclosed]
    lines += [
        f"{len(outside):,} of {len(facts.models):,} come from outside this project; of {len(undisclosed):,} of these nothing is "
        "disclosed." if outside else "All of them were made by this project.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def japanese(facts: Facts) -> list[str]:
    """Return the table in Japanese."""
    head = ("モデル", "役割", "版", "ライセンス", "出力の利用条件", "学習データ", "典拠")
    return table(head, [
        (_name(m), ROLES.get(m.role, m.role), _revision(m) or "不明", escaped(m.license) or "不明",
         TERMS.get(m.terms, m.terms), m.trained_on_ja,
         f"[出典]({m.source})" if m.source.startswith("https://") else "本プロジェクト" if m.source else "なし")
        for m in facts.models
    ])  # fmt: skip


def _revision(model: ModelUsed) -> str:
    return f"`{model.revision.removeprefix('sha256:')[:12]}`" if model.revision else ""


def _name(model: ModelUsed) -> str:
    shown = escaped(model.name)
    return f"[{shown}]({model.address})" if model.address.startswith("https://") else shown


def _row(model: ModelUsed) -> tuple[str, ...]:
    stated = f"[source]({model.source})" if model.source.startswith("https://") else model.source or "nowhere"
    terms = escaped(model.license) or "not stated"
    return _name(model), model.role, _revision(model) or "not stated", terms, model.terms, model.trained_on, stated
