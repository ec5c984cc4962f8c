"""The captions that a captioner is trained on: which ones may be taken, and what becomes of the others."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from captioner_runs import parts, said, shards, start
from PIL import Image

from commonart.core.data.admission import Rules
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.training import captioner_run
from commonart.core.training.caption_data import CaptionData, open_captions

__all__ = ["parts"]  # the fixture

REFUSED = {
    "gpt-4o": "caption_of_refused_model:gpt-4o", "unheard-of": "caption_of_unknown_model:unheard-of",
    "": "caption_of_unknown_model:none",
    "blip2-opt": "caption_of_refused_model:blip2-opt", "gemma": "caption_of_refused_model:gemma",
}  # fmt: skip


def judged(tmp_path: Path, captions: list[dict[str, Any]], **more: Any) -> tuple[list[str], dict[str, int]]:
    """The texts that are taken, and what is left out, of one record with these captions beside a good one."""
    folder = shards(tmp_path / f"shards{next(NUMBERS)}", lambda n: [said("よい"), *captions], count=1)
    opened = open_captions(str(folder), {"ja": 1.0}, Rules(**more))
    texts = opened.index.texts(0)
    return [text for text, odds in zip(texts, opened.odds, strict=True) if odds], dict(opened.index.captions_left_out)


def described(opened: CaptionData) -> dict[str, Any]:
    return opened.index.describe(opened.odds)


NUMBERS: Iterator[int] = itertools.count()


def test_captions_whose_terms_forbid_it_are_left_out_and_counted(tmp_path: Path) -> None:
    for model, reason in REFUSED.items():
        assert judged(tmp_path, [said("だめ", model=model)]) == (["よい"], {reason: 1})
    assert judged(tmp_path, [said("だめ", model="gemma")], accepted=("gemma",)) == (["よい", "だめ"], {})
    folder = shards(
        tmp_path / "answered", lambda n: [said("よ", model="gemma"), said("い", model="x", terms_accepted=True)]
    )
    assert described(open_captions(str(folder), {}, Rules(accepted=("gemma",))))["accepted"] == ["gemma", "x"]
    by_people = {"model": "", "synthetic": False}
    assert judged(tmp_path, [said("人", **by_people | {"license": "CC-BY-4.0"})])[0] == ["よい", "人"]
    assert judged(tmp_path, [said("人", **by_people | {"license": "CC-BY-NC-4.0"})]) == (
        ["よい"], {"caption_license_not_allowed:CC-BY-NC-4.0": 1}
    )  # fmt: skip
    assert judged(tmp_path, [said(" ")]) == (["よい"], {"caption_empty": 1})
    assert judged(tmp_path, [said("hello", "en", "gpt-4o")]) == (["よい"], {})  # nobody asked for English


def test_a_translation_has_the_terms_of_its_original_too(tmp_path: Path) -> None:
    def translated(maker: str, origin: str) -> list[dict[str, Any]]:
        return [said("one", "en", maker), said("訳", model="cat-translate", translated_from=origin)]

    assert judged(tmp_path, translated("qwen2-vl", "qwen2-vl"))[0] == ["よい", "訳"]
    assert judged(tmp_path, translated("gpt-4o", "gpt-4o")) == (["よい"], {"caption_of_refused_model:gpt-4o": 1})
    assert judged(tmp_path, translated("blip2-opt", "blip2-opt#2")) == (
        ["よい"],
        {"caption_of_refused_model:blip2-opt": 1},
    )
    assert judged(tmp_path, translated("qwen2-vl", "gone")) == (["よい"], {"caption_of_unknown_model:gone": 1})


def test_records_without_a_usable_caption_are_left_out_and_the_summary_counts(parts: Path, tmp_path: Path) -> None:
    kinds = [[said("よい")], [said("だめ", model="gpt-4o")], [said("fine", "en")]]
    done = start(parts, shards(tmp_path / "shards", lambda n: kinds[n % 3], count=9), tmp_path / "run")
    assert done.left_out == {"no_usable_caption": 3, "no_caption_in_language": 3}
    assert done.as_json()["captions_left_out"] == {"caption_of_refused_model:gpt-4o": 3}
    data = captioner_run.run.read(tmp_path / "run")["data"]
    assert data["images"] == 3 and [row["model"] for row in data["makers"]] == ["florence2"]


def test_language_weights_and_lengths(tmp_path: Path) -> None:
    texts = [said("一。二。"), said("三"), said("四", length="long"), said("one", "en"), said("un", "fr")]
    folder = shards(tmp_path / "shards", lambda n: texts)
    opened = open_captions(str(folder), {"ja": 3.0, "en": 1.0})
    np.testing.assert_allclose(opened.odds.reshape(8, 5)[0], [1, 1, 1, 1, 0])
    assert [(p.lang, p.length) for p in opened.prompts] == [("ja", "long"), ("en", "short"), ("ja", "short")]
    everything = open_captions(str(folder), {})
    assert everything.index.captions_left_out == {"no_prompt_for_language:fr": 8}


def test_a_damaged_image_is_replaced(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with ShardWriter(folder / "00000.tar") as writer:
        for n in range(4):
            png = io.BytesIO()
            Image.new("RGB", (40, 24), (n, n, n)).save(png, "PNG")
            # The first usable caption of the record that stands in is its second.
            texts = [said("だめ", model="gpt-4o"), said("よい")]
            record = {"key": f"k{n}", "width": 40, "height": 24, "license": "CC0-1.0", "captions": texts}
            writer.add_record(record, b"broken" if n == 2 else png.getvalue(), "png")
    done = start(parts, folder, tmp_path / "run")
    assert sum(done.left_out.values()) == 1 and done.step == 3
