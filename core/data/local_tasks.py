"""`--gpus N` of the commands that work shard by shard: N processes of this machine, each with its own GPU and shards.

    commonart caption --gpus 8 raw/ -o captioned/

Each process is the same command line, told apart by RANK. When all have ended, the command that started them runs as well: it
finds every shard finished, adds up what their manifests say, and gathers the rejects.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from commonart.core import launch
from commonart.core.data.files import lock
from commonart.core.data.shards.chunks import check_exists
from commonart.core.data.stream import takes_jsonl
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, UsageError

PATIENCE = 20.0  # seconds that processes have to end after SIGTERM


def is_started(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is one of those that `run` started."""
    return launch.STARTER in environ


def own_task(task: Task, environ: Mapping[str, str] = os.environ) -> Task:
    """Return this process's part of a task that it shares with the others of `run`; of any other process, the task itself."""
    if not is_started(environ):
        return task
    return Task(task.index + task.count * int(environ["RANK"]), task.count * int(environ["WORLD_SIZE"]))


def check(gpus: int, source: str | None, out: str | None) -> None:
    """Raise an error where `gpus` processes cannot share the work: it must be read several times, and go into a folder."""
    if source in (None, "-"):
        raise UsageError(
            f"--gpus {gpus} needs a SOURCE that every process can read.", "Give a folder of shards, not stdin."
        )
    check_exists(str(source))
    if out is None or takes_jsonl(out) or os.path.isfile(out):
        raise UsageError(f"--gpus {gpus} needs a folder for the shards of every process.", "Give -o FOLDER/.")


def run(command: list[str], gpus: int, out: str, task: Task) -> list[Any]:
    """Run `command` in `gpus` processes, and return what each of them reported. The first that fails ends the others.

    However this process ends, they do too (SIGKILL: on Linux), and the same command goes on from the shards that are finished.

    Raises:
        CommonArtError: what the first process to fail reported, or how it ended; or the folder `out` is in use.
    """
    threads = str(max(1, (os.cpu_count() or 1) // gpus))
    count = {"WORLD_SIZE": str(gpus), "LOCAL_WORLD_SIZE": str(gpus), launch.STARTER: str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="commonart-")))
        stack.enter_context(lock(Path(out), task.lock, remove=True))
        stack.callback(_end, processes)
        files = [home / f"{rank}.json" for rank in range(gpus)]
        # A terminal sends Ctrl-C to all of them: this process alone answers, and ends them.
        deaf = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        for rank, file in enumerate(files):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), launch.RESULT_FILE: str(file)}
            environ = {"OMP_NUM_THREADS": threads, **os.environ, **count, **own}
            processes.append(subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, preexec_fn=deaf))
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.05)
        if any(codes):
            rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
            raise _error(rank, code, gpus, files[rank])
        return [json.loads(file.read_text()) for file in files]


def _error(rank: int, code: int, gpus: int, file: Path) -> CommonArtError:
    told = json.loads(file.read_text()) if file.exists() else None
    if isinstance(told, dict) and "error" in told:
        error = told["error"]
        return CommonArtError(error["what"], error["fix"], error["code"])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return CommonArtError(
        f"Process {rank} of {gpus} {how}.",
        "Run the same command again: finished shards are kept. What it printed stands above.",
    )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()  # nothing where it has ended
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command_line() -> list[str]:
    """Return the command line of this process."""
    return [sys.executable, "-m", "commonart.cli.main", *sys.argv[1:]]
