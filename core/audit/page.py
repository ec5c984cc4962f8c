"""The audit's page: everything that mia.json says, for a reader who is given nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from commonart.core.audit import page_text as words
from commonart.core.audit.replication import Example
from commonart.core.metrics import image_set
from commonart.core.output.html import Page

CHANCE = ((0.0, 0.0), (1.0, 1.0))
SECTIONS = {
    "short": "In short / 要約", "tested": "What was tested / 対象", "membership": "Membership inference / 学習画像の判別",
    "blind": "The blind judge / 盲検の判定器", "set": "The set as a whole / 集まり全体", "replication": "Replication / 複製",
    "extraction": "Extraction / 取り出し", "prompts": "Memorised prompts / 記憶された説明文",
    "limits": "What these numbers can and cannot say / この数字で言えること、言えないこと", "all": "All numbers / すべての数値",
}  # fmt: skip


def build(result: Mapping[str, Any], examples: Sequence[Example] = (), size: int = 64) -> Page:
    """Build the page of one audit.

    Args:
        result: the content of mia.json.
        examples: generated images beside training images, shown under replication at `size` pixels.
    """
    page = Page(
        f"Audit of {result['model']}", "Does this model give away its training images? / このモデルは学習画像を漏らすか"
    )
    page.contents(SECTIONS)
    for anchor, part in (
        ("short", _short), ("tested", _tested), ("membership", _membership), ("blind", _blind), ("set", _set),
    ):  # fmt: skip
        page.heading(SECTIONS[anchor], anchor)
        part(page, result)
    page.heading(SECTIONS["replication"], "replication")
    _replication(page, result.get("replication"), examples, size)
    page.heading(SECTIONS["extraction"], "extraction")
    _extraction(page, result.get("extraction"))
    page.heading(SECTIONS["prompts"], "prompts")
    _prompts(page, result.get("memorised_prompts"))
    page.heading(SECTIONS["limits"], "limits")
    for sentence in words.LIMITS:
        _say(page, sentence)
    page.heading(SECTIONS["all"], "all")
    page.details("mia.json", json.dumps(result, indent=2, ensure_ascii=False))
    return page


def _say(page: Page, sentence: tuple[str, str], *, strong: bool = False, **values: Any) -> None:
    english, japanese = (text.format(**values) if values else text for text in sentence)
    page.text(english, strong=strong)
    page.text(japanese, lang="ja", strong=strong)


def _short(page: Page, result: Mapping[str, Any]) -> None:
    page.text(f"Verdict: {result['verdict']}.", strong=True)
    _say(page, words.VERDICTS[result["verdict"]])
    page.text(f"Reason: {result['reason']}.")
    page.text(f"理由: {_reason_ja(result)}", lang="ja")
    for name in ("replication", "extraction"):
        found = result.get(name)
        told = words.VERDICTS[found["verdict"]] if found and "verdict" in found else words.NOT_RUN
        _say(page, _prefixed(name, told))


def _prefixed(name: str, sentence: tuple[str, str]) -> tuple[str, str]:
    english, _, japanese = SECTIONS[name].partition(" / ")
    return f"{english}: {sentence[0]}", f"{japanese}: {sentence[1]}"


def _reason_ja(result: Mapping[str, Any]) -> str:
    rows = {**result["attacks"], "combined": result["combined"]}
    level, blind = result["level"], result["blind"]
    if result["verdict"] == "groups differ":
        if blind["groups_differ"]:
            return f"モデルを見ていない判定器が二群を区別しました（p {blind['p_value']:.3f}）。"
        return f"画像を見ていない参照モデルへの攻撃が二群を区別しました（p {result['reference_p_value']:.3f}）。"
    if result["verdict"] == "leaks":
        found = "、".join(f"{name}（p {row['p_value']:.3f}）" for name, row in rows.items() if row["p_value"] < level)
        return f"{found} が区別しました。{len(rows)} 個の検定について補正済みです。"
    name = min(rows, key=lambda key: rows[key]["smallest_auc_found"])
    least = rows[name]["smallest_auc_found"]
    enough = (
        f"{name} なら AUC {least:.3f} の漏洩は見つかったはずです"
        if least < 1
        else "この枚数ではどんな漏洩も見つかりません"
    )
    return f"最も強い検定でも p {min(row['p_value'] for row in rows.values()):.3f} です。{enough}。"


def _tested(page: Page, result: Mapping[str, Any]) -> None:
    reference = result.get("reference")
    rows: list[tuple[str, object]] = [
        ("model / モデル", result["model"]), ("revision", result["revision"]), ("data / データ", result["data"]),
        ("question / 問い", result["question"]),
        ("reference model / 参照モデル", f"{reference['model']} ({reference['revision']})" if reference else "-"),
        ("members / 学習画像", result["members"]), ("held-out images / 未学習画像", result["heldout"]),
    ]  # fmt: skip
    rows += [(f"left out: {reason} / 除外", count) for reason, count in result["dropped"].items()]
    rows += [(name, "-" if value is None else value) for name, value in result["settings"].items()]
    page.table(("", ""), rows)
    _say(page, words.FROM_RUN[bool(result["data_is_of_the_run"])])


def _membership(page: Page, result: Mapping[str, Any]) -> None:
    rows = {**result["attacks"], "combined": result["combined"]}
    _say(page, words.MEMBERSHIP, level=result["level"])
    page.table(
        ("attack / 攻撃", "verdict / 判定", "AUC [95 %]", "p", "TPR at 1 % FPR", "TPR at 0.1 % FPR", "best accuracy",
         "smallest AUC that would be found", "AUC on this model alone", "AUC on the reference"),
        [
            (name, row["verdict"], _interval(row["auc"]), row["p_value"], _interval(row["tpr@1%fpr"]),
             _interval(row["tpr@0.1%fpr"]), _interval(row["accuracy"]), row["smallest_auc_found"],
             _interval(row.get("target", {}).get("auc")), _interval(row.get("reference", {}).get("auc")))
            for name, row in rows.items()
        ],
    )  # fmt: skip
    _say(page, words.RATES, others=result["heldout"], smallest=result["combined"]["smallest_fpr"])
    if (p := result.get("reference_p_value")) is not None:
        page.text(
            f"Attacks on the reference model, which should find nothing: p {p:.3f}. / 参照モデルへの攻撃: p {p:.3f}"
        )
    page.plot(
        {name: row["roc"] for name, row in rows.items()}, "false positive rate", "true positive rate", chance=CHANCE
    )
    _say(page, words.CARRIED)
    page.table(
        ("attack", "FPR set", "TPR measured", "FPR measured"),
        [
            (name, limit, _mean(rates and rates["tpr"]), _mean(rates and rates["fpr"]))
            for name, row in rows.items()
            for limit, rates in row["carried_over"].items()
            if limit != "splits"
        ],
    )
    names = [name for name in ("loss", "clid") if result["curve"] and name in result["curve"][0]]
    if names and len(result["curve"]) > 1:
        _say(page, words.CURVE)
        series = {name: [(row["t"], row[name]["value"]) for row in result["curve"]] for name in names}
        page.plot(series, "time", "AUC", chance=((0, 0.5), (1000, 0.5)), x_range=(0, 1000))
        page.table(("t", *names), [(row["t"], *(_interval(row[name]) for name in names)) for row in result["curve"]])


def _blind(page: Page, result: Mapping[str, Any]) -> None:
    blind = result["blind"]
    _say(page, words.BLIND)
    rows = [("classifier", _interval(blind["auc"]), blind["p_value"])]
    rows += [(name, _interval(row["auc"]), row["p_value"]) for name, row in blind["single"].items()]
    page.table(("judge / 判定器", "AUC [95 %]", "p"), rows)
    differ = ("yes: nothing is said about the model", "はい") if blind["groups_differ"] else ("no", "いいえ")
    page.text(f"Does it tell the groups apart? {differ[0]}. Judge: {blind['judge']} ({blind['judge_revision']}).")
    page.text(f"二群を区別したか: {differ[1]}。", lang="ja")


def _set(page: Page, result: Mapping[str, Any]) -> None:
    test = result["set_test"]
    _say(page, words.SET)
    if test is None:
        return _say(page, words.NO_SET)
    answer = "yes / はい" if test["in_training_set"] else "not shown / 示されない"
    if result["verdict"] == "groups differ":
        answer = f"no statement, as the groups differ / 群が異なるため判断不可 ({answer})"
    rows = [
        ("in the training set? / 学習に使われたか", answer),
        ("p", test["p_value"]),
        ("confidence", test["confidence"]),
    ]
    page.table(
        ("", ""), [*rows, ("t", test["t"]), ("images / 画像", test["members"]), ("others / 対照", test["others"])]
    )


def _replication(page: Page, found: Mapping[str, Any] | None, examples: Sequence[Example], size: int) -> None:
    if not found:
        return _say(page, words.NOT_RUN)
    if "verdict" in found:
        page.text(f"Verdict: {found['verdict']} (p {found['p_value']:.3g}).", strong=True)
        _say(page, words.VERDICTS[found["verdict"]])
    _say(page, words.REPLICATION, drawn=found["drawn"], limit=found["limit"])
    rows = [("from training captions", found["drawn"], found["copies"], _interval(found["above_background"]))]
    if control := found.get("control"):
        rows.append(
            ("from held-out captions", control["drawn"], control["copies"], _interval(control["above_background"]))
        )
    page.table(("images / 画像", "made / 生成", "copies / 複製", "share [95 %]"), rows)
    spreads = [
        ("to the nearest training image", found["similarity"]),
        ("to their own training image", found["to_own_picture"]),
    ]
    spreads += [("held-out captions, likewise", control["similarity"])] if control else []
    spreads.append(("between training images", found["background"]))
    page.table(
        ("similarity / 類似度", "mean", "median", "95 %", "largest"),
        [(name, row["mean"], row["p50"], row["p95"], row["max"]) for name, row in spreads],
    )
    page.text(
        f"{found['background']['with_twins']:,} of {found['background']['pictures']:,} training images have a twin in the "
        f"training set (similarity from {found['twin_limit']:.4f}). {100 * found['by_chance']:.0f} % would pass by chance. "
        f"Judge: {found['judge']} ({found['judge_revision']}), {found['steps']} steps, guidance {found['guidance']:g}.",
        soft=True,
    )
    for example in examples:
        page.row([
            (image_set.open_square(example.source, size), f"training image / 学習画像{_credit(example.source.record)}"),
            (example.generated, f"generated / 生成: {example.prompt} (similarity {example.to_source:.2f})"),
            (image_set.open_square(example.nearest, size),
             f"nearest training image / 最も近い学習画像{_credit(example.nearest.record)} (similarity {example.similarity:.2f})"),
        ])  # fmt: skip


def _credit(record: Mapping[str, Any]) -> str:
    parts = [str(record[name]) for name in ("key", "title", "author", "license", "source_url") if record.get(name)]
    return f" ({', '.join(parts)})" if parts else ""


def _extraction(page: Page, found: Mapping[str, Any] | None) -> None:
    if not found:
        return _say(page, words.NOT_RUN)
    page.text(f"Verdict: {found['verdict']} (p {found['p_value']:.3g}).", strong=True)
    _say(page, words.VERDICTS[found["verdict"]])
    _say(page, words.EXTRACTION, seeds=found["seeds"], clique=found["clique"])
    page.table(
        ("captions / 説明文", "tried", "with a clique [95 %]", "extracted [95 %]"),
        [
            ("training", found["captions"], _interval(found["with_clique"]), _interval(found["extracted"])),
            ("held out", found["heldout_captions"], _interval(found["heldout_with_clique"]),
             _interval(found["heldout_extracted"])),
        ],
    )  # fmt: skip
    if found["images"]:
        rows = [(row["key"], row["prompt"], row["clique"], row["distance"]) for row in found["images"]]
        page.table(("key", "caption", "near-identical", f"distance (limit {found['near']})"), rows)


def _prompts(page: Page, found: Mapping[str, Any] | None) -> None:
    if not found:
        return _say(page, words.NOT_RUN)
    _say(page, words.PROMPTS, rate=found["false_alarm_rate"], threshold=found["threshold"])
    page.table(
        ("training captions", "unseen captions", "flagged [95 %]", "AUC [95 %]"),
        [(found["prompts"], found["heldout_prompts"], _interval(found["flagged"]), _interval(found["auc"]))],
    )
    if found["flagged_prompts"]:
        rows = [(row["key"], row["prompt"], row["magnitude"]) for row in found["flagged_prompts"]]
        page.table(("key", "caption / 説明文", "magnitude"), rows)


def _interval(values: Mapping[str, float] | None) -> str:
    return "-" if values is None else f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


def _mean(values: Mapping[str, float] | None) -> str:
    return "-" if not values else f"{values['mean']:.3f} ({values['low']:.3f} to {values['high']:.3f})"
