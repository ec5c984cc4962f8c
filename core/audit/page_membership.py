"""Membership inference on the audit's page: the attacks, the blind judge, and the set as a whole."""

from __future__ import annotations

from commonart.core.audit import page_text as words
from commonart.core.audit.page_cells import Result, decimal, interval, judge, p, percent, say, spread
from commonart.core.audit.page_names import NAMES, terms
from commonart.core.output.html import Number, Page

CHANCE = ((0.0, 0.0), (1.0, 1.0))


def membership(page: Page, result: Result) -> None:
    """Add the attacks: their table, curves and thresholds."""
    rows = {**result["attacks"], "combined": result["combined"]}
    differ = result["verdict"] == "groups differ"
    below = words.BELOW_DIFFER if differ else words.BELOW
    say(page, result, (words.MEMBERSHIP[0] + below[0], words.MEMBERSHIP[1] + below[1]))
    columns = {
        "attack / 攻撃": [NAMES.get(name, name) for name in rows],
        "AUC [95 %]": [interval(row["auc"]) for row in rows.values()],
        "p": [p(row["p_value"]) for row in rows.values()],
    }
    if not differ:
        columns["AUC found 4 times in 5 / 5 回中 4 回 見つかる AUC"] = [
            decimal(row["smallest_auc_found"]) if row["smallest_auc_found"] < 1 else Number("none / なし")
            for row in rows.values()
        ]
    carried = [limit for limit in ("1", "0.1") if not differ and result["combined"][f"tpr@{limit}%fpr"]]
    for limit in carried:
        columns[f"TPR at {limit} % FPR / FPR {limit} % での TPR"] = [
            interval(row[f"tpr@{limit}%fpr"]) for row in rows.values()
        ]
    if result["reference"]:
        for key, head in (
            ("target", "AUC alone / 単独の AUC"),
            ("reference", "AUC on the reference / 参照モデルの AUC"),
        ):
            columns[head] = [interval(row[key]["auc"]) if key in row else Number() for row in rows.values()]
    page.table(tuple(columns), zip(*columns.values(), strict=True), caption=words.GREY if differ else "", soft=differ)
    if result["reference"]:
        say(page, result, words.REFERENCE)
    if (surprise := result.get("reference_p_value")) is not None:
        say(page, result, words.SURPRISE[surprise < result["level"]], p=p(surprise))
    if differ:  # curves and thresholds would only invite a reading
        return
    few = {"others": result["heldout"], "smallest": percent(result["combined"]["smallest_fpr"])}
    say(page, result, words.RATES if carried else words.NO_RATES, **few)
    page.plot(
        {name: row["roc"] for name, row in rows.items()}, "false positive rate / 偽陽性率",
        "true positive rate / 真陽性率", chance=CHANCE, x_range=(0, 1),
    )  # fmt: skip
    say(page, result, words.AXES)
    _carried_over(page, result)
    names = [name for name in ("loss", "clid") if result["curve"] and name in result["curve"][0]]
    if names and len(result["curve"]) > 1:
        say(page, result, words.CURVE)
        series = {name: [(row["t"], row[name]["value"]) for row in result["curve"]] for name in names}
        page.plot(series, "time / 時刻", "AUC", chance=((0, 0.5), (1000, 0.5)), x_range=(0, 1000))


def _carried_over(page: Page, result: Result) -> None:
    """Say whether thresholds carry over, and show the rates that could be measured."""
    rows = {**result["attacks"], "combined": result["combined"]}
    measured = [
        (name, limit, rates) for name, row in rows.items() for limit, rates in row["carried_over"].items()
        if limit != "splits" and rates
    ]  # fmt: skip
    if not measured:
        return
    _, limit, _ = measured[0]  # the largest: most held-out images tell of it
    fpr = [rates["fpr"] for _, at, rates in measured if at == limit]
    low, high = (pick(row["mean"] for row in fpr) for pick in (min, max))
    worst = max(row["high"] for row in fpr)
    holds = high <= 1.5 * float(limit.removesuffix("%")) / 100
    say(
        page, result, words.CARRIED, set=limit.replace("%", " %"), low=percent(low), high=percent(high), worst=percent(worst),
        answer="On average, yes" if holds else "No", answer_ja="平均では通用します" if holds else "通用しません",
    )  # fmt: skip
    page.table(
        ("attack / 攻撃", "FPR set / 決めた FPR", "TPR measured / 測った TPR", "FPR measured / 測った FPR"),
        [
            (NAMES.get(name, name), Number(at.replace("%", " %")), spread(rates["tpr"]), spread(rates["fpr"]))
            for name, at, rates in measured
        ],
    )


def blind(page: Page, result: Result) -> None:
    """Add what the blind judge found."""
    found = result["blind"]
    say(page, result, words.BLIND)
    own = found.get("classifier_p_value")
    rows = [(NAMES["classifier"], interval(found["auc"]), Number("-") if own is None else p(own))]
    rows += [(NAMES.get(name, name), interval(row["auc"]), p(row["p_value"])) for name, row in found["single"].items()]
    page.table(("judge / 判定器", "AUC [95 %]", "p"), rows)
    least = found.get("smallest_auc_found")
    power = ("", "") if least is None or least >= 1 else tuple(text.format(least) for text in words.BLIND_POWER)
    answer = words.BLIND_ANSWERS[found["groups_differ"]]
    say(page, result, answer, p=p(found["p_value"]), least=power[0], least_ja=power[1], **judge(found))


def differences(result: Result) -> dict[str, str]:
    """Return what tells the groups apart without the model, in both languages: {"what", "what_ja"}."""
    called, found = terms(result), result["blind"]
    english, japanese = list[str](), list[str]()
    for name, row in found["single"].items():
        if row["p_value"] < result["level"]:
            what, _, what_ja = NAMES.get(name, name).partition(" / ")
            area = row["auc"]["value"]
            english.append(
                f"{what} ({'larger' if area > 0.5 else 'smaller'} on the side of the {called['members']}, AUC {area:.3f})"
            )
            japanese.append(
                f"{what_ja}（{called['members_ja']}のほうが{'大きい' if area > 0.5 else '小さい'}、AUC {area:.3f}）"
            )
    if not english and found["groups_differ"]:
        english, japanese = ["how the images look"], ["画像の見た目"]
    if not english:
        english, japanese = ["what the reference model finds in the images"], ["参照モデルが画像から読み取ったもの"]
    return {"what": "; ".join(english), "what_ja": "、".join(japanese)}


def set_answer(result: Result) -> tuple[str, str]:
    """Return the answer for the set as a whole; its p-value and statistic stand in it as `{p}` and `{t}`."""
    test = result["set_test"]
    if test is None:
        return words.NO_SET
    return words.SET_DIFFER if result["verdict"] == "groups differ" else words.SET_ANSWERS[test["in_training_set"]]


def set_values(result: Result) -> dict[str, object]:
    """Return what the braces of `set_answer` hold."""
    test = result["set_test"]
    return {"p": p(test["p_value"]), "t": test["t"]} if test else {}


def set_(page: Page, result: Result) -> None:
    """Add the test of the set as a whole."""
    say(page, result, words.SET)
    say(page, result, set_answer(result), **set_values(result))
