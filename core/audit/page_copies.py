"""What the model gives back of its images, on the audit's page: replication, extraction, memorised prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commonart.core.audit import page_text as words
from commonart.core.audit.page_cells import Result, found, interval, say
from commonart.core.audit.page_text import terms
from commonart.core.audit.replication import Example
from commonart.core.metrics import image_set
from commonart.core.output.html import Page


def replication(page: Page, result: Result, examples: Sequence[Example], size: int) -> None:
    """Add the images that were generated, beside the ones that they are near."""
    part, called = result.get("replication"), terms(result)
    if not part:
        return say(page, result, words.NOT_RUN)
    found(page, result, part)
    say(page, result, words.REPLICATION, made=part["generated"], limit=part["limit"])
    control = part.get("control")
    rows = [(f"from {called['captions']} / {called['captions_ja']}から", part)]
    rows += [("from held-out captions / 未学習の説明文から", control)] if control else []
    page.table(
        ("images / 画像", "made / 生成", "copies / 複製", "share / 割合 [95 %]"),
        [(name, row["generated"], row["copies"], interval(row["above_background"])) for name, row in rows],
    )
    members, japanese = called["members"], called["members_ja"]
    spreads = [
        (f"to the nearest of the {members} / 最も近い{japanese}と", part["similarity"]),
        ("to the caption's own image / 説明文の元の画像と", part["to_own_image"]),
    ]
    spreads += (
        [("held-out captions, nearest / 未学習の説明文、最も近い画像と", control["similarity"])] if control else []
    )
    spreads.append((f"between the {members} / {japanese}どうし", part["background"]))
    page.table(
        ("similarity / 類似度", "mean / 平均", "median / 中央値", "95 %", "largest / 最大"),
        [(name, row["mean"], row["p50"], row["p95"], row["max"]) for name, row in spreads],
    )
    back = part["background"]
    page.text(
        f"{back['with_twins']:,} of {back['images']:,} {members} have a twin among them (similarity from "
        f"{part['twin_limit']:.4f}). {100 * part['by_chance']:.0f} % would pass by chance. "
        f"Judge: {part['judge']} ({part['judge_revision']}), {part['steps']} steps, guidance {part['guidance']:g}.",
        soft=True,
    )
    page.text(
        f"{japanese} {back['images']:,} 枚のうち {back['with_twins']:,} 枚に重複があります。偶然でも "
        f"{100 * part['by_chance']:.0f} % は複製と数えられます。",
        soft=True, lang="ja",
    )  # fmt: skip
    for example in examples:
        page.row([
            (image_set.open_square(example.source, size),
             f"the caption's image / 説明文の元の画像{_credit(example.source.record)}"),
            (example.generated, f"generated / 生成: {example.prompt} (similarity {example.to_source:.2f})"),
            (image_set.open_square(example.nearest, size),
             f"nearest / 最も近い画像{_credit(example.nearest.record)} (similarity {example.similarity:.2f})"),
        ])  # fmt: skip


def _credit(record: Mapping[str, Any]) -> str:
    parts = [str(record[name]) for name in ("key", "title", "author", "license", "source_url") if record.get(name)]
    return f" ({', '.join(parts)})" if parts else ""


def extraction(page: Page, result: Result) -> None:
    """Add what could be extracted."""
    part, called = result.get("extraction"), terms(result)
    if not part:
        return say(page, result, words.NOT_RUN)
    found(page, result, part)
    say(page, result, words.EXTRACTION, seeds=part["seeds"], clique=part["clique"])
    page.table(
        ("captions / 説明文", "tried / 試行", "with a clique / ほぼ同じ画像 [95 %]", "extracted / 取り出せた [95 %]"),
        [
            (f"{called['captions']} / {called['captions_ja']}", part["captions"], interval(part["with_clique"]),
             interval(part["extracted"])),
            ("held out / 未学習", part["heldout_captions"], interval(part["heldout_with_clique"]),
             interval(part["heldout_extracted"])),
        ],
    )  # fmt: skip
    if part["images"]:
        rows = [(row["key"], row["prompt"], row["clique"], row["distance"]) for row in part["images"]]
        page.table(
            (
                "key / キー",
                "caption / 説明文",
                "near-identical / ほぼ同じ枚数",
                f"distance / 距離 (limit {part['near']})",
            ),
            rows,
        )


def prompts(page: Page, result: Result) -> None:
    """Add the prompts that are flagged as memorised."""
    part, called = result.get("memorised_prompts"), terms(result)
    if not part:
        return say(page, result, words.NOT_RUN)
    say(page, result, words.PROMPTS, rate=part["false_alarm_rate"], threshold=part["threshold"])
    page.table(
        (f"{called['captions']} / {called['captions_ja']}", "unseen captions / 未学習の説明文", "flagged / 印 [95 %]",
         "AUC [95 %]"),
        [(part["prompts"], part["heldout_prompts"], interval(part["flagged"]), interval(part["auc"]))],
    )  # fmt: skip
    if part["flagged_prompts"]:
        rows = [(row["key"], row["prompt"], row["magnitude"]) for row in part["flagged_prompts"]]
        page.table(("key / キー", "caption / 説明文", "magnitude / 大きさ"), rows)
