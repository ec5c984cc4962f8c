"""Targets that cannot be written to: the error names the path that was given, before a model is loaded."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_pipeline
from commands import Command
from tiny_runs import dataset

from commonart.core.data.files import atomic_write, check_writable, lock

PRIVATE = ["unshare", "--user", "--map-root-user", "--mount"]  # mounts that only the command sees
MOUNT = 'mount -t tmpfs -o ro none ro && exec "$@"'
TRIED = """
import sys
from commonart.cli.main import run
codes = [run(["train", "--stage", "nano", "--data", "shards", "-o", "ro/run"])]
codes.append("torch" in sys.modules)
codes.append(run(["encode-text", "shards", "--model", "nano", "--out", "ro/text"]))
codes.append(run(["export", "nano", "-o", "ro/model"]))
codes.append(run(["license-filter", "shards", "-o", "ro/kept.jsonl"]))
print(codes)
"""


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_read_only_file_system_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    try:
        subprocess.run([*PRIVATE, "sh", "-c", MOUNT, "sh", "true"], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount")
    dataset(tmp_path / "shards")
    command = [*PRIVATE, "sh", "-c", MOUNT, "sh", sys.executable, "-c", TRIED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    paths = ("ro/run", "ro/text", "ro/model", "ro/kept.jsonl")
    assert said == [f"Error: {path}: the file system is read-only." for path in paths], done.stderr
    assert done.stdout.split("\n")[-2] == "[1, False, 1, 1, 1]"


def test_export_to_a_full_disk_names_its_folder(in_process: Command, tmp_path: Path) -> None:
    tiny_pipeline.pipeline(tmp_path / "tiny")
    with files_of(1000):
        done = in_process("export", "tiny", "-o", "out")
    assert done.stderr.startswith(b"Error: out: the file is larger than allowed here.\n"), done.stderr
    assert sorted(os.listdir(tmp_path)) == ["tiny"]


def test_errors_name_the_file_and_not_what_is_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("text")
    long = tmp_path / ("n" * 250)  # too long with what is added to it
    with pytest.raises(OSError, match="n") as problem, atomic_write(long):
        pass
    assert problem.value.filename == str(long)
    (tmp_path / "folder" / ".lock").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as problem, lock(tmp_path / "folder"):
        pass
    assert problem.value.filename == str(tmp_path / "folder")
    with pytest.raises(NotADirectoryError) as problem:
        check_writable(tmp_path / "a-file" / "run")
    assert problem.value.filename == str(tmp_path / "a-file" / "run")
    check_writable(tmp_path / "new" / "run")
    assert sorted(os.listdir(tmp_path)) == ["a-file", "folder"]
