"""Near-duplicates: the search against comparing all with all; the lists against tasks that come, go and meet."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import bits_apart
from PIL import Image, ImageEnhance

from commonart.core.data.images import dedup
from commonart.core.data.images.dedup import Copies, Prints, find_copies
from commonart.core.data.images.phash import (
    CHROMA,
    NEAR,
    TELLING,
    chroma,
    chroma_values,
    colors_alike,
    copies,
    fingerprint,
    phash,
)
from commonart.core.data.record import Record
from commonart.core.data.shards.chunks import Chunk
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError
from commonart.core.nano.scenes import render, scene_from_json

ONLY = Task(0, 1)


def by_hand(prints: list[int]) -> list[int]:
    """What `copies` says, by comparing each with all that are kept before it."""
    found: list[int] = []
    for row, value in enumerate(prints):
        same = (k for k in range(row) if found[k] < 0 and prints[k] and (value ^ prints[k]).bit_count() <= NEAR)
        found.append(next(same, -1) if value else -1)
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0x0123456789ABCDEF, 0xFEDCBA9876543210, 2**63]),
                       st.lists(st.integers(0, 63), max_size=6)), max_size=40),
    st.sampled_from([3, 7, 1000]),
)  # fmt: skip
def test_the_search_finds_what_comparing_all_finds(clusters: list[tuple[int, list[int]]], part: int) -> None:
    prints = [base ^ sum({1 << bit for bit in bits}) if base else 0 for base, bits in clusters]
    assert copies(np.array(prints, dtype=np.uint64), part=part).tolist() == by_hand(prints)


def test_what_comes_later_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    prints = rng.integers(1, 2**64, 300, dtype=np.uint64)
    prints[100:] = prints[rng.integers(0, 100, 200)] ^ (np.uint64(1) << rng.integers(0, 64, 200).astype(np.uint64))
    whole = copies(prints)
    assert (whole >= 0).sum() >= 200
    for cut in (0, 1, 99, 150, 299):
        assert copies(prints[:cut]).tolist() == whole[:cut].tolist()


def test_random_hashes_have_no_copies() -> None:
    """Chance finds none among 10^5 hashes (odds 10^-4), so what is found is meant."""
    prints = np.random.default_rng(2).integers(1, 2**64, 100_000, dtype=np.uint64)
    assert (copies(prints) < 0).all()


def alike(a: Image.Image, b: Image.Image) -> bool:
    return bool(colors_alike(chroma_values(chroma(a))[None], chroma_values(chroma(b))[None])[0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 3, 0xFEDCBA9876543210]), st.integers(0, 3)), max_size=30))
def test_copies_have_colours_in_common(rows: list[tuple[int, int]]) -> None:
    prints = np.array([value for value, _ in rows], dtype=np.uint64)
    colors = np.array([[60 * color + 20] * CHROMA for _, color in rows], dtype=np.uint8).reshape(-1, CHROMA)
    expected: list[int] = []
    for row, (value, color) in enumerate(rows):
        same = (
            k
            for k in range(row)
            if expected[k] < 0 and rows[k][0] and rows[k][1] == color and (value ^ rows[k][0]).bit_count() <= NEAR
        )
        expected.append(next(same, -1) if value else -1)
    assert copies(prints, colors, part=7).tolist() == expected


def test_a_pink_square_in_the_desert_is_no_copy_of_a_blue_ring_in_the_snow() -> None:
    """The hash sees no colour: these two, of quickstart, differ in as few bits as copies do."""

    def scene(background: str, shape: str, color: str) -> Image.Image:
        thing = {"shape": shape, "color": color, "size": "large", "place": "centre"}
        return Image.fromarray(render(scene_from_json({"background": background, "things": [thing]}), 64))

    pink, blue = scene("desert", "square", "pink"), scene("snow", "square", "blue")
    assert bits_apart(phash(pink), phash(blue)) <= NEAR and not alike(pink, blue)
    assert alike(pink, again(pink, 40)) and alike(blue, blue.resize((200, 200)))
    both = np.array([int(phash(image), 16) for image in (pink, blue)], dtype=np.uint64)
    assert copies(both).tolist() == [-1, 0]
    assert copies(both, np.array([chroma_values(chroma(image)) for image in (pink, blue)])).tolist() == [-1, -1]


def test_colours_survive_what_copies_go_through() -> None:
    for image in (photograph(seed) for seed in range(20)):
        for copy in (
            again(image, 30),
            image.resize((160, 120)),
            ImageEnhance.Contrast(image).enhance(0.8),
            ImageEnhance.Brightness(image).enhance(0.9),
            ImageEnhance.Color(image).enhance(0.85),
        ):
            assert alike(image, copy)
    assert not alike(photograph(0), photograph(1))
    assert chroma_values("ff").tolist() == chroma_values("no hex").tolist() == [128] * CHROMA


def photograph(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Soft shapes at four scales, as photographs have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells, strength in ((3, 90), (9, 50), (40, 25), (160, 12)):
        coarse = Image.fromarray((rng.random((cells, cells + 1, 3)) * 255).astype(np.uint8))
        total += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) - 128) * strength / 128
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


def again(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def test_copies_are_near_and_others_far() -> None:
    originals = [photograph(seed) for seed in range(30)]
    hashes = [phash(image) for image in originals]
    for image, own in zip(originals, hashes, strict=True):
        for copy in (
            again(image, 30),
            image.resize((160, 120)),
            image.resize((900, 675)),
            ImageEnhance.Contrast(image).enhance(0.8),
        ):
            assert bits_apart(own, phash(copy)) <= NEAR
    apart = [bits_apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 3 * NEAR


def test_flat_pictures_are_compared_by_their_bytes() -> None:
    """All white pages have one perceptual hash; only the same file is a copy."""
    white, grey = (phash(Image.new("RGB", (64, 64), color)) for color in ("white", "grey"))
    assert white == grey and int(white, 16).bit_count() < TELLING
    assert fingerprint(white, "ab" * 32) == int("ab" * 8, 16)
    assert fingerprint("", "00" * 32) == 1 and fingerprint("no hash at all!!", "ab" * 32) == int("ab" * 8, 16)
    telling = phash(photograph(1))
    assert fingerprint(telling, "ab" * 32) == int(telling, 16)


def source(count: int = 10, each: int = 7) -> list[Chunk]:
    """Shards of records whose `print` repeats: record n looks like record n % 30."""
    numbers = [range(n * each, (n + 1) * each) for n in range(count)]
    return [
        Chunk(
            f"{n:05d}",
            [{"key": f"k{i}", "print": 977 * (i % 30 + 1) * 0x9E3779B97F4A7C15 % 2**64} for i in part],
            partial(str, f"identity{n}"),
        )
        for n, part in enumerate(numbers)
    ]


class Counted:
    """Fingerprints, counting how often each record was looked at."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, records: Iterable[Record]) -> Iterator[Prints]:
        for record in records:
            self.seen.append(record["key"])
            yield record, record["print"], chroma_values("")


def found(folder: Path, prints: Counted, task: Task = ONLY, made: int = 1) -> Copies:
    return find_copies(source, folder, prints, settings={"made": made}, task=task, tick=lambda: None)


def names(result: Copies) -> dict[str, str | None]:
    return {f"k{i}": result.of(f"k{i}") for i in range(70)}


EXPECTED = {f"k{i}": f"k{i % 30}" if i >= 30 else None for i in range(70)}


def test_copies_by_key_across_shards(tmp_path: Path) -> None:
    prints = Counted()
    result = found(tmp_path, prints)
    assert len(result) == 40 and names(result) == EXPECTED and result.of("unknown") is None
    assert found(tmp_path, again := Counted()).of("k69") == "k9" and not again.seen  # the lists are there
    (tmp_path / "00003.safetensors").unlink()
    assert names(found(tmp_path, again)) == EXPECTED and again.seen == [f"k{i}" for i in range(21, 28)]
    (tmp_path / "00003.safetensors").write_bytes(b"damaged")
    assert names(found(tmp_path, again)) == EXPECTED and len(again.seen) == 14
    assert len(found(tmp_path, other := Counted(), made=2)) == 40 and len(other.seen) == 70  # other settings


@pytest.mark.parametrize("count", [2, 3, 16])
def test_tasks_one_after_the_other_share_the_work(tmp_path: Path, count: int) -> None:
    """The first alone makes all lists, none waits, and each says the same."""
    looked = []
    for index in range(count):
        prints = Counted()
        assert names(found(tmp_path, prints, Task(index, count))) == EXPECTED
        looked.append(len(prints.seen))
    assert looked == [70, *[0] * (count - 1)]


def test_tasks_at_the_same_time(tmp_path: Path) -> None:
    results: dict[int, dict[str, str | None]] = {}

    def work(index: int) -> None:
        results[index] = names(found(tmp_path, Counted(), Task(index, 4)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), EXPECTED)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:05d}.safetensors" for n in range(10)]


def test_nothing_at_all(tmp_path: Path) -> None:
    none = find_copies(lambda: [], tmp_path, Counted(), settings={}, task=ONLY, tick=lambda: None)
    assert len(none) == 0 and none.of("k") is None
    one = find_copies(lambda: [Chunk("00000", [], str)], tmp_path, Counted(), settings={}, task=ONLY, tick=lambda: None)
    assert len(one) == 0


def test_a_list_that_vanishes_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "_ensure", lambda *args: None)
    with pytest.raises(CommonArtError, match=r"00000\.safetensors cannot be read"):
        found(tmp_path, Counted())
