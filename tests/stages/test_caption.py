"""The stage around captioners: what is asked of them, what becomes of their answers, and the command."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
from commands import Command
from PIL import Image
from scene_shards import files_of, shards_of_scenes

from commonart.cli import main
from commonart.core.data import stream
from commonart.core.data.drops import Drop, Problem
from commonart.core.data.files import lock
from commonart.core.data.images.decode import decode_within
from commonart.core.data.record import Record, add_caption
from commonart.core.data.shards.reader import read_shard
from commonart.core.data.shards.runner import read_rejects
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.captioning import guards
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.requests import Request, Tally, open_requests, settings
from commonart.core.registry.catalogue import Prompt
from commonart.stages.caption import caption


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.captioners(tmp_path_factory.mktemp("captioners"))


@pytest.fixture
def png(tmp_path: Path) -> list[Record]:
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
        said = self.answers[width].pop(0) if self.answers.get(width) else usual
        return said if isinstance(said, Problem) else Generated("" if width in self.silent else said, True, 3)


def requests(*models: Fake) -> list[Request]:
    return [Request(model, prompt) for model in models for prompt in model.prompts]  # type: ignore[arg-type]


def run(records: Iterable[Record], *models: Fake, **options: Any) -> tuple[list[Record], Drop, list[Record]]:
    kept: list[Record] = []
    drop = Drop(kept.append)
    return list(caption(records, drop, requests=requests(*models), **{"batch": 2, **options})), drop, kept


# -- the stage ---------------------------------------------------------------------------------------------------------


def test_a_caption_for_each_model(png: list[Record]) -> None:
    out, drop, _ = run(png, Fake("a"), Fake("b"))
    assert [r["key"] for r in out] == ["k0", "k1", "k2"] and [r["extra"] for r in out] == [0, 1, 2]
    assert out[0]["captions"] == [
        {"text": "64 wide", "lang": "en", "model": name, "revision": "r1", "license": "MIT", "synthetic": True,
         "translated_from": None, "words": 2, "prompt": "Say!", "length": "short", "precision": "float32",
         "max_new_tokens": 20, "side": 768}
        for name in "ab"
    ]  # fmt: skip
    assert not drop.reasons


def test_what_is_there_is_not_asked_again(png: list[Record]) -> None:
    first, _, _ = run(png, Fake("a"))
    del first[1]["image"]  # a finished record does not even need its picture
    a, b = Fake("a"), Fake("b")
    again, drop, _ = run(first[:1] + first[2:], a, b)
    assert sum(a.seen) == 0 and sum(b.seen) == 2
    assert [[c["model"] for c in r["captions"]] for r in again] == [["a", "b"]] * 2
    done, _, _ = run(first, Fake("a"))
    assert done == first and not drop.reasons


def test_finished_records_keep_their_place(png: list[Record]) -> None:
    finished = {"text": "x", "prompt": "Say!", **requests(Fake())[0].fields()}
    done: list[Record] = [{"key": f"d{i}", "captions": [finished]} for i in range(200)]
    mixed = [*done[:5], png[0], *done[5:150], png[1], *done[150:], png[2]]
    keys = [r["key"] for r in mixed]
    assert [r["key"] for r in run(mixed, Fake())[0]] == keys


def test_failures_have_reasons(png: list[Record], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    bad: list[Record] = [
        {"key": "none"},
        {"key": "gone", "image": str(tmp_path / "gone.png")},
        {"key": "text", "image": str(tmp_path / "text.png")},
    ]
    out, drop, kept = run([*bad, *png], Fake(silent={90}))
    assert [r["key"] for r in out] == ["k0", "k1"]
    assert drop.reasons == {"no_image": 1, "image_unreadable": 1, "not_an_image": 1, "too_few_captions": 1}
    assert drop.missing_reasons == {"empty": 1}
    assert drop.failures == 4 and len(kept) == 4
    assert {r["key"]: r["reason"] for r in kept}["gone"] == "image_unreadable"
    # One of two models wrote something: the record stays, and what is missing has a reason.
    out, drop, kept = run(png, Fake("a", silent={90}), Fake("b"))
    assert len(out) == 3 and not drop.reasons and drop.missing_reasons == {"empty": 1} and drop.failures == 1
    assert [(r["key"], r["reason"], r["reason_detail"]) for r in kept] == [("k2", "empty", "a en short: ")]


LOOP = "a red dog and a red dog and a red dog and a red dog and a red dog and a red dog and a red dog and"
GOOD = "A dog runs over the grass."
LONG = (
    "A brown dog with white paws runs over wet grass in front of an old wooden barn, while two children in raincoats watch "
    "from the fence, holding a basket of apples, under heavy clouds that hang low above distant hills near some village."
)  # 44 words


def test_an_answer_that_is_no_caption_is_asked_for_again(png: list[Record]) -> None:
    """Other decoding first, then the other texts of the prompt; the caption keeps the one that it answers."""
    prompts = (Prompt("en", "short", ("Say!", "Say it!")),)
    model = Fake(prompts=prompts, answers={64: [LOOP, GOOD, "", GOOD], 90: [LOOP, "", LOOP]})
    out, drop, kept = run(png, model, batch=8)
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


def test_an_image_that_a_model_fails_on_costs_itself(png: list[Record]) -> None:
    model = Fake(answers={90: [Problem("model_error", "ValueError: too wide")]})
    out, drop, kept = run(png, model)
    assert [r["key"] for r in out] == ["k0", "k1"] and drop.missing_reasons == {"model_error": 1}
    assert "ValueError: too wide" in kept[0]["reason_detail"] and len(model.asked) == 3, "it is not asked again"


def test_a_model_that_fails_on_everything_stops_early(png: list[Record]) -> None:
    many = ({"key": f"m{n}", "image": png[0]["image"]} for n in itertools.count())
    broken = Fake(answers={64: [Problem("model_error", "ValueError: no")] * 1000})
    with pytest.raises(
        CommonArtError, match=r"fake en short: none of 64 answers is a caption \(model_error 64\); .* no"
    ):
        run(many, broken)
    assert len(broken.asked) == 64
    with pytest.raises(CommonArtError, match=r"none of \d+ answers is a caption \(empty \d+\)"):
        run(({"key": f"m{n}", "image": png[0]["image"]} for n in itertools.count()), Fake(silent={64}))
    good = Fake(answers={64: ["fine"] + [Problem("model_error", "no")] * 100})
    out, drop, _ = run(({"key": f"m{n}", "image": png[0]["image"]} for n in range(101)), good)
    assert len(out) == 1 and drop.missing_reasons == {"model_error": 100}


def test_every_try_is_made_before_a_model_is_given_up(png: list[Record]) -> None:
    many = [{"key": f"m{n}", "image": png[0]["image"]} for n in range(100)]
    tally = Tally()
    out, drop, _ = run(many, Fake(answers={64: [""] * 100 + ["a red house"] * 100}), tally=tally)
    assert len(out) == 100 and not drop.missing_reasons and tally.as_json()["captions"] == 100
    assert Tally(tokens=5).as_json()["tokens_per_second"] == 0, "no time has passed"


def test_captions_that_are_needed(png: list[Record]) -> None:
    """--min-captions counts synthetic ones, of earlier runs too; --min-words decides what is one."""
    png[0]["captions"] = [{"text": "a dog", "lang": "en", "model": "other", "synthetic": True}]
    png[1]["captions"] = [{"text": "by hand", "lang": "en", "model": "coco", "synthetic": False}]
    out, drop, _ = run(png, Fake(), min_captions=2)
    assert [r["key"] for r in out] == ["k0"] and drop.reasons == {"too_few_captions": 2}
    assert drop.failures == 0, "nothing failed: it is a rule"
    assert len(run(png[2:], Fake(), min_captions=0)[0]) == 1
    out, drop, _ = run(png[2:], Fake("long"), min_words=3)
    assert len(out) == 1 and drop.missing_reasons == {"too_short": 1} and drop.failures == 1


@pytest.mark.parametrize(
    "other",
    [{"precision": "bfloat16"}, {"max_new_tokens": 40}, {"side": 512}, {"prompts": (Prompt("en", "long", ("Say!",)),)},
     {"prompts": (Prompt("ja", "short", ("Say!",)),)}, {"prompts": (Prompt("en", "short", ("Tell!",)),)}],
)  # fmt: skip
def test_other_settings_are_other_captions(png: list[Record], other: dict[str, Any]) -> None:
    """fp32 output does not count as finished for bf16; nor does that of another prompt, side or token limit."""
    first = run(png, Fake())[0]
    again = run(first, model := Fake(**other))[0]
    assert len(model.asked) == 3 and all(len(r["captions"]) == 2 for r in again)
    assert settings(requests(model)) != settings(requests(Fake()))
    assert settings(requests(Fake()), 2) != settings(requests(Fake()))


def test_images_are_shown_at_one_side(png: list[Record]) -> None:
    """The longer side is bounded, never enlarged, and no side vanishes."""
    out = run(png, Fake(side=45))[0]
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


def test_what_was_written_is_told(png: list[Record]) -> None:
    tally = Tally()
    out, *_ = run(png, Fake("a"), Fake("b", answers={90: [LONG]}), tally=tally)
    assert len(out) == 3
    told = tally.as_json()
    assert told["captions"] == 6 and told["words"] == {"a en": {"0": 3}, "b en": {"0": 2, "40": 1}}
    assert tally.images == 3 and tally.tokens == 18 and told["images_per_second"] > 0
    lines = list(tally.lines())
    assert any("a en" in line for line in lines) and any("40-79" in line and "#" in line for line in lines)


def test_odd_images_cost_themselves(
    png: list[Record], tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 x 50 pixels, which Qwen2-VL refuses, 1 x 1, and half a file: the others of their batch are described."""
    monkeypatch.setattr(guards, "problem", lambda *_, **__: "")
    for name, size in (("wide", (20_000, 50)), ("dot", (1, 1)), ("half", (300, 300))):
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / f"{name}.jpg")
        png.append({"key": name, "image": str(tmp_path / f"{name}.jpg")})
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:3000])
    asked = open_requests([str(folders["qwen2-vl"])], precision="fp32", max_new_tokens=4, side=768)
    kept: list[Record] = []
    drop = Drop(kept.append)
    out = list(caption(png, drop, requests=asked, batch=8))
    assert [r["key"] for r in out] == ["k0", "k1", "k2", "dot"]
    assert drop.reasons == {"truncated": 1, "too_few_captions": 1} and drop.missing_reasons == {"model_error": 1}
    assert "aspect ratio" in next(r["reason_detail"] for r in kept if r["key"] == "wide")


def test_finished_shards_tell_what_is_missing(png: list[Record], tmp_path: Path) -> None:
    """The counts of a run that was interrupted are those of a whole one: the manifest keeps them."""
    for expected in (3, 0):
        model, other = Fake("a", silent={90}), Fake("b")
        summary = stream.run(
            "caption", partial(caption, requests=requests(model, other), batch=2),
            records=png, out=str(tmp_path / "out"), quiet=True, settings=settings(requests(model, other)),
        )  # fmt: skip
        assert (summary.written, summary.failures, summary.missing) == (3, 1, {"empty": 1})
        assert summary.as_json()["missing"] == {"empty": 1} and sum(other.seen) == expected
        for record in png:
            record.pop("captions", None)
    assert [r["reason"] for r in read_rejects(tmp_path / "out" / "00000.tar")] == ["empty"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a man's red-and-white dog, 35 m away!", 7), ("犬が公園で走っている。", 6), ("赤い円と青い四角", 7),
     ("2本のBananaがある", 5), ("コーヒー", 1), ("...", 0), ("", 0)],
)  # fmt: skip
def test_words_are_counted(text: str, words: int) -> None:
    """Between spaces and punctuation; Japanese by runs of one script."""
    record: Record = {"key": "k"}
    add_caption(record, text, lang="en", model="m", revision="r", license="MIT", length="short")
    assert record["captions"][0]["words"] == words and record["captions"][0]["length"] == "short"


def test_models_add_up(in_process: Command, tmp_path: Path) -> None:
    """A repeated --model names another one, and is never overlooked; commonart.toml may hold one as a string."""
    (tmp_path / "none.jsonl").touch()
    twice = in_process("caption", "--model", "nano", "--model", "blip2-opt", "none.jsonl")
    assert twice.returncode == 2 and b"blip2-opt is refused" in twice.stderr
    (tmp_path / "commonart.toml").write_text('[caption]\nmodel = "nano"\n')
    done = in_process("caption", "none.jsonl")
    assert done.returncode == 0 and b"no records" in done.stderr


def test_the_user_s_word_is_kept_in_the_record(png: list[Record]) -> None:
    model = Fake()
    model.accepted = True
    assert run(png, model)[0][0]["captions"][0]["terms_accepted"] is True


@pytest.mark.parametrize("names", [[], [""], ["nano", ""], ["nano", "nano"]])
def test_bad_model_lists(names: list[str]) -> None:
    with pytest.raises(UsageError, match="--model"):
        open_requests(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["fr"]}, "none of the models has a prompt for --lang fr"),
        ({"langs": ["en", "ja"]}, "none of the models has a prompt for --lang ja"),
        ({"lengths": ["long"]}, "none of the models has a prompt for --length long"),
        ({"lengths": ["medium"]}, "--length medium is not a length"),
        ({"langs": ["en", "en"]}, "--lang names en twice"),
    ],
)
def test_what_nobody_writes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_requests(["nano"], **options)


def asked(folders: dict[str, Path], names: Sequence[str], **options: Any) -> list[tuple[str, str, str]]:
    return [
        (Path(r.engine.name).name, r.prompt.lang, r.prompt.length)
        for r in open_requests([str(folders[name]) for name in names], **options)
    ]


def test_a_caption_for_each_language_and_length(folders: dict[str, Path]) -> None:
    """By default what a model usually writes; a model without a prompt for what is asked is passed over."""
    three = ["florence2", "blip2", "qwen2-vl"]
    assert asked(folders, three) == [("florence2", "en", "long"), ("blip2", "en", "short"), ("qwen2-vl", "en", "long")]
    assert asked(folders, three, langs=["en", "ja"], lengths=["short", "long"]) == [
        ("florence2", "en", "short"), ("florence2", "en", "long"), ("blip2", "en", "short"),
        ("qwen2-vl", "en", "short"), ("qwen2-vl", "en", "long"), ("qwen2-vl", "ja", "short"), ("qwen2-vl", "ja", "long"),
    ]  # fmt: skip
    assert asked(folders, three, langs=["ja"]) == [("qwen2-vl", "ja", "long")]


def test_the_command(
    in_process: Command, tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`caption A.tar | translate`, with local folders, as in README's pipeline."""
    for judge in ("problem", "translation_problem"):  # random weights write nothing that is a caption
        monkeypatch.setattr(guards, judge, lambda *_, **__: "")
    translator = tiny.phi3(tmp_path / "translator")
    with ShardWriter(tmp_path / "00000.tar") as writer:
        for i, picture in enumerate(tiny.pictures()):
            file = io.BytesIO()
            picture.save(file, "png")
            writer.add_record({"key": f"k{i}"}, file.getvalue(), "png")
    first = in_process(
        "caption", "--model", str(folders["florence2"]), "--precision", "fp32", "--max-new-tokens", "60", "00000.tar"
    )
    assert first.returncode == 0, first.stderr.decode()
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [r["key"] for r in lines] == ["k0", "k1", "k2"] and all(r["captions"][0]["text"] for r in lines)
    summary = json.loads(first.stderr.splitlines()[-1])
    assert (summary["stage"], summary["in"], summary["out"]) == ("caption", 3, 3)
    second = in_process("translate", "--to", "ja", "--model", str(translator), input=first.stdout)
    assert second.returncode == 0, second.stderr.decode()
    assert [json.loads(line)["key"] for line in second.stdout.splitlines()] == ["k0", "k1", "k2"]


def test_the_command_refuses(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    done = in_process("caption", "--model", "blip2-opt", str(tmp_path / "x.jsonl"))
    assert done.returncode == 2 and b"non-commercial" in done.stderr and b"--accept-terms blip2-opt" in done.stderr
    assert done.stdout == b"" and b"Traceback" not in done.stderr


def in_child(folder: Path, arguments: Sequence[str]) -> None:
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(main.run(arguments))


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path: Path) -> None:
    """SIGKILL, and the same command again: the bytes of an uninterrupted run, nothing lost and nothing doubled."""
    shards_of_scenes(tmp_path / "raw", shards=8, each=4)
    command = ("caption", "raw", "--model", "nano", "--batch", "4", "-q", "-o")
    context = multiprocessing.get_context("forkserver")  # torch is imported once: each start is real, and quick
    context.set_forkserver_preload(
        ["torch", "transformers", "commonart.cli.main", "commonart.stages.caption", __name__]
    )
    for name in ("warm", "whole"):
        whole = context.Process(target=in_child, args=(tmp_path, (*command, name)))
        started = time.monotonic()
        whole.start()
        whole.join()
        seconds = time.monotonic() - started
    expected = files_of(tmp_path / "whole")
    assert whole.exitcode == 0 and len(expected) == 25, "three files a shard, and the note"
    rng, out, kills, finished = random.Random(0), tmp_path / "out", 0, 0
    while kills < 20 or not finished:
        child = context.Process(target=in_child, args=(tmp_path, (*command, "out")))
        child.start()
        child.join(rng.uniform(0, seconds) if kills < 20 else None)
        if child.exitcode is None:
            child.kill()
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0 and files_of(out) == expected
            finished += 1
            shutil.rmtree(out)
    keys = [r["key"] for path in sorted((tmp_path / "whole").glob("*.tar")) for r in read_shard(path)]
    assert len(keys) == len(set(keys)) == 32


def test_two_commands_and_one_folder(in_process: Command, tmp_path: Path) -> None:
    """The second is refused with a sentence; tasks of an array share a folder."""
    shards_of_scenes(tmp_path / "raw", shards=2, each=1)
    command = ("caption", "raw", "--model", "nano", "--batch", "1", "-o", "out")
    with lock(tmp_path / "out"):
        done = in_process(*command)
        assert done.returncode == 1 and b"out is in use by process" in done.stderr
        assert in_process(*command, "--task-index", "1", "--num-tasks", "2").returncode == 0
    assert in_process(*command).returncode == 0
    assert sorted(p.suffix for p in (tmp_path / "out").glob("[0-9]*")) == [
        ".idx",
        ".idx",
        ".json",
        ".json",
        ".tar",
        ".tar",
    ]


def test_hours_of_the_whole_from_a_sample(in_process: Command, tmp_path: Path) -> None:
    shards_of_scenes(tmp_path / "raw", shards=3, each=4)
    done = in_process("caption", "raw", "--model", "nano", "--dry-run", "--calibrate", "5", "--num-tasks", "2")
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert (told["records"], told["sample"], told["sample_written"], told["tasks"]) == (12, 5, 5, 2)
    assert told["requests"] == ["nano en short"] and told["captions"] == 5
    assert told["device_hours"] == pytest.approx(12 / 5 * told["sample_seconds"] / 3600, rel=0.05)
    assert told["hours"] == pytest.approx(told["device_hours"] / 2, rel=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"], "nothing is written"
    for source in (["-"], []):
        refused = in_process("caption", *source, "--dry-run", "--model", "nano")
        assert refused.returncode == 2 and b"--dry-run" in refused.stderr
    (tmp_path / "list.jsonl").write_bytes(b"".join(b'{"key":"k%d","image":"gone.png"}\n' % n for n in range(9)))
    listed = in_process("caption", "list.jsonl", "--model", "nano", "--dry-run", "--calibrate", "4")
    assert json.loads(listed.stdout)["dropped"] == {"image_unreadable": 4} and json.loads(listed.stdout)["records"] == 9
