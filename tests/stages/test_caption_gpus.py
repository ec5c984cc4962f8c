"""`caption --gpus N` and `translate --gpus N`: several processes, and the files of one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import Command
from scene_shards import files_of, shards_of_scenes

from commonart.core.data.shards.writer import ShardWriter
from commonart.core.data.threads import cpu_count
from commonart.core.model.captioning.requests import Tally

CAPTION = ("caption", "raw", "--model", "nano", "--batch", "2")
TRANSLATE = ("translate", "one", "--model", "nano", "--batch", "2")


def words(line: bytes) -> dict[str, object]:
    told = json.loads(line.splitlines()[-1])
    for name in ("seconds", "images_per_second", "tokens_per_second"):  # those of a clock
        told.pop(name, None)
    return told  # type: ignore[no-any-return]


@pytest.mark.skipif(cpu_count() < 2, reason="a process for each core")
def test_two_processes_write_what_one_writes(in_process: Command, tmp_path: Path) -> None:
    """After SIGKILL in the middle, too; with the same rejects and the same summary."""
    shards_of_scenes(tmp_path / "raw", shards=4, each=3)
    with ShardWriter(tmp_path / "raw" / "00004.tar") as writer:
        writer.add_record({"key": "broken"}, b"no image", "png")
    one = in_process(*CAPTION, "-o", "one", "--rejects", "one.jsonl")
    assert one.returncode == 0, one.stderr

    command = [
        sys.executable,
        "-m",
        "commonart.cli.main",
        *CAPTION,
        "--gpus",
        "2",
        "-o",
        "two",
        "--rejects",
        "two.jsonl",
    ]
    killed = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "two").glob("*.json")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -9
    deadline = time.monotonic() + 60
    while True:  # its processes end by themselves, and the folder is free
        two = subprocess.run(command, cwd=tmp_path, capture_output=True)
        if b"in use by process" not in two.stderr or time.monotonic() > deadline:
            break
    assert two.returncode == 0, two.stderr
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes() != b""
    counts = words(two.stderr)
    made, before = (counts.pop("captions"), counts.pop("words")), counts.pop("finished_before")
    assert made[0] + before in (12, 13), "one of the 13 records has no caption"  # type: ignore[operator]
    expected = words(one.stderr)
    assert expected.pop("captions") == 12 and made[0] <= 12, "of this run alone"  # type: ignore[operator]
    expected.pop("words")
    assert counts == expected and counts["in"] == 13 and counts["dropped"] == {"not_an_image": 1}


@pytest.mark.skipif(cpu_count() < 2, reason="a process for each core")
def test_failures_are_judged_of_all_together(in_process: Command, tmp_path: Path) -> None:
    """Half of one process's shards fail, a quarter of all: --max-failures 0.3 allows that; translate shares its shards, too."""
    shards_of_scenes(tmp_path / "raw", shards=3, each=1)
    with ShardWriter(tmp_path / "raw" / "00003.tar") as writer:
        writer.add_record({"key": "broken"}, b"no image", "png")
    start = [sys.executable, "-m", "commonart.cli.main"]
    strict = (*CAPTION, "-o", "one", "--max-failures")
    done = subprocess.run([*start, *strict, "0.3", "--gpus", "2"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    told = words(done.stderr)
    assert told["captions"] == 3 and told["in"] == 4 and sum(told["words"]["nano en"].values()) == 3  # type: ignore[index]
    refused = in_process(*strict, "0.2")
    assert refused.returncode == 3 and b"1 of 4 records failed" in refused.stderr

    done = subprocess.run([*start, *TRANSLATE, "--gpus", "2", "-o", "two"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and words(done.stderr)["in"] == 3, done.stderr
    assert in_process(*TRANSLATE, "-o", "alone").returncode == 0
    assert files_of(tmp_path / "two") == files_of(tmp_path / "alone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "2", "-"), b"--gpus 2 needs a SOURCE"),
        (("--gpus", "2", "raw"), b"--gpus 2 needs a folder"),
        (("--gpus", "2", "raw", "-o", "x.jsonl"), b"--gpus 2 needs a folder"),
        (("--gpus", "999", "raw", "-o", "x"), b"--gpus 999, but this machine has"),
        (("--gpus", "0", "raw", "-o", "x"), b"--gpus"),
        (("--gpus", "2", "raw", "-o", "x", "--endpoint", "http://localhost:9"), b"--gpus does not go with --endpoint"),
    ],
)
@pytest.mark.parametrize("command", ["caption", "translate"])
def test_what_several_cannot_do(
    command: str, arguments: tuple[str, ...], message: bytes, in_process: Command, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    done = in_process(command, "--model", "nano", *arguments)
    assert done.returncode == 2 and message in done.stderr and b"Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_under_srun_and_torchrun(in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun has started the tasks already: as many as --gpus says. Each makes its shards in the one folder."""
    shards_of_scenes(tmp_path / "raw", shards=2, each=1)
    for name, value in {"STEP_ID": "0", "PROCID": "1", "LOCALID": "1", "STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    done = in_process(*CAPTION, "--gpus", "3", "-o", "out")
    assert done.returncode == 2 and b"--gpus 3, but srun started 2 processes" in done.stderr
    done = in_process(*CAPTION, "--gpus", "2", "-o", "out")
    assert done.returncode == 0 and [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00001.tar"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = in_process(*CAPTION, "--gpus", "2", "-o", "out")
    assert done.returncode == 2 and b"without torchrun" in done.stderr


def test_what_processes_wrote_adds_up() -> None:
    parts = [Tally(), Tally()]
    for images, seconds, part in zip((3, 5), (2.0, 4.0), parts, strict=True):
        part.images, part.captions, part.tokens, part.seconds = images, images, 10 * images, seconds
        part.words["nano en"] = Counter({10: images})
    whole = Tally()
    for part in parts:
        whole.merge(json.loads(json.dumps(part.counts())))
    assert whole.as_json() == {
        "images_per_second": 2.0, "tokens_per_second": 20.0, "captions": 8, "words": {"nano en": {"10": 8}}
    }  # fmt: skip
