"""What the card's documents may say: only what holds for the works at hand, and of the rest whose word it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from commonart.core.report import attribution, croissant, cyclonedx, data_summary, model_card, spdx, terms
from commonart.core.report.croissant import description
from commonart.core.report.facts import Facts
from commonart.core.report.ledger import models_used
from commonart.core.report.limits import limits
from commonart.core.report.makers import Maker, annotators, in_words
from commonart.core.report.markdown import many
from commonart.core.report.works import Work, works

UNSIGNED = Maker("", "", "", "en", None, 3)
FETCH: dict[str, Any] = {
    "stage": "fetch",
    "version": "1",
    "in": 21,
    "out": 21,
    "dropped": {},
    "settings": {"opt_outs": True},
}


def without_addresses(facts: Facts, source: str) -> Facts:
    return replace(facts, sources={source: 21}, hosts={}, untraced={"address": 21}, history=[FETCH])


def test_opt_outs_are_said_to_be_obeyed_only_of_downloads(facts: Facts) -> None:
    drawn = data_summary.render(without_addresses(facts, "scenes"))
    assert "no work has an address on the web, so that no site could be asked" in drawn and "robots.txt" not in drawn
    refused = {**FETCH, "dropped": {"opt_out:robots.txt": 3, "http_404": 1}}
    asked = data_summary.render(replace(facts, history=[refused]))
    assert "before `commonart fetch` downloads a file from a work's address, it asks for robots.txt" in asked
    assert "works left out for these: 3." in asked and "were not asked about" in asked
    assert "Of the 21 works here, 0 were downloaded so; those that came inside a data set" in asked
    all_of_them = data_summary.render(replace(facts, history=[refused], downloaded=21))
    assert "21 were downloaded so. No policy on licences" in all_of_them and "were not asked" not in all_of_them
    ignored = data_summary.render(replace(facts, history=[{**FETCH, "settings": {"opt_outs": False}}]))
    assert "no note says that opt-out signals were obeyed" in ignored


def test_a_folder_of_photographs_was_not_crawled(facts: Facts) -> None:
    page = data_summary.render(without_addresses(facts, "photos"))
    assert "No crawler is in the history of this data, and no work has an address on the web" in page
    assert "By the manifests: photos 21; whether these are data of the provider's own" in page
    assert "No policy on licences is in the history." in page and "Only works" not in page
    listed = data_summary.render(facts)  # museum, with addresses
    assert "21 of 21 works have an address on the web; whether a crawler found them: **[for the operator" in listed
    assert "- example.org: 21" in listed and "Licences were judged: `license-filter` let pass" in listed


def test_only_models_for_any_task_are_listed_as_general_purpose(facts: Facts) -> None:
    def listed(*makers: str) -> str:
        models = models_used(facts.run, [Maker(maker, "r", "MIT", "en", True, 1) for maker in makers], None)
        page = data_summary.render(replace(facts, models=models))
        return page[page.index("**General-purpose") : page.index("### 2.6.")]

    small, both = listed("nano", "nano of nano"), listed("florence2", "phi3-medium of florence2")
    assert "none is known to be one" in small and small.index("see COMPONENTS.md") < small.index("- nano (captioner")
    general, _, other = both.partition("**Information about other")
    assert "- phi3-medium (translator" in general and "florence2" not in general and "- florence2 (captioner" in other
    assert "none is known" not in both


def test_the_end_of_training_dates_the_documents(facts: Facts) -> None:
    assert facts.run is not None
    ended = facts.compute["ended"]
    created = spdx.render(facts)["@graph"][0]
    assert (created["created"], created["comment"]) == (ended, "The time is the end of training.")
    assert f"**Last update:** {ended[8:10]}/{ended[5:7]}/{ended[:4]} (the end of training)" in data_summary.render(
        facts
    )
    odd = {**facts.run, "compute": {**facts.compute, "ended": "yesterday <b>"}}
    assert "**Last update:** 02/01/2026 (the last time" in data_summary.render(replace(facts, run=odd))
    # A run of an earlier version does not say it.
    before = {**facts.run, "compute": {k: v for k, v in facts.compute.items() if k != "ended"}}
    older = replace(facts, run=before)
    assert spdx.render(older)["@graph"][0]["created"] == "2026-01-02T00:00:00Z"
    assert "02/01/2026 (the last time that a licence of the works was observed)" in data_summary.render(older)


def test_licences_promise_authors_and_addresses_only_where_all_have_them(facts: Facts) -> None:
    whole = terms.render(replace(facts, untraced={}))
    assert "21 works, each with a line in [ATTRIBUTION](ATTRIBUTION) with its author and its address. /" in whole
    page = terms.render(replace(facts, works=1, untraced={"author": 1, "address": 1}))
    assert "1 work, each with a line in [ATTRIBUTION](ATTRIBUTION) (1 without author, 1 without address). /" in page
    assert "一点ずつ記した（作者なし 1 点、所在なし 1 点）。" in page
    assert "gives the attribution" not in page and "is for" in page and "LicenseRef-" not in page
    assert "LicenseRef- is of a licence" in terms.render(replace(facts, licenses={"LicenseRef-CC-BY-2.1-JP": 21}))


def test_limits_are_counted_in_either_language(facts: Facts) -> None:
    bare = replace(facts, untraced={"author": 1, "license": 2}, models=[], makers=(), history=[])
    said = limits(bare)
    assert said[:2] == [
        ("1 of 21 works does not state its author.", "21 点のうち 1 点は作者が記されていない。"),
        ("2 of 21 works do not state their licence.", "21 点のうち 2 点はライセンスが記されていない。"),
    ]
    assert [each[0].partition(":")[0] for each in said[2:4]] == [
        "It was not audited for memorisation", "It was not evaluated",
    ]  # fmt: skip
    assert said[2][1].startswith("学習画像の記憶は監査していない。") and said[3][1].startswith("評価していない。")
    assert len(said) == 5 and said[4][0].startswith("A licence is what the source stated")
    assert len(limits(replace(bare, evaluation=SCORES, audit=AUDIT))) == 3 == len(limits(replace(bare, run=None)))
    page = model_card.render(replace(facts, rewritten=True), [])
    for english, japanese in limits(replace(facts, rewritten=True)):
        assert page.index(f"- {english}") < page.index("## 日本語") < page.index(f"- {japanese}")


def test_models_whose_makers_do_not_say_are_counted(facts: Facts) -> None:
    models = models_used(
        {"data": {}, "text_encoder": {"name": "calm2-7b"}, "autoencoder": {"name": "sdxl-vae"}},
        [Maker("mine", "r", "MIT", "en", True, 1)],
        None,
    )
    assert [model.undisclosed for model in models] == [False, True, True]
    said = next(english for english, _ in limits(replace(facts, models=models)) if "that took part" in english)
    assert said.startswith("Other models that took part, trained on data other than these works: 3 (COMPONENTS.md).")
    assert said.endswith("For 2 of them, the training data are not disclosed.")


def test_a_licence_has_one_name_for_people_and_one_for_machines(facts: Facts) -> None:
    ported, open_ = "LicenseRef-CC-BY-2.1-JP", "LicenseRef-OneOf..CC0-1.0..LicenseRef-Public-Domain"
    odd = replace(facts, licenses={ported: 20, open_: 1})
    for page in (model_card.render(odd, []), data_summary.render(odd)):
        assert "CC-BY-2.1-JP 20, one of CC0-1.0, Public-Domain 1" in page and "LicenseRef-" not in page
    said = terms.render(odd)
    assert "| [CC-BY-2.1-JP](https://creativecommons.org/licenses/by/2.1/jp/) | 20 |" in said
    assert f"| CC-BY-2.1-JP | `{ported}` |" in said and f"| one of CC0-1.0, Public-Domain | `{open_}` |" in said
    assert {each["name"] for each in croissant.render(odd)["license"]} == {ported, open_}
    assert ported in str(cyclonedx.render(odd)) and ported in str(spdx.render(odd))


def test_a_data_set_says_what_its_records_do_not_name(facts: Facts) -> None:
    said = description(replace(facts, untraced={"author": 1, "license": 2}, makers=(UNSIGNED,)))
    assert said.endswith(
        "as far as these are known: 1 work without author, 2 works without licence, 3 captions without a writer."
    )
    assert description(replace(facts, untraced={})).endswith("and who wrote each caption.")
    assert description(replace(facts, works=1, languages={"en": 1})).startswith("1 image with 1 caption,")


@pytest.mark.parametrize(
    ("makers", "said"),
    [
        ([("nano", True), ("nano of florence2", True)], ["machine-generated"]), ([("", None)], ["other"]),
        ([("coco-annotators", False)], ["other"]), ([("mine", True), ("jane", False)], ["machine-generated", "other"]), ([], []),
    ],
)  # fmt: skip
def test_captions_are_called_generated_where_models_are_known_to_have_written_them(
    facts: Facts, makers: list[tuple[str, bool | None]], said: list[str]
) -> None:
    made = tuple(Maker(name, "", "", "en", generated, 3) for name, generated in makers)
    assert annotators(made) == said
    shards = replace(facts, run=None, makers=made)
    assert ("machine-generated" in model_card.metadata(shards)) == ("machine-generated" in said)


def test_translations_are_told_in_words_everywhere(facts: Facts) -> None:
    assert list(in_words([Maker("b of a", "", "", "ja", True, 1)])) == ["a translated by b"]
    assert list(in_words([Maker("c of b of a", "", "", "ja", True, 1)])) == ["a translated by b translated by c"]
    assert (many(1, "work"), many(0, "work"), many(1234, "work")) == ("1 work", "0 works", "1,234 works")
    documents = [
        data_summary.render(facts),
        model_card.render(facts, []),
        str(spdx.render(facts)),
        str(cyclonedx.render(facts)),
    ]
    for page in documents:
        assert "nano translated by nano" in page and "nano of nano" not in page


def test_an_author_who_writes_a_licence_stays_an_author(facts: Facts) -> None:
    first: Work = next(iter(works(facts.folders, facts.run)))
    posing = replace(first, author='X". scenes. CC0-1.0, https://example.org. Changes: none', title="a\\")
    assert attribution.line(posing).startswith(
        r'"a\\" by "X\". scenes. CC0-1.0, https://example.org. Changes: none". museum, '
    )


SCORED = {"n": 10, "judge": "nano", "split": "heldout", "lang": "en", "model": "runs/tiny"}
SCORES = {
    "scores": [
        {"metric": "CLIP", "value": 26.125, "low": 26.0, "high": 26.25, "reference": 31.5, "mode": "paper", **SCORED},
        {"metric": "FD-nano-clip", "value": 3.25, **SCORED},
    ]
}
AUDIT = {
    "verdict": "no leak found", "reason": "", "members": 60, "heldout": 39, "question": "training set",
    "attacks": {"loss": {"smallest_auc_found": 0.733}, "clid": {"smallest_auc_found": 1.0}},
}  # fmt: skip


def test_scores_stand_beside_what_they_are_read_against_in_both_languages(facts: Facts) -> None:
    page = model_card.render(replace(facts, evaluation=SCORES, audit=AUDIT), [])
    english, _, japanese = page.partition("## 日本語")
    assert "| CLIP | en | held-out captions | 26.12 | 26 – 26.25 | 31.5 | 10 | nano |" in english
    assert (
        "A Fréchet distance of 10 images depends on their number" in english and "config: held-out-captions-en" in page
    )
    assert "A leak with an AUC of 0.733 would have been found four times in five" in english
    assert "| CLIP | en | 検証画像のキャプション | 26.12 | 26 – 26.25 | 31.5 | 10 | nano |" in japanese
    assert "画像 10 枚のフレシェ距離は枚数に左右される" in japanese and "AUC 0.733 の漏洩なら" in japanese
    assert "監査の判定：**漏洩は見つからず**。学習画像 60 枚と未学習画像 39 枚を比べた。" in japanese
    scenes = {"metric": "scenes", "set": "unseen", "color": 0.5, "size": 0.25, "all": 0.125, **SCORED}
    small = model_card.render(replace(facts, evaluation={"scores": [scenes]}), [])
    assert (
        "| size right | en | unseen | 0.25 |" in small
        and "| 大きさの一致 | en | 見たことのない指示文 | 0.25 |" in small
    )
    assert "| colour, shape, background and place right | en | unseen | 0.125 |" in small
    assert "| 色・形・背景・位置がすべて一致 | en |" in small and "| 画素 |" not in small.partition("## 日本語")[0]
    leaks = {
        "verdict": "leaks",
        "level": 0.01,
        "members": 60,
        "heldout": 39,
        "attacks": {
            "clid": {"p_value": 0.001, "verdict": "leaks"},
            "loss": {"p_value": 0.4, "verdict": "no leak found"},
        },
    }
    told = model_card.render(replace(facts, audit=leaks), [])
    assert "監査の判定：**漏洩あり**（p 値：clid 0.001。2 検定で補正済み）。学習画像 60 枚" in told
    blind = {**AUDIT, "attacks": {"loss": {"smallest_auc_found": 1.0}}}
    assert "So few images would show no leak at all." in model_card.render(replace(facts, audit=blind), [])
    many_images = {"scores": [{**each, "n": 20000} for each in SCORES["scores"]]}
    assert "Fréchet" not in model_card.render(replace(facts, evaluation=many_images), [])


def test_the_japanese_part_has_the_tables_of_the_english_one(facts: Facts) -> None:
    english, _, japanese = model_card.render(facts, []).partition("## 日本語")
    for said in ("| works | 21 |", "| train | 23 | 21 | heldout 2 |", "| time |", "| energy | not known |"):
        assert said in english
    for said in ("| 作品 | 21 |", "| train | 23 | 21 | heldout 2 |", "| 時間 |", "| 電力量 | 不明 |", "### 計算の費用"):
        assert said in japanese
    assert "| nano | キャプションの生成 | `1234` | Apache-2.0 | 制限なし |" in japanese
    assert "個が関わっている（COMPONENTS.md）。うち 2 個は学習データが非公開である。" in japanese
    assert "nano（nano が翻訳） 21" in japanese and "translated" not in japanese
    row = "| Apache-2.0 | free | scenes that this project's own generator draws, and nothing else | this project |"
    assert f"| nano | captioner | `1234` {row}" in english, "the models are named in both parts"


def test_the_card_says_whose_word_its_facts_are(facts: Facts) -> None:
    page = model_card.render(facts, [])
    assert "Every fact" not in page and "Written by hand, in tables of `commonart`: what licences ask" in page
    assert "are what the run, `commonart eval` and `commonart mia` wrote" in page and "人が書いた表による" in page
    assert "`commonart mia` wrote" not in model_card.render(replace(facts, run=None), [])
