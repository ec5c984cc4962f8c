"""The audit's page: everything that mia.json says, for a reader who is given nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from commonart.core.audit import page_copies, page_membership
from commonart.core.audit import page_text as words
from commonart.core.audit.extraction import Extracted
from commonart.core.audit.page_cells import Result, interval, p, percent, say
from commonart.core.audit.page_names import NAMES, SHORT_JA, terms
from commonart.core.audit.replication import Example
from commonart.core.output.html import Page

SECTIONS = {
    "short": "In short / 要約", "tested": "What was tested / 対象", "membership": "Membership inference / 学習画像の判別",
    "blind": "The blind judge / 盲検の判定器", "set": "The set as a whole / 集まり全体", "replication": "Near copies / 類似画像",
    "extraction": "Extraction / 取り出し", "prompts": "Memorised prompts / 記憶されたキャプション",
    "limits": "What these numbers can and cannot say / この数字で言えること、言えないこと", "all": "All numbers / すべての数値",
}  # fmt: skip


def build(
    result: Result, examples: Sequence[Example] = (), given_back: Sequence[Extracted] = (), size: int = 64
) -> Page:
    """Build the page of one audit.

    Args:
        result: the content of mia.json.
        examples: generated images beside training images, shown under replication at `size` pixels.
        given_back: what was extracted, beside training images, shown under extraction.
    """
    asked = (
        "Does this model give away its training images? / このモデルは学習画像を漏らすか"
        if result["question"] == "training set"
        else "Were these works in the model's training set? / この作品はモデルの学習に使われたか"
    )
    page = Page(f"Audit of {result['model']}", asked)
    page.contents(SECTIONS)
    for anchor, part in (
        ("short", _short), ("tested", _tested), ("membership", page_membership.membership),
        ("blind", page_membership.blind), ("set", page_membership.set_),
    ):  # fmt: skip
        page.heading(SECTIONS[anchor], anchor)
        part(page, result)
    page.heading(SECTIONS["replication"], "replication")
    page_copies.replication(page, result, examples, size)
    page.heading(SECTIONS["extraction"], "extraction")
    page_copies.extraction(page, result, given_back, size)
    page.heading(SECTIONS["prompts"], "prompts")
    page_copies.prompts(page, result)
    page.heading(SECTIONS["limits"], "limits")
    for sentence in words.LIMITS:
        say(page, result, sentence)
    page.heading(SECTIONS["all"], "all")
    page.details("mia.json, without the points of the curves / 曲線の点を除く", _json(result))
    return page


def _json(result: Result) -> str:
    rows = {**result["attacks"], "combined": result["combined"]}
    rows = {name: {key: value for key, value in row.items() if key != "roc"} for name, row in rows.items()}
    combined = rows.pop("combined")
    return json.dumps({**result, "attacks": rows, "combined": combined}, indent=2, ensure_ascii=False)


def _short(page: Page, result: Result) -> None:
    verdict = result["verdict"]
    page.text(f"Verdict: {verdict}.", strong=True)
    page.text(f"判定：{SHORT_JA[verdict]}", lang="ja", strong=True)
    if result["question"] != "training set":
        say(page, result, words.KEYS)
    say(page, result, words.VERDICTS[verdict])
    page.text(f"Reason: {result['reason'].partition(';')[0]}.")
    page.text(f"理由: {_reason_ja(result)}", lang="ja")
    rows = {**result["attacks"], "combined": result["combined"]}
    if verdict == "leaks":
        name = max(rows, key=lambda key: abs(rows[key]["auc"]["value"] - 0.5))
        say(page, result, words.STRONGEST, name=name, auc=interval(rows[name]["auc"]))
    elif verdict == "groups differ":
        say(page, result, words.DIFFERENCES, **page_membership.differences(result))
    else:
        by = sorted(rows, key=lambda key: rows[key]["smallest_auc_found"])
        least, most = (rows[by[place]]["smallest_auc_found"] for place in (0, -1))
        sentence = words.POWER if least < 1 else words.NO_POWER
        say(page, result, sentence, name=by[0], least=least, last=by[-1], most=most)
    say(page, result, _prefixed("set", page_membership.set_answer(result)), **page_membership.set_values(result))
    for name in ("replication", "extraction"):
        found = result.get(name)
        told, values = words.NOT_RUN, {}
        if found and "verdict" in found:
            told = words.PARTS[found["verdict"]]
        if found and name == "extraction":
            values = page_copies.gave_back(found)
            told = (f"{words.GAVE_BACK[0]} {told[0]}", words.GAVE_BACK[1] + told[1])
        say(page, result, _prefixed(name, told), **values)
    if prompts := result.get("memorised_prompts"):
        differ = verdict == "groups differ"
        flagged = {"share": percent(prompts["flagged"]["value"]), "count": prompts["prompts"]}
        say(page, result, _prefixed("prompts", words.PARTS[verdict] if differ else words.FLAGGED), **flagged)
        if not differ:
            page_copies.flags(page, result)


def _prefixed(name: str, sentence: tuple[str, str]) -> tuple[str, str]:
    english, _, japanese = SECTIONS[name].partition(" / ")
    return f"{english}: {sentence[0]}", f"{japanese}: {sentence[1]}"


def _reason_ja(result: Result) -> str:
    rows = {**result["attacks"], "combined": result["combined"]}
    level, blind = result["level"], result["blind"]
    if result["verdict"] == "groups differ":
        if blind["groups_differ"]:
            return f"モデルを見ていない判定器が二群を区別しました（p {p(blind['p_value'])}）。"
        return f"画像を見ていない参照モデルへの攻撃が二群を区別しました（p {p(result['reference_p_value'])}）。"
    if result["verdict"] == "leaks":
        found = "、".join(f"{name}（p {p(row['p_value'])}）" for name, row in rows.items() if row["p_value"] < level)
        return f"{found}により区別できました。{len(rows)} 個の検定について補正済みです。"
    return f"{len(rows)} 個の検定のうち最も強いものでも p {p(min(row['p_value'] for row in rows.values()))} です。"


def _tested(page: Page, result: Result) -> None:
    reference, called = result.get("reference"), terms(result)
    works = result["question"] != "training set"
    rows: list[tuple[str, object]] = [
        ("model / モデル", result["model"]), ("revision / 版", result["revision"]), ("data / データ", result["data"]),
        ("question / 問い", result["question"] if works else "training set / 学習データ"),
        ("reference model / 参照モデル", f"{reference['model']} ({reference['revision']})" if reference else "none / なし"),
        (f"{called['members']} / {called['members_ja']}", result["members"]),
        ("held-out images / 未学習画像", result["heldout"]),
    ]  # fmt: skip
    rows += [(f"left out / 除外: {NAMES.get(reason, reason)}", count) for reason, count in result["dropped"].items()]
    rows += [(NAMES.get(name, name), value) for name, value in result["settings"].items() if value is not None]
    shown = [(name, f"{value:,}" if isinstance(value, int | float) else value) for name, value in rows]
    page.table(("what / 項目", "value / 値"), shown)
    say(page, result, words.SAMPLE)
    if not works:
        say(page, result, words.FROM_RUN[bool(result["data_is_of_the_run"])])
