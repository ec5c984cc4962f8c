"""COMPONENTS.md: the component ledger, as a table in English and Japanese."""

from __future__ import annotations

from commonart.core.report.facts import Facts
from commonart.core.report.ledger import ModelUsed
from commonart.core.report.makers import in_words
from commonart.core.report.markdown import code, counts, escaped, table
from commonart.core.report.page.text import ROLES, TERMS_OF

NAME = "COMPONENTS.md"
HEAD = ("model", "role", "revision", "licence", "terms on its output", "trained on", "stated at")
HEAD_JA = ("モデル", "役割", "版", "ライセンス", "出力の利用条件", "学習データ", "典拠")


def render(facts: Facts) -> str:
    """Return COMPONENTS.md."""
    outside = [model for model in facts.models if model.source != "this project"]
    lines = [
        f"# Models that took part in {escaped(facts.name)} / 関わったモデル", "",
        "Licensed images alone do not make a model that owes nothing to others: these models took part in it, and were",
        "trained before. What they were trained on is stated here as far as it is known. /",
        "許諾済みの画像だけで学習しても、関わった既存のモデルの学習データは別の問題である。分かる範囲で次に記す。", "",
        *models(facts), *models(facts, ja=True),
    ]  # fmt: skip
    undisclosed = [model for model in outside if model.undisclosed]
    if outside:
        lines += [
            f"Made outside this project: {len(outside):,} of {len(facts.models):,}; with training data that are not disclosed: "
            f"{len(undisclosed):,}. / このプロジェクトの外で作られたもの：{len(facts.models):,} 個中 {len(outside):,} 個。"
            f"うち学習データが非公開のもの：{len(undisclosed):,} 個。", "",
        ]  # fmt: skip
    elif facts.models:
        lines += ["All of them were made by this project. / すべてこのプロジェクトで作られた。", ""]
    if persons := in_words([maker for maker in facts.makers if maker.generated is False]):
        persons_ja = in_words([maker for maker in facts.makers if maker.generated is False], ja=True)
        lines += [
            f"Captions that people wrote, as the records state, and no model: {counts(persons)}. / "
            f"記録によれば、モデルではなく人が書いたキャプション：{counts(persons_ja)}。", "",
        ]  # fmt: skip
    return "\n".join(lines)


def section(facts: Facts, ja: bool = False) -> list[str]:
    """Return the table of the models with a heading, for README.md; nothing where no model took part."""
    return ["### 関わったモデル" if ja else "## Models that took part", "", *models(facts, ja)] if facts.models else []


def models(facts: Facts, ja: bool = False) -> list[str]:
    """Return the table of the models that took part."""
    return table(HEAD_JA if ja else HEAD, [_row(model, ja) for model in facts.models]) if facts.models else []


def _row(model: ModelUsed, ja: bool) -> tuple[str, ...]:
    role, terms = (words.get(word, (word,) * 2)[ja] for words, word in ((ROLES, model.role), (TERMS_OF, model.terms)))
    unknown = "不明" if ja else "not stated"
    revision = code(model.revision.removeprefix("sha256:")[:12]) or unknown
    name = escaped(model.name)
    if model.address.startswith("https://"):
        name = f"[{name}]({model.address})"
    if model.source.startswith("https://"):
        stated_at = f"[{'出典' if ja else 'source'}]({model.source})"
    else:
        stated_at = ("本プロジェクト" if ja else model.source) if model.source else ("なし" if ja else "nowhere")
    trained_on = model.trained_on_ja if ja else model.trained_on
    return name, role, revision, escaped(model.license) or unknown, terms, trained_on, stated_at
