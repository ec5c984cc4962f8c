"""Type a prompt, see an image, change a setting: `commonart sample -i`. A line that begins with a colon is a command."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.outputs import plan, record_of
from commonart.core.generation.prompts import Prompt
from commonart.core.generation.request import DEFAULT_CONFIG, MAX_SEED, GenerationConfig
from commonart.core.log import say

if TYPE_CHECKING:
    from PIL import Image

    from commonart.core.generation.session import Session

HELP = """\
  any text         generates an image of it
  :again           the last prompt from another seed
  :seed 7          the same seed from now on; :seed alone takes a new one each time
  :n 4             images of each prompt
  :steps 20   :guidance 4.5   :negative blue   :sampler ddim   :rescale 0.7   :interval 0.2,0.8
  :size 640x384   :aspect 3:2
                   each of these alone restores the default
  :set             the current settings
  :history         the images so far, with their seeds
  :quit            or Ctrl-D"""
MAX_IMAGES = 1000  # of one prompt
TEXTS = ("negative", "sampler", "size", "aspect")


def read_line(prompt: str) -> str:
    """Read one line, with arrow keys: input() offers them only on the real stdout, which the command keeps for records."""
    real = sys.__stdout__ if sys.__stdout__ is not None and sys.__stdout__.isatty() else sys.stdout
    with redirect_stdout(real):
        return input(prompt)


def loop(
    session: Session,
    config: GenerationConfig,
    *,
    out: str,
    seed: int | None = None,
    n: int = 1,
    batch: int = 8,
    ending: str = "png",
    show: Callable[[Image.Image], Any] | None = None,
    read: Callable[[str], str] = read_line,
    emit: Callable[[dict[str, Any]], Any] = lambda record: None,
) -> int:
    """Read lines until :quit or the end of input; return how many images were generated.

    Errors are printed and the loop goes on; Ctrl-C stops a generation, not the loop. `seed` is of each prompt's first
    image; None takes a new one each time. `read` asks for a line and raises EOFError at the end.
    """
    say(f"{session.generator.components.name}; images go to {out.rstrip('/')}/; :help shows the commands")
    history: list[dict[str, Any]] = []
    last = ""
    with _line_history(read):
        while True:
            try:
                line = read("> ").strip()
            except EOFError:
                return session.generated
            except KeyboardInterrupt:
                continue
            command, _, value = line.partition(" ")
            value = value.strip()
            try:
                if command in (":quit", ":q"):
                    return session.generated
                if command in (":help", ":h", ":?"):
                    say(HELP)
                elif command == ":set":
                    current = config.as_settings()
                    current |= {"size": config.size, "aspect": config.aspect, "seed": seed, "n": n}
                    shown = (f"{name} {value}" for name, value in current.items() if value not in (None, ""))
                    say(f"  {', '.join(shown)}")
                elif command == ":history":
                    for record in history:
                        say(f"  {record['seed']:>10}  {record['prompt']}  {record['image']}")
                elif command == ":seed":
                    seed = _number(int, "seed", value, (0, MAX_SEED - MAX_IMAGES)) if value else None
                elif command == ":n":
                    n = _number(int, "n", value, (1, MAX_IMAGES)) if value else 1
                elif command.startswith(":") and command != ":again":
                    changed = _changed(config, command[1:], value)
                    settings = session.settings(changed)  # raises now for what this model does not support
                    config = changed
                    if command == ":aspect":
                        say(f"  {settings['width']}x{settings['height']}")
                elif line:
                    last = last if command == ":again" else line
                    if not last:
                        raise UsageError("There is no prompt yet.", "Type one.")
                    first = secrets.randbelow(2**31) if seed is None or command == ":again" else seed
                    settings = session.settings(config)
                    images = plan([Prompt(last, {})], settings, seed=first, n=n, out=out, ending=ending)
                    for image, pixels in session.generate(images, config, batch=batch, quiet=False):
                        if show is not None and pixels is not None:
                            show(pixels)
                        say(f"  {image.path} (seed {image.settings['seed']})")
                        history.append(record_of(image))
                        emit(history[-1])
            except CommonArtError as error:
                say(f"{error.what} {error.fix}")
            except KeyboardInterrupt:
                say("stopped")


def _changed(config: GenerationConfig, name: str, value: str) -> GenerationConfig:
    if name not in (*NUMBERS, *TEXTS):
        raise UsageError(f":{name} is not a command.", ":help shows them.")
    new: Any = value or getattr(DEFAULT_CONFIG, name)
    if value and name in NUMBERS:
        new = _number(NUMBERS[name], name, value)
    changed = replace(config, **{name: new})
    changed.check()
    return changed


def _two(text: str) -> tuple[float, float]:
    low, high = text.split(",")
    return float(low), float(high)


NUMBERS: dict[str, Callable[[str], Any]] = {"steps": int, "guidance": float, "rescale": float, "interval": _two}


def _number(kind: Callable[[str], Any], name: str, text: str, limits: tuple[int, int] | None = None) -> Any:
    try:
        number = kind(text)
    except ValueError:
        what, example = ("two numbers", "0.2,0.8") if kind is _two else ("a number", "7")
        raise UsageError(f":{name} {text} is not {what}.", f"For example :{name} {example}.") from None
    if limits and not limits[0] <= number <= limits[1]:
        raise UsageError(f":{name} {text} must be from {limits[0]} to {limits[1]}.", f"For example :{name} 7.")
    return number


@contextmanager
def _line_history(read: Callable[[str], str]) -> Iterator[None]:
    """Arrow keys and Ctrl-R over the lines of this and earlier sessions, where Python has readline."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(home) / "commonart" / "history"
    readline: Any = None
    if read is read_line and sys.stdin.isatty():
        with suppress(ImportError, OSError):
            readline = import_module("readline")
            readline.set_history_length(1000)
            readline.read_history_file(file)
    try:
        yield
    finally:
        if readline is not None:
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(file)
