"""Which captions may be trained on, and license-filter as their judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import Command, filtered

from commonart.core.data import stream
from commonart.core.data.caption_terms import problem, writer
from commonart.core.data.notes import read_beside
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.licenses.policies import POLICIES

COMMIT = "a" * 40


def caption(model: str = "florence2", license: str = "", **fields: Any) -> dict[str, Any]:
    return {"text": f"by {model}", "lang": "en", "model": model, "license": license, "synthetic": True, **fields}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (caption("florence2", "MIT"), ""),
        (caption("florence2", "CDLA-Permissive-2.0"), ""),  # as pd12m has it
        (caption("blip2"), ""),  # as commoncatalog-cc-by labels its column blip2_caption
        (caption("Salesforce/blip2-flan-t5-xl", "MIT"), ""),
        (caption(f"Qwen/Qwen2-VL-2B-Instruct@{COMMIT}", "Apache-2.0"), ""),
        (caption("nano", "Apache-2.0"), ""),
        (caption("scenes-grammar", "CC0-1.0"), ""),
        (caption("florence2", "CC-BY-NC-4.0"), "caption_license_not_allowed:CC-BY-NC-4.0"),
        (caption("blip2-opt", "MIT"), "caption_of_refused_model:blip2-opt"),
        (caption("Salesforce/blip2-opt-2.7b", "MIT"), "caption_of_refused_model:Salesforce/blip2-opt-2.7b"),
        (caption(f"blip2-opt@{COMMIT}"), f"caption_of_refused_model:blip2-opt@{COMMIT}"),
        (caption("blip2-opt", "MIT", terms_accepted=True), ""),
        (caption("blip2-opt", "MIT", terms_accepted="yes"), "caption_of_refused_model:blip2-opt"),
        (caption("gpt-4o"), "caption_of_refused_model:gpt-4o"),
        (caption("openai/gpt-4-vision-preview"), "caption_of_refused_model:openai/gpt-4-vision-preview"),
        (caption("gemini-1.5-pro", synthetic=False), "caption_of_refused_model:gemini-1.5-pro"),
        (caption("somebody/their-vlm", "Apache-2.0"), "caption_of_unknown_model:somebody/their-vlm"),
        (caption(""), "caption_of_unknown_model:none"),
        (caption("models/mine", "Apache-2.0", revision="sha256:0123456789abcdef"), ""),
        (caption("models/mine", "LicenseRef-unknown", revision="sha256:0123456789abcdef"), "caption_of_unknown_model:models/mine"),
        (caption("coco-annotators", "CC-BY-4.0", synthetic=False), ""),
        (caption("someone", "CC-BY-NC-4.0", synthetic=False), "caption_license_not_allowed:CC-BY-NC-4.0"),
        (caption("someone", "all rights reserved", synthetic=False), "caption_license_not_allowed:all rights reserved"),
        (caption("photos", "", synthetic=False), ""),
        ({"text": "a cat"}, ""),
        ({"text": "a cat", "model": "their-vlm"}, "caption_of_unknown_model:their-vlm"),
        (caption("cat-translate", "MIT", translated_from="florence2"), ""),
        (caption("cat-translate", "MIT", translated_from="blip2-opt#2"), "caption_of_refused_model:blip2-opt"),
        (caption("fugumt", "CC-BY-SA-4.0", translated_from="florence2"), "caption_of_refused_model:fugumt"),
        (caption("qwen3-vl", "Apache-2.0", endpoint_model="qwen3-vl:2b-q4"), ""),
        (caption("qwen3-vl", "Apache-2.0", endpoint_model="gpt-4o"), "caption_of_refused_model:gpt-4o"),
        (caption("qwen3-vl", "Apache-2.0", endpoint_model="gpt-4o", terms_accepted=True), ""),
        (caption("theirs", "MIT", endpoint_model="gpt-4o"), "caption_of_refused_model:gpt-4o"),
    ],
)  # fmt: skip
def test_problem(given: dict[str, Any], reason: str) -> None:
    assert problem(given, POLICIES["strict"]) == reason


def test_who_answers_for_a_model_does_not_answer_for_another_that_served_it() -> None:
    served = caption("qwen3-vl", "Apache-2.0", endpoint_model="gpt-4o")
    reasons = [problem(served, POLICIES["strict"], accepted) for accepted in (["qwen3-vl"], ["gpt-4o"])]
    assert reasons == ["caption_of_refused_model:gpt-4o", ""]


def test_names_are_those_of_the_registry() -> None:
    names = {"blip2": "blip2", f"blip2@{COMMIT}": "blip2", "microsoft/Phi-3-medium-4k-instruct": "phi3-medium",
             "calm2-7b": None, "": None}  # fmt: skip
    assert {name: getattr(writer(name), "name", None) for name in names} == names


def record(*captions: Any) -> dict[str, Any]:
    return {"license_url": "https://creativecommons.org/publicdomain/zero/1.0/", "captions": list(captions)}


def test_captions_are_removed_and_counted_and_their_translations_with_them() -> None:
    from commonart.stages.license_filter import Tally

    tally = Tally()
    records = [
        record(
            caption("florence2", "MIT"), caption("blip2-opt", "MIT"), caption("someone", "CC-BY-NC-4.0", synthetic=False),
            caption("cat-translate", "MIT", translated_from="blip2-opt"),
            caption("cat-translate", "MIT", translated_from="someone"),
            caption("cat-translate", "MIT", translated_from="florence2"),
        )
        for _ in range(3)
    ]  # fmt: skip
    kept, drop, _ = filtered(*records, tally=tally)
    for each in kept:
        assert [(c["model"], c.get("translated_from")) for c in each["captions"]] == [
            ("florence2", None),
            ("cat-translate", "florence2"),
        ]
    assert len(kept) == 3 and not drop.reasons
    assert drop.captions_removed == {
        "caption_of_refused_model:blip2-opt": 6, "caption_license_not_allowed:CC-BY-NC-4.0": 6,
    }  # fmt: skip


def test_what_was_fine_once_is_not_fine_for_another() -> None:
    """The verdicts that are kept are of model, licence, origin and kind together."""
    kept, _, _ = filtered(
        record(caption("florence2", "MIT"), caption("someone", "CC-BY-4.0", synthetic=False)),
        record(
            caption("florence2", "CC-BY-NC-4.0"),
            caption("someone", "CC-BY-4.0"),
            caption("blip2-opt", terms_accepted=True),
        ),
        record(caption("blip2-opt"), caption("models/mine", "MIT", revision="sha256:00")),
        record(caption("models/mine", "MIT")),
        record(caption(["florence2"]), {"text": "x", "model": {"a": 1}}),  # type: ignore[arg-type]
        record(caption("florence2", "MIT", endpoint_model="gpt-4o"), caption("florence2", endpoint_model=["gpt-4o"])),
    )
    assert [[str(c["model"]) for c in r["captions"]] for r in kept] == [
        ["florence2", "someone"],
        ["blip2-opt"],
        ["models/mine"],
        [],
        [],
        ["florence2"],
    ]


def test_min_captions_counts_what_is_left() -> None:
    records = [
        record(caption("florence2", "MIT"), caption("blip2-opt")),
        record(caption("florence2", "MIT"), caption("qwen2-vl", "Apache-2.0")),
        record(caption("florence2", "MIT"), caption("cat-translate", "MIT", translated_from="florence2")),
        {"license_url": "https://creativecommons.org/publicdomain/zero/1.0/"},
    ]
    kept, drop, refused = filtered(*records, min_captions=2)
    assert [len(r["captions"]) for r in kept] == [2] and drop.reasons == {"too_few_captions": 3} and drop.failures == 0
    assert {r["reason_detail"] for r in refused} == {"1 of 2", "0 of 2"}


def test_the_command(in_process: Command, tmp_path: Path) -> None:
    lines = [
        {"key": "a", **record(caption("florence2", "MIT"), caption("gpt-4o"))},
        {"key": "b", **record(caption("theirs"))},
    ]
    (tmp_path / "in.jsonl").write_bytes(
        b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
    )
    done = in_process("license-filter", "in.jsonl", "-o", "out.jsonl", "--min-captions", "1", "--rejects", "no.jsonl")
    summary = json.loads(done.stderr.splitlines()[-1])
    assert done.returncode == 0 and summary["dropped"] == {"too_few_captions": 1}
    assert summary["captions_removed"] == {"caption_of_refused_model:gpt-4o": 1, "caption_of_unknown_model:theirs": 1}
    assert [len(r["captions"]) for r in stream.read(str(tmp_path / "out.jsonl"))] == [1]
    again = ("license-filter", "in.jsonl", "-o", "out.jsonl", "--overwrite", "--accept-terms", "theirs")
    assert in_process(*again).returncode == 0
    assert [len(r["captions"]) for r in stream.read(str(tmp_path / "out.jsonl"))] == [1, 1]


def test_removed_captions_are_counted_over_all_shards_and_again(in_process: Command, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(3):
        with ShardWriter(raw / f"{number:05d}.tar") as writer:
            made = {"key": f"k{number}", **record(caption("florence2", "MIT"), caption("gpt-4o"))}
            writer.add_record(made, b"\xff\xd8\xff", "jpg")
    told = []
    for _ in range(2):  # the second finds all shards finished
        done = in_process("license-filter", "raw", "-o", "out")
        summary = json.loads(done.stderr.splitlines()[-1])
        assert summary["captions_removed"] == {"caption_of_refused_model:gpt-4o": 3}
        told.append((summary["in"], summary.get("finished_before"), summary["sources"] == {}))
    assert told == [(3, None, False), (3, 3, True)]
    (note,) = read_beside(tmp_path / "out")
    assert note["captions_removed"] == {"caption_of_refused_model:gpt-4o": 3} and note["out"] == 3
