"""`sample` again: what the same call finds of an earlier one that finished, was interrupted or had another model."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from sampling import array, draw, files, model

from commonart.cli.main import run
from commonart.core.errors import UsageError
from commonart.core.model import sampler as samplers
from commonart.core.output import metadata
from commonart.stages.inspect import inspect

__all__ = ["draw", "model"]  # the fixtures


def test_a_folder_names_never_collide_and_a_second_call_goes_on(draw):
    first = draw(["a red circle", "赤い丸", "赤い丸!", "a/../b", "a red circle"], out="pictures", n=2)
    assert len(first) == 10
    names = {record["image"] for record in first}
    assert len(names) == 8 and len(files("pictures")) == 8  # one prompt was given twice
    assert any("赤い丸-" in name for name in names)
    times = {name: os.stat(name).st_mtime_ns for name in names}
    one = sorted(names)[0]
    os.unlink(one)
    assert draw(["a red circle", "赤い丸", "赤い丸!", "a/../b", "a red circle"], out="pictures", n=2) == first
    assert {n for n in names if os.stat(n).st_mtime_ns != times[n]} == {one}
    draw(["a red circle"], out="pictures", guidance=2.0)
    assert len(files("pictures")) == 9  # other settings, another name


def test_images_of_a_model_that_changed_under_its_name_are_not_taken(draw, model, tmp_path, capsys):
    """A run that was trained anew, an exported folder that was written again: same name, same prompt, other weights."""
    named = str(tiny_pipeline.copy(Path(model), tmp_path / "named"))
    first = draw([{"key": "k", "prompt": "a"}, "b"], model=named, out="x", grid="g.png")
    assert draw([{"key": "k", "prompt": "a"}, "b"], model=named, out="x", grid="g.png") == first
    tiny_pipeline.transformer(Path(named) / "transformer", seed=5)
    (other,) = draw(["b"], model=named, out="x")
    assert other["image"] != first[1]["image"] and np.abs(array(other["image"]) - array(first[1]["image"])).max() > 1
    for again in ({"prompts": [{"key": "k", "prompt": "a"}], "out": "x"}, {"prompts": ["b"], "grid": "g.png"}):
        with pytest.raises(UsageError, match="already exists"):
            draw(**again, model=named)


def test_nothing_is_overwritten_unless_asked(draw):
    Path("out.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="already exists"):
        draw(["a"], out="out.png")
    assert Path("out.png").read_bytes() == b"mine"
    draw(["a"], out="out.png", overwrite=True)
    draw(["a"], out="out.png")  # the very same picture: nothing to do
    with pytest.raises(UsageError, match="already exists"):
        draw(["b"], out="out.png")
    assert inspect("out.png")["settings"]["prompt"] == "a"


@pytest.mark.parametrize("flags", [{"settings": False}, {"synthetic": False, "ending": "jpg"}])
def test_a_batch_with_fewer_marks_goes_on_too(draw, flags, capsys):
    first = draw(["a", "b"], out="x", **flags)
    assert draw(["a", "b", "c"], out="x", **flags)[:2] == first and len(files("x")) == 3
    assert "2 of 3 images already exist" in capsys.readouterr().err


def test_an_image_that_another_process_wrote_meanwhile_is_taken(draw, monkeypatch):
    original = metadata.save

    def second(image, path, **options):
        original(image, path, **options)
        return original(image, path, **options)  # finds its own picture there

    monkeypatch.setattr(metadata, "save", second)
    assert len(draw(["a", "b"], out="x")) == 2 and len(files("x")) == 2


def test_without_a_seed_the_same_command_goes_on(model, tmp_path, monkeypatch, capsys):
    """Wherever the prompts come from: what was drawn is found again by the same command."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a\nb\n")
    for given in (["a", "b"], ["--file", "prompts.txt"]):
        command = ["sample", *given, "--model", model, "--steps", "2", "-o", "x", "--device", "cpu"]
        assert run(command) == 0 and len(files("x")) == 2
        assert {json.loads(line)["seed"] for line in capsys.readouterr().out.splitlines()} == {0}
    assert run(command) == 0 and len(files("x")) == 2
    assert "2 of 2 images already exist; another --seed gives others" in capsys.readouterr().err


def test_an_interrupted_call_loses_one_batch(draw, model, monkeypatch):
    """A kill in the middle of the third batch: the first two are on disk, and the same call draws only the rest."""
    original, calls = samplers.sample, []

    def dies(*args, **options):
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    prompts = [f"circle {i}" for i in range(7)]
    monkeypatch.setattr(samplers, "sample", dies)
    with pytest.raises(KeyboardInterrupt):
        draw(prompts, out="x", batch=2)
    assert len(files("x")) == 4
    records = draw(prompts, out="x", batch=2)
    assert calls == [2, 2, 2, 2, 1] and len(records) == len(files("x")) == 7


@pytest.mark.parametrize("full", [True, False])
def test_an_interrupted_command_reports_what_it_has_written(model, in_process, monkeypatch, full):
    original, count = metadata.atomic_write, 0

    def dies(*args, **options):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(metadata, "atomic_write", dies)
    done = in_process("sample", "a", "b", "b", "c", "--model", model, "--steps", "1", "--device", "cpu", "-o", "x")
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, summary["stage"], summary["in"], summary["out"]) == (1 if full else 130, "sample", 2, 2)


def test_an_interrupted_batch_leaves_only_whole_pictures(draw, monkeypatch):
    original, count = metadata.save, 0

    def dies(*args, **options):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(metadata, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        draw(["a", "b", "c", "d"], out="pictures")
    assert len(files("pictures")) == 2
    monkeypatch.setattr(metadata, "save", original)
    assert len(draw(["a", "b", "c", "d"], out="pictures")) == 4
    assert all(metadata.read(Path("pictures") / name).synthetic for name in files("pictures"))


def test_a_finished_batch_with_a_grid_called_again_keeps_it(draw, capsys):
    """By the sheet's own settings: the same prompts and seeds in the same shape; any other is refused undrawn."""
    call = {"prompts": ["a", "b"], "out": "x", "grid": "grid.png"}
    first = draw(**call)
    before = (os.stat("grid.png").st_mtime_ns, Path("grid.png").read_bytes())
    assert draw(**call) == first and (os.stat("grid.png").st_mtime_ns, Path("grid.png").read_bytes()) == before
    assert "grid.png already shows these images" in capsys.readouterr().err
    os.unlink(first[0]["image"])  # the sheet is kept where a picture has to be drawn again, too
    assert draw(**call) == first and Path(first[0]["image"]).is_file()
    for other in ({"seed": 8}, {"columns": 1}, {"prompts": ["a", "c"]}, {"guidance": 2.0}, {"settings": False}):
        with pytest.raises(UsageError, match="--grid grid.png already exists"):
            draw(**(call | {"out": "y"} | other))
    assert not Path("y").exists() and Path("grid.png").read_bytes() == before[1]
    draw(**(call | {"columns": 1}), overwrite=True)
    assert Path("grid.png").read_bytes() != before[1]
