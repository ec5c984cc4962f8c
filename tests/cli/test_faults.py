"""What every command does with a wrong path: one rule for exit codes, for advice and for the last line of stderr."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from commands import Command

from commonart.cli import main

FETCH, MAKE = "Fetch images first: commonart fetch SOURCE -o raw/.", "Make shards: commonart shard raw/ -o shards/."
SOURCES = {
    "license-filter": ["license-filter", "{}", "-o", "out.jsonl"],
    "caption": ["caption", "{}", "--model", "nano", "-o", "out.jsonl"],
    "translate": ["translate", "{}", "--model", "nano", "--to", "ja", "-o", "out.jsonl"],
    "shard": ["shard", "{}", "--size", "64", "-o", "out"],
    "encode-text": ["encode-text", "{}", "--model", "nano"],
    "encode-image": ["encode-image", "{}", "--model", "nano"],
    "train": ["train", "--stage", "nano", "--data", "{}"],
}
OTHERS = {
    "fetch-source": ["fetch", "{}", "-o", "out"],
    "fetch-images": ["fetch", "list.jsonl", "--images", "{}", "-o", "out"],
    "nano": ["nano", "measure", "{}", "-n", "5"],
    "mia": ["mia", "nano", "--data", "{}"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "list.jsonl").write_bytes(b'{"key":"a","license":"CC0-1.0","file_name":"a.png"}\n')
    return tmp_path


@pytest.mark.parametrize("name", [*SOURCES, *OTHERS])
@pytest.mark.parametrize(("path", "code"), [("nowhere", 1), ("a.txt", 2)])
def test_missing_is_1_and_a_file_in_place_of_a_folder_is_2(
    in_process: Command, folder: Path, name: str, path: str, code: int
) -> None:
    arguments = [each.replace("{}", path) for each in (SOURCES | OTHERS)[name]]
    done = in_process(*arguments)
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    assert path.encode() in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["license-filter", "list.jsonl", "--blocklist", "nowhere"], 1),
        (["license-filter", "list.jsonl", "--blocklist", "empty"], 2),
        (["license-filter", "list.jsonl", "-o", "a.txt"], 2),
        (["shard", "list.jsonl", "-o", "a.txt"], 2),
        (["fetch", "scenes", "-o", "a.txt"], 2),
        (["fetch", "scenes", "--limit", "1", "-o", "a.txt/x"], 1),
        (["train", "--stage", "nano", "--data", "empty,empty"], 2),
        (["inspect", "nowhere"], 1),
        (["inspect", "empty"], 2),
    ],
)
def test_other_paths_follow_the_same_rule(in_process: Command, folder: Path, arguments: list[str], code: int) -> None:
    done = in_process(*arguments)
    assert done.returncode == code, done.stderr
    ends_in_json = done.stderr.splitlines()[-1].startswith(b"{")
    assert ends_in_json == (code == 1 and arguments[0] not in main.NO_SUMMARY)


@pytest.mark.parametrize("name", SOURCES)
def test_an_empty_folder_gets_the_advice_of_its_command_and_a_json_line(
    in_process: Command, folder: Path, name: str
) -> None:
    done = in_process(*(each.replace("{}", "empty") for each in SOURCES[name]))
    *lines, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert (MAKE if name in ("encode-text", "encode-image", "train") else FETCH) in lines
    said = orjson.loads(last)
    assert (said["stage"], said["in"], said["out"], said["dropped"]) == (name, 0, 0, {})


@pytest.mark.parametrize(
    "arguments",
    [["shard", "empty", "--size", "64"], ["fetch", "nowhere"], ["encode-image", "empty", "-o", "x.jsonl"],
     ["encode-text", "empty", "-o", "-"]],
)  # fmt: skip
def test_a_folder_for_the_output_is_asked_for_before_the_source_is_read(
    in_process: Command, folder: Path, arguments: list[str]
) -> None:
    done = in_process(*arguments)
    assert done.returncode == 2
    assert b"which do not go into JSONL.\nGive a folder" in done.stderr
    assert not done.stderr.splitlines()[-1].startswith(b"{")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mia", "nothing"], "Error: MODEL nothing is not a transformer model, a folder or a hub id."),
        (["mia", "nano"], "Error: --data shards/ (the default) does not exist."),
        (["train", "--stage", "nano"], "Error: --data shards/ (the default) does not exist."),
        (["export", "nothing", "-o", "x"], "Error: MODEL nothing is not a transformer model, a folder or a hub id."),
        (["inspect", "empty"], "Error: empty is a folder; name an image file."),
        (["sample", "x", "--model", "nothing", "--size", "0", "-o", "x.png"], "Error: --size 0 must be from 1 to 4096"),
        (["sample", "x", "--model", "nothing", "--size", "8x9999", "-o", "x.png"], "8x9999 must be from 1 to 4096"),
    ],
)
def test_the_sentence_names_what_was_given(
    in_process: Command, folder: Path, arguments: list[str], sentence: str
) -> None:
    assert sentence in in_process(*arguments).stderr.decode()


def test_nano_measure_looks_for_its_folder_before_torch_is_imported(folder: Path) -> None:
    code = (
        "import sys; from commonart.cli.main import run; "
        "print(run(['nano', 'measure', 'nothing', '-n', '5']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    assert done.stdout.split() == [b"1", b"False"]


@pytest.mark.parametrize("piped", [True, False])
def test_ctrl_c_advises_to_go_on_only_where_stdin_can_be_read_again(folder: Path, piped: bool) -> None:
    command = [sys.executable, "-m", "commonart.cli.main", "license-filter"]
    fifo = folder / "slow.jsonl"
    if not piped:
        os.mkfifo(fifo)
        command.append(str(fifo))
    stdin = subprocess.PIPE if piped else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as process:
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    said, last = stderr.decode().splitlines()
    assert process.returncode == 130
    assert said == "Interrupted." + ("" if piped else " Run the same command again to continue.")
    assert orjson.loads(last)["stage"] == "license-filter"


def test_help_shows_plain_words_for_values(commonart: Command) -> None:
    assert b"Usage: commonart inspect [OPTIONS] FILE" in commonart("inspect", "--help").stdout
    said = commonart("sample", "--help").stdout
    assert b"--format png|jpg|webp" in said and b"--steps N" in said
    for name in main.COMMANDS:
        said = commonart(name, "--help").stdout
        assert [word for word in (b"<str>", b"range>", b"{") if word in said] == [], name
