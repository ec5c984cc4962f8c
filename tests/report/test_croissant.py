"""croissant.json and the loading of shards: mlcroissant, datasets and webdataset read the folder as it is."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import lookup_shards
import orjson
import pytest
from PIL import Image

from commonart.core.data.shards.reader import read_shard
from commonart.core.report import croissant, model_card
from commonart.core.report.facts import Facts, gather
from commonart.stages import fetch, report


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve works in three shards, whose later records say more than the first five."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "raw").mkdir()
    more: list[dict[str, Any]] = [{} for _ in range(12)]
    more[8] = {"opt_out": ["noai"], "measured": {"by": "hand"}, "author": ""}
    more[9] = {"captions": [{"text": "縞", "lang": "ja", "model": "b", "translated_from": "a", "license": "MIT"}]}
    images = lookup_shards.pictures(12)
    records = [lookup_shards.record(n, data, folder / "raw", **more[n]) for n, data in enumerate(images)]
    return lookup_shards.make(folder, records, features=False)


@pytest.fixture(scope="module")
def facts(shards: Path) -> Facts:
    return gather(None, shards)


def load(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import mlcroissant
    from etils import epath
    from mlcroissant._src.core import constants
    from mlcroissant._src.operation_graph.operations import extract

    for module in (constants, extract):
        monkeypatch.setattr(module, "EXTRACT_PATH", epath.Path(cache))
    return mlcroissant.Dataset(folder / croissant.FILE)


def test_mlcroissant_loads_the_folder_and_reads_every_image(
    shards: Path, facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    croissant.write(facts, shards)
    data = load(shards, tmp_path, monkeypatch)
    assert not data.metadata.ctx.issues.errors
    about = data.metadata
    assert (
        about.name == "shards"
        and about.in_language == ["en", "ja"]
        and about.version == f"1.0.0+{facts.fingerprint[:12]}"
    )
    assert [(each.name, each.description) for each in about.license] == [("CC-BY-2.0", "12 works")]
    assert about.license[0].url == "https://creativecommons.org/licenses/by/2.0/"
    for file in about.file_objects:
        tar = (shards / file.content_url).read_bytes()
        assert (file.sha256, file.content_size) == (hashlib.sha256(tar).hexdigest(), f"{len(tar)} B")
    assert len(about.file_objects) == 3
    found = {record["images/key"].decode(): record["images/image"] for record in data.records("images")}
    records = [record for tar in sorted(shards.glob("*.tar")) for record in read_shard(tar)]
    assert sorted(found) == sorted(record["key"] for record in records) and len(found) == 12
    assert all(image.size == (64, 64) for image in found.values())
    fields = {field.name: field for field in data.metadata.record_sets[1].fields}
    assert {"license", "author", "source_url", "captions"} <= fields.keys()
    assert [field.name for field in fields["captions"].sub_fields][:3] == ["text", "lang", "model"]


def test_the_fields_are_those_of_the_records(shards: Path, facts: Facts) -> None:
    (record,) = (one for tar in sorted(shards.glob("*.tar")) for one in read_shard(tar) if one["key"] == "k09")
    described = {name for name, *_ in croissant.FIELDS}
    unknown = record.keys() - described - {"captions", "opt_out", "chroma", "original", "quality"}
    assert not unknown
    assert record["captions"][0].keys() <= {name for name, *_ in croissant.CAPTION_FIELDS}
    assert facts.licenses == {"CC-BY-2.0": 12}


def test_a_changed_tar_is_refused(shards: Path, facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in shards.glob("0*.tar"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    croissant.write(facts, tmp_path)
    tar = tmp_path / "00001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"stripes", b"strives", 1))
    data = load(tmp_path, tmp_path / "cache", monkeypatch)
    with pytest.raises(Exception, match="operation"):
        list(data.records("images"))


def test_responsible_ai_says_what_the_manifests_say(facts: Facts) -> None:
    said = croissant.render(facts)
    assert said["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert said["rai:dataCollectionMissingData"] == "source is not stated: 12 works; author is not stated: 1 work"
    assert said["rai:dataAnnotationProtocol"] == "nano: 11 captions; a translated by b: 1 caption"
    assert (
        said["rai:annotationsPerItem"] == "1.00 captions on average, of which 0.00 by people; each names who wrote it"
    )
    assert said["rai:dataCollectionTimeframe"] == ["2026-01-02T00:00:00Z"]
    tools = said["rai:machineAnnotationTools"]
    assert tools[0].startswith("nano, captioner, ") and any("b, translator, " in tool for tool in tools)
    assert all("not disclosed" in tool for tool in tools if not tool.startswith("nano"))
    (step,) = said["rai:dataPreprocessingProtocol"]
    assert step.startswith("shard: 12 records in, 12 out (") and "size 64" in step and "dedup true" in step
    assert said["rai:dataManipulationProtocol"] == step
    assert [each["prov:label"] for each in said["prov:wasGeneratedBy"]] == ["commonart shard"]
    assert orjson.dumps(said) == orjson.dumps(croissant.render(facts))


def test_stages_tell_what_was_lost_and_no_path_of_a_machine() -> None:
    settings = {"model": "/home/me/model", "seen": [None, True, {"a": ""}], "size": 64}
    row = {"stage": "caption", "in": 1200, "out": 1100, "dropped": {"empty": 100}, "settings": settings, "lost": 3}
    assert croissant.step(row) == (
        "caption: 1,200 records in, 1,100 out; 100 empty; 3 lost before it (model model, seen [none, true, [a none]], size 64)"
    )


def test_datasets_and_webdataset_load_the_folder(
    shards: Path, facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import webdataset

    croissant.write(facts, shards)
    (shards / model_card.NAME).write_text(model_card.render(facts, []))
    data = datasets.load_dataset(str(shards), cache_dir=str(tmp_path))
    assert list(data) == ["train"] and data["train"].num_rows == 12
    row = data["train"][8]
    assert row["json"]["opt_out"] == ["noai"] and row["json"]["measured"] == {"by": "hand"}
    assert row["jpg"].size == (64, 64) and row["__key__"] == "k08"
    assert data["train"][9]["json"]["captions"][0]["translated_from"] == "a"
    streamed = datasets.load_dataset(str(shards), streaming=True)["train"]
    assert [each["json"]["key"] for each in streamed] == [f"k{n:02d}" for n in range(12)]

    pipeline = webdataset.WebDataset(
        [str(tar) for tar in sorted(shards.glob("*.tar"))], shardshuffle=False, empty_check=False
    )
    samples = list(pipeline)
    assert [orjson.loads(each["json"])["license"] for each in samples] == ["CC-BY-2.0"] * 12
    assert Image.open(io.BytesIO(samples[0]["jpg"])).size == (64, 64)


def test_a_card_beside_shards_changes_nothing_for_the_stages(shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shards, tmp_path / "shards")
    before = [record["key"] for record in fetch.listing(str(folder))]
    report.run([str(folder)], str(folder), overwrite=True, quiet=True)
    assert {"attribution.parquet", "croissant.json", "README.md"} <= {path.name for path in folder.iterdir()}
    assert [record["key"] for record in fetch.listing(str(folder))] == before and len(before) == 12
    assert (
        orjson.loads((folder / croissant.FILE).read_bytes())["version"]
        == f"1.0.0+{gather(None, shards).fingerprint[:12]}"
    )
