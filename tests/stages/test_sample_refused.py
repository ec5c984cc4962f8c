"""What `sample` refuses: each with a sentence, and before anything is generated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sampling import draw, files, model

from commonart.cli.main import run
from commonart.core.errors import CommonArtError, UsageError

__all__ = ["draw", "model"]  # the fixtures


def test_settings_that_no_jpeg_can_hold_are_known_before_anything_is_drawn(draw):
    with pytest.raises(CommonArtError, match="do not fit into a JPEG"):
        draw(["a", "草" * 22_000], out="x", ending="jpg")
    assert not files("x")


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
def test_options_that_contradict_or_cannot_be_read_are_usage_errors(draw, capsys, arguments, message):
    assert run(["sample", *arguments]) == 2
    assert message in capsys.readouterr().err and files() == []


def test_a_folder_that_cannot_be_created_is_an_error(draw):
    Path("file").write_text("")
    with pytest.raises(CommonArtError, match="cannot be created"):
        draw(["a"], out="file/pictures")


def test_a_folder_that_cannot_be_written_is_known_before_anything_is_drawn(draw, monkeypatch):
    (first,) = draw(["a"], out="x")
    os.mkdir("locked")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == Path("locked") and not mode & os.W_OK)
    assert draw(["a"], out="x") == [first], "nothing is to be written"
    for target in ({"out": "x"}, {"out": "locked/a.png"}, {"grid": "locked/g.png"}):
        with pytest.raises(CommonArtError, match="the folder is not writable"):
            draw(["b"], **target)
    assert len(files()) == 1
