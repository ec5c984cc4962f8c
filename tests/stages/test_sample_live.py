"""The loop of `sample -i`: prompts, settings, errors and Ctrl-C."""

from __future__ import annotations

import os
import pty
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_pipeline

from commonart.core.generation.request import GenerationConfig
from commonart.core.generation.session import Session
from commonart.stages.sample import inspect
from commonart.stages.sample_live import loop


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny")
    return Session.open(str(folder), device="cpu", precision="fp32")


def typed(studio: Session, lines: list[object], **options):
    """Run the loop on these lines; what is an exception is raised, as by Ctrl-C."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        line = next(rest, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    seen: list[dict] = []
    loop(
        studio,
        GenerationConfig(steps=2),
        **{"out": "pictures", "seed": 7, "read": read, "emit": seen.append, **options},
    )
    return seen


def test_prompts_settings_and_history(studio, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown: list[object] = []
    seen = typed(
        studio,
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


def test_errors_are_told_and_the_loop_goes_on(studio, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = typed(
        studio,
        [
            "\udcff", ":n 0", ":seed -4", ":interval 1", ":again", ":stps 3", ":steps x", ":steps 0", ":size 33",
            ":sampler euler", KeyboardInterrupt(), "", "a", EOFError(),
        ],
    )  # fmt: skip
    told = capsys.readouterr().err
    for part in (
        "no UTF-8",
        ":n 0 is not possible",
        ":seed -4 is not possible",
        ":interval 1: this is no two numbers. For example :interval 0.2,0.8",
        ":stps is no command",
        "no number",
        "--steps 0",
        "multiples of 8",
        "not known",
    ):
        assert part in told, part
    assert [r["prompt"] for r in seen] == ["a"] and seen[0]["steps"] == 2 and seen[0]["width"] == 32


def test_a_command_alone_puts_back_the_usual(studio, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = ("steps 1", "guidance 2", "rescale 0.5", "interval 0.2,0.8", "sampler ddim", "negative b", "n 3")
    typed(studio, [*(f":{c}" for c in commands), ":aspect 4:1", ":set"], out="x/")
    told = capsys.readouterr().err
    assert "pictures go to x/;" in told and "interval (0.2, 0.8)" in told.replace("[", "(").replace("]", ")")
    assert "aspect 4:1" in told and "\n  64x16\n" in told
    seen = typed(studio, [*(f":{c.split()[0]}" for c in commands), ":steps 2", "a"])
    assert len(seen) == 1 and (seen[0]["guidance"], seen[0]["negative"]) == (4.5, "")
    assert not {"rescale", "interval", "sampler"} & seen[0].keys()


def test_arrow_keys_bring_back_earlier_lines(tmp_path):
    """On a real terminal, while stdout is kept for records: the second line is an arrow up."""
    code = (
        "import contextlib, sys; from commonart.stages import sample_live as live\n"
        "with contextlib.redirect_stdout(sys.stderr), live._line_history(live.ask):\n"
        "    print('got', live.ask('> '), live.ask('> '))"
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


def test_ctrl_c_stops_a_drawing_not_the_loop(studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original, count = studio.engine.draw, 0

    def draw(*args, **options):
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(type(studio.engine), "draw", lambda self, *args, **options: draw(*args, **options))
    assert [r["prompt"] for r in typed(studio, ["a", "b"])] == ["b"]
