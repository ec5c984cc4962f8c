"""`eval`: every score with what it was measured on, from pictures or from a model, and the paper's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_encoders
import tiny_pipeline
import torch
from PIL import Image

from commonart.core.data.jsonl import JsonlWriter
from commonart.core.data.record import split_of
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.metrics import fid, paper_table
from commonart.core.model.transformer import PixArt
from commonart.core.nano import scenes
from commonart.core.nano.grammar import caption
from commonart.core.output import metadata, watermark
from commonart.stages.evaluate import run as run_eval
from commonart.stages.evaluate import table


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    """A tiny model, a tiny judge, and shards."""
    root = tmp_path_factory.mktemp("made")
    return {
        "model": str(tiny_pipeline.pipeline(root / "model")),
        "judge": str(tiny_clip.open_clip_folder(root / "clip")),
        "shards": str(tiny_encoders.shards(root / "shards")),
    }


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = {"clip": made["judge"], "clip_ja": made["judge"], "device": "cpu", "precision": "fp32", "steps": 2}

    def call(*args, **options):
        return run_eval(*args, **{**tiny, "quiet": True, **options})

    return call


def picture_folder(folder: Path, prompts: list[str], seed: int = 0) -> str:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i, prompt in enumerate(prompts):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        metadata.save(image, folder / f"{i}.png", settings={"prompt": prompt} if prompt else None)
    return str(folder)


def by_metric(result, metric, **wanted):
    (found,) = [
        s for s in result["scores"] if s["metric"].startswith(metric) and all(s.get(k) == v for k, v in wanted.items())
    ]
    return found


def test_a_model_draws_the_captions_of_shards_in_both_languages(run, made):
    result = run(None, made["shards"], model=made["model"], n=5, pictures="drawn")
    assert json.loads(Path("eval.json").read_text()) == json.loads(json.dumps(result))
    assert result["model"] == made["model"] and result["settings"]["seed"] == 0
    for lang in ("en", "ja"):
        assert len(list(Path("drawn", lang).glob("*.png"))) == 5
        distance, clip = by_metric(result, "FD-", lang=lang), by_metric(result, "CLIP", lang=lang)
        assert (distance["n"], distance["n_reference"], distance["resolution"]) == (5, 5, "32x32")
        assert (clip["n"], clip["mode"], clip["seed"], clip["split"]) == (5, "paper", 0, None)
        assert clip["low"] <= clip["value"] <= clip["high"] and clip["reference"] >= 0
    seeds = {metadata.read(path).settings["seed"] for path in Path("drawn").rglob("*.png")}
    assert len(seeds) == 10, "every picture has noise of its own"
    assert "FID-30k" not in table(result), "the tiny judge is none of the paper's"


def test_a_second_call_draws_only_what_is_missing(run, made):
    first = run(None, made["shards"], model=made["model"], n=3, pictures="drawn", langs=("en",))
    paths = sorted(Path("drawn").rglob("*.png"))
    times = [path.stat().st_mtime_ns for path in paths[1:]]
    paths[0].unlink()
    again = run(None, made["shards"], model=made["model"], n=3, pictures="drawn", langs=("en",), overwrite=True)
    assert again["scores"] == first["scores"]
    assert [path.stat().st_mtime_ns for path in paths[1:]] == times


def test_what_is_scored_is_what_the_model_makes_and_the_same_bytes_each_time(run, made, monkeypatch):
    monkeypatch.setattr(watermark, "embed", lambda image: pytest.fail("a watermark would be scored, too"))
    made_twice = []
    for folder in ("one", "two"):
        run(model=made["model"], scenes=2, langs=("en",), pictures=folder, overwrite=True)
        made_twice.append([path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))])
    assert made_twice[0] == made_twice[1] and len(made_twice[0]) == 4


def test_images_of_a_model_that_was_trained_anew_are_not_taken_for_its_own(run, made, tmp_path):
    model = tiny_pipeline.copy(Path(made["model"]), tmp_path / "retrained")
    options = {"model": str(model), "scenes": 2, "langs": ("en",), "pictures": "pictures"}
    first = run(**options)
    before = {path: path.read_bytes() for path in sorted(Path("pictures").rglob("*.png"))}
    transformer = PixArt.load(model / "transformer")
    with torch.no_grad():
        transformer.proj_out.weight.add_(0.5)
    transformer.save(model / "transformer")
    again = run(**options, overwrite=True)
    assert len(before) == 4 and all(path.read_bytes() != data for path, data in before.items())
    assert again["settings"]["fingerprint"] != first["settings"]["fingerprint"]
    assert run(**options, overwrite=True) == again


def test_what_cannot_be_used_is_an_error_before_an_image_is_generated(run, made, tmp_path):
    options = {"model": made["model"], "scenes": 2, "pictures": "pictures"}
    with pytest.raises(UsageError, match="--clip nowhere is not a clip model"):
        run(**options, clip="nowhere")
    with pytest.raises(UsageError, match="--clip-ja nowhere is not a clip model"):
        run(**options, clip_ja="nowhere")
    with pytest.raises(CommonArtError, match="-o missing/eval.json: there is no folder missing"):
        run(**options, out="missing/eval.json")
    foreign = tiny_pipeline.stable_diffusion(tmp_path / "sd")
    with pytest.raises(UsageError, match="--interval is for our own models"):
        run(**options | {"model": f"{made['model']},{foreign}"}, interval=(0.2, 0.8))
    assert not Path("pictures").exists()


def test_guidance_of_an_interval(run, made):
    options = {"model": made["model"], "scenes": 2, "langs": ("en",), "guidance": 9.0, "steps": 4}
    scores, images = {}, {}
    for interval in ((0.0, 1.0), (0.0, 0.5)):
        scores[interval] = run(**options, interval=interval, pictures=f"to {interval[1]}", overwrite=True)["scores"]
        images[interval] = [np.asarray(Image.open(path)) for path in sorted(Path(f"to {interval[1]}").rglob("*.png"))]
    whole, half = images.values()
    assert len(whole) == 4 and all((one != other).any() for one, other in zip(whole, half, strict=True))
    assert all("guidance_interval" not in score for score in scores[0.0, 1.0])
    assert all(score["guidance_interval"] == [0.0, 0.5] for score in scores[0.0, 0.5])


def test_a_file_of_somebody_else_is_not_replaced(run, made):
    Path("pictures/unseen-en").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("pictures/unseen-en/00000.png")
    with pytest.raises(UsageError, match="00000.png already exists"):
        run(model=made["model"], scenes=2, langs=("en",), pictures="pictures")


def test_scene_prompts_are_judged_by_their_pixels(run, made):
    result = run(model=made["model"], scenes=3, out=None)
    rows = [score for score in result["scores"] if score["metric"] == "scenes"]
    assert {(row["lang"], row["set"]) for row in rows} == {
        (lang, kind) for lang in ("en", "ja") for kind in ("unseen", "held-out pairs")
    }
    assert all(row["n"] == 3 and 0 <= row["color"] <= 1 for row in rows)
    assert "prompt following" in table(result) and not Path("eval.json").exists()


def test_true_pictures_of_scenes_score_full_marks(run):
    rng = np.random.default_rng(0)
    records = []
    Path("true").mkdir()
    for i in range(6):
        scene = scenes.random_scene(rng)
        Image.fromarray(scenes.render(scene)).save(f"true/{i}.png")
        records.append(
            {
                "key": f"s{i}",
                "image": f"true/{i}.png",
                "prompt": caption(scene, "ja", rng),
                "scene": scenes.scene_to_json(scene),
            }
        )
    with JsonlWriter("records.jsonl") as writer:
        for record in records:
            writer.write(record)
    score = by_metric(run("records.jsonl"), "scenes")
    assert (score["color"], score["shape"], score["background"], score["place"], score["lang"]) == (1, 1, 1, 1, "ja")


def test_two_folders_with_prompts_in_the_pictures_themselves(run):
    drawn = picture_folder(Path("drawn"), ["a red circle", "赤い円", "a star", "星", "ring"])
    real = picture_folder(Path("real"), [""] * 4, seed=1)
    result = run(drawn, real)
    assert by_metric(result, "CLIP", lang="en")["n"] == 3 and by_metric(result, "CLIP", lang="ja")["n"] == 2
    assert by_metric(result, "CLIP", lang="en")["reference"] is None, "these are no pairs"
    assert by_metric(result, "FD-", lang="ja")["n_reference"] == 4


def test_the_same_pictures_are_at_distance_zero(run, capsys):
    real = picture_folder(Path("real"), [""] * 6)
    result = run(real, real, out=None)
    assert by_metric(result, "FD-")["value"] == pytest.approx(0, abs=1e-6)
    assert "no CLIP score" in capsys.readouterr().err


def test_fid_is_measured_by_inception_only(run, monkeypatch):
    def network(pixels):
        return pixels.mean(dim=(2, 3))

    monkeypatch.setattr(fid, "inception", lambda mode, device: (network, "f" * 64))
    drawn, real = picture_folder(Path("a"), ["red"] * 4), picture_folder(Path("b"), [""] * 4, seed=1)
    score = by_metric(run(drawn, real, fid="clean"), "FID")
    assert score["mode"] == "clean" and score["value"] > 0 and score["weights_sha256"] == "f" * 64


def test_fid_without_inception_says_what_it_needs(run, monkeypatch, tmp_path):
    import torch

    def no_network(*_args, **_options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn, real = picture_folder(Path("a"), ["red"] * 3), picture_folder(Path("b"), [""] * 3)
    with pytest.raises(CommonArtError, match="inception-2015-12-05"):
        run(drawn, real, fid="clean")


def test_the_papers_table_gets_our_row_only_from_its_own_metrics():
    ours = [
        {"metric": "FID", "lang": "en", "value": 20.04, "n": 30_000},
        {"metric": "CLIP", "lang": "en", "value": 27.5, "n": 30_000, "mode": "paper", "judge": "clip-vit-b32"},
        {"metric": "CLIP", "lang": "ja", "value": 30.1, "n": 30_000, "mode": "hessel", "judge": "clip-japanese-base"},
        {"metric": "CLIP", "lang": "ja", "value": 30.1, "n": 30_000, "mode": "paper", "judge": "nano"},
    ]
    text = paper_table.table("mine", ours)
    assert "| **mine** | 20 | 27.5 | - | - |" in text and "CommonArt beta | 22.8 | 26.8 | 19.4 | 29.4" in text
    assert "cannot be compared" not in text
    assert "cannot be compared" in paper_table.table("mine", [{**ours[0], "n": 100}])
    assert paper_table.table("mine", ours[2:]) == ""


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {}, "nothing to score"),
        (("a", "b"), {"model": "nano"}, "exclude each other"),
        ((), {"model": "nano"}, "--model has no prompts"),
        (("a",), {"scenes": 5}, "--scenes needs a model"),
        (("a",), {"n": 1}, "-n must be at least 2, not 1"),
        (("a",), {"langs": ("fr",)}, "--langs fr"),
        (("a",), {"fid": "clean"}, "needs real images"),
        (("a", "b"), {"fid": "odd"}, "--fid odd is not a mode"),
        (("a",), {"seed": -1}, "--seed must be at least 0, not -1"),
        (("a",), {"clip_mode": "odd"}, "--clip-mode odd is not a mode"),
    ],
)
def test_bad_calls(run, args, options, message):
    with pytest.raises(UsageError, match=message):
        run(*args, **options)


def test_images_without_prompts_and_without_a_reference_are_an_error(run):
    with pytest.raises(CommonArtError, match="carry no prompts, and there is no reference"):
        run(picture_folder(Path("a"), [""] * 3))
    assert not Path("eval.json").exists()
    assert by_metric(run(picture_folder(Path("b"), ["", "a red circle", "red"])), "CLIP")["n"] == 2


def test_bad_sources(run, made):
    Path("empty").mkdir()
    for source, message in (("empty", "holds no images"), ("none", "none")):
        with pytest.raises(CommonArtError, match=message):
            run(source)
    Path("bad").mkdir()
    Path("bad/a.png").write_bytes(b"no picture")
    with pytest.raises(CommonArtError, match="is not an image"):
        run("bad")
    drawn = picture_folder(Path("p"), ["a"] * 2)
    empty = "heldout" if split_of("a" * 64) == "train" else "train"  # all of the shards have this one hash
    with pytest.raises(CommonArtError, match=f"no images of the split {empty}"):
        run(drawn, made["shards"], split=empty)
    with pytest.raises(CommonArtError, match="have no split"):
        run(drawn, drawn, split="train")
    Path("eval.json").write_text("{}")
    with pytest.raises(UsageError, match="eval.json already exists"):
        run("p")
