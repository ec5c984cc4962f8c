"""The schema: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonart.core.data.record import (
    Record,
    add_caption,
    all_fit,
    captions,
    check,
    make_key,
    rebase,
    split_of,
    split_pointer,
)
from commonart.core.errors import SchemaError

FULL = {
    "key": "coco2017_000000397133",
    "image": "raw/00000.tar#coco2017_000000397133.jpg",
    "source": "coco2017",
    "license": "CC-BY-2.0",
    "license_basis": "licence",
    "opt_out": [],
    "width": 640,
    "height": 427,
    "sha256": "0" * 64,
    "split": "train",
    "captions": [{"text": "an elephant", "lang": "en", "model": "florence2"}],
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_full_record_passes_unchanged() -> None:
    before = {**FULL, "anything": {"else": [1, None]}}
    assert check(dict(before), "f", 1) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key": None}, "f.jsonl:7: field 'key' is missing."),
        ({"key": 5}, "f.jsonl:7: field 'key' must be a string."),
        ({"key": "a.b"}, "f.jsonl:7: field 'key' may hold only A-Z a-z 0-9 _ - (1 to 200 of them), not 'a.b'."),
        ({"key": ""}, "f.jsonl:7: field 'key' may hold only A-Z a-z 0-9 _ - (1 to 200 of them), not ''."),
        ({"key": "é"}, "f.jsonl:7: field 'key' may hold only A-Z a-z 0-9 _ - (1 to 200 of them), not 'é'."),
        ({"key": "a\n"}, "f.jsonl:7: field 'key' may hold only A-Z a-z 0-9 _ - (1 to 200 of them), not 'a\\n'."),
        ({"image": 3}, "f.jsonl:7: field 'image' must be a string."),
        ({"width": 0}, "f.jsonl:7: field 'width' must be a positive whole number."),
        ({"width": "640"}, "f.jsonl:7: field 'width' must be a positive whole number."),
        ({"height": True}, "f.jsonl:7: field 'height' must be a positive whole number."),
        ({"split": "test"}, "f.jsonl:7: field 'split' must be one of train, heldout, not 'test'."),
        ({"sha256": "abc"}, "f.jsonl:7: field 'sha256' must be 64 hexadecimal digits."),
        ({"opt_out": "noai"}, "f.jsonl:7: field 'opt_out' must be a list of strings."),
        ({"captions": "a dog"}, "f.jsonl:7: field 'captions' must be a list."),
        ({"captions": ["a dog"]}, "f.jsonl:7: field 'captions' must hold objects, not str at 0."),
        ({"captions": [{"lang": "en"}]}, "f.jsonl:7: field 'captions' must hold a string in 'text' at 0."),
    ],
)
def test_each_broken_field_is_named(change: dict, sentence: str) -> None:
    with pytest.raises(SchemaError) as error:
        check({**FULL, **change}, "f.jsonl", 7)
    assert error.value.what == sentence
    assert error.value.code == 1


@pytest.mark.parametrize("value", [[], "text", 3, None])
def test_a_record_is_an_object(value: object) -> None:
    with pytest.raises(SchemaError, match="must be a JSON object"):
        check(value, "f", 1)


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(sorted(FULL)), json_values, max_size=8))
def test_any_object_passes_whole_or_is_a_schema_error(value: dict) -> None:
    before = dict(value)
    try:
        after = check(value, "f", 1)
    except SchemaError as error:
        assert error.field in {*FULL, "license_url", "title", "phash", "mime", "author"}
    else:
        assert after == before
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,200}", after["key"])


def test_what_fits_together_fits_alone() -> None:
    assert all_fit([FULL, {**FULL, "key": "b"}]) and all_fit([{"key": "a"}])
    assert not all_fit([{**FULL, "anything": {"else": [1, None]}}])  # it may be too deep: that is looked at alone
    assert not all_fit([FULL, {k: v for k, v in FULL.items() if k != "width"}]) and not all_fit([[], []])

    @given(st.sampled_from([*sorted(FULL), "title", "row"]), json_values)
    def changed(field: str, value: object) -> None:
        record = {**FULL, field: value}
        if all_fit([{**FULL, field: FULL.get(field, "")}, record]):
            assert check(record, "f", 1) is record

    changed()


@pytest.mark.parametrize("change", [{"key": "a.b"}, {"key": ""}, {"key": "a" * 201}, {"width": 0}, {"height": True}, {"split": "x"},
    {"sha256": "g" * 64}, {"opt_out": [1]}, {"captions": [{"lang": "en"}]}, {"captions": [{"text": "", "lang": 1}]},
    {"captions": [{"text": "", "x": [[]]}]}, {"license_basis": "no"}, {"title": None}])  # fmt: skip
def test_what_does_not_fit_is_not_among_what_fits_together(change: dict) -> None:
    assert not all_fit([{**FULL, "title": ""}, {**FULL, "title": "", **change}])


@given(st.text(max_size=40), st.text(max_size=300))
def test_made_keys_are_valid_and_differ(source: str, source_id: str) -> None:
    key = make_key(source, source_id)
    assert check({"key": key}, "f", 1)["key"] == key
    assert key == make_key(source, source_id)
    assert key != make_key(source, source_id + "x")


def test_split_holds_out_about_five_percent() -> None:
    import hashlib

    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(20_000)]
    share = sum(split_of(h) == "heldout" for h in hashes) / len(hashes)
    assert 0.045 < share < 0.055


def test_captions_are_added_and_found_by_language() -> None:
    record = {"key": "a"}
    add_caption(record, "a dog", lang="en", model="m", revision="r", license="MIT")
    add_caption(record, "犬", lang="ja", model="t", revision="r", license="MIT", translated_from="m")
    assert [c["text"] for c in captions(record, "ja")] == ["犬"]
    assert len(captions(record)) == 2
    assert check(record, "f", 1)["captions"][1]["translated_from"] == "m"


@pytest.mark.parametrize(
    ("pointer", "parts"),
    [
        ("raw/0.tar#k.jpg", ("raw/0.tar", "k.jpg")),
        ("photos/me #1.jpg", ("photos/me #1.jpg", None)),
        ("a.tar", ("a.tar", None)),
    ],
)
def test_pointers_split_at_the_tar(pointer: str, parts: tuple) -> None:
    assert split_pointer(pointer) == parts


names = st.text("abc.#", min_size=1, max_size=6).filter(lambda s: s not in {".", ".."})
folders = st.lists(names, max_size=3).map("/".join)


@given(names, folders, folders)
def test_rebasing_keeps_what_a_pointer_means(name: str, old: str, new: str) -> None:
    moved = rebase(name, old, new)
    assert os.path.normpath(os.path.join(new, moved)) == os.path.normpath(os.path.join(old, name))


def test_absolute_pointers_stay() -> None:
    assert rebase("/data/0.tar#k.jpg", "a", "b") == "/data/0.tar#k.jpg"
    assert rebase("0.tar#k.jpg", "raw", "out") == "../raw/0.tar#k.jpg"


@pytest.mark.parametrize(
    ("text", "words"),
    [("a man's red-and-white dog, 35 m away!", 7), ("犬が公園で走っている。", 6), ("赤い円と青い四角", 7),
     ("2本のBananaがある", 5), ("コーヒー", 1), ("...", 0), ("", 0)],
)  # fmt: skip
def test_words_of_a_caption_are_counted(text: str, words: int) -> None:
    """Between spaces and punctuation; Japanese by runs of one script."""
    record: Record = {"key": "k"}
    add_caption(record, text, lang="en", model="m", revision="r", license="MIT", length="short")
    assert record["captions"][0]["words"] == words and record["captions"][0]["length"] == "short"
