"""Pictures in terminals: the bytes that each protocol wants."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from commonart.core.errors import UsageError
from commonart.core.output import terminal


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x"}, "blocks"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({}, "blocks"),
    ],
)
def test_the_terminal_says_what_it_can(environment, way):
    assert terminal.protocol(environment) == way


def test_half_blocks_are_the_pixels():
    image = Image.new("RGB", (2, 4), (255, 0, 0))
    image.putpixel((1, 3), (1, 2, 3))
    one, two = terminal.blocks(image, 2, true_color=True).splitlines()
    assert one == "\x1b[38;2;255;0;0;48;2;255;0;0m▀" * 2 + "\x1b[0m"
    assert two.endswith("\x1b[38;2;255;0;0;48;2;1;2;3m▀\x1b[0m")
    plain = terminal.blocks(image, 2, true_color=False)
    assert "38;5;196" in plain and "2;255" not in plain
    wide = terminal.blocks(Image.new("RGB", (640, 320)), 40, True).splitlines()
    assert len(wide) == 10 and wide[0].count("▀") == 40


def test_kitty_gets_the_whole_png_in_chunks():
    image = Image.effect_noise((96, 96), 90).convert("RGB")
    text = terminal.render(image, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 1 and parts[0][0] == "a=T,f=100,m=1" and parts[-1][0] == "m=0"
    assert all(len(data) <= 4096 for _, data in parts)
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts)))) as back:
        assert back.tobytes() == image.tobytes()


def test_iterm2_gets_the_whole_png():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+):(.*)\a\n", terminal.render(image, "iterm2"))
    assert found
    data = base64.b64decode(found[2])
    assert len(data) == int(found[1]) and Image.open(io.BytesIO(data)).size == (8, 8)


def test_a_terminal_without_colours_gets_no_picture(monkeypatch):
    monkeypatch.setattr(terminal, "on_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.viewer(required=True) is not None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal.viewer(required=False) is None
    with pytest.raises(UsageError, match="TERM=dumb has no colours"):
        terminal.viewer(required=True)
