"""Type a prompt, see a picture, change a setting: `commonart sample -i --model nano`.

A line that begins with a colon is a command; any other is a prompt. Pictures go to the folder of -o with their marks,
as in any other call, so whatever was liked can be drawn again.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.prompts import Prompt
from commonart.core.generation.request import MAX_SEED, USUAL, GenerationConfig, plan, record_of
from commonart.core.log import say

if TYPE_CHECKING:
    from commonart.core.generation.session import Session

HELP = """\
  any text         draws it
  :again           draws the last prompt from another seed
  :seed 7          the same seed from now on; :seed alone draws a new one each time
  :n 4             pictures of each prompt
  :steps 20   :guidance 4.5   :negative blue   :sampler ddim   :rescale 0.7   :interval 0.2,0.8
  :size 640x384   :aspect 3:2
                   each of these alone puts back the usual
  :set             what is set
  :history         what was drawn, with its seeds
  :quit            or Ctrl-D"""
MOST = 1000  # pictures of one prompt
TEXTS = ("negative", "sampler", "size", "aspect")


def run(
    *,
    model: str,
    out: str,
    seed: int | None,
    n: int,
    show: Callable[[Any], Any] | None,
    batch: int,
    ending: str,
    emit: Callable[[dict[str, Any]], Any],
    **settings: Any,
) -> int:
    """Open `model` and begin the loop; `settings` are the fields of `GenerationConfig` and what `Studio.open` takes."""
    from commonart.core.generation.session import Session

    how, opening = GenerationConfig.of(settings)
    how.check()
    studio = Session.open(model, **opening)
    return loop(studio, how, out=out, seed=seed, n=n, batch=batch, ending=ending, show=show, emit=emit)


def ask(prompt: str) -> str:
    """One line, with arrow keys: input() offers them only on the real stdout, which the command keeps for records."""
    real = sys.__stdout__ if sys.__stdout__ is not None and sys.__stdout__.isatty() else sys.stdout
    with redirect_stdout(real):
        return input(prompt)


def loop(
    studio: Session,
    how: GenerationConfig,
    *,
    out: str,
    seed: int | None = None,
    n: int = 1,
    batch: int = 8,
    ending: str = "png",
    show: Callable[[Any], Any] | None = None,
    read: Callable[[str], str] = ask,
    emit: Callable[[dict[str, Any]], Any] = lambda record: None,
) -> int:
    """Read lines until :quit or the end of input; returns how many pictures were drawn.

    Errors are told and the loop goes on; Ctrl-C stops a drawing, not the loop.

    Args:
        show: called with each picture. `read`: asks for a line, raises EOFError at the end.
        emit: called with the record of each picture.
    """
    say(f"{studio.engine.parts.name}; pictures go to {out.rstrip('/')}/; :help shows the commands")
    history: list[dict[str, Any]] = []
    last = ""
    with _line_history(read):
        while True:
            try:
                line = read("> ").strip()
            except EOFError:
                return studio.drawn
            except KeyboardInterrupt:
                continue
            command, _, value = line.partition(" ")
            value = value.strip()
            try:
                if command in (":quit", ":q"):
                    return studio.drawn
                if command in (":help", ":h", ":?"):
                    say(HELP)
                elif command == ":set":
                    said = how.said() | {"size": how.size, "aspect": how.aspect, "seed": seed, "n": n}
                    say("  " + ", ".join(f"{name} {value}" for name, value in said.items() if value not in (None, "")))
                elif command == ":history":
                    for record in history:
                        say(f"  {record['seed']:>10}  {record['prompt']}  {record['image']}")
                elif command == ":seed":
                    seed = _number(int, "seed", value, (0, MAX_SEED - MOST)) if value else None
                elif command == ":n":
                    n = _number(int, "n", value, (1, MOST)) if value else 1
                elif command.startswith(":") and command != ":again":
                    changed = _changed(how, command[1:], value)
                    said = studio.shared(changed)  # says now what this model cannot draw
                    how = changed
                    if command == ":aspect":
                        say(f"  {said['width']}x{said['height']}")
                elif line:
                    last = last if command == ":again" else line
                    if not last:
                        raise UsageError("nothing was drawn yet.", "Type a prompt.")
                    first = secrets.randbelow(2**31) if seed is None or command == ":again" else seed
                    wanted = plan([Prompt(last, {})], studio.shared(how), seed=first, n=n, out=out, ending=ending)
                    for picture, image in studio.draw(wanted, how, batch=batch, quiet=False):
                        if show is not None:
                            show(image)
                        say(f"  {picture.path} (seed {picture.settings['seed']})")
                        history.append(record_of(picture))
                        emit(history[-1])
            except CommonArtError as error:
                say(f"{error.what} {error.fix}")
            except KeyboardInterrupt:
                say("stopped")


def _changed(how: GenerationConfig, name: str, value: str) -> GenerationConfig:
    if name not in (*NUMBERS, *TEXTS):
        raise UsageError(f":{name} is no command.", ":help shows them.")
    new: Any = value or getattr(USUAL, name)
    if value and name in NUMBERS:
        new = _number(NUMBERS[name], name, value)
    changed = replace(how, **{name: new})
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
        what, example = ("no two numbers", "0.2,0.8") if kind is _two else ("no number", "7")
        raise UsageError(f":{name} {text}: this is {what}.", f"For example :{name} {example}.") from None
    if limits and not limits[0] <= number <= limits[1]:
        raise UsageError(f":{name} {text} is not possible.", f"Give {limits[0]} to {limits[1]}.")
    return number


class _line_history:
    """Arrow keys and Ctrl-R over the lines of this and earlier sessions, where Python has readline."""

    def __init__(self, read: Callable[[str], str]) -> None:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self.file = Path(home) / "commonart" / "history"
        self.wanted = read is ask and sys.stdin.isatty()

    def __enter__(self) -> None:
        if self.wanted:
            with suppress(ImportError, OSError):
                import readline

                readline.set_history_length(1000)
                readline.read_history_file(self.file)

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            with suppress(ImportError, OSError):
                import readline

                self.file.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(self.file)
