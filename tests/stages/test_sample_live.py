"""The loop of `sample -i`: prompts, settings, errors and Ctrl-C."""

from __future__ import annotations

import os
import pty
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_pipeline

from commonart.core.generation.request import GenerationConfig, ModelSpec
from commonart.core.generation.session import Session
from commonart.stages.inspect import inspect
from commonart.stages.sample_live import loop


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny")
    return Session.open(ModelSpec(str(folder), device="cpu", precision="fp32"))


def typed(session: Session, lines: list[object], **options):
    """Run the loop on these lines; what is an exception is raised, as by Ctrl-C."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        line = next(rest, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    seen: list[dict] = []
    loop(
        session,
        GenerationConfig(steps=2),
        **{"out": "pictures", "seed": 7, "read": read, "emit": seen.append, **options},
    )
    return seen


def test_prompts_settings_and_history(session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown: list[object] = []
    seen = typed(
        session,
        [
            "a red circle", ":steps 3", ":guidance 2", ":negative blue", ":size 32x24", ":sampler ddim", ":n 2",
            "赤い丸", ":set", ":n 1", ":seed 9", ":again", ":history", ":quit", "never drawn",
        ],
        show=shown.append,
    )  # fmt: skip
    assert [r["prompt"] for r in seen] == ["a red circle", "赤い丸", "赤い丸", "赤い丸"]
    assert [r["seed"] for r in seen[:3]] == [7, 7, 8] and seen[3]["seed"] not in (7, 8, 9)
    assert len(shown) == 4
    said = inspect(seen[1]["image"])["settings"]
    assert (said["steps"], said["guidance"], said["negative"], said["sampler"]) == (3, 2.0, "blue", "ddim")
    assert (said["width"], said["height"]) == (32, 24)
    assert len(list(Path("pictures").iterdir())) == 4
    told = capsys.readouterr().err
    assert "steps 3" in told and "negative blue" in told and told.count("赤い丸") >= 3


def test_errors_are_told_and_the_loop_goes_on(session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = typed(
        session,
        [
            "\udcff", ":n 0", ":seed -4", ":interval 1", ":again", ":stps 3", ":steps x", ":steps 0", ":size 33",
            ":sampler euler", KeyboardInterrupt(), "", "a", EOFError(),
        ],
    )  # fmt: skip
    told = capsys.readouterr().err
    for part in (
        "not UTF-8",
        ":n 0 must be from 1",
        ":seed -4 must be from 0",
        ":interval 1 is not two numbers. For example :interval 0.2,0.8",
        ":stps is not a command",
        ":steps x is not a number",
        "--steps 0",
        "multiples of 8",
        "--sampler euler is unknown",
    ):
        assert part in told, part
    assert [r["prompt"] for r in seen] == ["a"] and seen[0]["steps"] == 2 and seen[0]["width"] == 32


def test_a_command_alone_puts_back_the_usual(session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = ("steps 1", "guidance 2", "rescale 0.5", "interval 0.2,0.8", "sampler ddim", "negative b", "n 3")
    typed(session, [*(f":{c}" for c in commands), ":aspect 4:1", ":set"], out="x/")
    told = capsys.readouterr().err
    assert "images go to x/;" in told and "interval (0.2, 0.8)" in told.replace("[", "(").replace("]", ")")
    assert "aspect 4:1" in told and "\n  64x16\n" in told
    seen = typed(session, [*(f":{c.split()[0]}" for c in commands), ":steps 2", "a"])
    assert len(seen) == 1 and (seen[0]["guidance"], seen[0]["negative"]) == (4.5, "")
    assert not {"rescale", "interval", "sampler"} & seen[0].keys()


def test_arrow_keys_bring_back_earlier_lines(tmp_path):
    """On a real terminal, while stdout is kept for records: the second line is an arrow up."""
    code = (
        "import contextlib, sys; from commonart.stages import sample_live as live\n"
        "with contextlib.redirect_stdout(sys.stderr), live._line_history(live.read_line):\n"
        "    print('got', live.read_line('> '), live.read_line('> '))"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(XDG_STATE_HOME=str(tmp_path), TERM="xterm")
        os.execv(sys.executable, [sys.executable, "-c", code])
    seen = b""
    for line in (b"a red circle\n", b"\x1b[A\n"):
        while not seen.endswith(b"> "):
            seen += os.read(terminal, 1000)
        os.write(terminal, line)
        seen += os.read(terminal, 1)
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(terminal, 1000):
            seen += part
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0 and b"got a red circle a red circle" in seen
    assert "a red circle" in (tmp_path / "commonart" / "history").read_text()


def test_ctrl_c_stops_a_drawing_not_the_loop(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original, count = session.generator.generate, 0

    def generate(*args, **options):
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(type(session.generator), "generate", lambda self, *args, **options: generate(*args, **options))
    assert [r["prompt"] for r in typed(session, ["a", "b"])] == ["b"]
