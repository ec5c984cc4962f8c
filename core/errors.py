"""The errors that a user can cause, each with its exit code; `cli/main.py` prints them. Others are bugs, with a traceback.

An error is one sentence that says what is wrong (naming the file and line, or the flag) and one that says what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TOO_MANY_FAILURES = 3
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: "start me again"; the sbatch script requeues on it.
EXIT_INTERRUPTED = 130  # 128 + SIGINT: Ctrl-C, as a shell reports it


class CommonArtError(Exception):
    """Something that the user can mend. `what` and `fix` are whole sentences; `code` is the exit status."""

    code = EXIT_FAILED
    summary: Any = None  # core.data.drops.Summary of the stage that failed, when it had begun

    def __init__(self, what: str, fix: str = "", code: int | None = None) -> None:
        super().__init__(f"{what} {fix}".strip())
        self.what, self.fix = what, fix
        self.code = self.code if code is None else code

    def __reduce__(self) -> tuple[type[CommonArtError], tuple[str, str, int]]:
        # Errors cross process boundaries (decoding workers, launched ranks).
        return type(self), (self.what, self.fix, self.code)


class UsageError(CommonArtError):
    """The command line itself is wrong."""

    code = EXIT_USAGE


class Diverged(CommonArtError):
    """The gradients of a run cannot be used any more."""


@contextmanager
def telling(summary: Callable[[], Any]) -> Iterator[None]:
    """Let errors carry what was done before them, which `cli/main.py` prints."""
    try:
        yield
    except (CommonArtError, OSError, KeyboardInterrupt) as error:
        vars(error)["summary"] = summary()
        raise


def reason(error: BaseException) -> str:
    """Return what an error says, without the number and the path that Python or safetensors add to the system's."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    return getattr(error, "strerror", None) or str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's error says, or its class, without a full stop, in at most 300 characters.

    The line after one that ends with a colon belongs to it: there diffusers and transformers write why they could not import.
    """
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if first.endswith(":") and more:
        first = f"{first} {more[0]}"
    return first[:300].rstrip(".: ")


def with_class(error: BaseException) -> str:
    """Return the class of a library's error and, where it says something, the first line of that."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__


def check_at_least(flag: str, value: float | None, least: float) -> None:
    """Raise UsageError for a number of an option that is too small."""
    if value is not None and value < least:
        raise UsageError(f"{flag} must be at least {least}, not {value}.", "Leave it out for the default.")


class SchemaError(CommonArtError):
    """A record that breaks the schema: names the file, the line (or the tar member) and the field."""

    def __init__(self, file: str, line: int | str, field: str, problem: str) -> None:
        location = f"{file}:{line}" if isinstance(line, int) else f"{file}#{line}"
        about = f"field '{field}' {problem}" if field else problem
        super().__init__(f"{location}: {about}.", "Mend that record or leave it out; nothing after it was read.")
        self.file, self.line, self.field, self.problem = file, line, field, problem

    def __reduce__(self) -> tuple[type[CommonArtError], tuple]:
        return type(self), (self.file, self.line, self.field, self.problem)


class TooManyFailures(CommonArtError):
    """The stage finished, with more failures than `--max-failures` allows."""

    code = EXIT_TOO_MANY_FAILURES


class Preempted(CommonArtError):
    """A signal asked the stage to stop; its state is on disk and the same command continues. Of Ctrl-C: `code` 130."""

    code = EXIT_PREEMPTED


class ReaderGone(CommonArtError):
    """Whoever read our stdout has closed it (`| head -1`): there is nothing to say."""

    code = 128 + 13  # SIGPIPE, as a shell reports it

    def __init__(self) -> None:
        super().__init__("")

    def __reduce__(self) -> tuple[type[CommonArtError], tuple]:
        return type(self), ()
