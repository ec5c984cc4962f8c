"""The stage around captioners: what is asked of them, and what becomes of their answers."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
from PIL import Image

from commonart.core.data import stream
from commonart.core.data.drops import Drop, Problem
from commonart.core.data.images.decode import decode_within
from commonart.core.data.record import Record
from commonart.core.data.shards.runner import read_rejects
from commonart.core.errors import CommonArtError
from commonart.core.model.captioning import guards
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.requests import Request, Tally, open_requests, settings
from commonart.core.registry.catalogue import Prompt
from commonart.stages.caption import caption


@pytest.fixture
def pictured(tmp_path: Path) -> list[Record]:
    """Three records, each with a picture of its own."""
    records: list[Record] = []
    for i, picture in enumerate(tiny.pictures()):
        picture.save(tmp_path / f"{i}.png")
        records.append({"key": f"k{i}", "image": str(tmp_path / f"{i}.png"), "extra": i})
    return records


class Fake:
    """A captioner that says which picture it saw, and counts; `answers` by picture's width come first, one a call."""

    revision, license, accepted, largest_batch = "r1", "MIT", False, 2

    def __init__(
        self,
        name: str = "fake",
        silent: Iterable[int] = (),
        prompts: Sequence[Prompt] = (Prompt("en", "short", ("Say!",)),),
        answers: dict[int, list[str | Problem]] | None = None,
        **settings: str | int,
    ) -> None:
        self.name, self.silent, self.seen, self.asked = name, set(silent), [0], list[tuple[int, str, bool]]()
        self.prompts, self.answers = prompts, answers or {}
        self.settings = {"precision": "float32", "max_new_tokens": 20, "side": 768, **settings}

    def image_tokens(self, size: tuple[int, int]) -> int:
        return size[0]

    def prepare(self, images: Sequence[Image.Image], prompt: str) -> str:
        return f"{len(images)} {prompt}"

    def caption(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        *,
        keys: Sequence[str],
        retry: bool = False,
        inputs: str | None = None,
    ) -> list[Generated | Problem]:
        assert inputs == f"{len(images)} {prompt}" and len(keys) == len(images)
        self.seen.append(len(images))
        self.asked += [(image.width, prompt, retry) for image in images]
        return [self.answer(image.width) for image in images]

    def answer(self, width: int) -> Generated | Problem:
        usual = f"横幅が{width}の写真です。" if self.prompts[0].lang == "ja" else f"{width} wide"
        text = self.answers[width].pop(0) if self.answers.get(width) else usual
        return text if isinstance(text, Problem) else Generated("" if width in self.silent else text, True, 3)


def requests(*models: Fake) -> list[Request]:
    return [Request(model, prompt) for model in models for prompt in model.prompts]  # type: ignore[arg-type]


def run(records: Iterable[Record], *models: Fake, **options: Any) -> tuple[list[Record], Drop, list[Record]]:
    kept: list[Record] = []
    drop = Drop(kept.append)
    return list(caption(records, drop, requests=requests(*models), **{"batch": 2, **options})), drop, kept


def test_a_caption_for_each_model(pictured: list[Record]) -> None:
    out, drop, _ = run(pictured, Fake("a"), Fake("b"))
    assert [r["key"] for r in out] == ["k0", "k1", "k2"] and [r["extra"] for r in out] == [0, 1, 2]
    assert out[0]["captions"] == [
        {"text": "64 wide", "lang": "en", "model": name, "revision": "r1", "license": "MIT", "synthetic": True,
         "translated_from": None, "words": 2, "prompt": "Say!", "length": "short", "precision": "float32",
         "max_new_tokens": 20, "side": 768}
        for name in "ab"
    ]  # fmt: skip
    assert not drop.reasons


def test_captions_that_a_record_has_are_not_asked_for_again(pictured: list[Record]) -> None:
    first, _, _ = run(pictured, Fake("a"))
    del first[1]["image"]  # a finished record does not even need its picture
    a, b = Fake("a"), Fake("b")
    again, drop, _ = run(first[:1] + first[2:], a, b)
    assert sum(a.seen) == 0 and sum(b.seen) == 2
    assert [[c["model"] for c in r["captions"]] for r in again] == [["a", "b"]] * 2
    done, _, _ = run(first, Fake("a"))
    assert done == first and not drop.reasons


def test_finished_records_keep_their_place(pictured: list[Record]) -> None:
    finished = {"text": "x", "prompt": "Say!", **requests(Fake())[0].fields()}
    done: list[Record] = [{"key": f"d{i}", "captions": [finished]} for i in range(200)]
    mixed = [*done[:5], pictured[0], *done[5:150], pictured[1], *done[150:], pictured[2]]
    keys = [r["key"] for r in mixed]
    assert [r["key"] for r in run(mixed, Fake())[0]] == keys


def test_failures_have_reasons(pictured: list[Record], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    bad: list[Record] = [
        {"key": "none"},
        {"key": "gone", "image": str(tmp_path / "gone.png")},
        {"key": "text", "image": str(tmp_path / "text.png")},
    ]
    out, drop, kept = run([*bad, *pictured], Fake(silent={90}))
    assert [r["key"] for r in out] == ["k0", "k1"]
    assert drop.reasons == {"no_image": 1, "image_unreadable": 1, "not_an_image": 1, "too_few_captions": 1}
    assert drop.missing_reasons == {"empty": 1}
    assert drop.failures == 4 and len(kept) == 4
    assert {r["key"]: r["reason"] for r in kept}["gone"] == "image_unreadable"
    # One of two models wrote something: the record stays, and what is missing has a reason.
    out, drop, kept = run(pictured, Fake("a", silent={90}), Fake("b"))
    assert len(out) == 3 and not drop.reasons and drop.missing_reasons == {"empty": 1} and drop.failures == 1
    assert [(r["key"], r["reason"], r["reason_detail"]) for r in kept] == [("k2", "empty", "a en short: ")]


LOOP = "a red dog and a red dog and a red dog and a red dog and a red dog and a red dog and a red dog and"
GOOD = "A dog runs over the grass."
LONG = (
    "A brown dog with white paws runs over wet grass in front of an old wooden barn, while two children in raincoats watch "
    "from the fence, holding a basket of apples, under heavy clouds that hang low above distant hills near some village."
)  # 44 words


def test_an_answer_that_is_no_caption_is_asked_for_again(pictured: list[Record]) -> None:
    """Other decoding first, then the other texts of the prompt; the caption keeps the one that it answers."""
    prompts = (Prompt("en", "short", ("Say!", "Say it!")),)
    model = Fake(prompts=prompts, answers={64: [LOOP, GOOD, "", GOOD], 90: [LOOP, "", LOOP]})
    out, drop, kept = run(pictured, model, batch=8)
    assert model.asked == [  # two are 64 wide, one 90; they are asked by size
        (64, "Say!", False), (64, "Say!", False), (90, "Say!", False),
        (64, "Say!", True), (90, "Say!", True),
        (64, "Say it!", False), (90, "Say it!", False),
    ]  # fmt: skip
    by_key = {r["key"]: [(c["text"], c["prompt"]) for c in r["captions"]] for r in out}
    assert sorted(by_key) == ["k0", "k1"] and sorted(text for [(text, _)] in by_key.values()) == [GOOD, GOOD]
    assert sorted(prompt for [(_, prompt)] in by_key.values()) == ["Say it!", "Say!"]
    assert drop.reasons == {"too_few_captions": 1} and drop.missing_reasons == {"looping": 1} and drop.failures == 1
    assert kept[0]["key"] == "k2" and LOOP[:50] in kept[0]["reason_detail"]


def test_an_image_that_a_model_fails_on_is_dropped_alone(pictured: list[Record]) -> None:
    model = Fake(answers={90: [Problem("model_error", "ValueError: too wide")]})
    out, drop, kept = run(pictured, model)
    assert [r["key"] for r in out] == ["k0", "k1"] and drop.missing_reasons == {"model_error": 1}
    assert "ValueError: too wide" in kept[0]["reason_detail"] and len(model.asked) == 3, "it is not asked again"


def test_a_model_that_fails_on_everything_ends_the_run_early(pictured: list[Record]) -> None:
    many = ({"key": f"m{n}", "image": pictured[0]["image"]} for n in itertools.count())
    broken = Fake(answers={64: [Problem("model_error", "ValueError: no")] * 1000})
    with pytest.raises(
        CommonArtError, match=r"fake en short: none of 64 answers is a caption \(model_error 64\); .* no"
    ):
        run(many, broken)
    assert len(broken.asked) == 64
    with pytest.raises(CommonArtError, match=r"none of \d+ answers is a caption \(empty \d+\)"):
        run(({"key": f"m{n}", "image": pictured[0]["image"]} for n in itertools.count()), Fake(silent={64}))
    good = Fake(answers={64: ["fine"] + [Problem("model_error", "no")] * 100})
    out, drop, _ = run(({"key": f"m{n}", "image": pictured[0]["image"]} for n in range(101)), good)
    assert len(out) == 1 and drop.missing_reasons == {"model_error": 100}


def test_every_try_is_made_before_a_model_is_given_up(pictured: list[Record]) -> None:
    many = [{"key": f"m{n}", "image": pictured[0]["image"]} for n in range(100)]
    tally = Tally()
    out, drop, _ = run(many, Fake(answers={64: [""] * 100 + ["a red house"] * 100}), tally=tally)
    assert len(out) == 100 and not drop.missing_reasons and tally.as_json()["captions"] == 100
    assert Tally(tokens=5).as_json()["tokens_per_second"] == 0, "no time has passed"


def test_min_captions_and_min_words_decide_which_records_stay(pictured: list[Record]) -> None:
    """--min-captions counts synthetic ones, of earlier runs too; --min-words decides what is one."""
    pictured[0]["captions"] = [{"text": "a dog", "lang": "en", "model": "other", "synthetic": True}]
    pictured[1]["captions"] = [{"text": "by hand", "lang": "en", "model": "coco", "synthetic": False}]
    out, drop, _ = run(pictured, Fake(), min_captions=2)
    assert [r["key"] for r in out] == ["k0"] and drop.reasons == {"too_few_captions": 2}
    assert drop.failures == 0, "nothing failed: it is a rule"
    assert len(run(pictured[2:], Fake(), min_captions=0)[0]) == 1
    out, drop, _ = run(pictured[2:], Fake("long"), min_words=3)
    assert len(out) == 1 and drop.missing_reasons == {"too_short": 1} and drop.failures == 1


@pytest.mark.parametrize(
    "other",
    [{"precision": "bfloat16"}, {"max_new_tokens": 40}, {"side": 512}, {"prompts": (Prompt("en", "long", ("Say!",)),)},
     {"prompts": (Prompt("ja", "short", ("Say!",)),)}, {"prompts": (Prompt("en", "short", ("Tell!",)),)}],
)  # fmt: skip
def test_other_settings_are_other_captions(pictured: list[Record], other: dict[str, Any]) -> None:
    """fp32 output does not count as finished for bf16; nor does that of another prompt, side or token limit."""
    first = run(pictured, Fake())[0]
    again = run(first, model := Fake(**other))[0]
    assert len(model.asked) == 3 and all(len(r["captions"]) == 2 for r in again)
    assert settings(requests(model)) != settings(requests(Fake()))
    assert settings(requests(Fake()), 2) != settings(requests(Fake()))


def test_the_longer_side_of_an_image_is_bounded_and_never_enlarged(pictured: list[Record]) -> None:
    """The longer side is bounded, never enlarged, and no side vanishes."""
    out = run(pictured, Fake(side=45))[0]
    assert [r["captions"][0]["text"] for r in out] == ["45 wide", "45 wide", "45 wide"]
    for size, expected in (
        ((3000, 2000), (768, 512)),
        ((20_000, 50), (768, 2)),
        ((1, 1), (1, 1)),
        ((9, 9000), (1, 768)),
    ):
        file = io.BytesIO()
        Image.new("RGB", size).save(file, "jpeg")
        assert decode_within(file.getvalue(), 768).size == expected


def test_the_tally_counts_what_was_written(pictured: list[Record]) -> None:
    tally = Tally()
    out, *_ = run(pictured, Fake("a"), Fake("b", answers={90: [LONG]}), tally=tally)
    assert len(out) == 3
    counts = tally.as_json()
    assert counts["captions"] == 6 and counts["words"] == {"a en": {"0": 3}, "b en": {"0": 2, "40": 1}}
    assert tally.images == 3 and tally.tokens == 18 and counts["images_per_second"] > 0
    lines = list(tally.lines())
    assert any("a en" in line for line in lines) and any("40-79" in line and "#" in line for line in lines)


def test_odd_images_do_not_cost_the_others_of_their_batch(
    pictured: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 x 50 pixels, which Qwen2-VL refuses, 1 x 1, and half a file: the others of their batch are described."""
    monkeypatch.setattr(guards, "problem", lambda *_, **__: "")
    for name, size in (("wide", (20_000, 50)), ("dot", (1, 1)), ("half", (300, 300))):
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / f"{name}.jpg")
        pictured.append({"key": name, "image": str(tmp_path / f"{name}.jpg")})
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:3000])
    asked = open_requests([str(tiny.qwen2_vl(tmp_path / "qwen2-vl"))], precision="fp32", max_new_tokens=4, side=768)
    kept: list[Record] = []
    drop = Drop(kept.append)
    out = list(caption(pictured, drop, requests=asked, batch=8))
    assert [r["key"] for r in out] == ["k0", "k1", "k2", "dot"]
    assert drop.reasons == {"truncated": 1, "too_few_captions": 1} and drop.missing_reasons == {"model_error": 1}
    assert "aspect ratio" in next(r["reason_detail"] for r in kept if r["key"] == "wide")


def test_finished_shards_keep_the_counts_of_missing_captions(pictured: list[Record], tmp_path: Path) -> None:
    """The counts of a run that was interrupted are those of a whole one: the manifest keeps them."""
    for expected in (3, 0):
        model, other = Fake("a", silent={90}), Fake("b")
        summary = stream.run(
            "caption", partial(caption, requests=requests(model, other), batch=2),
            records=pictured, out=str(tmp_path / "out"), quiet=True, settings=settings(requests(model, other)),
        )  # fmt: skip
        assert (summary.written, summary.failures, summary.missing) == (3, 1, {"empty": 1})
        assert summary.as_json()["missing"] == {"empty": 1} and sum(other.seen) == expected
        for record in pictured:
            record.pop("captions", None)
    assert [r["reason"] for r in read_rejects(tmp_path / "out" / "00000.tar")] == ["empty"]


def test_accepted_terms_are_kept_in_the_record(pictured: list[Record]) -> None:
    model = Fake()
    model.accepted = True
    assert run(pictured, model)[0][0]["captions"][0]["terms_accepted"] is True
