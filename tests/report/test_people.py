"""Captions that people wrote: in no file of a card are they called an AI model's."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import reportable_run

from commonart.core.data.caption_terms import is_generated
from commonart.core.data.sources.named import NAMES
from commonart.core.report import card, components, croissant, cyclonedx, data_summary, evidence, model_card, spdx
from commonart.core.report.facts import Facts, gather
from commonart.core.report.ledger import UNNAMED, models_used
from commonart.core.report.limits import limits
from commonart.core.report.makers import Maker, annotators, in_words, people

BY_PEOPLE = {
    "model": "coco-annotators",
    "revision": "",
    "license": "CC-BY-4.0",
    "synthetic": False,
    "translated_from": None,
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A run on works of COCO, whose captions are by people."""
    folder = tmp_path_factory.mktemp("made")
    made = [
        {**each, "source": "coco2017", "captions": [{"text": "stripes", "lang": "en", **BY_PEOPLE}]}
        for each in reportable_run.records(folder / "raw")
    ]
    return gather(*reportable_run.make(folder, made))


def documents(facts: Facts) -> dict[str, str]:
    return {
        "components": components.render(facts), "summary": data_summary.render(facts), "card": model_card.render(facts, []),
        "croissant": str(croissant.render(facts)), "cyclonedx": str(cyclonedx.render(facts)), "spdx": str(spdx.render(facts)),
    }  # fmt: skip


def test_people_are_in_no_list_of_models(facts: Facts) -> None:
    assert facts.makers == (Maker("coco-annotators", "", "CC-BY-4.0", "en", False, 21),)
    assert [model.role for model in facts.models] == ["text encoder", "autoencoder"]
    models = [each for each in cyclonedx.render(facts)["components"] if each["type"] == "machine-learning-model"]
    packages = [each for each in spdx.render(facts)["@graph"] if each["type"] == "ai_AIPackage"]
    assert not [each["name"] for each in (*models, *packages) if "annotators" in each["name"]]
    said = croissant.render(facts)
    assert "rai:machineAnnotationTools" not in said and "synthetic captions" not in said["keywords"]
    assert not any("Captions by models" in english for english, _ in limits(facts))


def test_people_stand_where_people_belong(facts: Facts) -> None:
    texts = documents(facts)
    assert "train the model?** No\n" in texts["summary"].partition("### 2.5")[2].partition("### 2.6")[0]
    assert "their captions, by coco-annotators (people) 21" in texts["summary"]
    assert "captions that people wrote: coco-annotators (people) 21" in texts["summary"]
    assert (
        "Captions that people wrote, as the records state, and no model: coco-annotators (people) 21."
        in texts["components"]
    )
    assert "人が書いたキャプション：coco-annotators（人） 21。" in texts["components"]
    assert "| captions by who wrote them | coco-annotators (people) 21 |" in texts["card"]
    assert "| キャプションの作成者 | coco-annotators（人） 21 |" in texts["card"]
    said = croissant.render(facts)
    assert said["rai:dataAnnotationProtocol"] == "coco-annotators (people): 21 captions"
    assert said["rai:annotationsPerItem"].startswith("1.00 captions on average, of which 1.00 by people")
    assert "Captions by people: 21; by models: 0." in said["description"]


def test_the_evidence_gives_one_answer_of_one_maker(facts: Facts, tmp_path: Path) -> None:
    for each in (facts, gather(None, facts.shards)):
        evidence.write(each, tmp_path)
        (row,) = csv.DictReader(io.StringIO((tmp_path / "evidence" / "captions.csv").read_text()))
        count = str(sum(maker.captions for maker in each.makers))
        assert list(row.values()) == ["coco-annotators (people)", "people", "", "CC-BY-4.0", "no model", "en", count]
    assert f"captions written by models: 0; by people: {count}; not stated by whom: 0." in (
        (tmp_path / "evidence" / "README.md").read_text()
    )
    # A local model with an open licence: what the ledger says of its terms, the evidence says, too.
    local = Maker("/home/me/mine", "sha256:1", "Apache-2.0", "en", True, 3)
    mine = dataclasses.replace(facts, makers=(local,), models=models_used(facts.run, [local], None))
    evidence.write(mine, tmp_path)
    (row,) = csv.DictReader(io.StringIO((tmp_path / "evidence" / "captions.csv").read_text()))
    (model,) = (each for each in mine.models if each.role == "captioner")
    assert row["terms"] == model.terms == "free"


def test_a_translation_of_people_has_a_translator_and_no_captioner(facts: Facts) -> None:
    for origin in ("coco-annotators", "source"):  # which has no caption of its own any more
        translated = (Maker(f"nano of {origin}", "r", "Apache-2.0", "ja", True, 5),)
        used = models_used(None, translated, None)
        assert [(each.role, each.name) for each in used] == [("translator", "nano")]
    assert in_words(translated) == {"not stated translated by nano": 5}
    both = (Maker("jane", "", "", "en", False, 5), Maker("nano of jane", "r", "Apache-2.0", "ja", True, 5))
    assert people(both) >= {"jane"} and [each.role for each in models_used(None, both, None)] == ["translator"]
    assert in_words(both) == {"jane (people)": 5, "jane (people) translated by nano": 5}
    assert in_words(both, ja=True) == {"jane（人）": 5, "jane（人）（nano が翻訳）": 5}
    assert annotators(both) == ["machine-generated", "other"]


def test_a_model_that_is_not_named_is_one_nevertheless(facts: Facts) -> None:
    made = (Maker("", "", "", "en", True, 2), Maker("", "", "", "en", None, 3))
    (unnamed,) = models_used(None, made, None)
    assert (unnamed.role, unnamed.name, unnamed.undisclosed) == ("captioner", UNNAMED, True)
    assert in_words(made) == {"not stated": 3, "a model not named": 2}
    summary = data_summary.render(dataclasses.replace(facts, makers=made, models=[unnamed]))
    assert "train the model?** Yes, captions" in summary
    unknown = data_summary.render(dataclasses.replace(facts, makers=made[1:], models=[]))
    assert "No generated captions are stated; 3 do not state who wrote them: **[for the operator" in unknown


@pytest.mark.parametrize(
    ("name", "stated", "expected"),
    [
        ("coco-annotators", False, False), ("mine", True, True), ("mine", None, True), ("", False, False), ("", None, None),
        ("", True, True), ("florence2", False, True), ("gpt-4o", False, True), ("x", "no", True),
    ],
)  # fmt: skip
def test_a_known_model_is_one_whatever_the_record_states(name: str, stated: Any, expected: bool | None) -> None:
    assert is_generated(name, stated) is expected


def test_every_source_by_name_is_a_public_data_set(facts: Facts) -> None:
    assert [name for name in NAMES if not data_summary.link_of(name)] == []

    def answer(**sources: int) -> str:
        page = data_summary.render(dataclasses.replace(facts, works=100, sources=sources))
        return page.partition("### 2.1.")[2].partition("### 2.2.")[0]

    assert "train the model?** Yes" in answer(stair=100) and "https://github.com/STAIR-Lab-CIT" in answer(stair=100)
    assert "train the model?** No\n" in answer(scenes=100)
    assert "By the manifests: photos 100; whether these are publicly available: **[for the operator" in answer(
        photos=100
    )
    both = answer(stair=50, photos=50)
    assert "train the model?** Yes" in both and "whether these are publicly available, too: photos 50: **[for" in both


def test_whoever_loads_the_shards_is_warned_of_what_is_held_out(facts: Facts) -> None:
    shards = gather(None, facts.shards)
    page, said = model_card.render(shards, []), croissant.render(shards)
    english = "2 records of the shards are held out from training, which the field `split` of the record states"
    japanese = "シャードのうち 2 件は学習に使わない検証用で、記録の `split` が `heldout` である。"
    assert f"- {english}" in page and f"- {japanese}" in page
    for each in (said, croissant.render(facts)):  # whose shards are the same files
        assert any(text.startswith(english) for text in each["rai:dataLimitations"])
        assert any(text.startswith(japanese) for text in each["rai:dataLimitations"])
    assert english not in model_card.render(facts, [])
    trained = dataclasses.replace(shards, splits={"train": 21})
    assert english not in model_card.render(trained, [])


def test_only_languages_are_called_one(facts: Facts, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        gather(None, facts.shards), languages={"en": 3, 'fr"><b>': 2, "日本": 1, "pt-BR": 1, "": 1}
    )
    assert croissant.render(odd)["inLanguage"] == ["en", "pt-BR"]
    assert "language: en\n" in model_card.metadata(odd) or "language:\n- en\n" in model_card.metadata(odd)
    assert "日本" not in model_card.metadata(odd)
    assert card.names(odd, certify=False)
