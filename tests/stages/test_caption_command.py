"""`commonart caption`: which models are asked for which captions, whole commands, and those that are killed or refused."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
from commands import Command
from scene_shards import files_of, shards_of_scenes

from commonart.cli import main
from commonart.core.data.files import lock
from commonart.core.data.shards.reader import read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import UsageError
from commonart.core.model.captioning import guards
from commonart.core.model.captioning.requests import open_requests


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.captioners(tmp_path_factory.mktemp("captioners"))


def test_repeated_model_options_add_up(in_process: Command, tmp_path: Path) -> None:
    """A repeated --model names another one, and is never overlooked; commonart.toml may hold one as a string."""
    (tmp_path / "none.jsonl").touch()
    twice = in_process("caption", "--model", "nano", "--model", "blip2-opt", "none.jsonl")
    assert twice.returncode == 2 and b"blip2-opt is refused" in twice.stderr
    (tmp_path / "commonart.toml").write_text('[caption]\nmodel = "nano"\n')
    done = in_process("caption", "none.jsonl")
    assert done.returncode == 0 and b"no records" in done.stderr


@pytest.mark.parametrize("names", [[], [""], ["nano", ""], ["nano", "nano"]])
def test_model_lists_that_are_empty_or_name_one_twice_are_refused(names: list[str]) -> None:
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
def test_languages_and_lengths_that_no_model_writes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_requests(["nano"], **options)


def requested(folders: dict[str, Path], names: Sequence[str], **options: Any) -> list[tuple[str, str, str]]:
    """Model, language and length of each caption that is asked for."""
    return [
        (Path(r.engine.name).name, r.prompt.lang, r.prompt.length)
        for r in open_requests([str(folders[name]) for name in names], **options)
    ]


def test_a_caption_for_each_language_and_length(folders: dict[str, Path]) -> None:
    """By default what a model usually writes; a model without a prompt for what is asked is passed over."""
    three = ["florence2", "blip2", "qwen2-vl"]
    assert requested(folders, three) == [
        ("florence2", "en", "long"),
        ("blip2", "en", "short"),
        ("qwen2-vl", "en", "long"),
    ]
    assert requested(folders, three, langs=["en", "ja"], lengths=["short", "long"]) == [
        ("florence2", "en", "short"), ("florence2", "en", "long"), ("blip2", "en", "short"),
        ("qwen2-vl", "en", "short"), ("qwen2-vl", "en", "long"), ("qwen2-vl", "ja", "short"), ("qwen2-vl", "ja", "long"),
    ]  # fmt: skip
    assert requested(folders, three, langs=["ja"]) == [("qwen2-vl", "ja", "long")]


def test_captions_are_piped_into_translate(
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


def test_a_model_whose_terms_forbid_it_is_refused(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    done = in_process("caption", "--model", "blip2-opt", str(tmp_path / "x.jsonl"))
    assert done.returncode == 2 and b"non-commercial" in done.stderr and b"--accept-terms blip2-opt" in done.stderr
    assert done.stdout == b"" and b"Traceback" not in done.stderr


def in_child(folder: Path, arguments: Sequence[str]) -> None:
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(main.run(arguments))


@pytest.mark.slow
def test_a_run_that_was_killed_at_twenty_moments_writes_the_same_bytes(tmp_path: Path) -> None:
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


def test_a_folder_in_use_is_refused_to_a_second_command(in_process: Command, tmp_path: Path) -> None:
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


def test_a_dry_run_estimates_the_hours_from_a_sample(in_process: Command, tmp_path: Path) -> None:
    shards_of_scenes(tmp_path / "raw", shards=3, each=4)
    done = in_process("caption", "raw", "--model", "nano", "--dry-run", "--calibrate", "5", "--num-tasks", "2")
    assert done.returncode == 0, done.stderr.decode()
    estimate = json.loads(done.stdout)
    assert (estimate["records"], estimate["sample"], estimate["sample_written"], estimate["tasks"]) == (12, 5, 5, 2)
    assert estimate["requests"] == ["nano en short"] and estimate["captions"] == 5
    assert estimate["device_hours"] == pytest.approx(12 / 5 * estimate["sample_seconds"] / 3600, rel=0.05)
    assert estimate["hours"] == pytest.approx(estimate["device_hours"] / 2, rel=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"], "nothing is written"
    for source in (["-"], []):
        refused = in_process("caption", *source, "--dry-run", "--model", "nano")
        assert refused.returncode == 2 and b"--dry-run" in refused.stderr
    (tmp_path / "list.jsonl").write_bytes(b"".join(b'{"key":"k%d","image":"gone.png"}\n' % n for n in range(9)))
    listed = in_process("caption", "list.jsonl", "--model", "nano", "--dry-run", "--calibrate", "4")
    assert json.loads(listed.stdout)["dropped"] == {"image_unreadable": 4} and json.loads(listed.stdout)["records"] == 9
