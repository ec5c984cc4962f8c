"""`sample`: what is written where, what is never overwritten, and what an image says about itself."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image
from sampling import sample

from commonart.cli.main import run
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.output import metadata, terminal
from commonart.stages.inspect import inspect


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def draw(model, tmp_path, monkeypatch):
    """`sample` of the tiny model in two steps on the CPU, inside an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(prompts=(), **options):
        return sample(
            prompts, **{"model": model, "steps": 2, "seed": 7, "device": "cpu", "precision": "fp32", **options}
        )

    return run


def array(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def files(folder=".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_one_picture(draw, model):
    (record,) = draw(["草原のシマウマ"], out="out.png")
    assert files() == ["out.png"]
    assert record["image"] == "out.png" and record["prompt"] == "草原のシマウマ" and record["seed"] == 7
    told = inspect("out.png")
    assert told["synthetic"]
    settings = told["settings"]
    assert settings["prompt"] == "草原のシマウマ" and settings["model"] == model
    assert settings["revision"].startswith("sha256:") and (settings["seed"], settings["steps"]) == (7, 2)
    assert (settings["guidance"], settings["width"], settings["height"]) == (4.5, 32, 32)


def test_the_same_call_makes_the_same_bytes(draw):
    draw(["a"], out="1.png", c2pa=False)
    draw(["a"], out="2.png", c2pa=False)
    assert Path("1.png").read_bytes() == Path("2.png").read_bytes()


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


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_prompt_of_5000_characters_is_cut_and_what_was_kept_is_said(draw, capsys, ending):
    prompt = "初めの赤い丸。" + "草原のシマウマ。" * 625
    (record,) = draw([prompt[:5000]], out=f"out.{ending}")
    told = re.search(r"5,000 characters was cut at 300 tokens; kept: (\S+)…(\S+)", capsys.readouterr().err)
    assert told and prompt.startswith(told[1]) and told[2] in prompt
    assert inspect(record["image"])["settings"]["prompt"] == prompt[:5000], "the marks hold what was asked"


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


def test_a_picture_that_another_process_has_drawn_meanwhile(draw, monkeypatch):
    original = metadata.save

    def second(image, path, **options):
        original(image, path, **options)
        return original(image, path, **options)  # finds its own picture there

    monkeypatch.setattr(metadata, "save", second)
    assert len(draw(["a", "b"], out="x")) == 2 and len(files("x")) == 2


def test_settings_that_no_jpeg_can_hold_are_known_before_anything_is_drawn(draw):
    with pytest.raises(CommonArtError, match="do not fit into a JPEG"):
        draw(["a", "草" * 22_000], out="x", ending="jpg")
    assert not files("x")


def test_every_record_has_a_key_of_its_own(draw):
    seen = []
    draw([{"key": "one", "prompt": "a"}, "b", "b"], out="x", n=2, emit=seen.append)
    assert [r["key"] for r in seen][:2] == ["one-0", "one-1"] and len({r["key"] for r in seen}) == len(seen) == 4


def test_a_slash_makes_a_folder_and_a_brace_no_record(draw):
    Path("p.txt").write_text("{a|b} star\n")
    (record,) = draw(file="p.txt", out="v1.5/")
    assert record["prompt"] == "{a|b} star" and record["image"].startswith("v1.5/")


def test_metadata_and_mark_by_flag(draw):
    draw(["a"], out="1.png", settings=False)
    draw(["a"], out="2.png", synthetic=False)
    draw(["a"], out="3.png", synthetic=False, settings=False)
    told = [inspect(f"{i}.png") for i in (1, 2, 3)]
    assert [t["synthetic"] for t in told] == [True, None, None]
    assert [t["settings"] is None for t in told] == [True, False, True]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_endings(draw, ending):
    (record,) = draw(["赤"], out="pictures", ending=ending)
    assert record["image"].endswith(f".{ending}") and inspect(record["image"])["settings"]["prompt"] == "赤"


def test_a_seed_is_the_same_picture_in_any_company(draw):
    alone = draw(["a red circle"], out="alone", batch=1)
    many = draw(["b", "a red circle", "c"], out="many", batch=3)
    assert np.abs(array(alone[0]["image"]) - array(many[1]["image"])).max() <= 1
    assert [r["seed"] for r in draw(["b"], out="n", n=3)] == [7, 8, 9]


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


def test_records_in_records_out(draw):
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


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {"out": "a.png"}, "There is no prompt"),
        (["a", "  "], {"out": "x"}, "prompt 2 is empty"),
        (["a"], {}, "nowhere to write"),
        (["a", "b"], {"out": "a.png"}, "names one file for 2 images"),
        (["a"], {"out": "a.gif"}, r"\.png, \.jpg or \.webp"),
        (["a"], {"out": "x", "ending": "bmp"}, r"\.png, \.jpg or \.webp"),
        (["a"], {"out": "a.png", "size": 30}, "multiples of 8"),
        (["a"], {"out": "a.png", "size": "big"}, "is not a valid size"),
        (["a"], {"out": "a.png", "size": 8000}, "must be from 1 to 4096 pixels"),
        (["a"], {"out": "a.png", "n": 0}, "-n 0"),
        (["a", "b"], {"out": "x", "n": 10**8}, "200,000,000 images are too many"),
        (["a"], {"out": "a.png", "grid": "none/g.png"}, "the folder none does not exist"),
        (["\udcff"], {"out": "a.png"}, "is not UTF-8 text"),
        (["a"], {"out": ""}, "-o is empty"),
        (["a"], {"out": "a.png", "grid": ""}, "--grid is empty"),
        (["a"], {"out": "-"}, "-o - would put an image among the records"),
        (["a"], {"out": "a.png", "grid": "a.png"}, "-o and --grid both name a.png"),
        (["a"], {"out": "a.png", "steps": 0}, "--steps 0"),
        (["a"], {"out": "a.png", "steps": 1000}, "--steps 1000"),
        (["a"], {"out": "a.png", "guidance": -1.0}, "--guidance -1"),
        (["a"], {"out": "a.png", "guidance": float("nan")}, "--guidance nan"),
        (["a"], {"out": "a.png", "sampler": "euler"}, "--sampler euler"),
        (["a"], {"out": "a.png", "interval": (0.8, 0.2)}, "--interval 0.8,0.2"),
        (["a"], {"out": "a.png", "rescale": 2.0}, "--rescale 2"),
        (["a"], {"out": "a.png", "aspect": "wide"}, "--aspect wide is not a valid aspect"),
        (["a"], {"out": "a.png", "aspect": "0:3"}, "--aspect 0:3 is not a valid aspect"),
        (["a"], {"out": "a.png", "quantize": "int3"}, "--quantize int3"),
        ([{"prompt": "a", "seed": "x"}], {"out": "a.png"}, "seed 'x'"),
        ([{"key": "k", "prompt": "a"}, {"key": "k", "prompt": "b"}], {"out": "x"}, "different prompts share the key 'k'"),
    ],
)  # fmt: skip
def test_bad_requests_are_usage_errors_and_write_nothing(draw, prompts, options, message):
    with pytest.raises(UsageError, match=message) as error:
        draw(prompts, **options)
    assert error.value.fix and error.value.code == 2
    assert files() == []


def test_the_size_that_an_aspect_took_is_said(draw, capsys):
    draw(["a"], out="a.png", aspect="3:1")
    with Image.open("a.png") as image:
        assert f"--aspect 3:1: {image.width}x{image.height}" in capsys.readouterr().err


def test_unusual_settings_are_in_the_marks_and_in_the_name(draw):
    draw(["a"], out="x")
    draw(["a"], out="x", sampler="ddim", interval=(0.2, 0.9), rescale=0.5, aspect="2:1")
    assert len(files("x")) == 2
    said = [inspect(f"x/{name}")["settings"] for name in files("x")]
    plain, unusual = sorted(said, key=len)
    assert not {"sampler", "interval", "rescale"} & plain.keys()
    assert (unusual["sampler"], unusual["interval"], unusual["rescale"]) == ("ddim", [0.2, 0.9], 0.5)
    assert unusual["width"] > unusual["height"]


def test_speed_and_peak_memory_are_told(draw, capsys):
    draw(["a", "b"], out="x", seed=1)
    assert re.search(r"2 images in [\d.]+ s, [\d.]+ images/s; peak memory [\d.]+ GB \(cpu\)", capsys.readouterr().err)
    draw(["a", "b", "c"], out="x", seed=1, quiet=True)
    told = capsys.readouterr().err
    assert "2 of 3 images already exist" in told and "images/s" not in told


def test_pictures_are_shown_and_need_no_file(draw):
    seen = []
    draw(["a", "b"], show=seen.append)
    assert [image.size for image in seen] == [(32, 32)] * 2 and files() == []
    draw(["a"], out="a.png", show=seen.append)
    draw(["a"], out="a.png", show=seen.append)  # from its file
    assert seen[2].tobytes() == seen[3].tobytes()


def test_what_is_interrupted_has_lost_one_batch(draw, model, monkeypatch):
    """A kill in the middle of the third batch: the first two are on disk, and the same call draws only the rest."""
    from commonart.core.model import sampler as samplers

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
def test_what_is_interrupted_says_what_it_has_written(model, in_process, monkeypatch, full):
    original, count = metadata.atomic_write, 0

    def dies(*args, **options):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(metadata, "atomic_write", dies)
    done = in_process("sample", "a", "b", "b", "c", "--model", model, "--steps", "1", "--device", "cpu", "-o", "x")
    said = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, said["stage"], said["in"], said["out"]) == (1 if full else 130, "sample", 2, 2)


def test_memory_that_runs_out_halves_the_batch(draw, monkeypatch, capsys):
    import torch

    from commonart.core.model import sampler as samplers

    original = samplers.sample

    def small(*args, **options):
        if len(args[1]) > 2:
            raise torch.OutOfMemoryError("no room")
        return original(*args, **options)

    monkeypatch.setattr(samplers, "sample", small)
    many = draw([f"circle {i}" for i in range(5)], out="x", batch=8)
    assert len(many) == 5 and "batches of 2" in capsys.readouterr().err
    monkeypatch.undo()


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
    told = done.stderr.decode().splitlines()
    summary = json.loads(told[-1])
    assert (summary["in"], summary["out"], summary["dropped"]) == (3, 2, {"duplicate": 1})
    assert "images/s; peak memory" in told[-2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--show"], "--show needs a terminal"),
        (["a", "-i"], "-i asks for prompts itself"),
        (["-i", "--grid", "x.png"], "--grid has no effect with -i"),
        (["-", "b", "-o", "x"], "stands alone"),
        (["a", "--grid", "g.txt"], "--grid g.txt: images are written as .png"),
        (
            ["a", "-o", "a.png", "--model", "nano", "--text-encoder", "nona"],
            "--text-encoder nona is not a text-encoder model",
        ),
        (["a", "-o", "x.png", "--interval", "3"], "--interval 3 is not two values"),
        (["a", "-o", "x.png", "--sign", "a.pem"], "--sign a.pem is not two values"),
        (["a", "-o", "x.png", "--sign", "none.pem,key.pem", "--model", "nano"], "none.pem cannot be read"),
    ],
)
def test_a_command_line_that_makes_no_sense(draw, capsys, arguments, message):
    assert run(["sample", *arguments]) == 2
    assert message in capsys.readouterr().err and files() == []


def test_a_terminal_without_colours_gets_no_picture(monkeypatch):
    monkeypatch.setattr(terminal, "on_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.viewer(required=True) is not None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal.viewer(required=False) is None
    with pytest.raises(UsageError, match="TERM=dumb has no colours"):
        terminal.viewer(required=True)


def test_an_unwritable_folder(draw):
    Path("file").write_text("")
    with pytest.raises(CommonArtError, match="cannot be created"):
        draw(["a"], out="file/pictures")


def test_a_folder_that_cannot_be_written_is_known_before_anything_is_drawn(draw, monkeypatch):
    (first,) = draw(["a"], out="x")
    os.mkdir("locked")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == Path("locked") and not mode & os.W_OK)
    assert draw(["a"], out="x") == [first], "nothing is to be written"
    for asked in ({"out": "x"}, {"out": "locked/a.png"}, {"grid": "locked/g.png"}):
        with pytest.raises(CommonArtError, match="the folder is not writable"):
            draw(["b"], **asked)
    assert len(files()) == 1


def test_a_grid_shows_every_picture_with_its_marks(draw):
    draw(["a red circle", "a blue square", "c"], out="pictures", grid="grid.png", columns=3)
    with Image.open("grid.png") as sheet:
        assert sheet.width > 3 * 128 and sheet.height > 128
    told = inspect("grid.png")
    assert told["synthetic"] and told["settings"]["prompts"] == ["a red circle", "a blue square", "c"]
    first = array("grid.png")
    # From the images that already exist: the same sheet.
    draw(["a red circle", "a blue square", "c"], out="pictures", grid="again.png", columns=3)
    assert np.array_equal(array("again.png"), first)
    draw(["a red circle", "a blue square", "c"], grid="alone.png", columns=3)
    assert np.abs(array("alone.png") - first).max() <= 1
    assert files() == ["again.png", "alone.png", "grid.png", *(f for f in files() if f.startswith("pictures/"))]


def test_a_finished_batch_with_a_grid_called_again_keeps_it(draw, capsys):
    """By the sheet's own settings: the same prompts and seeds in the same shape; any other is refused undrawn."""
    ask = {"prompts": ["a", "b"], "out": "x", "grid": "grid.png"}
    first = draw(**ask)
    before = (os.stat("grid.png").st_mtime_ns, Path("grid.png").read_bytes())
    assert draw(**ask) == first and (os.stat("grid.png").st_mtime_ns, Path("grid.png").read_bytes()) == before
    assert "grid.png already shows these images" in capsys.readouterr().err
    os.unlink(first[0]["image"])  # the sheet is kept where a picture has to be drawn again, too
    assert draw(**ask) == first and Path(first[0]["image"]).is_file()
    for other in ({"seed": 8}, {"columns": 1}, {"prompts": ["a", "c"]}, {"guidance": 2.0}, {"settings": False}):
        with pytest.raises(UsageError, match="--grid grid.png already exists"):
            draw(**(ask | {"out": "y"} | other))
    assert not Path("y").exists() and Path("grid.png").read_bytes() == before[1]
    draw(**(ask | {"columns": 1}), overwrite=True)
    assert Path("grid.png").read_bytes() != before[1]


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
