"""Which images a call makes: their names, and which of them exist already."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from commonart.core.data.files import temporary_path
from commonart.core.errors import UsageError
from commonart.core.generation.outputs import PlannedImage, find_finished, plan
from commonart.core.generation.prompts import from_values
from commonart.core.output import metadata


def planned(prompts: list, out: str = "images/", **options) -> list[PlannedImage]:
    asked = list(from_values(prompts))
    return plan(asked, {"model": "x"}, **{"seed": 0, "n": 1, "out": out, "ending": "png", **options})


def test_a_long_japanese_prompt_has_a_name_that_a_file_system_takes():
    (image,) = planned(["円" * 5000])
    assert image.path is not None and len(image.path.name.encode()) < 255


def test_what_is_there_is_known_by_its_marks(tmp_path):
    one, two, three = images = planned(["a", "b", "c"], f"{tmp_path}/x/")
    assert find_finished(images, overwrite=False, with_settings=True) == set() and Path(f"{tmp_path}/x").is_dir()
    metadata.save(Image.new("RGB", (8, 8)), str(one.path), settings=one.settings)
    assert find_finished(images, overwrite=False, with_settings=True) == {one.name}
    assert find_finished(images, overwrite=True, with_settings=True) == set()
    metadata.save(Image.new("RGB", (8, 8)), str(two.path), settings=three.settings)
    with pytest.raises(UsageError, match="already exists"):
        find_finished(images, overwrite=False, with_settings=True)


def test_a_folder_is_listed_once_and_not_at_each_picture(tmp_path, monkeypatch):
    """To list 30,000 files takes 20 ms. What a killed run left there is removed all the same."""
    images = planned(["a", "b", "c"], f"{tmp_path}/")
    left = tmp_path / temporary_path(str(images[0].path)).name.replace(f"-{os.getpid()}-", "-999999999-")
    left.write_bytes(b"half")
    listed: list[str] = []
    original = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(str(folder)) or original(folder))
    find_finished(images, overwrite=False, with_settings=True)
    assert not left.exists()
    for image in images:
        metadata.save(Image.new("RGB", (8, 8)), str(image.path), settings=image.settings, cleaned=True)
    assert listed == [str(tmp_path)] and len(list(tmp_path.glob(".*.part"))) == 0


@pytest.mark.slow
def test_a_batch_of_30000_is_found_again_at_once(tmp_path):
    """Each file's marks are read. The files are one small picture under 30,000 names: keys differ, settings do not."""
    images = planned([{"key": f"k{i:05d}", "prompt": "a"} for i in range(30_000)], f"{tmp_path}/x/")
    first = images[0]
    (tmp_path / "x").mkdir()
    metadata.save(Image.new("RGB", (8, 8)), str(first.path), settings=first.settings)
    for image in images[1:-1]:  # the last one is missing
        os.link(str(first.path), str(image.path))
    started = time.process_time()
    finished = find_finished(images, overwrite=False, with_settings=True)
    assert len(finished) == 29_999 and images[-1].name not in finished
    assert time.process_time() - started < 60  # 6 s on one core at rest
