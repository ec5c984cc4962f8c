"""The index of training data: one or several sets, columns instead of records, and what cannot be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.training_index import data_sets, read_index
from commonart.core.data.training_rows import Index, KeyColumn
from commonart.core.errors import CommonArtError, UsageError


def shard(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """One shard; a record without captions says so with `captions: []`."""
    with ShardWriter(path) as writer:
        for record in records:
            said = [{"text": f"{record['key']} as it is", "lang": "en"}]
            writer.add_record(
                {"captions": said, "license": "CC0-1.0", **record}, f"pixels of {record['key']}".encode(), "jpg"
            )
    return path.parent


def of(index: Index) -> list[list[tuple[float, list[str]]]]:
    """Buckets by the keys in them."""
    whole = range(len(index.keys))
    return [
        [(part.weight, [index.keys[row] for row in (whole if part.rows is None else part.rows)]) for part in parts]
        for parts in index.buckets()
    ]


def test_rows_are_read_where_they_lie(tmp_path: Path) -> None:
    shard(tmp_path / "00000.tar", [{"key": "a"}, {"key": "b", "split": "heldout"}, {"key": "c", "captions": []}])
    shard(tmp_path / "00001.tar", [{"key": "d", "extra": 3}])
    index = read_index(tmp_path)
    assert list(index.keys) == ["a", "d"] and (index.heldout, index.left_out) == (1, {"no_captions": 1})
    assert index.record(1)["extra"] == 3 and index.texts(0) == ["a as it is"]
    assert (index.image(0), index.image(1)) == (b"pixels of a", b"pixels of d")
    assert index.name(1) == f"{tmp_path}/00001.tar#d"
    assert index.prompts(2) == ["b as it is"]  # of the held-out one
    about = index.describe(index.caption_odds())
    assert (about["images"], about["captions"], about["shards"]) == (2, 2, 2) and orjson.dumps(about)


def test_buckets_are_sizes_and_sets_weigh(tmp_path: Path) -> None:
    wide, tall = {"width": 48, "height": 16}, {"width": 16, "height": 48}
    a = shard(tmp_path / "a" / "00000.tar", [{"key": "a0", **wide}, {"key": "a1", **tall}, {"key": "a2", **wide}])
    b = shard(tmp_path / "b" / "00000.tar", [{"key": "b0", **tall}])
    assert of(read_index(a)) == [[(1.0, ["a1"])], [(1.0, ["a0", "a2"])]]
    both = read_index(f"{a},{b}:0.5")
    assert of(both) == [[(1.0, ["a1"]), (0.5, ["b0"])], [(1.0, ["a0", "a2"])]]
    assert both.folder == f"{a},{b}:0.5" and both.texts(3) == ["b0 as it is"]
    assert len({read_index(d).fingerprint for d in (a, b, f"{a},{b}", f"{a},{b}:0.5", f"{b},{a}")}) == 5


def test_one_size_in_one_set_is_one_bucket(tmp_path: Path) -> None:
    index = read_index(shard(tmp_path / "00000.tar", [{"key": f"k{n}", "width": 8, "height": 8} for n in range(3)]))
    assert [[(part.count, part.rows) for part in parts] for parts in index.buckets()] == [[(3, None)]]


def test_rows_that_are_left_out_are_counted_and_gone(tmp_path: Path) -> None:
    two = [{"text": "x", "lang": "en"}, {"text": "y", "lang": "ja"}]
    index = read_index(shard(tmp_path / "00000.tar", [{"key": "a"}, {"key": "b", "captions": two}, {"key": "c"}]))
    index.keep(np.array([False, True, True]), "no_latents")
    assert list(index.keys) == ["b", "c"] and index.left_out == {"no_latents": 1}
    assert index.offsets.tolist() == [0, 2, 3] and index.texts(0) == ["x", "y"]
    index.keep(np.array([True, True]), "no_latents")
    assert index.left_out == {"no_latents": 1}


def test_languages_by_weight(tmp_path: Path) -> None:
    def said(*langs: str) -> list[dict[str, str]]:
        return [{"text": "x", "lang": lang} for lang in langs]

    records = [
        {"key": "a", "captions": said("en", "ja", "en")}, {"key": "b", "captions": said("en")},
        {"key": "c", "captions": said("fr", "fr")},
    ]  # fmt: skip
    index = read_index(shard(tmp_path / "00000.tar", records))
    assert index.caption_odds().tolist() == [1] * 6
    mix = {"en": 1.0, "ja": 3.0}
    assert index.has_language(mix).tolist() == [True, True, False] and index.has_language({"ja": 1}).tolist() == [
        True,
        False,
        False,
    ]
    with pytest.raises(CommonArtError, match="--language jp: no caption") as told:
        index.has_language({"en": 1, "jp": 1})
    assert "en, fr, ja" in told.value.fix
    index.keep(index.has_language(mix), "no_caption_in_language")
    # Half of a's weight for English is each of its English captions'.
    assert index.caption_odds(mix).tolist() == [0.5, 3, 0.5, 1] and index.left_out == {"no_caption_in_language": 1}


def test_lengths_by_weight(tmp_path: Path) -> None:
    """Within an image and language; several captions of a length share its weight; where none has one, all are alike."""

    def said(*kinds: str) -> list[dict[str, str]]:
        pairs = [kind.split() for kind in kinds]
        return [{"text": "x", "lang": pair[0], **({"length": pair[1]} if len(pair) > 1 else {})} for pair in pairs]

    records = [
        {"key": "a", "captions": said("en long", "en short", "en long", "en")},
        {"key": "b", "captions": said("en", "en")},
        {"key": "c", "captions": said("en long", "en short", "ja short")},
    ]
    folder = shard(tmp_path / "00000.tar", records)
    index = read_index(folder)
    mix = {"long": 3.0, "short": 1.0}
    assert index.caption_odds(lengths=mix).tolist() == pytest.approx(
        [0.375, 0.25, 0.375, 0, 0.5, 0.5, 0.75, 0.125, 0.125]
    )
    both = index.caption_odds({"en": 1, "ja": 1}, mix).tolist()
    assert both == pytest.approx([0.375, 0.25, 0.375, 0, 0.5, 0.5, 0.75, 0.25, 1])
    assert index.caption_odds(lengths={"long": 1}).tolist() == pytest.approx([0.5, 0, 0.5, 0, 0.5, 0.5, 1, 0, 0])
    index.keep(np.array([False, True, False]), "no_latents")
    with pytest.raises(CommonArtError, match="--caption-length: no caption in .* says that it is long or short"):
        index.caption_odds(lengths=mix)


def test_a_record_that_says_another_split_than_its_hash_is_left_out(tmp_path: Path) -> None:
    said = [{"text": "x", "lang": "en"}]
    records = [
        {"key": "a", "captions": said, "sha256": f"{5:08x}" + "0" * 56, "split": "train"},
        {"key": "b", "captions": said, "sha256": "0" * 64, "split": "train"},  # whose hash holds it out
        {"key": "c", "captions": said, "sha256": "0" * 64},
    ]  # fmt: skip
    index = read_index(shard(tmp_path / "00000.tar", records))
    assert list(index.keys) == ["a"] and index.left_out == {"split_conflict": 1} and index.heldout == 1


def test_two_records_with_one_key(tmp_path: Path) -> None:
    a = shard(tmp_path / "a" / "00000.tar", [{"key": "k1"}, {"key": "k2"}])
    b = shard(tmp_path / "b" / "00000.tar", [{"key": "k2"}])
    with pytest.raises(CommonArtError, match=r"b/00000\.tar#k2\.json: .*a/00000\.tar has a record with this key"):
        read_index(f"{a},{b}")


def test_several_sets_are_named_with_weights(tmp_path: Path) -> None:
    for name in ("a", "b", "c:2", "d,e"):
        (tmp_path / name).mkdir()
    a, b = tmp_path / "a", tmp_path / "b"
    assert data_sets(a) == [(a, 1.0)]
    assert data_sets(f"{a}, {b}:0.25") == [(a, 1.0), (b, 0.25)]
    assert data_sets(tmp_path / "c:2") == [(tmp_path / "c:2", 1.0)]  # a folder's own name goes first
    assert data_sets(tmp_path / "d,e") == [(tmp_path / "d,e", 1.0)]
    for weight in ("0", "-1", "x", "nan", "inf"):
        with pytest.raises(UsageError, match=f"'{weight}' is not a weight"):
            data_sets(f"{a}:{weight}")
    with pytest.raises(CommonArtError, match="nowhere does not exist"):
        data_sets(f"{a},{tmp_path / 'nowhere'}")
    with pytest.raises(CommonArtError, match="twice"):
        data_sets(f"{a},{a}/:2")


def test_a_million_keys_are_a_block_of_bytes() -> None:
    keys = KeyColumn(f"commoncatalog_{n:07d}" for n in range(100_000))
    assert (
        len(keys) == 100_000
        and keys[99_999] == "commoncatalog_0099999"
        and keys[np.int64(3)] == "commoncatalog_0000003"
    )
    assert len(keys._text) == 21 * 100_000
    with pytest.raises(IndexError):
        keys[100_000]
