"""Bills of materials of a run and of shards: valid by the outside tools, complete, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import io
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import lookup_shards
import orjson
import pytest
import tiny_runs
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_python_model import v3_0_1 as model

from commonart.core.licenses.table import known_licenses
from commonart.core.registry.catalogue import MODELS
from commonart.core.report import cyclonedx, spdx
from commonart.core.report.facts import Facts, gather
from commonart.core.report.ledger import ORIGINS, ModelUsed

SCORES = {
    "scores": [
        {"metric": "CLIP", "mode": "paper", "value": 31.25, "low": 30.0, "high": 32.5, "judge": "clip-vit-b32", "lang": "en",
         "n": 8, "model": "x"},
        {"metric": "FID", "mode": "clean", "value": 12.0, "judge": "inception", "lang": "ja", "n": 8, "model": "x"},
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A run of a second on eleven works by four authors, whose captions come from three models."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "raw").mkdir()
    images = [*lookup_shards.pictures(11), *lookup_shards.pictures(1, "heldout")]
    more: list[dict[str, Any]] = [{} for _ in images]
    more[3] = {"license": "CC0-1.0", "license_url": "https://creativecommons.org/publicdomain/zero/1.0/"}
    more[4] = {"license": "LicenseRef-CC-BY-2.1-JP", "license_url": "https://creativecommons.org/licenses/by/2.1/jp/"}
    more[5] = {"captions": [
        {"text": "縞", "lang": "ja", "model": "cat-translate", "revision": "c0ffee", "license": "MIT", "synthetic": True,
         "translated_from": "florence2"},
    ]}  # fmt: skip
    records = [lookup_shards.record(n, data, folder / "raw", **more[n]) for n, data in enumerate(images)]
    shards = lookup_shards.make(folder, records)
    tiny_runs.start(shards, folder / "run")
    (folder / "run" / "eval.json").write_bytes(orjson.dumps(SCORES))
    return gather(folder / "run")


@pytest.fixture(scope="module")
def data(run: Facts) -> Facts:
    return gather(None, run.shards)


def valid_cyclonedx(bill: dict[str, Any]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(orjson.dumps(bill).decode()) is None


def read_spdx(document: dict[str, Any]) -> Any:
    """The document as the bindings of SPDX's own model read it, which check types and patterns, and write it: what is required."""
    found = model.SHACLObjectSet()
    model.JSONLDDeserializer().read(io.BytesIO(orjson.dumps(document)), found)
    model.JSONLDSerializer().write(found, io.BytesIO())
    return found


def test_cyclonedx_names_the_model_its_data_and_every_model_that_took_part(run: Facts) -> None:
    bill = cyclonedx.render(run)
    valid_cyclonedx(bill)
    subject = bill["metadata"]["component"]
    assert (subject["type"], subject["name"], subject["version"]) == ("machine-learning-model", "run", "step-6")
    card = subject["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "PixArtTransformer2DModel"
    assert card["modelParameters"]["datasets"] == [{"ref": "data"}]
    (clip, fid) = card["quantitativeAnalysis"]["performanceMetrics"]
    assert clip["value"] == "31.25" and clip["confidenceInterval"] == {"lowerBound": "30", "upperBound": "32.5"}
    assert "judge clip-vit-b32" in clip["slice"] and "confidenceInterval" not in fid
    about = {each["name"].removeprefix("commonart:"): each["value"] for each in subject["properties"]}
    assert about["flop"] == str(run.flops) and about["steps"] == "6" and about["training-stage"] == "nano"
    found = {each["bom-ref"]: each for each in bill["components"]}
    assert len(found) == len(bill["components"]), "references are unique"
    set_ = found["data"]
    assert set_["licenses"][0]["license"]["id"] == "CC-BY-2.0"
    assert {
        "license": {"name": "LicenseRef-CC-BY-2.1-JP", "url": "https://creativecommons.org/licenses/by/2.1/jp/"}
    } in set_["licenses"]
    assert set_["data"][0]["governance"]["owners"] and "shard: 12 records in" in set_["data"][0]["description"]
    counted = {each["name"]: each["value"] for each in set_["properties"]}
    assert counted["commonart:works"] == "11" and counted["commonart:license:CC-BY-2.0"] == "9"
    assert counted["commonart:digest"] == run.digest == run.run["data"]["digest"] if run.run else False
    translator = found["translator:cat-translate@c0ffee"]
    assert translator["licenses"][0]["license"]["id"] == "MIT" and translator["version"] == "c0ffee"
    assert translator["modelCard"]["modelParameters"]["datasets"][0]["description"] == ORIGINS["cat-translate"].english
    captioner = found["captioner:florence2@"]
    assert captioner["externalReferences"][0] == {
        "type": "website", "url": "https://huggingface.co/florence-community/Florence-2-large",
    }  # fmt: skip
    assert "FLD-5B" in captioner["modelCard"]["modelParameters"]["datasets"][0]["description"]
    torch = version("torch")
    assert found[f"library:torch@{torch}"]["purl"] == f"pkg:pypi/torch@{quote(torch)}"
    (ours,) = (each for ref, each in found.items() if ref.startswith("library:commonart@"))
    assert "purl" not in ours, "it is not on PyPI, where anyone could register its name"
    links = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert {"data", *(each for each in found if each.startswith(("text-encoder", "autoencoder", "library:")))} <= set(
        links["model"]
    )
    assert {"translator:cat-translate@c0ffee", "captioner:florence2@"} <= set(links["data"])
    assert set().union(*links.values()) <= set(found)


def test_cyclonedx_of_shards_alone(data: Facts) -> None:
    bill = cyclonedx.render(data)
    valid_cyclonedx(bill)
    assert bill["metadata"]["component"]["type"] == "data" and bill["metadata"]["component"]["name"] == "shards"
    assert [each["ref"] for each in bill["dependencies"]] == ["data"]
    assert all(each["type"] == "machine-learning-model" for each in bill["components"])


def test_every_licence_that_may_be_named_is_valid(data: Facts) -> None:
    names = {license.id for license in known_licenses().values()} | {row.license for row in MODELS}
    names |= {"CC0-1.0 OR CC-BY-4.0", "free for all", "LicenseRef-OneOf..CC0-1.0..CC-BY-4.0", ""}
    odd = dataclasses.replace(data, licenses=dict.fromkeys(sorted(names), 1))
    valid_cyclonedx(cyclonedx.render(odd))
    document = spdx.render(odd)
    read_spdx(document)
    (expression,) = (
        each
        for each in document["@graph"]
        if each["type"] == "simplelicensing_LicenseExpression" and " AND " in str(each)
    )
    said = expression["simplelicensing_licenseExpression"].split(" AND ")
    assert (
        "(CC0-1.0 OR CC-BY-4.0)" in said
        and "LicenseRef-free-for-all" in said
        and "LAL-1.3" in said
        and "FAL-1.3" not in said
    )


def test_spdx_says_the_same_by_its_profiles(run: Facts) -> None:
    document = spdx.render(run)
    found = read_spdx(document)
    assert found.missing_ids <= {spdx.NO_LICENSE}
    by_type: dict[str, list[Any]] = {}
    for each in found.foreach():
        by_type.setdefault(type(each).__name__, []).append(each)
    (whole,) = by_type["SpdxDocument"]
    assert len(whole.element) == len(document["@graph"]) - 2, "all but the document and the creation of it"
    assert {str(each).rpartition("/")[2] for each in whole.profileConformance} == {
        "core",
        "software",
        "simpleLicensing",
        "dataset",
        "ai",
    }
    packages = {each.spdxId.partition("#")[2]: each for each in by_type["ai_AIPackage"]}
    trained = packages["model"]
    assert whole.rootElement[0] is trained and trained.software_packageVersion == "step-6"
    assert {each.key: each.value for each in trained.ai_metric} == {
        "CLIP (captions, en, n 8)": "31.25",
        "FID (captions, ja, n 8)": "12",
    }
    assert {each.key: each.value for each in trained.ai_hyperparameter}["lr"] == str((run.run or {})["recipe"]["lr"])
    assert packages["translator-cat-translate@c0ffee"].ai_informationAboutTraining == ORIGINS["cat-translate"].english
    (set_,) = by_type["dataset_DatasetPackage"]
    assert set_.dataset_datasetSize == 11 and set_.verifiedUsing[0].hashValue == run.fingerprint
    (created,) = by_type["CreationInfo"]
    assert created.created.strftime("%Y-%m-%dT%H:%M:%SZ") == run.compute["ended"]
    links = {
        (each.from_.spdxId.partition("#")[2], each.relationshipType.rpartition("/")[2]): each
        for each in by_type["Relationship"]
    }
    assert links["model", "trainedOn"].to == [set_]
    assert links["captioner-florence2@", "generates"].to == [set_]
    (license,) = links["data", "hasDeclaredLicense"].to
    assert license.simplelicensing_licenseExpression == "CC-BY-2.0 AND CC0-1.0 AND LicenseRef-CC-BY-2.1-JP"
    needed = {each.name for each in links["model", "dependsOn"].to}
    assert {"m", "torch", "diffusers"} <= needed
    for name in packages:
        assert (name, "hasDeclaredLicense") in links
        assert links[name, "hasConcludedLicense"].to == [spdx.NO_LICENSE], "nobody concluded anything"
    (ours,) = (each for each in by_type["software_Package"] if each.name == "commonart")
    assert ours.software_packageUrl is None


def test_the_validators_would_have_said_so(run: Facts) -> None:
    bill, document = cyclonedx.render(run), spdx.render(run)
    bill["components"][0]["licenses"][0]["license"]["id"] = "FAL-1.3"
    with pytest.raises(AssertionError):
        valid_cyclonedx(bill)
    for change in ({"specVersion": "three"}, {"created": "yesterday"}, {"createdBy": []}):
        with pytest.raises((TypeError, ValueError)):
            read_spdx({**document, "@graph": [{**document["@graph"][0], **change}, *document["@graph"][1:]]})


def test_shards_alone_have_no_model(data: Facts) -> None:
    document = spdx.render(data)
    read_spdx(document)
    kinds = [each["type"] for each in document["@graph"]]
    assert kinds.count("dataset_DatasetPackage") == 1 and "software_Package" not in kinds
    root = next(each for each in document["@graph"] if each["type"] == "SpdxDocument")
    assert root["rootElement"][0].endswith("#data")
    assert "ai_AIPackage" in kinds and "ai" in root["profileConformance"]
    plain = spdx.render(dataclasses.replace(data, models=[]))["@graph"]
    assert "ai" not in next(each for each in plain if each["type"] == "SpdxDocument")["profileConformance"]


def test_the_same_manifests_make_the_same_bytes_and_others_another_number(
    run: Facts, data: Facts, tmp_path: Path
) -> None:
    shards = shutil.copytree(run.shards, tmp_path / "elsewhere" / "shards")
    assert run.run_folder is not None
    copied = shutil.copytree(run.run_folder, tmp_path / "elsewhere" / "run")
    again = gather(copied, shards)
    for format in (cyclonedx, spdx):
        for folder, facts in (("a", run), ("b", again)):
            (tmp_path / folder).mkdir(exist_ok=True)
            format.write(facts, tmp_path / folder)
        a, b = ((tmp_path / folder / format.FILE).read_bytes() for folder in "ab")
        assert a == b and str(tmp_path).encode() not in a and str(run.shards).encode() not in a
    assert cyclonedx.identifier(run) != cyclonedx.identifier(data)


def test_a_captioner_and_what_says_nothing(run: Facts, data: Facts) -> None:
    about = {name: value for name, value in (run.run or {}).items() if name != "transformer"}
    part = {"class": "LlavaForConditionalGeneration", "parameters": 12}
    captioner = dataclasses.replace(run, run={**about, "captioner": part}, evaluation=None)
    bill = cyclonedx.render(captioner)
    valid_cyclonedx(bill)
    card = bill["metadata"]["component"]["modelCard"]["modelParameters"]
    assert (card["task"], card["modelArchitecture"]) == ("image-to-text", "LlavaForConditionalGeneration")
    (model_,) = (
        each
        for each in spdx.render(captioner)["@graph"]
        if each["spdxId" if "spdxId" in each else "@id"].endswith("#model")
    )
    assert model_["ai_domain"] == ["image captioning"] and "ai_metric" not in model_
    unknown = ModelUsed("captioner", "mine", "", "", "not known", "", "not disclosed", "非公開", "")
    silent = Facts("empty", None, None, data.folders, models=[unknown], licenses={"": 3})
    valid_cyclonedx(cyclonedx.render(silent))
    document = spdx.render(silent)
    read_spdx(document)
    assert sum(spdx.NO_LICENSE in each.get("to", ()) for each in document["@graph"]) == 4


def test_energy_where_it_is_known(run: Facts) -> None:
    spent = {**(run.run or {}), "compute": {**run.compute, "energy_kwh": 12.5}}
    found = read_spdx(spdx.render(dataclasses.replace(run, run=spent)))
    (energy,) = (each for each in found.foreach() if type(each).__name__ == "ai_EnergyConsumptionDescription")
    assert energy.ai_energyQuantity == 12.5 and energy.ai_energyUnit.endswith("/kilowattHour")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"), ("2026-01-02T09:00:00+09:00", "2026-01-02T00:00:00Z"),
        ("2026-01-02", "2026-01-02T00:00:00Z"), ("", spdx.UNDATED), ("last year", spdx.UNDATED),
    ],
)  # fmt: skip
def test_times_that_records_say(data: Facts, text: str, time: str) -> None:
    document = spdx.render(dataclasses.replace(data, observed=("", text)))
    read_spdx(document)
    assert document["@graph"][0]["created"] == time
