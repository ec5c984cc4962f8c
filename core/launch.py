"""How training runs in several processes, and how it is stopped. No torch here.

A signal to the process that started the others reaches all of them, and its exit code is theirs: 75 after a
checkpoint, 130 after Ctrl-C, else 1. torch.distributed's elastic_launch was tried in place of `spawn` (torch 2.15): after
SIGTERM or Ctrl-C it ends with 1 and a traceback and kills what has not saved within 30 s, and SIGUSR1 kills it alone.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from commonart.core.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PREEMPTED,
    CommonArtError,
    Diverged,
    Preempted,
    UsageError,
)
from commonart.core.slurm import step_tasks

RESULT_FILE = "COMMONART_RESULT_FILE"  # where a started process leaves its result, or the error it ended with
STARTER = "COMMONART_STARTER"  # the id of the process that started it
STORE = "COMMONART_STORE"  # a file through which processes of one machine find each other
AGAIN = "Start the same command again: it continues from the newest checkpoint."
KINDS: dict[str, type[CommonArtError]] = {"UsageError": UsageError, "Diverged": Diverged}  # of errors that are reported
GRACE = 120.0  # seconds that the other processes have to save after one has ended
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # "save and stop": a scheduler's, and Slurm's before it preempts
ECHO = 1.0  # seconds within which two SIGINT are one Ctrl-C: the terminal sends it, and torchrun sends it once more


@dataclass(slots=True)
class StopRequest:
    """Whether somebody asked this process to stop, and how it is to end."""

    exit_code: int = 0  # EXIT_PREEMPTED, or EXIT_INTERRUPTED by Ctrl-C; 0: nobody asked
    loop_saves: bool = False  # training runs, and its loop saves before it stops
    first_interrupt: float = -math.inf  # when Ctrl-C came first

    def interrupt(self) -> bool:
        """Note a Ctrl-C; return whether one came before it, so that this one is to end everything at once."""
        first, now = math.isinf(self.first_interrupt), time.monotonic()
        if first:
            self.first_interrupt, self.exit_code = now, EXIT_INTERRUPTED
            # Not through sys.stderr, which the loop may be writing to.
            os.write(2, b"\nThis step is finished and saved; Ctrl-C once more ends at once.\n")
        return not first and now - self.first_interrupt > ECHO


@contextmanager
def stoppable(what: str) -> Iterator[StopRequest]:
    """Let SIGTERM, SIGUSR1 and a first Ctrl-C set `exit_code` where the loop saves; before that and a second time, they raise.

    Outside the main thread signals are somebody else's, and nothing happens. `what` is named in the error: Preempted, or
    KeyboardInterrupt for Ctrl-C.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def preempt(number: int, frame: FrameType | None) -> None:
        stop.exit_code = stop.exit_code or EXIT_PREEMPTED
        if not stop.loop_saves:
            raise Preempted(f"{what}: a signal came before training began.", "Start the same command again.")

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not stop.loop_saves or stop.interrupt():
            raise KeyboardInterrupt

    with _handlers({**dict.fromkeys(STOP_SIGNALS, preempt), signal.SIGINT: interrupt}):
        yield stop
    if stop.exit_code == EXIT_INTERRUPTED:  # it came when all was done: the caller must not go on with something else
        raise KeyboardInterrupt


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Other answers to signals for a while. An ignored Ctrl-C (nohup, a started process) stays ignored."""
    old = {
        each: signal.signal(each, handler)
        for each, handler in handlers.items()
        if each != signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for each, handler in old.items():
            signal.signal(each, handler)


@dataclass(frozen=True, slots=True)
class ReportedSummary:
    """What a started process had done when it ended with an error: the `as_json` of its own summary."""

    values: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return self.values


class PeerGone(CommonArtError):
    """Another process of this training has ended; what it ended with says more than this."""


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes were started together: torchrun's count, else srun's, else 1."""
    if "WORLD_SIZE" in environ:
        return int(environ["WORLD_SIZE"])
    return step_tasks(environ) or 1


def check_gpus(gpus: int | None) -> None:
    """Raise UsageError for a number that cannot be one of GPUs."""
    if gpus is not None and gpus < 1:
        raise UsageError(f"--gpus {gpus} must be at least 1.", "Use 1 or more, or leave it out.")


def must_spawn(gpus: int | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is to start `gpus` others. Raises UsageError where another number was started already."""
    check_gpus(gpus)
    if gpus is None:
        return False
    if "WORLD_SIZE" in environ:
        starter, option = "torchrun", "--nproc-per-node times --nnodes"
    elif step_tasks(environ) is not None:
        starter, option = "srun", "--ntasks"
    else:
        return gpus > 1
    if (size := world_size(environ)) != gpus:
        what = f"--gpus {gpus}, but {starter} started {size} process{'' if size == 1 else 'es'}."
        raise UsageError(what, f"Make {option} equal to --gpus.")
    return False


def spawn(command: Sequence[str], count: int, environ: Mapping[str, str] = os.environ) -> Any:
    """Run `command` in `count` processes that form one world on this machine; return what the first of them reported.

    SIGTERM and SIGUSR1 are passed on, a first Ctrl-C as SIGUSR1; the second ends all at once. When one ends with an error
    the others get time to end too, then they are stopped. Raises what the first one to fail raised, or KeyboardInterrupt.
    """
    with tempfile.TemporaryDirectory(prefix="commonart-") as home:
        size, threads = str(count), str(max(1, (os.cpu_count() or 1) // count))
        shared = {"OMP_NUM_THREADS": threads, **environ, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        shared |= {STORE: f"{home}/store", STARTER: str(os.getpid())}
        processes: list[subprocess.Popen[bytes]] = []
        stop = StopRequest()

        def forward(number: int, frame: FrameType | None) -> None:
            stop.exit_code = stop.exit_code or EXIT_PREEMPTED
            for process in processes:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

        def interrupt(number: int, frame: FrameType | None) -> None:
            asked_before = stop.exit_code
            if stop.interrupt():
                raise KeyboardInterrupt
            if not asked_before:
                forward(signal.SIGUSR1, frame)

        with _handlers({**dict.fromkeys(STOP_SIGNALS, forward), signal.SIGINT: interrupt}):
            try:
                for rank in map(str, range(count)):
                    env = {**shared, "RANK": rank, "LOCAL_RANK": rank, RESULT_FILE: f"{home}/{rank}.json"}
                    if not stop.exit_code:
                        # A terminal sends Ctrl-C to all of them, and only this process knows which one it is.
                        deaf = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
                        processes.append(subprocess.Popen(command, env=env, preexec_fn=deaf))
                _wait(processes)
                codes = [process.poll() for process in processes]
            finally:
                for process in processes:
                    process.kill()  # nothing where it has ended
                    process.wait()
        files = [Path(home, f"{rank}.json") for rank in range(count)]
        results = [json.loads(file.read_text()) if file.exists() else None for file in files]
        _raise_first(codes, [result["error"] for result in results if result and "error" in result], stop)
        if stop.exit_code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        return results[0]


def stop_with_starter() -> None:
    """In a process of `spawn`: get SIGTERM when the one that started it is killed, where the system can (Linux)."""
    if STARTER in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, for deaths from now on
        if os.getppid() != int(os.environ[STARTER]):
            sys.exit(EXIT_FAILED)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or GRACE seconds after the first has failed."""
    deadline = math.inf
    while None in (codes := [process.poll() for process in processes]) and time.monotonic() <= deadline:
        if deadline == math.inf and any(codes):
            # A lone rank leaves the others waiting for it in a collective: they notice, then they are given up.
            deadline = time.monotonic() + (GRACE if EXIT_PREEMPTED in codes else 5.0)
        time.sleep(0.05)


def _raise_first(codes: Sequence[int | None], errors: Sequence[Mapping[str, Any]], stop: StopRequest) -> None:
    """Raise the error of the process that failed first. `codes`: exit codes, None of one that had to be stopped."""

    def error_of(kind: type[CommonArtError], told: Mapping[str, Any], code: int) -> CommonArtError:
        error = kind(told["what"], told["fix"], code)
        error.summary = ReportedSummary(told["summary"]) if told.get("summary") else None
        return error

    causes = [error for error in errors if error["code"] != EXIT_PREEMPTED and not error["peer"]]
    if causes:
        raise error_of(KINDS.get(causes[0]["kind"], CommonArtError), causes[0], causes[0]["code"])
    # One that got a signal before it could listen had nothing to save, and died of it.
    stopped = (EXIT_PREEMPTED, *(-each for each in STOP_SIGNALS)) if stop.exit_code else (EXIT_PREEMPTED,)
    some_saved = EXIT_PREEMPTED in codes and all(code in (*stopped, None) for code in codes)
    if some_saved or (stop.exit_code and set(codes) <= set(stopped)):
        error = errors[0] if errors else {"what": "A signal came before training began.", "fix": AGAIN}
        raise error_of(Preempted, error, stop.exit_code or EXIT_PREEMPTED)
    killed = [(rank, code) for rank, code in enumerate(codes) if code is not None and code < 0]
    killed.sort(key=lambda each: each[1] == -signal.SIGABRT)  # collectives abort where another process is gone
    failed = killed or [(rank, code) for rank, code in enumerate(codes) if code]
    if killed or (failed and not errors):
        rank, code = failed[0]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise CommonArtError(
            f"Training process {rank} of {len(codes)} {how}.", f"{AGAIN} What it printed stands above."
        )
    if errors:
        raise error_of(CommonArtError, errors[0], EXIT_FAILED)


def report(result: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """In a process of `spawn`: leave a JSON value, or an error, for the one that started it. False where nobody waits."""
    if RESULT_FILE not in environ:
        return False
    if isinstance(result, CommonArtError):
        peer = isinstance(result, PeerGone)
        told = result.summary.as_json() if result.summary is not None else None
        said = {"what": result.what, "fix": result.fix, "code": result.code, "peer": peer, "summary": told}
        said["kind"] = type(result).__name__
        result = {"error": said}
    Path(environ[RESULT_FILE]).write_text(json.dumps(result))
    return True
