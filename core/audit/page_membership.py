"""Membership inference on the audit's page: the attacks, the blind judge, and the set as a whole."""

from __future__ import annotations

from commonart.core.audit import page_text as words
from commonart.core.audit.page_cells import Result, interval, mean, p, say, verdict
from commonart.core.audit.page_text import NAMES, terms
from commonart.core.output.html import Page

CHANCE = ((0.0, 0.0), (1.0, 1.0))


def membership(page: Page, result: Result) -> None:
    """Add the attacks: their table, curves and thresholds."""
    rows = {**result["attacks"], "combined": result["combined"]}
    say(page, result, words.MEMBERSHIP, level=result["level"])
    page.table(
        ("attack / 攻撃", "verdict / 判定", "AUC [95 %]", "p", "TPR at 1 % FPR / FPR 1 % での TPR",
         "TPR at 0.1 % FPR / FPR 0.1 % での TPR", "best accuracy / 最良の正解率",
         "smallest AUC that would be found / 見つかる最小の AUC", "AUC on this model alone / このモデル単独の AUC",
         "AUC on the reference / 参照モデルの AUC"),
        [
            (NAMES.get(name, name), verdict(row["verdict"]), interval(row["auc"]), p(row["p_value"]),
             interval(row["tpr@1%fpr"]), interval(row["tpr@0.1%fpr"]), interval(row["accuracy"]),
             f"{row['smallest_auc_found']:.3f}" if row["smallest_auc_found"] < 1 else "none / なし",
             interval(row.get("target", {}).get("auc")), interval(row.get("reference", {}).get("auc")))
            for name, row in rows.items()
        ],
    )  # fmt: skip
    say(page, result, words.SMALLEST)
    say(page, result, words.RATES, others=result["heldout"], smallest=result["combined"]["smallest_fpr"])
    if (surprise := result.get("reference_p_value")) is not None:
        page.text(f"Attacks on the reference model, which should find nothing: p {p(surprise)}.")
        page.text(f"何も見つからないはずの参照モデルへの攻撃：p {p(surprise)}。", lang="ja")
    page.plot(
        {name: row["roc"] for name, row in rows.items()}, "false positive rate",
        "true positive rate", chance=CHANCE,
    )  # fmt: skip
    say(page, result, words.AXES)
    say(page, result, words.CARRIED)
    page.table(
        ("attack / 攻撃", "FPR set / 決めた FPR", "TPR measured / 測った TPR", "FPR measured / 測った FPR"),
        [
            (NAMES.get(name, name), limit, mean(rates and rates["tpr"]), mean(rates and rates["fpr"]))
            for name, row in rows.items()
            for limit, rates in row["carried_over"].items()
            if limit != "splits"
        ],
    )
    names = [name for name in ("loss", "clid") if result["curve"] and name in result["curve"][0]]
    if names and len(result["curve"]) > 1:
        say(page, result, words.CURVE)
        series = {name: [(row["t"], row[name]["value"]) for row in result["curve"]] for name in names}
        page.plot(series, "time", "AUC", chance=((0, 0.5), (1000, 0.5)), x_range=(0, 1000))
        page.table(
            ("t / 時刻", *names), [(row["t"], *(interval(row[name]) for name in names)) for row in result["curve"]]
        )


def blind(page: Page, result: Result) -> None:
    """Add what the blind judge found."""
    found = result["blind"]
    say(page, result, words.BLIND)
    rows = [(NAMES["classifier"], interval(found["auc"]), p(found["p_value"]))]
    rows += [(NAMES.get(name, name), interval(row["auc"]), p(row["p_value"])) for name, row in found["single"].items()]
    page.table(("judge / 判定器", "AUC [95 %]", "p"), rows)
    differ = (
        ("Yes: nothing is said about the model", "はい。モデルについては何も言えません")
        if found["groups_differ"]
        else ("No", "いいえ")
    )
    page.text(f"Does it tell the groups apart? {differ[0]}. Judge: {found['judge']} ({found['judge_revision']}).")
    page.text(f"二群を区別したか：{differ[1]}。", lang="ja")


def set_answer(result: Result) -> tuple[str, str]:
    """Return the answer for the set as a whole; `{p}` in it is its p-value."""
    test = result["set_test"]
    if test is None:
        return words.NO_SET
    return words.SET_DIFFER if result["verdict"] == "groups differ" else words.SET_ANSWERS[test["in_training_set"]]


def set_(page: Page, result: Result) -> None:
    """Add the test of the set as a whole."""
    test = result["set_test"]
    say(page, result, words.SET)
    say(page, result, set_answer(result), p=test and test["p_value"])
    if test:
        rows = [
            ("p", p(test["p_value"])),
            ("1 - p", f"{test['confidence']:.3f}"),
            ("Welch's t / ウェルチの t", test["t"]),
        ]
        called = terms(result)
        rows += [(f"{called['members']} / {called['members_ja']}", test["members"])]
        page.table(("what / 項目", "value / 値"), [*rows, ("held-out images / 未学習画像", test["others"])])
