"""Real photographs: the chain from COCO's own annotations to a picture, on the 29 of 159 that are CC BY.

The photographs lie outside this repository, in shared/data/coco-mini beside it; without them these tests are skipped.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from commands import ROOT
from PIL import Image

from commonart.cli.main import invoke
from commonart.core.data import jsonl, stream
from commonart.core.data.shards import reader
from commonart.core.model.config import PixArtConfig
from commonart.core.output import metadata

COCO = ROOT.parent / "shared" / "data" / "coco-mini"
ANNOTATIONS = str(COCO / "captions.json")
# COCO's licence ids, as its licences' URLs read.
SPDX = {
    1: "CC-BY-NC-SA-2.0", 2: "CC-BY-NC-2.0", 3: "CC-BY-NC-ND-2.0", 4: "CC-BY-2.0", 5: "CC-BY-SA-2.0", 6: "CC-BY-ND-2.0",
}  # fmt: skip
SMALL = ("resolution=256", "patch=4", "layers=2", "heads=2", "batch=4", "micro_batch=4", "steps=4", "warmup=1")

pytestmark = pytest.mark.skipif(not COCO.is_dir(), reason="the photographs of shared/data/coco-mini are not here")


def call(folder: Path, *arguments: str, stdin: str | None = None) -> None:
    """One command line in `folder`, in this process: torch is imported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if stdin is not None:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / stdin).read_bytes())))
        assert invoke(arguments) == 0


def listed_in_coco() -> dict[str, dict[str, Any]]:
    return {str(image["id"]): image for image in orjson.loads(Path(ANNOTATIONS).read_bytes())["images"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Listed, filtered, fetched and cut to 256 pixels."""
    at = tmp_path_factory.mktemp("photographs")
    call(at, "fetch", ANNOTATIONS, "--list", "-o", "listed.jsonl")
    call(at, "license-filter", "listed.jsonl", "--policy", "strict", "--rejects", "no.jsonl", "-o", "kept.jsonl")
    call(at, "fetch", "-", "--images", str(COCO / "images"), "-o", "raw", stdin="kept.jsonl")
    call(at, "shard", "raw", "-o", "shards", "--size", "256")
    return at


def values(path: Path) -> Iterator[dict[str, Any]]:
    return (value for _, value in jsonl.read_values(str(path)))


def test_29_of_159_are_kept_and_each_other_one_is_explained(folder: Path) -> None:
    images = listed_in_coco()
    listed, kept, refused = (list(values(folder / name)) for name in ("listed.jsonl", "kept.jsonl", "no.jsonl"))
    assert [len(listed), len(kept), len(refused)] == [159, 29, 130]
    assert {record["source_id"] for record in listed} == set(images)
    assert {record["source_id"] for record in kept} == {id for id, image in images.items() if image["license"] == 4}
    for record in refused:
        assert record["reason"] == f"license_not_allowed:{SPDX[images[record['source_id']]['license']]}"
    for record in kept:
        assert record["license"] == "CC-BY-2.0"
        assert record["license_raw"] and record["license_url"]
        assert len(record["captions"]) >= 5


def test_the_29_come_in_as_they_are_and_are_cut_to_256_pixels(folder: Path) -> None:
    images = listed_in_coco()
    raw = list(stream.read(str(folder / "raw")))
    assert len(raw) == 29
    for record in raw:
        file = COCO / "images" / images[record["source_id"]]["file_name"]
        assert reader.read_bytes(record["image"]) == file.read_bytes()
    cut = list(stream.read(str(folder / "shards")))
    assert {record["sha256"] for record in cut} == {record["sha256"] for record in raw}
    for record in cut:
        with Image.open(io.BytesIO(reader.read_bytes(record["image"]))) as image:
            assert (image.size, image.mode) == ((256, 256), "RGB")


@pytest.mark.slow
def test_a_small_transformer_trains_on_them_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, "encode-text", "shards", "--model", "nano")
    call(folder, "encode-image", "shards", "--model", "nano", "--batch", "4")
    overrides = [part for value in SMALL for part in ("--set", value)]
    call(folder, "train", "--stage", "nano", "--data", "shards", "-o", "run", *overrides)
    said = last_line(capsys)
    assert (said["stage"], said["step"]) == ("train", 4)
    assert 0 < said["loss"] < 100  # a run that is over before the first line of its metrics has one too
    described = orjson.loads((folder / "run" / "run.json").read_bytes())
    assert described["recipe"]["resolution"] == 256
    config = PixArtConfig.read(folder / "run" / "checkpoints" / "step-0000004" / "transformer" / "config.json")
    assert (config.sample_size, config.patch_size, config.num_layers) == (64, 4, 2)  # f = 4: 256 pixels are 64 latents

    draw = ("sample", "a man on a horse", "--model", "run", "--steps", "3", "--seed", "1", "-o", "out.png")
    call(folder, *draw)
    marks = metadata.read(folder / "out.png")
    assert marks.synthetic
    assert marks.settings is not None and marks.settings["prompt"] == "a man on a horse"
    with Image.open(folder / "out.png") as image:
        assert (image.format, image.size) == ("PNG", (256, 256))
        assert np.asarray(image).std() > 1  # neither one colour nor NaN made black

    call(folder, "eval", "--model", "run", "--scenes", "1", "--steps", "1", "-o", "eval.json")
    said = last_line(capsys)
    assert (said["stage"], said["in"], said["out"]) == ("eval", 4, 4)  # two languages, unseen and held-out pairs


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(capsys.readouterr().err.splitlines()[-1])
    return said
