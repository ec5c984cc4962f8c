"""Completion: the files are those of the commands, and real shells complete with them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from commonart.cli import completions
from commonart.core.registry import lookup

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "completions"

CASES = [
    ("commonart licen", ["license-filter"]),
    ("commonart license-filter --pol", ["--policy"]),
    ("commonart license-filter --policy ", ["strict", "paper"]),
    ("commonart caption --model flor", ["florence2"]),
    ("commonart train --stage 256-", ["256-early", "256-mid", "256-late"]),
    ("commonart translate --to ", ["ja", "en"]),
    ("commonart nano ", ["build", "measure"]),
    ("commonart shard pho", ["photos.txt"]),
]


@pytest.mark.parametrize("name", completions.SCRIPTS)
def test_the_files_are_fresh(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == completions.SCRIPTS[name](), "python -m commonart.cli.completions"


def test_zsh_knows_whose_file_it_is() -> None:
    assert completions.zsh().startswith("#compdef commonart\n")


def test_values_are_those_of_the_registry() -> None:
    assert " ".join(lookup.model_names("caption")) in completions.bash()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos.txt").write_text("")
    return tmp_path


def test_bash_completes_a_name_with_a_space(folder: Path) -> None:
    (folder / "a b").mkdir()
    script = f"source '{FOLDER}/commonart.bash'; COMP_WORDS=(commonart shard a); COMP_CWORD=2; _commonart"
    done = subprocess.run(
        ["bash", "-c", f'{script}; printf "%s|" "${{COMPREPLY[@]}}"'], capture_output=True, cwd=folder, check=True
    )
    assert done.stdout == b"a b|"


@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_bash_completes(folder: Path, typed: str, expected: list[str]) -> None:
    words = typed.split(" ")
    array = " ".join(f"'{word}'" for word in words)
    script = f"""
source '{FOLDER}/commonart.bash'
COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}
_commonart
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=folder, check=True)
    assert set(expected) <= set(done.stdout.decode().split())
    assert done.stderr == b""


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_fish_completes(folder: Path, typed: str, expected: list[str]) -> None:
    script = f"source '{FOLDER}/commonart.fish'; complete -C '{typed}'"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, cwd=folder, check=True)
    offered = {line.split("\t")[0] for line in done.stdout.decode().splitlines()}
    assert set(expected) <= offered


def press_tab_in_zsh(folder: Path, typed: str, until: list[str]) -> str:
    """What a real zsh at a pseudo-terminal shows after `typed` and Tab; returns once all of `until` stand there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True,
        env={**os.environ, "TERM": "dumb", "HOME": str(folder)},
    )  # fmt: skip
    os.close(theirs)

    def read(wanted: list[str]) -> str:
        said, deadline = "", time.monotonic() + 30
        while not all(word in said for word in wanted) and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.5)[0]:
                said += os.read(ours, 65536).decode(errors="replace")
        return said

    try:
        setup = f"fpath=('{FOLDER}' $fpath); autoload -Uz compinit; compinit -u -D; unsetopt BEEP; LISTMAX=999"
        os.write(ours, f"{setup}; print REA''DY\n".encode())
        read(["READY"])
        os.write(ours, f"{typed}\t\t".encode())
        return read(until)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("typed", "expected"), CASES)
def test_zsh_completes(folder: Path, typed: str, expected: list[str]) -> None:
    said = press_tab_in_zsh(folder, typed, expected)
    assert [word for word in expected if word not in said] == [], said
