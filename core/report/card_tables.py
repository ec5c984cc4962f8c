"""The tables of a card's README.md, in English or in Japanese: the data, the way to it, scores, audit, cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonart.core.audit import page_names
from commonart.core.metrics.protocols import COMPARABLE
from commonart.core.recipes import switched_on
from commonart.core.report import scores
from commonart.core.report.facts import Facts
from commonart.core.report.makers import in_words
from commonart.core.report.markdown import counts, escaped, license_names, table
from commonart.core.report.page.text import FACTS, PROMPTS, QUESTIONS
from commonart.core.report.quantities import amount, duration, power

METRICS_JA = {title: FACTS[key][1] for key, title in scores.SCENES.items()} | {"questions": QUESTIONS[1]}
PROMPTS_JA = {name: ja for name, (_, ja) in PROMPTS.items()} | {
    "captions": "キャプション", scores.HELD_OUT: "検証画像のキャプション", scores.TRAINED: "学習画像のキャプション",
}  # fmt: skip
JUDGES_JA = {"pixels": "画素"}


def data(facts: Facts, ja: bool = False) -> list[str]:
    """Return the table of the works and their captions."""
    authors, named = len(facts.authors), facts.works - facts.unknown_authors
    english = f"{named:,} of {facts.works:,} works name theirs" if authors else "none is named"
    japanese = f"{facts.works:,} 点のうち {named:,} 点に記載" if authors else "記載なし"
    none, unknown = ("なし", "不明") if ja else ("none", "not stated")
    rows = [
        ("works", "作品", f"{facts.works:,}"),
        ("licences", "ライセンス", counts(license_names(facts.licenses), none=unknown)),
        ("sources", "出典", counts(facts.sources, 20, unknown)),
        ("authors", "作者", japanese if ja else english),
        ("captions by language", "キャプションの言語", counts(facts.languages, 20, unknown) or none),
        ("captions by who wrote them", "キャプションの作成者", counts(in_words(facts.makers, ja), 20) or none),
        ("sizes in pixels", "画素数", counts(facts.sizes, 10, unknown)),
        ("splits", "分割", counts(facts.splits, none=unknown)),
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
    scored = scores.rows(facts)
    if not scored:
        return []
    head = ("metric", "language", "prompts", "value", "95 % interval", "real images", "images", "judge")
    if ja:
        head = ("指標", "言語", "指示文", "値", "95 % 区間", "実画像での値", "画像数", "判定器")
    cells = [
        (escaped(METRICS_JA.get(r.metric, r.metric) if ja else r.metric), r.lang,
         escaped(PROMPTS_JA.get(r.prompts, r.prompts) if ja else r.prompts), scores.number(r.value), scores.interval(r),
         "" if r.reference is None else scores.number(r.reference), r.images,
         escaped(JUDGES_JA.get(r.judge, r.judge) if ja else r.judge))
        for r in scored
    ]  # fmt: skip
    lines = ["### 評価" if ja else "## Results", "", *table(head, cells)]
    if any(r.reference is not None for r in scored):
        lines += ["「実画像での値」は、同じキャプションの実画像を同じ判定器で測った値。" if ja else
                  "Real images: the same judge's score of the true images of the same captions.", ""]  # fmt: skip
    distances = [r.images for r in scored if r.metric.startswith(("FD", "FID")) and r.images < COMPARABLE]
    if distances:
        lines += [f"画像 {min(distances):,} 枚のフレシェ距離は枚数に左右される。FID-30k とは比べられない。"
                  if ja else
                  f"A Fréchet distance of {min(distances):,} images depends on their number: compare it only with one of as many "
                  "images, not with FID-30k.", ""]  # fmt: skip
    return lines


def audit(facts: Facts, ja: bool = False) -> list[str]:
    """Return the verdict of the audit, and how large a leak it would have found."""
    result = facts.audit
    if result is None:
        return []
    verdict, reason = str(result.get("verdict") or "not stated"), escaped(str(result.get("reason") or "")).rstrip(".")
    members, others = result.get("members", 0), result.get("heldout", 0)
    sensitivity, terms = _sensitivity(result), page_names.terms({"question": "training set", **result})
    if ja:
        shown = escaped(page_names.SHORT_JA.get(verdict, verdict))
        lines = [f"監査の判定：**{shown}**{_p_values_ja(result)}。{terms['members_ja']} {members:,} 枚と未学習画像 {others:,} 枚を"
                 f"比べた。{sensitivity[1]}"]  # fmt: skip
        return ["### 学習画像は漏れるか", "", *lines, ""]
    if "four times in five" in reason or "no leak at all" in reason:
        sensitivity = ("", "")
    return [
        "## Does it give away its training images?", "",
        f"Membership audit: **{escaped(verdict)}**" + (f" ({reason})." if reason else "."),
        f"{members:,} {terms['members']} were compared with {others:,} held-out ones.", *filter(None, sensitivity[:1]), "",
    ]  # fmt: skip


def _p_values_ja(result: Mapping[str, Any]) -> str:
    """The p-values that the verdict rests on, as `reason` has them in English."""
    rows = {**(result.get("attacks") or {}), "combined": result.get("combined")}
    tests = {name: row["p_value"] for name, row in rows.items() if row and row.get("p_value") is not None}
    blind, reference = (result.get("blind") or {}), result.get("reference_p_value")
    if result.get("verdict") == "leaks":
        named = [f"{escaped(name)} {p:.3f}" for name, p in tests.items() if rows[name].get("verdict") == "leaks"]
        return f"（p 値：{'、'.join(named)}。{len(tests)} 検定で補正済み）" if named else ""
    if result.get("verdict") == "groups differ":
        if blind.get("groups_differ"):
            return f"（モデルを見ていない盲検の p 値 {blind['p_value']:.3f}）"
        return f"（参照モデルへの攻撃の p 値 {reference:.3f}）" if reference is not None else ""
    return f"（{len(tests)} 検定のうち最小の p 値 {min(tests.values()):.3f}）" if tests else ""


def _sensitivity(result: Mapping[str, Any]) -> tuple[str, str]:
    """How large a leak an audit that found none would have found, in two languages; "" where it found one, or does not say."""
    rows = [*(result.get("attacks") or {}).values(), result.get("combined")]
    sizes = [row["smallest_auc_found"] for row in rows if row and row.get("smallest_auc_found") is not None]
    if not sizes or result.get("verdict") != "no leak found":
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
    energy = f"{amount(facts.energy_kwh)} kWh ({how})" if facts.energy_kwh is not None else unknown
    frozen = "順伝播と逆伝播、凍結したエンコーダーを除く" if ja else "forward and backward, without the frozen encoders"
    rows = [
        ("steps, images", "ステップ、画像", f"{compute['step']:,}, {compute['images']:,}"),
        ("time", "時間", duration(facts.seconds)[ja] if facts.seconds else unknown),
        ("devices", "装置", devices or unknown),
        ("FLOP", "FLOP", f"{power(facts.flops, 3)}{'、' if ja else ', '}{frozen}" if facts.flops else unknown),
        ("energy", "電力量", energy),
    ]
    if on := switched_on(facts.run.get("recipe") or {}):
        rows.append(("switches of the recipe", "レシピの切り替え", escaped(", ".join(on))))
    return [
        "### 計算の費用" if ja else "## What it has cost",
        "",
        *table(("", ""), [(row[ja], row[2]) for row in rows]),
    ]
