"""Images in a terminal, for `commonart sample --show`.

Terminals with kitty's or iTerm2's protocol get the image itself; any other gets half blocks, two pixels a character,
in 24-bit colours or, where COLORTERM does not promise them, in the 256 of xterm.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from commonart.core.errors import UsageError
from commonart.core.log import on_terminal, say

COLUMNS = 64  # of half blocks: an image of 64 x 64 pixels as it is
_CHUNK = 4096  # bytes of base64 that kitty takes at a time
_STEPS = (0, 95, 135, 175, 215, 255)  # xterm's colour cube


def protocol(environment: Mapping[str, str] = os.environ) -> str:
    """Return kitty, iterm2 or blocks, by the terminal's environment; inside tmux or screen only blocks survive."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if environment.get("TMUX") or term.startswith(("screen", "tmux")):
        return "blocks"
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "blocks"


def viewer(required: bool) -> Callable[[Image.Image], Any] | None:
    """Return what shows an image on the terminal; None where none can. Raises UsageError where it is `required`."""
    dumb = os.environ.get("TERM") == "dumb"
    if dumb or not on_terminal():
        if required:
            reason = "TERM=dumb has no colours" if dumb else "stderr is not one"
            raise UsageError(f"--show needs a terminal, and {reason}.", "Leave it out, or do not redirect stderr.")
        return None
    return lambda image: say(render(image).rstrip("\n"))


def render(image: Image.Image, method: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the characters that show `image` (RGB) on a terminal, with a newline at the end."""
    method = method or protocol(environment)
    if method == "blocks":
        width = min(COLUMNS, shutil.get_terminal_size((80, 24)).columns)
        return blocks(image, width, environment.get("COLORTERM") in ("truecolor", "24bit"))
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    if method == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(file.getvalue())}:{data}\a\n"
    lines = []
    for start in range(0, len(data), _CHUNK):
        end = start + _CHUNK
        control = f"{'' if start else 'a=T,f=100,'}m={int(end < len(data))}"
        lines.append(f"\x1b_G{control};{data[start:end]}\x1b\\")
    return "".join(lines) + "\n"


def blocks(image: Image.Image, columns: int, true_color: bool) -> str:
    """Return `image` in `columns` characters a line, the upper pixel as foreground, the lower one as background."""
    height = max(2, round(image.height * columns / image.width / 2) * 2)
    small = image.convert("RGB").resize((columns, height), Image.Resampling.BOX)
    data = small.tobytes()
    codes = [_code(data[i], data[i + 1], data[i + 2], true_color) for i in range(0, len(data), 3)]
    rows = [codes[start : start + columns] for start in range(0, len(codes), columns)]
    lines = []
    for pairs in map(zip, rows[::2], rows[1::2]):
        lines.append("".join(f"\x1b[38;{upper};48;{lower}m▀" for upper, lower in pairs) + "\x1b[0m\n")
    return "".join(lines)


def _code(red: int, green: int, blue: int, true_color: bool) -> str:
    if true_color:
        return f"2;{red};{green};{blue}"
    r, g, b = (min(range(6), key=lambda i: abs(_STEPS[i] - value)) for value in (red, green, blue))
    return f"5;{16 + 36 * r + 6 * g + b}"
