"""What the model gives back of its images, on the audit's page: replication, extraction, memorised prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commonart.core.audit import page_text as words
from commonart.core.audit.extraction import Extracted
from commonart.core.audit.page_cells import EMBEDDED, Result, decimal, found, interval, judge, percent, say, share
from commonart.core.audit.page_names import terms
from commonart.core.audit.replication import Example
from commonart.core.metrics import image_set
from commonart.core.output.html import Page


def replication(page: Page, result: Result, examples: Sequence[Example], size: int) -> None:
    """Add the images that were generated, beside the ones that they are near."""
    part, called = result.get("replication"), terms(result)
    if not part:
        return say(page, result, words.NOT_RUN)
    found(page, result, part)
    say(page, result, words.REPLICATION, made=part["generated"], limit=part["limit"], compared=part["training_images"])
    control = part.get("control")
    rows = [(f"from {called['captions']} / {called['captions_ja']}から", part)]
    rows += [("from held-out captions / 未学習のキャプションから", control)] if control else []
    page.table(
        ("images / 画像", "made / 生成", "near copies / 類似画像", "share / 割合 [95 %]"),
        [(name, row["generated"], row["copies"], share(row["above_background"])) for name, row in rows],
    )
    if control:
        _findable(page, result, part, (part["copies"], part["generated"]), (control["copies"], control["generated"]))
    everything, japanese = called["all"], called["all_ja"]
    spreads = [
        (f"to the nearest of {everything} / {japanese}のうち最も近いものと", part["similarity"]),
        ("to the caption's own image / キャプションの元の画像と", part["to_own_image"]),
    ]
    spreads += (
        [("held-out captions, nearest / 未学習のキャプション、最も近い画像と", control["similarity"])]
        if control
        else []
    )
    spreads.append((f"between {everything} / {japanese}どうし", part["background"]))
    page.table(
        ("similarity / 類似度", "mean / 平均", "median / 中央値", "95 %", "largest / 最大"),
        [(name, *(decimal(row[key]) for key in ("mean", "p50", "p95", "max"))) for name, row in spreads],
    )
    say(page, result, words.JUDGE, **judge(part), steps=part["steps"], guidance=part["guidance"])
    if part["judge"] == EMBEDDED:
        say(page, result, words.SMALL_JUDGE)
    back = part["background"]
    page.text(
        f"{back['with_twins']:,} of {back['images']:,} have a twin among them (similarity from {part['twin_limit']:.4f}). / "
        f"{back['images']:,} 枚のうち {back['with_twins']:,} 枚に重複があります（類似度 {part['twin_limit']:.4f} 以上）。",
        soft=True,
    )
    for example in examples:
        page.row([
            (image_set.open_square(example.source, size),
             f"the caption's image / キャプションの元の画像{_credit(example.source.record)}"),
            (example.generated, f"generated / 生成: {example.prompt} (similarity {example.to_source:.2f})"),
            (image_set.open_square(example.nearest, size),
             f"nearest / 最も近い画像{_credit(example.nearest.record)} (similarity {example.similarity:.2f})"),
        ])  # fmt: skip


def _findable(
    page: Page, result: Result, part: Mapping[str, Any], inside: tuple[int, int], outside: tuple[int, int]
) -> None:
    """Say how many would have been a finding, where so many could be and were not."""
    least = part.get("smallest_share_found")
    if part["verdict"] != "groups differ" and least is not None and not part["p_value"] < result["level"]:
        (_, of), (other, others) = inside, outside
        say(page, result, words.FINDABLE, least=round(least * of), of=of, other=other, others=others)


def _credit(record: Mapping[str, Any]) -> str:
    parts = [str(record[name]) for name in ("key", "title", "author", "license", "source_url") if record.get(name)]
    return f" ({', '.join(parts)})" if parts else ""


def gave_back(part: Mapping[str, Any]) -> dict[str, int]:
    """Return how many captions were tried on either side, and how many of them gave back their image."""
    of, others = part["captions"], part["heldout_captions"]
    count, other = round(of * part["extracted"]["value"]), round(others * part["heldout_extracted"]["value"])
    return {"count": count, "of": of, "other": other, "others": others}


def extraction(page: Page, result: Result, examples: Sequence[Extracted], size: int) -> None:
    """Add what could be extracted: images of each clique beside the training image."""
    part, called = result.get("extraction"), terms(result)
    if not part:
        return say(page, result, words.NOT_RUN)
    counts = gave_back(part)
    found(page, result, part, of=counts["of"])
    say(page, result, words.GAVE_BACK, **counts)
    say(page, result, words.EXTRACTION, seeds=part["seeds"], clique=part["clique"])
    for example in examples:
        told = f"generated / 生成: {example.prompt} (distance / 距離 {example.distance:.3f})"
        page.row([
            (image_set.open_square(example.source, size),
             f"the caption's image / キャプションの元の画像{_credit(example.source.record)}"),
            *((image, told) for image in example.generated),
        ])  # fmt: skip
    page.table(
        ("captions / キャプション", "tried / 試行", "with a clique / ほぼ同じ画像 [95 %]", "extracted / 取り出せた [95 %]"),
        [
            (f"{called['captions']} / {called['captions_ja']}", part["captions"], share(part["with_clique"]),
             share(part["extracted"])),
            ("held-out captions / 未学習のキャプション", part["heldout_captions"], share(part["heldout_with_clique"]),
             share(part["heldout_extracted"])),
        ],
    )  # fmt: skip
    _findable(page, result, part, (counts["count"], counts["of"]), (counts["other"], counts["others"]))
    if part["images"]:
        rows = [(row["key"], row["prompt"], row["clique"], decimal(row["distance"])) for row in part["images"]]
        alike = f"near-identical of {part['seeds']} / {part['seeds']} 枚中ほぼ同じ枚数"
        page.table(
            ("key / キー", "caption / キャプション", alike, f"distance / 距離 (limit / 限界 {part['near']})"),
            rows,
        )


def prompts(page: Page, result: Result) -> None:
    """Add the prompts that are flagged as memorised."""
    part, called = result.get("memorised_prompts"), terms(result)
    if not part:
        return say(page, result, words.NOT_RUN)
    say(page, result, words.PROMPTS, rate=percent(part["false_alarm_rate"]), threshold=part["threshold"])
    flags(page, result)
    page.table(
        (f"{called['captions']} / {called['captions_ja']}", "held-out captions / 未学習のキャプション",
         "flagged / 印 [95 %]", "AUC [95 %]"),
        [(part["prompts"], part["heldout_prompts"], share(part["flagged"]), interval(part["auc"]))],
    )  # fmt: skip
    if part["flagged_prompts"]:
        rows = [(row["key"], row["prompt"], decimal(row["magnitude"])) for row in part["flagged_prompts"]]
        page.table(("key / キー", "caption / キャプション", "magnitude / 大きさ"), rows)


def flags(page: Page, result: Result) -> None:
    """Say what the share of flagged prompts is worth: nothing where the groups differ or the AUC may be 0.5."""
    part, extracted = result["memorised_prompts"], result.get("extraction")
    if result["verdict"] == "groups differ":
        say(page, result, words.PARTS["groups differ"])
    elif part["auc"]["low"] <= 0.5 <= part["auc"]["high"]:
        say(page, result, words.NO_SHARE, auc=interval(part["auc"]))
    named = {row["key"] for row in part["flagged_prompts"]}
    if extracted and extracted["images"] and len(named) == round(part["flagged"]["value"] * part["prompts"]):
        stopped = sum(row["key"] in named for row in extracted["images"])
        say(page, result, words.GUARD, stopped=stopped, count=len(extracted["images"]))
