"""The tables of a card's README.md, in English or in Japanese: the data, the way to it, scores, audit, cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonart.core.audit import page_names
from commonart.core.metrics.protocols import COMPARABLE
from commonart.core.recipes import switched_on
from commonart.core.report import scores
from commonart.core.report.facts import Facts
from commonart.core.report.markdown import counts, escaped, license_names, makers, table

METRICS_JA = {
    "colour right": "色の一致", "shape right": "形の一致", "background right": "背景の一致", "place right": "位置の一致",
}  # fmt: skip
PROMPTS_JA = {
    "captions": "キャプション", scores.HELD_OUT: "検証画像のキャプション", scores.TRAINED: "学習画像のキャプション",
}  # fmt: skip


def data(facts: Facts, ja: bool = False) -> list[str]:
    """Return the table of the works and their captions."""
    authors, named = len(facts.authors), facts.works - facts.unknown_authors
    english = f"{named:,} of {facts.works:,} works name theirs" if authors else "none is named"
    japanese = f"{facts.works:,} 点のうち {named:,} 点に記載" if authors else "記載なし"
    none, unsigned = ("なし", "人、または不明") if ja else ("none", "a person, or not stated")
    said = "不明" if ja else "not stated"
    rows = [
        ("works", "作品", f"{facts.works:,}"),
        ("licences", "ライセンス", counts(license_names(facts.licenses), none=said)),
        ("sources", "出典", counts(facts.sources, 20, said)),
        ("authors", "作者", japanese if ja else english),
        ("captions by language", "説明文の言語", counts(facts.languages, 20, said) or none),
        ("captions by model", "説明文を書いたモデル", counts(makers(facts.captioners), 20, unsigned) or none),
        ("sizes in pixels", "画素数", counts(facts.sizes, 10, said)),
        ("splits", "分割", counts(facts.splits, none=said)),
        ("digest of keys and hashes", "キーとハッシュの要約値", f"`{facts.digest}`"),
    ]
    return table(("", ""), [(row[ja], row[2]) for row in rows])


def path(facts: Facts, ja: bool = False) -> list[str]:
    """Return the way from fetched to trained."""
    if not facts.history:
        return []
    rows = []
    for row in facts.history:
        why = counts(row["dropped"], 6)
        if lost := row.get("lost"):
            gone = f"**この前に記録なしで {lost:,} 件が消失**" if ja else (
                f"**{lost:,} lost before this stage, by no stage that left a note**"
            )  # fmt: skip
            why = ", ".join(filter(None, (why, gone)))
        rows.append((row["stage"], row["in"], row["out"], why))
    head = ("段階", "入力", "出力", "除外（理由別）") if ja else ("stage", "in", "out", "left out, by reason")
    return ["### 取得から学習まで" if ja else "## From fetched to trained", "", *table(head, rows)]


def results(facts: Facts, ja: bool = False) -> list[str]:
    """Return the scores, with what they are to be read against."""
    found = scores.rows(facts)
    if not found:
        return []
    head = ("metric", "language", "prompts", "value", "95 % interval", "real images", "images", "judge")
    if ja:
        head = ("指標", "言語", "指示文", "値", "95 % 区間", "実画像での値", "画像数", "判定器")
    cells = [
        (escaped(METRICS_JA.get(r.metric, r.metric) if ja else r.metric), r.lang,
         escaped(PROMPTS_JA.get(r.prompts, r.prompts) if ja else r.prompts), scores.number(r.value), scores.interval(r),
         "" if r.reference is None else scores.number(r.reference), r.images, escaped(r.judge))
        for r in found
    ]  # fmt: skip
    lines = ["### 評価" if ja else "## Results", "", *table(head, cells)]
    if any(r.reference is not None for r in found):
        lines += ["「実画像での値」は、同じ説明文の実画像を同じ判定器で測った値。" if ja else
                  "Real images: the same judge's score of the true images of the same captions.", ""]  # fmt: skip
    distances = [r.images for r in found if r.metric.startswith(("FD", "FID")) and r.images < COMPARABLE]
    if distances:
        lines += [f"画像 {min(distances):,} 枚のフレシェ距離は枚数に左右される。FID-30k とは比べられない。"
                  if ja else
                  f"A Fréchet distance of {min(distances):,} images depends on their number: compare it only with one of as many "
                  "images, not with FID-30k.", ""]  # fmt: skip
    return lines


def audit(facts: Facts, ja: bool = False) -> list[str]:
    """Return the verdict of the audit, and how large a leak it would have found."""
    found = facts.audit
    if found is None:
        return []
    verdict, said = str(found.get("verdict") or "not stated"), escaped(str(found.get("reason") or "")).rstrip(".")
    members, others = found.get("members", 0), found.get("heldout", 0)
    power = _power(found)
    if ja:
        shown = page_names.SHORT_JA.get(verdict, verdict)
        lines = [f"監査の判定：**{escaped(shown)}**。{page_names.terms({'question': 'training set', **found})['members_ja']} "
                 f"{members:,} 枚と未学習画像 {others:,} 枚を比べた。{power[1]}"]  # fmt: skip
        return ["### 学習画像は漏れるか", "", *lines, ""]
    if "four times in five" in said or "no leak at all" in said:
        power = ("", "")
    called = page_names.terms({"question": "training set", **found})["members"]
    return [
        "## Does it give away its training images?", "",
        f"Membership audit: **{escaped(verdict)}**" + (f" ({said})." if said else "."),
        f"{members:,} {called} were held against {others:,} held-out ones.", *filter(None, power[:1]), "",
    ]  # fmt: skip


def _power(found: Mapping[str, Any]) -> tuple[str, str]:
    """How large a leak an audit that found none would have found, in two languages; "" where it found one, or does not say."""
    rows = [*(found.get("attacks") or {}).values(), found.get("combined")]
    sizes = [row["smallest_auc_found"] for row in rows if row and row.get("smallest_auc_found") is not None]
    if not sizes or found.get("verdict") != "no leak found":
        return "", ""
    if min(sizes) >= 1:
        return "So few images would show no leak at all.", "この枚数では、どんな漏洩も見つからない。"
    return (
        f"A leak with an AUC of {min(sizes):.3f} would have been found four times in five; a smaller one may be there.",
        f"AUC {min(sizes):.3f} の漏洩なら五回に四回は見つかったはずだが、より小さな漏洩はありうる。",
    )


def cost(facts: Facts, ja: bool = False) -> list[str]:
    """Return what training has cost."""
    if facts.run is None:
        return []
    compute, unknown = facts.compute, "不明" if ja else "not known"
    devices = ", ".join(f"{each['count']} x {escaped(str(each['name']))}" for each in compute.get("devices") or ())
    how = escaped(str(compute.get("energy_is") or ("方法の記載なし" if ja else "no method named")))
    energy = f"{facts.energy_kwh:,.3g} kWh ({how})" if facts.energy_kwh is not None else unknown
    frozen = "順伝播と逆伝播。凍結したエンコーダーを除く" if ja else "forward and backward, without the frozen encoders"
    rows = [
        ("steps, images", "ステップ、画像", f"{compute['step']:,}, {compute['images']:,}"),
        ("hours", "時間", f"{(facts.seconds or 0) / 3600:,.3g}"),
        ("devices", "装置", devices or unknown),
        ("FLOP", "FLOP", f"{facts.flops:.3g}, {frozen}" if facts.flops else unknown),
        ("energy", "電力量", energy),
    ]
    if on := switched_on(facts.run.get("recipe") or {}):
        rows.append(("switches of the recipe", "レシピの切り替え", escaped(", ".join(on))))
    return [
        "### 計算の費用" if ja else "## What it has cost",
        "",
        *table(("", ""), [(row[ja], row[2]) for row in rows]),
    ]
