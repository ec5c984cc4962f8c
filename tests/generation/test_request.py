"""What is to be drawn: sizes, names, and what is there already."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from commonart.core.data.files import temporary_path
from commonart.core.data.images.aspect_buckets import bucket_sizes
from commonart.core.errors import UsageError
from commonart.core.generation.prompts import given
from commonart.core.generation.request import Picture, already_drawn, pixels, plan
from commonart.core.output import metadata


def planned(prompts: list, out: str = "pictures/", **options) -> list[Picture]:
    return plan(list(given(prompts)), {"model": "x"}, **{"seed": 0, "n": 1, "out": out, "ending": "png", **options})


def test_size_names_the_nearest():
    assert pixels("640x384", 512, 16) == (640, 384)
    assert pixels(None, 512, 16) == (512, 512)
    with pytest.raises(UsageError) as error:
        pixels("500x1", 512, 16)
    assert "496x16" in error.value.fix or "512x16" in error.value.fix


def test_an_aspect_takes_the_nearest_bucket():
    """PixArt-Sigma's at 512 px: steps of 32 pixels, from 256x1024 to 1024x256."""
    assert pixels(None, 512, 16, "1:1") == (512, 512)
    assert pixels(None, 512, 16, "3:2") == (608, 416) and pixels(None, 512, 16, "2:3") == (416, 608)
    assert pixels(512, 256, 16, "16:9") == (672, 384) and pixels(None, 512, 16, "4:1") == (1024, 256)
    for ratio in ("9:1", "1:100"):
        with pytest.raises(UsageError, match=f"--aspect {ratio}: models are trained from 1:4 to 4:1"):
            pixels(None, 512, 16, ratio)
    assert pixels(None, 32, 8, "2:1") == (40, 24)
    for ratio in ("4:3", "1:3", "21:9"):
        width, height = pixels("512", 512, 16, ratio)
        assert not width % 32 and not height % 32 and 0.8 < width * height / 512**2 < 1.2


@pytest.mark.parametrize(("size", "multiple"), [(64, 8), (256, 16), (512, 16), (1024, 16), (512, 8)])
def test_an_aspect_gives_a_size_that_shards_are_cut_to(size: int, multiple: int):
    given = {f"{across}:{down}" for across in range(1, 41) for down in range(1, 41) if 1 / 4 <= across / down <= 4}
    assert {pixels(None, size, multiple, aspect) for aspect in given} <= set(bucket_sizes(size))


def test_a_long_japanese_prompt_has_a_name_that_a_file_system_takes():
    (picture,) = planned(["円" * 5000])
    assert picture.path is not None and len(picture.path.name.encode()) < 255


def test_what_is_there_is_known_by_its_marks(tmp_path):
    one, two, three = pictures = planned(["a", "b", "c"], f"{tmp_path}/x/")
    assert already_drawn(pictures, overwrite=False, metadata=True) == set() and Path(f"{tmp_path}/x").is_dir()
    metadata.save(Image.new("RGB", (8, 8)), str(one.path), settings=one.settings)
    assert already_drawn(pictures, overwrite=False, metadata=True) == {one.name}
    assert already_drawn(pictures, overwrite=True, metadata=True) == set()
    metadata.save(Image.new("RGB", (8, 8)), str(two.path), settings=three.settings)
    with pytest.raises(UsageError, match="this file is there already"):
        already_drawn(pictures, overwrite=False, metadata=True)


def test_a_folder_is_listed_once_and_not_at_each_picture(tmp_path, monkeypatch):
    """To list 30,000 files takes 20 ms. What a killed run left there is removed all the same."""
    pictures = planned(["a", "b", "c"], f"{tmp_path}/")
    left = tmp_path / temporary_path(str(pictures[0].path)).name.replace(f"-{os.getpid()}-", "-999999999-")
    left.write_bytes(b"half")
    listed: list[str] = []
    original = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(str(folder)) or original(folder))
    already_drawn(pictures, overwrite=False, metadata=True)
    assert not left.exists()
    for picture in pictures:
        metadata.save(Image.new("RGB", (8, 8)), str(picture.path), settings=picture.settings, cleaned=True)
    assert listed == [str(tmp_path)] and len(list(tmp_path.glob(".*.part"))) == 0


@pytest.mark.slow
def test_a_batch_of_30000_is_found_again_at_once(tmp_path):
    """Each file's marks are read. The files are one small picture under 30,000 names: keys differ, settings do not."""
    pictures = planned([{"key": f"k{i:05d}", "prompt": "a"} for i in range(30_000)], f"{tmp_path}/x/")
    first = pictures[0]
    (tmp_path / "x").mkdir()
    metadata.save(Image.new("RGB", (8, 8)), str(first.path), settings=first.settings)
    for picture in pictures[1:-1]:  # the last one is missing
        os.link(str(first.path), str(picture.path))
    started = time.process_time()
    there = already_drawn(pictures, overwrite=False, metadata=True)
    assert len(there) == 29_999 and pictures[-1].name not in there
    assert time.process_time() - started < 60  # 6 s on one core at rest
