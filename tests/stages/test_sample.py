"""`sample`: what is written where, and what an image says about itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sampling import array, draw, files, model

from commonart.core.model import sampler as samplers
from commonart.stages.inspect import inspect

__all__ = ["draw", "model"]  # the fixtures


def test_an_image_its_record_and_its_marks_agree(draw, model):
    (record,) = draw(["草原のシマウマ"], out="out.png")
    assert files() == ["out.png"]
    assert record["image"] == "out.png" and record["prompt"] == "草原のシマウマ" and record["seed"] == 7
    marks = inspect("out.png")
    assert marks["synthetic"]
    settings = marks["settings"]
    assert settings["prompt"] == "草原のシマウマ" and settings["model"] == model
    assert settings["revision"].startswith("sha256:") and (settings["seed"], settings["steps"]) == (7, 2)
    assert (settings["guidance"], settings["width"], settings["height"]) == (4.5, 32, 32)


def test_the_same_call_makes_the_same_bytes(draw):
    draw(["a"], out="1.png", c2pa=False)
    draw(["a"], out="2.png", c2pa=False)
    assert Path("1.png").read_bytes() == Path("2.png").read_bytes()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_prompt_of_5000_characters_is_cut_and_what_was_kept_is_reported(draw, capsys, ending):
    prompt = "初めの赤い丸。" + "草原のシマウマ。" * 625
    (record,) = draw([prompt[:5000]], out=f"out.{ending}")
    warning = re.search(r"5,000 characters was cut at 300 tokens; kept: (\S+)…(\S+)", capsys.readouterr().err)
    assert warning and prompt.startswith(warning[1]) and warning[2] in prompt
    assert inspect(record["image"])["settings"]["prompt"] == prompt[:5000], "the marks hold what was asked"


def test_every_record_has_a_key_of_its_own(draw):
    seen = []
    draw([{"key": "one", "prompt": "a"}, "b", "b"], out="x", n=2, emit=seen.append)
    assert [r["key"] for r in seen][:2] == ["one-0", "one-1"] and len({r["key"] for r in seen}) == len(seen) == 4


def test_a_slash_makes_a_folder_and_a_brace_no_record(draw):
    Path("p.txt").write_text("{a|b} star\n")
    (record,) = draw(file="p.txt", out="v1.5/")
    assert record["prompt"] == "{a|b} star" and record["image"].startswith("v1.5/")


def test_settings_and_mark_are_left_out_by_option(draw):
    draw(["a"], out="1.png", settings=False)
    draw(["a"], out="2.png", synthetic=False)
    draw(["a"], out="3.png", synthetic=False, settings=False)
    marks = [inspect(f"{i}.png") for i in (1, 2, 3)]
    assert [t["synthetic"] for t in marks] == [True, None, None]
    assert [t["settings"] is None for t in marks] == [True, False, True]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_images_are_written_in_the_format_asked_for(draw, ending):
    (record,) = draw(["赤"], out="pictures", ending=ending)
    assert record["image"].endswith(f".{ending}") and inspect(record["image"])["settings"]["prompt"] == "赤"


def test_a_seed_gives_the_same_image_in_every_batch(draw):
    alone = draw(["a red circle"], out="alone", batch=1)
    many = draw(["b", "a red circle", "c"], out="many", batch=3)
    assert np.abs(array(alone[0]["image"]) - array(many[1]["image"])).max() <= 1
    assert [r["seed"] for r in draw(["b"], out="n", n=3)] == [7, 8, 9]


def test_records_of_a_file_become_records_of_images(draw):
    lines = [
        {"key": "one", "prompt": "a", "license": "CC-BY-4.0", "image": "raw/a.jpg", "note": 1},
        {"key": "two", "captions": [{"text": "en", "lang": "en"}, {"text": "日本", "lang": "ja"}], "seed": 3},
    ]
    Path("in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = []
    one, two = draw(file="in.jsonl", lang="ja", out="pictures", emit=seen.append)
    assert [one, two] == seen
    assert one["image"] == "pictures/one.png" and one["reference"] == "raw/a.jpg" and one["note"] == 1
    assert "license" not in one, "the licence of the reference is not the drawing's"
    assert two["prompt"] == "日本" and two["seed"] == 3 and len(two["captions"]) == 2
    assert [r["image"] for r in draw(file="in.jsonl", lang="ja", out="n", n=2)] == [
        "n/one.0.png", "n/one.1.png", "n/two.0.png", "n/two.1.png",
    ]  # fmt: skip


def test_the_size_that_an_aspect_took_is_reported(draw, capsys):
    draw(["a"], out="a.png", aspect="3:1")
    with Image.open("a.png") as image:
        assert f"--aspect 3:1: {image.width}x{image.height}" in capsys.readouterr().err


def test_unusual_settings_are_in_the_marks_and_in_the_name(draw):
    draw(["a"], out="x")
    draw(["a"], out="x", sampler="ddim", interval=(0.2, 0.9), rescale=0.5, aspect="2:1")
    assert len(files("x")) == 2
    settings = [inspect(f"x/{name}")["settings"] for name in files("x")]
    plain, unusual = sorted(settings, key=len)
    assert not {"sampler", "interval", "rescale"} & plain.keys()
    assert (unusual["sampler"], unusual["interval"], unusual["rescale"]) == ("ddim", [0.2, 0.9], 0.5)
    assert unusual["width"] > unusual["height"]


def test_speed_and_peak_memory_are_reported(draw, capsys):
    draw(["a", "b"], out="x", seed=1)
    assert re.search(r"2 images in [\d.]+ s, [\d.]+ images/s; peak memory [\d.]+ GB \(cpu\)", capsys.readouterr().err)
    draw(["a", "b", "c"], out="x", seed=1, quiet=True)
    err = capsys.readouterr().err
    assert "2 of 3 images already exist" in err and "images/s" not in err


def test_pictures_are_shown_and_need_no_file(draw):
    seen = []
    draw(["a", "b"], show=seen.append)
    assert [image.size for image in seen] == [(32, 32)] * 2 and files() == []
    draw(["a"], out="a.png", show=seen.append)
    draw(["a"], out="a.png", show=seen.append)  # from its file
    assert seen[2].tobytes() == seen[3].tobytes()


def test_memory_that_runs_out_halves_the_batch(draw, monkeypatch, capsys):
    original = samplers.sample

    def small(*args, **options):
        if len(args[1]) > 2:
            raise torch.OutOfMemoryError("no room")
        return original(*args, **options)

    monkeypatch.setattr(samplers, "sample", small)
    many = draw([f"circle {i}" for i in range(5)], out="x", batch=8)
    assert len(many) == 5 and "batches of 2" in capsys.readouterr().err


def test_records_on_stdin_and_records_out_as_a_command(model, tmp_path, in_process):
    lines = b'{"key": "one", "prompt": "a"}\n{"key": "two", "prompt": "\xe8\xb5\xa4", "seed": 3}\n'
    lines += lines.splitlines(keepends=True)[0]  # the same again is the same picture, and one record downstream
    done = in_process(
        "sample", "-", "--model", model, "--steps", "2", "--seed", "1", "-o", "out", "--interval", "0.1,1", input=lines
    )
    assert done.returncode == 0, done.stderr.decode()
    one, two = map(json.loads, done.stdout.splitlines())
    assert (one["key"], one["image"], two["seed"]) == ("one", "out/one.png", 3)
    assert all((tmp_path / r["image"]).is_file() for r in (one, two))
    err = done.stderr.decode().splitlines()
    summary = json.loads(err[-1])
    assert (summary["in"], summary["out"], summary["dropped"]) == (3, 2, {"duplicate": 1})
    assert "images/s; peak memory" in err[-2]


def test_a_grid_shows_every_picture_with_its_marks(draw):
    draw(["a red circle", "a blue square", "c"], out="pictures", grid="grid.png", columns=3)
    with Image.open("grid.png") as sheet:
        assert sheet.width > 3 * 128 and sheet.height > 128
    marks = inspect("grid.png")
    assert marks["synthetic"] and marks["settings"]["prompts"] == ["a red circle", "a blue square", "c"]
    first = array("grid.png")
    # From the images that already exist: the same sheet.
    draw(["a red circle", "a blue square", "c"], out="pictures", grid="again.png", columns=3)
    assert np.array_equal(array("again.png"), first)
    draw(["a red circle", "a blue square", "c"], grid="alone.png", columns=3)
    assert np.abs(array("alone.png") - first).max() <= 1
    assert files() == ["again.png", "alone.png", "grid.png", *(f for f in files() if f.startswith("pictures/"))]
