"""Who is attacked: both sides are cleaned by the same rule, scenes by their facts, photographs by hash and colours."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commonart.core.audit import groups
from commonart.core.data.blocklist import read_blocklist
from commonart.core.data.images.phash import chroma, phash
from commonart.core.data.record import Record, split_of
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError


def scene(color: str, background: str = "snow") -> dict:
    thing = {"shape": "ring", "color": color, "size": "large", "place": "centre"}
    return {"background": background, "things": [thing]}


def record(key: str, **fields) -> Record:
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    return {"key": key, "sha256": sha256, "image": f"{key}.png", **fields}


def test_scenes_are_twins_where_their_facts_are():
    """Their hashes agree, and a pink square in the desert stays beside a blue ring in the snow."""
    records = [
        record("a", scene=scene("blue"), phash="0f" * 8),
        record("b", scene=scene("pink", "desert"), phash="0f" * 8),
        record("c", scene=scene("blue"), phash="f0" * 8),
        record("d", scene=scene("red"), phash="0f" * 8),
    ]
    assert groups.twins(records).tolist() == [True, False, True, False]


def test_photographs_are_twins_where_hash_and_colours_agree():
    warm, cold = "80" * 18, "40" * 18
    records = [
        record("a", phash="0f" * 8, chroma=warm),
        record("b", phash="0f" * 7 + "0e", chroma="83" * 18),  # one bit and three steps apart
        record("c", phash="0f" * 8, chroma=cold),
        record("d", phash="33" * 8, chroma=warm),
        record("e"),
        {**record("f"), "sha256": record("e")["sha256"]},  # the same file twice
        {"key": "g", "image": "g.png"},
        {"key": "h", "image": "h.png"},
    ]
    assert groups.twins(records).tolist() == [True, True, False, False, True, True, False, False]
    assert groups.twins([]).tolist() == [] and groups.twins(records[:1]).tolist() == [False]


def test_of_older_shards_the_colours_are_looked_at_where_the_hashes_agree(tmp_path):
    def saved(name: str, color: tuple[int, int, int]) -> Record:
        pixels = np.random.default_rng(0).integers(0, 60, (48, 48, 1)) + np.array(color)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        return record(name, image=str(tmp_path / name), phash="0f" * 8)

    red, blue, gone = saved("red.png", (180, 20, 20)), saved("blue.png", (20, 20, 180)), record("gone", phash="0f" * 8)
    assert groups.twins([red, blue]).tolist() == [False, False]
    assert groups.twins([red, blue, {**red, "key": "again", "sha256": "ab" * 32}, gone]).tolist() == [
        True, False, True, False,
    ]  # fmt: skip


def sha256(number: int, split: str) -> str:
    hashes = (hashlib.sha256(f"{number} {attempt}".encode()).hexdigest() for attempt in range(10_000))
    return next(value for value in hashes if split_of(value) == split)


def shards(folder: Path, splits: str, **changes) -> str:
    """Ten pixels wide images, one for each letter of `splits` (t, h); `changes`: fields by key."""
    rng = np.random.default_rng(list(splits.encode()))
    with ShardWriter(folder / "00000.tar") as writer:
        for number, letter in enumerate(splits):
            split = {"t": "train", "h": "heldout"}[letter]
            image = Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8))
            file = io.BytesIO()
            image.save(file, "PNG")
            fields = {
                "captions": [{"text": "a ring", "lang": "en"}], "split": split, "width": 10, "height": 10,
                "phash": phash(image), "chroma": chroma(image),
            }  # fmt: skip
            made = {"key": f"k{number}", "sha256": sha256(number, split), **fields, **changes.get(f"k{number}", {})}
            writer.add_record(made, file.getvalue(), "png")
    return str(folder)


def choose(data: str, **options) -> groups.Groups:
    return groups.choose(
        groups.read_records(data, options.get("works")),
        data,
        **{"n": 100, "lang": None, "seed": 0, "size": 8, **options},
    )


def test_both_sides_are_cleaned_by_one_rule(tmp_path):
    """Two members are twins, two held-out images are, and one of each: all six leave."""
    pair = {name: {"phash": f"{name * 2:0>16}", "chroma": "80" * 18} for name in "369"}
    data = shards(
        tmp_path,
        "tttttttthhhhhhhh",
        k0=pair["3"],
        k1=pair["3"],
        k8=pair["6"],
        k9=pair["6"],
        k2=pair["9"],
        k10=pair["9"],
    )
    found = choose(data)
    assert (len(found.members), len(found.heldout)) == (8, 8), "hashes with so few ones say nothing"
    pair = {
        name: {"phash": digits * 8, "chroma": "80" * 18} for name, digits in (("3", "0f"), ("6", "33"), ("9", "55"))
    }
    data = shards(
        tmp_path / "b", "tttttttthhhhhhhh", k0=pair["3"], k1=pair["3"], k8=pair["6"], k9=pair["6"], k2=pair["9"],
        k10=pair["9"],
    )  # fmt: skip
    found = choose(data)
    assert {item.name for item in found.members} == {f"k{n}" for n in range(3, 8)}
    assert {item.name for item in found.heldout} == {f"k{n}" for n in range(11, 16)}
    assert found.dropped == {"twin": 6}


def test_a_training_image_in_another_language_still_has_its_twin(tmp_path):
    """It is attacked with no Japanese caption, but it was trained on, so its held-out twin is no non-member."""
    japanese = {"captions": [{"text": "輪", "lang": "ja"}]}
    twin = {"phash": "0f" * 8, "chroma": "80" * 18}
    changes = {f"k{n}": japanese for n in (*range(1, 6), *range(7, 12))}
    data = shards(tmp_path, "tttttthhhhhh", **{**changes, "k0": twin, "k7": japanese | twin})
    found = choose(data, lang="ja")
    assert "k7" not in {item.name for item in found.heldout} and len(found.heldout) == 4
    assert found.dropped == {"no_caption": 2, "twin": 1}


def test_features_find_what_the_hash_misses():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 32))
    features[4] = features[1] + 0.1 * rng.normal(size=32)
    assert groups.alike(features / np.linalg.norm(features, axis=1, keepdims=True)).tolist() == [
        False, True, False, False, True, False,
    ]  # fmt: skip


def test_the_order_depends_on_the_seed_alone(tmp_path):
    data = shards(tmp_path, "tttttttttthhhhhhhhhh")
    first, again, other = choose(data, n=5), choose(data, n=5), choose(data, n=5, seed=1)
    assert first == again and [i.name for i in first.members] != [i.name for i in other.members]
    assert len(first.members) == len(first.heldout) == 5
    assert {i.name for i in choose(data, n=4).members} < {i.name for i in first.members}


def test_several_folders_as_train_takes_them(tmp_path):
    a, b = shards(tmp_path / "a", "tttttt"), tmp_path / "b"
    shards(b, "hhhhhh")
    (b / "00000.tar").rename(b / "00001.tar")
    for left in b.glob("00000*"):
        left.unlink()
    found = choose(f"{a},{b}:0.5")
    assert (len(found.members), len(found.heldout)) == (6, 6)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"size": 64}, r"holds 0 images to train on \(left out: 12 smaller than the 64 pixels that the model"),
        ({}, {"lang": "de"}, r"left out: 12 without a caption in 'de'\)"),
        ({f"k{n}": {"captions": []} for n in range(12)}, {}, r"left out: 12 without a caption\)"),
    ],
)
def test_too_few_are_left_and_why(tmp_path, changes, options, message):
    with pytest.raises(CommonArtError, match=message):
        choose(shards(tmp_path, "tttttthhhhhh", **changes), **options)


def test_captions_without_pictures(tmp_path):
    import orjson

    lines = [{"key": f"k{n}", "captions": [{"text": "a ring", "lang": "en"}], "split": "train"} for n in range(5)]
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    with pytest.raises(CommonArtError, match=r"holds 0 images to train on \(left out: 5 without an image\)"):
        choose(str(tmp_path / "records.jsonl"))


def test_what_the_run_left_out_is_no_member(tmp_path):
    found = choose(shards(tmp_path, "tttttthhhhh"), trained=frozenset(["k0", "k1", "k2", "k3", "k4"]))
    assert {item.name for item in found.members} == {"k0", "k1", "k2", "k3", "k4"} and len(found.heldout) == 5
    assert found.dropped == {"not_trained_on": 1}


def test_works_that_are_not_there_are_told(tmp_path, capsys):
    data, listed = shards(tmp_path / "shards", "tttttthhhhh"), tmp_path / "keys.txt"
    listed.write_text("".join(f"key: k{number}\n" for number in (0, 1, 2, 3, 99)))
    found = choose(data, works=read_blocklist(str(listed), "--keys"))
    assert {item.name for item in found.members} == {"k0", "k1", "k2", "k3"}
    assert f"1 of 5 entries of --keys match nothing in {data}." in capsys.readouterr().err


def test_too_few_say_that_the_run_left_some_out(tmp_path):
    with pytest.raises(CommonArtError, match="3 images to train on .left out: 3 that the run left out"):
        choose(shards(tmp_path, "tttttthhhhh"), trained=frozenset(["k0", "k1", "k2"]))
