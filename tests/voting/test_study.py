"""`vote`: which images are matched, and what each voter sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.output import metadata
from commonart.core.voting.study import DEGRADED, Side, open_study, picture


def folder(root: Path, name: str, images: list[tuple[str, str, int | None]]) -> str:
    """A folder of images, each (file, prompt, seed), whose pixels say folder and place."""
    (root / name).mkdir(parents=True)
    for number, (file, prompt, seed) in enumerate(images):
        settings = {"prompt": prompt, **({} if seed is None else {"seed": seed})} if prompt else None
        image = Image.new("RGB", (16, 12), (number, len(name), ord(name[-1])))
        (root / name / file).parent.mkdir(exist_ok=True)
        metadata.save(image, root / name / file, settings=settings)
    return str(root / name)


def test_images_are_matched_by_prompt_and_seed_whatever_their_names(tmp_path):
    a = folder(tmp_path, "a", [("0.png", "red", 1), ("1.png", "red", 2), ("2.png", "blue", 1), ("3.png", "green", 1)])
    b = folder(tmp_path, "b", [("x.png", "red", 2), ("y.png", "blue", 1), ("z.png", "red", 1)])
    study = open_study([a, b])
    assert study.matched_by == "prompt and seed" and study.unmatched == 1 and study.models == ("a", "b")
    assert {(p.prompt, Path(p.first.pointer).name, Path(p.second.pointer).name) for p in study.pairs} == {
        ("red", "0.png", "z.png"), ("red", "1.png", "x.png"), ("blue", "2.png", "y.png"),
    }  # fmt: skip


def test_other_seeds_are_matched_by_prompt_and_no_prompts_by_file_name(tmp_path):
    a = folder(tmp_path, "a", [("0.png", "red", 1), ("1.png", "red", 2), ("2.png", "blue", 3)])
    b = folder(tmp_path, "b", [("9.png", "red", 12), ("8.png", "red", 11), ("7.png", "blue", 3)])
    study = open_study([a, b])
    assert study.matched_by == "prompt"  # one has the same seed, three the same prompt
    assert {(Path(p.first.pointer).name, Path(p.second.pointer).name) for p in study.pairs} == {
        ("0.png", "8.png"), ("1.png", "9.png"), ("2.png", "7.png"),
    }  # fmt: skip
    c = folder(tmp_path, "c", [("en/0.png", "", None), ("ja/0.png", "", None)])
    d = folder(tmp_path, "d", [("en/0.webp", "", None), ("ja/1.webp", "", None)])
    study = open_study([c, d])
    assert study.matched_by == "file name" and [p.prompt for p in study.pairs] == [""] and study.unmatched == 2


def test_three_folders_are_compared_two_by_two(tmp_path):
    folders = [folder(tmp_path, name, [(f"{i}.png", f"p{i}", 0) for i in range(4)]) for name in "abc"]
    study = open_study(folders)
    assert Counter((p.first.model, p.second.model) for p in study.pairs) == {
        ("a", "b"): 4, ("a", "c"): 4, ("b", "c"): 4,
    }  # fmt: skip
    assert len({pair.id for pair in study.pairs}) == 12


def test_every_voter_has_an_order_and_sides_of_their_own_and_checks_in_between(tmp_path):
    names = [(f"{i}.png", f"p{i}", 0) for i in range(40)]
    study = open_study([folder(tmp_path, "a", names), folder(tmp_path, "b", names)])
    ann, bob = study.sequence("ann"), study.sequence("bob")
    assert ann == study.sequence("ann") and [c.id for c in ann] != [c.id for c in bob]
    assert {c.id for c in ann if not c.check} == {c.id for c in bob if not c.check} == {p.id for p in study.pairs}
    sides = Counter(c.left.model for voter in (ann, bob, study.sequence("eve")) for c in voter if not c.check)
    assert set(sides) == {"a", "b"} and 40 <= sides["a"] <= 80
    checks = [c for c in ann if c.check]
    assert [c.id for c in checks] == [f"check-{i}" for i in range(5)]
    for number, check in enumerate(checks):
        assert 10 * number <= ann.index(check) < 10 * number + 10
        assert {check.left.model, check.right.model} in ({"a", DEGRADED}, {"b", DEGRADED})
        assert check.left.pointer == check.right.pointer
    firsts = [next(i for i, c in enumerate(study.sequence(f"v{n}")) if c.check) for n in range(30)]
    assert set(firsts) == {0, 1, 2}, "who stops after three pairs has met one"
    few = open_study([str(tmp_path / "a"), str(tmp_path / "b")], 3).sequence("ann")
    assert sum(not c.check for c in few) == 3 and sum(c.check for c in few) == 1


def test_another_image_is_another_study(tmp_path):
    a, b = (folder(tmp_path, name, [("0.png", "red", 1)]) for name in "ab")
    before = open_study([a, b]).id
    assert before == open_study([a, b]).id == open_study([b, f"{a}/"]).id
    metadata.save(Image.new("RGB", (16, 12)), Path(b, "0.png"), settings={"prompt": "red", "seed": 1}, overwrite=True)
    assert open_study([a, b]).id != before


def test_a_degraded_image_is_far_worse_and_of_the_same_size(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
    image.save(tmp_path / "0.png", text=None)
    broken = picture(Side(DEGRADED, str(tmp_path / "0.png")))
    assert broken.size == image.size and picture(Side("a", str(tmp_path / "0.png"))).tobytes() == image.tobytes()
    # Eight cells across: neighbours hardly differ, but blocks do, by the noise.
    detail = np.abs(np.diff(np.asarray(broken, dtype=float), axis=1)).mean()
    assert detail < 12 < np.asarray(broken, dtype=float).std()


def test_what_cannot_be_compared_is_a_sentence(tmp_path):
    a, b = folder(tmp_path, "a", [("0.png", "red", 1)]), folder(tmp_path, "b", [("1.png", "blue", 1)])
    with pytest.raises(CommonArtError, match="have no images of the same prompt"):
        open_study([a, b])
    with pytest.raises(UsageError, match="at least two folders"):
        open_study([a])
    with pytest.raises(UsageError, match="A folder is named twice"):
        open_study([a, f"{a}/../a"])
    with pytest.raises(CommonArtError, match="holds no images"):
        (tmp_path / "none").mkdir()
        open_study([a, str(tmp_path / "none")])
    assert open_study([a, folder(tmp_path, "other/a", [("0.png", "red", 1)])]).models == (a, str(tmp_path / "other/a"))
