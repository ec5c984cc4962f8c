"""The command line as a shell sees it: exit codes, the exact error lines, pipes, defaults from a file."""

from __future__ import annotations

import ast
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from commands import Command
from typer import BadParameter, Context
from typer.core import TyperCommand
from typer.main import get_command

from commonart.cli import main

ROOT = Path(__file__).resolve().parents[2]
RECORD = {"key": "a", "license": "CC0-1.0", "captions": [{"text": "草原の赤い丸", "lang": "ja"}]}
LINE = orjson.dumps(RECORD) + b"\n"


def last_json(stderr: bytes) -> dict:
    return orjson.loads(stderr.decode().splitlines()[-1])


def test_help_lists_every_command(commonart: Command) -> None:
    done = commonart("--help")
    assert done.returncode == 0
    said = done.stdout.decode()
    assert [name for name in main.COMMANDS if f"\n  {name} " not in said] == []


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help_with_an_example(commonart: Command, name: str) -> None:
    done = commonart(name, "--help")
    assert done.returncode == 0
    said = done.stdout.decode()
    assert said.split("\n\n")[1].strip().replace("\n  ", " ") == main.COMMANDS[name][1]
    if name != "nano":
        assert f"  commonart {name}" in said


def options_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option of the command tree, with the name of its command."""
    for name in group.commands:
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from options_of(command, f"{name} ")
        else:
            yield from ((f"{prefix}{name} {p.opts[0]}", p) for p in command.params if p.param_type_name == "option")


OPTIONS = dict(options_of(get_command(main.app)))


def test_every_number_has_a_range() -> None:
    """Numbers are checked before any work begins."""
    numbers = {name: p.type for name, p in OPTIONS.items() if p.type.name.startswith(("int", "float"))}
    assert {"fetch --delay", "nano build --seed"} <= numbers.keys()
    assert {name for name, kind in numbers.items() if getattr(kind, "min", None) is None} == {"encode-text --layer"}
    assert numbers["encode-text --layer"].max == -1  # how many layers there are, the model knows


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda path: path.name)
def test_a_command_passes_its_options_on_by_name(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "locals"] == []


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
def test_no_number_is_nan_or_infinite(value: str) -> None:
    floats = {name: p for name, p in OPTIONS.items() if p.type.name.startswith("float")}
    assert len(floats) >= 5
    accepted = []
    for name, option in floats.items():
        with contextlib.suppress(BadParameter):
            option.process_value(Context(TyperCommand(name)), value)
            accepted.append(name)
    assert accepted == []


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["license-filter", "nowhere/"], 1, "Error: nowhere/ does not exist."),
        (["caption", "nowhere/"], 1, "Error: nowhere/ does not exist."),
        (["translate", "nowhere/"], 1, "Error: nowhere/ does not exist."),
        (
            ["fetch", "scenes", "--list", "--column-map", "title=b"],
            2,
            "Error: --column-map is for tables, and scenes is none.",
        ),
        (["license-filter", "empty/"], 1, "Error: empty holds no shards (*.tar)."),
        (["license-filter", "a.txt"], 2, "Error: a.txt is not a folder, a .tar or a .jsonl."),
        (
            ["license-filter", "bad.jsonl"],
            1,
            "Error: bad.jsonl:2: is not JSON (invalid literal, expected 'null': line 1 column 1 (char 0)).",
        ),
        (["license-filter", "nokey.jsonl"], 1, "Error: nokey.jsonl:1: field 'key' is missing."),
        (["license-filter", "double.jsonl"], 1, "Error: double.jsonl:2: field 'key' 'a' stands on line 1 too."),
        (["license-filter", "cut.tar"], 1, "Error: cut.tar is not a complete tar: truncated header."),
        (["license-filter", "good.jsonl", "-o", "a.txt"], 2, "Error: -o a.txt is a file, and not a .jsonl."),
        (["train"], 2, "Error: --stage is missing."),
        (["train", "--stage", "1024"], 2, "Error: --stage 1024 is not a training stage."),
        (["train", "--stage", "nano", "--data", "nowhere/"], 1, "Error: --data nowhere/ does not exist."),
        (
            ["caption", "good.jsonl", "--model", "gpt-4"],
            2,
            "Error: --model gpt-4 is not a caption model, a folder or a hub id.",
        ),
        (["sample", "x", "--model", "nano", "-o", "a.txt"], 2, None),
        (
            ["license-filter", "good.jsonl", "--task-index", "3", "--num-tasks", "3"],
            2,
            "Error: task 3 of 3 does not exist.",
        ),
    ],
)
def test_errors_are_sentences_with_the_right_code(
    commonart: Command, tmp_path: Path, arguments: list[str], code: int, line: str | None
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("no picture")
    (tmp_path / "good.jsonl").write_bytes(LINE)
    (tmp_path / "bad.jsonl").write_bytes(LINE + b"nonsense\n")
    (tmp_path / "nokey.jsonl").write_bytes(b'{"license":"CC0-1.0"}\n')
    (tmp_path / "double.jsonl").write_bytes(LINE + LINE)
    (tmp_path / "cut.tar").write_bytes(b"a.json" + bytes(94) + b"0000644\0" * 3)
    done = commonart(*arguments)
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert code == 1 or done.stdout == b""  # what came before a broken record was passed on
    if line is not None:
        assert line in said


def test_unknown_option_is_usage(commonart: Command) -> None:
    done = commonart("fetch", "--colour")
    assert done.returncode == 2
    assert b"No such option: --colour" in done.stderr


def test_summary_is_the_last_line_of_stderr(commonart: Command) -> None:
    lines = LINE + orjson.dumps({**RECORD, "key": "b", "license": "CC-BY-NC-4.0"}) + b"\n"
    done = commonart("license-filter", input=lines)
    assert done.returncode == 0
    said = last_json(done.stderr)
    assert {name: said[name] for name in ("stage", "in", "out", "dropped")} == {
        "stage": "license-filter", "in": 2, "out": 1, "dropped": {"license_not_allowed:CC-BY-NC-4.0": 1},
    }  # fmt: skip
    assert said["seconds"] >= 0
    assert [orjson.loads(line)["key"] for line in done.stdout.splitlines()] == ["a"]


def test_too_many_failures_is_3_and_the_summary_still_comes_last(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps({"key": "a", "image": "gone.jpg"}) + b"\n")
    done = commonart("shard", "in.jsonl", "-o", "out")
    assert done.returncode == 3
    assert b"Error: shard: 1 of 1 records failed" in done.stderr
    assert last_json(done.stderr)["dropped"] == {"unreadable": 1}


def test_head_ends_a_pipe_in_silence(tmp_path: Path) -> None:
    with open(tmp_path / "in.jsonl", "wb") as file:
        for i in range(50_000):
            file.write(orjson.dumps({**RECORD, "key": f"k{i}"}) + b"\n")
    command = f"{sys.executable} -m commonart.cli.main license-filter in.jsonl | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 141
    assert done.stdout.count(b"\n") == 1
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr and b"Error" not in done.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_stage_leaves_nothing_half(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "commonart.cli.main", "license-filter", "-", "-o", "out.jsonl"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored under nohup and CI
    )  # fmt: skip
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(LINE)
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.jsonl.*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sent)
    said = process.stderr.read()
    assert process.wait(60) == code
    assert b"Traceback" not in said
    assert (b"Interrupted.\n" in said) == (code == 130)
    assert os.listdir(tmp_path) == []


def test_defaults_come_from_the_file_and_a_flag_wins(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "commonart.toml").write_text('[license-filter]\npolicy = "paper"\n')
    mark = orjson.dumps({"key": "a", "license": "CC-PDM-1.0"}) + b"\n"
    assert last_json(commonart("license-filter", input=mark).stderr)["out"] == 1
    assert last_json(commonart("license-filter", "--policy", "strict", input=mark).stderr)["out"] == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[license-filter]\ncolour = 1\n", "Error: commonart.toml: license-filter has no option 'colour'."),
        ("[paint]\n", "Error: commonart.toml: [paint] is not a subcommand."),
        ("fetch = 1\n", "Error: commonart.toml: fetch is not a table."),
        ("= 1", "Error: commonart.toml is not valid TOML"),
        ("[nano]\nfolder = 1\n", "Error: commonart.toml: [folder] is not a subcommand."),
        ("[nano.build]\ncolour = 1\n", "Error: commonart.toml: build has no option 'colour'."),
    ],
)
def test_a_wrong_defaults_file_is_usage(commonart: Command, tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "commonart.toml").write_text(text)
    done = commonart("models")
    assert done.returncode == 2
    assert line in done.stderr.decode()


def test_a_defaults_file_in_another_encoding_is_usage_and_spares_the_help(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "commonart.toml").write_bytes('[fetch]\nout = "生"\n'.encode("shift_jis"))
    done = commonart("models")
    assert done.returncode == 2 and b"Error: commonart.toml is not valid TOML" in done.stderr
    assert commonart("models", "--help").returncode == 0


def test_the_registry_as_json(commonart: Command) -> None:
    done = commonart("models", "caption", "--json")
    rows = {row["name"]: row for row in map(orjson.loads, done.stdout.splitlines())}
    assert done.returncode == 0 and rows["nano"]["prompts"] == [
        {"lang": "en", "length": "short", "texts": ["<CAPTION>"]}
    ]
    assert len(commonart("models", "--json").stdout.splitlines()) > len(rows)


@pytest.mark.parametrize(("closed", "said"), [("<&-", "stdin is closed"), (">&-", "stdout is closed")])
def test_closed_streams_are_a_sentence(tmp_path: Path, closed: str, said: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINE)
    source = "-" if closed == "<&-" else "in.jsonl"
    line = f"{shlex.quote(sys.executable)} -m commonart.cli.main license-filter {source} {closed}"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert said in done.stderr.decode() and b"Traceback" not in done.stderr


def test_ctrl_c_in_a_step_ends_the_chain(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "commonart.cli.main", "quickstart", "--scenes", "2000"],
        stderr=subprocess.PIPE, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"$ commonart fetch"):
            break
    time.sleep(0.5)  # in the middle of its 2,000 pictures, which take seconds
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert b"license-filter" not in rest and b"Traceback" not in rest
    assert not (tmp_path / "quickstart" / "steps.json").exists()


def test_no_permission_is_a_sentence(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINE)
    done = commonart("license-filter", "in.jsonl", "-o", "/proc/nowhere/out.jsonl")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("Error: /proc/nowhere")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINE)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "commonart.cli.main", "license-filter", "in.jsonl"],
            stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert b"Error: output: the disk is full." in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_where_a_folder_should_go_is_a_sentence(commonart: Command, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    done = commonart("quickstart", "-o", "taken")
    assert done.returncode == 1
    assert done.stderr == b"Error: taken: a file of this name already exists.\nChoose another path.\n"


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "fetch --help",
        "fetch --list-sources",
        "license-filter --explain 'CC BY 4.0'",
        "models",
        "train --list",
    ],
)
def test_a_reader_may_go_before_anything_is_printed(tmp_path: Path, command: str) -> None:
    line = f"{sys.executable} -m commonart.cli.main {command} | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 141 and done.stderr == b""


def test_the_list_of_commands_cuts_no_sentence(commonart: Command) -> None:
    for group in ((), ("nano",)):
        assert b"..." not in commonart(*group, "--help", COLUMNS="80").stdout.split(b"Commands:")[1]


def test_japanese_on_a_stdout_of_another_encoding_is_escaped(commonart: Command) -> None:
    done = commonart("license-filter", "--explain", "表示 4.0", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and b"\\u8868\\u793a 4.0" in done.stdout
    assert b"Traceback" not in done.stderr
