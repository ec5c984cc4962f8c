"""README.md: the card of a model, or of data, as the Hugging Face hub reads it: YAML first, then English and Japanese."""

from __future__ import annotations

import re
from typing import Any

from commonart.core.licenses.creative_commons import names
from commonart.core.report import card_tables, components, croissant, scores
from commonart.core.report.facts import Facts
from commonart.core.report.limits import limits
from commonart.core.report.makers import annotators
from commonart.core.report.markdown import counts, escaped, language_tag, license_names, many, table
from commonart.core.report.quantities import power

NAME = "README.md"
# Licences that the hub has a name for: https://huggingface.co/docs/hub/repositories-licenses
_AS_SPDX = names("""
    cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    """)
HUB_NAMES = {name: name for name in _AS_SPDX} | {"pddl-1.0": "pddl", "odc-by-1.0": "odc-by", "odbl-1.0": "odbl"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip
FILES = {
    "index.html": ("the report as a page: charts, and a sample of the works", "図表と作品例のページ"),
    "ATTRIBUTION": ("title, author, source, licence and changes of every work", "全作品の題名・作者・出典・ライセンス・改変"),
    "attribution.parquet": ("the same as a table, with a hash of the captions", "同じ内容の表とキャプションのハッシュ"),
    "LICENSES.md": ("works by licence, and what each asks", "ライセンス別の点数と求められること"),
    "COMPONENTS.md": ("the models that took part, and what they were trained on", "関わったモデルとその学習データ"),
    "data_summary_card.md": ("summary of the training content (AI Act, Article 53)", "学習内容の概要（EU AI法 第53条）"),
    "croissant.json": ("the data as Croissant 1.1, with RAI", "データの機械可読な記述"),
    "cyclonedx.json": ("bill of materials, CycloneDX", "部品表（CycloneDX）"),
    "spdx.json": ("bill of materials, SPDX 3.0.1", "部品表（SPDX 3.0.1）"),
    "report.json": ("all facts, and the hash of every file of this card", "すべての事実と各ファイルのハッシュ"),
    "samples/": ("the newest grid of images that was made while it was trained", "学習中に作られた最新の画像一覧"),
    "evidence/": ("what a certifier asks for", "認証機関に示す資料"),
}  # fmt: skip


def render(facts: Facts, files: list[str]) -> str:
    """Return README.md. `files`: the names of the card's other files, of which it lists those that FILES knows."""
    return f"---\n{metadata(facts)}\n---\n\n{text(facts, files)}"


def metadata(facts: Facts) -> str:
    """Return the YAML. The licence of the weights is not in it: only who publishes them can state it."""
    from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

    languages = sorted(lang for lang in facts.languages if language_tag(lang) and len(lang) in (2, 3))
    if facts.run is None:
        licenses = {HUB_NAMES.get(name.lower(), "other") for name in facts.licenses}
        data = DatasetCardData(
            pretty_name=facts.name, language=languages or None, license=sorted(licenses) or None,
            size_categories=next((name for most, name in SIZES if facts.works < most), "100M<n<1B"),
            task_categories=["text-to-image"], annotations_creators=annotators(facts.makers) or None,
            tags=["commonart", "webdataset", "image"], **croissant.loading(facts),
        )  # fmt: skip
        return data.to_yaml().strip()
    results = [
        EvalResult(
            task_type="text-to-image", dataset_type="commonart",
            dataset_config=f"{row.prompts}-{row.lang or 'none'}".replace(" ", "-"),
            dataset_name=f"{row.prompts} ({row.lang or 'no language'})",
            metric_type=re.sub(r"[^\w-]+", "_", row.metric.lower()), metric_value=row.value, metric_name=row.metric,
            metric_args={"images": row.images, "judge": row.judge},
        )
        for row in scores.rows(facts)
    ]  # fmt: skip
    base = [model.address.partition("huggingface.co/")[2] for model in facts.models if model.role == "initial weights"]
    about: dict[str, Any] = {"model_name": facts.name, "eval_results": results} if results else {}
    captioner = "captioner" in facts.run
    card = ModelCardData(
        language=languages or None, base_model=[name for name in base if name] or None,
        pipeline_tag="image-to-text" if captioner else "text-to-image", library_name=None if captioner else "diffusers",
        tags=["commonart"], **about,
    )  # fmt: skip
    return card.to_yaml().strip()


def text(facts: Facts, files: list[str]) -> str:
    """Return what stands below the YAML."""
    name, kind = escaped(facts.name), "model" if facts.run is not None else "data"
    named = [file for file in FILES if file in files or any(each.startswith(file) for each in files if file[-1] == "/")]
    lines = [
        f"# {name}", "", *_english(facts), "",
        "## What it was trained on" if kind == "model" else "## What it holds", "",
        *card_tables.data(facts),
        *card_tables.path(facts), *card_tables.results(facts), *card_tables.audit(facts), *card_tables.cost(facts),
        *components.section(facts),
        "## Limits", "", *(f"- {english}" for english, _ in limits(facts)), "",
        "## Files", "", *table(("file", "what it holds", "内容"), [(_link(file), *FILES[file]) for file in named]),
        *_origins(facts, 0), "",
        "## 日本語", "", *_japanese(facts), "", "### 学習データ" if kind == "model" else "### 内容", "",
        *card_tables.data(facts, ja=True),
        *card_tables.path(facts, ja=True), *card_tables.results(facts, ja=True), *card_tables.audit(facts, ja=True),
        *card_tables.cost(facts, ja=True), *components.section(facts, ja=True),
        "### 限界", "", *(f"- {japanese}" for _, japanese in limits(facts)), "",
        *_origins(facts, 1), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _origins(facts: Facts, lang: int) -> list[str]:
    """Where the facts of the card come from, and what `--verify` can say of them; `lang`: 0 English, 1 Japanese."""
    of_run = (
        "Steps, cost, curves, scores and audit are what the run, `commonart eval` and `commonart mia` wrote: the shards cannot "
        "confirm them, the run's folder can, where `--verify` is given it.",
        "ステップ数、費用、曲線、評価、監査は、学習・`eval`・`mia` が書いた値である。"
        "シャードからは確かめられず、`--verify` に学習のフォルダを示せば照合できる。",
    )
    pairs = [
        ("Works, licences, sources and captions were counted from the records in the shards; `commonart report --verify` counts "
         "them again. What the records state is their sources' word.",
         "作品・ライセンス・出典・キャプションは、シャードの記録から数えた。`commonart report --verify` は数え直して照合する。"
         "記録の内容は出典の表示による。"),
        *([of_run] if facts.run is not None else []),
        ("Written by hand, in tables of `commonart`: what licences ask (LICENSES.md), and the terms of other makers' models and "
         "what they were trained on (COMPONENTS.md).",
         "ライセンスの求める事項（LICENSES.md）と、外部のモデルの利用条件・学習データ（COMPONENTS.md）は、"
         "`commonart` に人が書いた表による。"),
    ]  # fmt: skip
    return [each[lang] for each in pairs]


def _link(file: str) -> str:
    return f"[{file}]({file})"


def _licenses(facts: Facts) -> str:
    return counts(license_names(facts.licenses), 4)


def _english(facts: Facts) -> list[str]:
    run = facts.run
    if run is None:
        return [
            f"{many(facts.works, 'work')} in WebDataset shards, with captions. Licences: {_licenses(facts)}.",
            f"Sources: {counts(facts.sources, 4)}. Each work is named in [ATTRIBUTION](ATTRIBUTION).",
        ]
    parameters = (run.get("transformer") or run.get("captioner") or {}).get("parameters")
    size = f" of {parameters:,} parameters" if parameters else ""
    what = "A captioner" if "captioner" in run else "A text-to-image diffusion transformer"
    gone = f", of which {facts.removed:,} since removed are not counted here" if facts.removed else ""
    return [
        f"{what}{size}, stage `{run['stage']}`, after {many(facts.compute['step'], 'step')}.",
        f"It was trained on {many(facts.works + facts.removed, 'work')}{gone}. Licences: {_licenses(facts)}. Sources: "
        f"{counts(facts.sources, 4)}.",
        "Each work is named in [ATTRIBUTION](ATTRIBUTION); the licence of the weights themselves is for their publisher to state.",
    ]  # fmt: skip


def _japanese(facts: Facts) -> list[str]:
    if facts.run is None:
        return [
            f"キャプションつきの画像 {facts.works:,} 点（WebDataset 形式）。ライセンス：{_licenses(facts)}。"
            f"出典：{counts(facts.sources, 4)}。",
            "作品は [ATTRIBUTION](ATTRIBUTION) に一点ずつ記した。",
        ]
    what = (
        "画像のキャプションを書くモデル" if "captioner" in facts.run else "文から画像を生成する拡散トランスフォーマー"
    )
    flops = f"計算量は {power(facts.flops, 3)} FLOP。" if facts.flops else ""
    gone = f"（うち、その後削除された {facts.removed:,} 点は以下に含まない）" if facts.removed else ""
    return [
        f"{what}。学習段階は `{facts.run['stage']}`、{facts.compute['step']:,} ステップ。{flops}",
        f"学習に使った作品は {facts.works + facts.removed:,} 点{gone}。"
        f"ライセンス：{_licenses(facts)}。出典：{counts(facts.sources, 4)}。",
        "作品は [ATTRIBUTION](ATTRIBUTION) に一点ずつ記した。重みそのもののライセンスは公開者が定める。",
    ]
