"""The log of what was made: lines of several processes stay whole, and images are found again by bytes, pixels and looks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from commonart.core.errors import CommonArtError
from commonart.core.output import made_log

SETTINGS = {"prompt": "草原", "model": "nano", "revision": "1", "seed": 7, "steps": 20}


def picture(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((96, 96), Image.Resampling.BICUBIC)


def file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def log(tmp_path) -> str:
    path = str(tmp_path / "made.jsonl")
    for seed in range(5):
        made_log.append(path, file(picture(seed)), {**SETTINGS, "seed": seed}, private=False)
    return path


def test_a_line_says_what_was_made(log):
    first = json.loads(Path(log).read_bytes().splitlines()[0])
    assert (first["prompt"], first["model"], first["revision"], first["seed"]) == ("草原", "nano", "1", 0)
    assert first["sha256"] == hashlib.sha256(file(picture(0))).hexdigest()
    assert first["time"].endswith("Z") and "steps" not in first
    assert os.stat(log).st_mode & 0o77 == 0, "prompts are nobody else's"


def test_a_private_line_holds_no_prompt(tmp_path):
    path = str(tmp_path / "made.jsonl")
    made_log.append(path, file(picture(0)), SETTINGS, private=True)
    line = Path(path).read_text("utf-8")
    assert "草原" not in line and len(json.loads(line)["prompt_sha256"]) == 64


def test_bytes_pixels_and_looks(log):
    image = picture(3)
    for data, how in (
        (file(image), "file"),
        (file(image, compress_level=1), "pixels"),
        (file(image, "JPEG", quality=80), "near"),
        (file(ImageEnhance.Brightness(image.resize((48, 48))).enhance(1.02)), "near"),
        (file(picture(9)), "none"),
    ):
        found = made_log.find(log, data)
        assert found.how == how and (how == "none") == (not found.entries)
        assert all(entry["seed"] == 3 for entry in found.entries)


def test_flat_images_are_alike_only_when_they_are_the_same(log):
    white = Image.new("RGB", (64, 64), "white")
    made_log.append(log, file(white), SETTINGS, private=False)
    assert made_log.find(log, file(Image.new("RGB", (80, 80), "white"))).how == "none"
    assert made_log.find(log, file(white)).how == "file"


def test_a_line_that_was_cut_short_costs_no_other(log):
    with open(log, "ab") as half:
        half.write(b'{"sha256":"ab')
    made_log.append(log, file(picture(8)), SETTINGS, private=False)
    found = made_log.find(log, file(picture(8)))
    assert (found.how, found.damaged, found.lines) == ("file", 1, 7)


def test_lines_of_several_processes_stay_whole(tmp_path):
    code = (
        "import sys, test_made_log as t\n"
        "for n in range(50): t.made_log.append(sys.argv[1], t.file(t.picture(n)), {**t.SETTINGS, 'prompt': 'x' * 5000}, False)"
    )
    path, here = str(tmp_path / "made.jsonl"), os.path.dirname(__file__)
    started = [subprocess.Popen([sys.executable, "-c", code, path], cwd=here) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    found = made_log.find(path, file(picture(0)))
    assert (found.lines, found.damaged, len(found.entries)) == (150, 0, 3)


def test_what_cannot_be_written_or_read_is_named(tmp_path):
    with pytest.raises(CommonArtError, match=r"--log .*none/made\.jsonl cannot be written"):
        made_log.check(str(tmp_path / "none" / "made.jsonl"))
    with pytest.raises(CommonArtError, match=r"--log /dev/full cannot be written \(No space left"):
        made_log.append("/dev/full", file(picture(0)), SETTINGS, private=False)
    with pytest.raises(CommonArtError, match="cannot be read"):
        made_log.find(str(tmp_path / "made.jsonl"), file(picture(0)))
