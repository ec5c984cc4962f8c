"""How training processes are started: alone, by --gpus N, under torchrun, under srun; and the sbatch script as text.

    commonart train --stage 512 --gpus 4                   # starts 4 processes on this machine
    torchrun --nproc-per-node 4 -m commonart.cli.main train --stage 512 --gpus 4
    srun --ntasks 32 commonart train --stage 512 --gpus 32
    commonart train --stage 512 --gpus 32 --slurm-script > 512.sbatch && sbatch 512.sbatch

No torch here.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from commonart.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_PREEMPTED, CommonArtError, Preempted, UsageError

WORD_FILE = "COMMONART_WORD_FILE"  # where a started process leaves what it did, or the sentence it ended with
STARTER = "COMMONART_STARTER"  # the number of the process that started it
AGAIN = "Start the same command again: it continues from the newest checkpoint."
GRACE = 120.0  # seconds that the other processes have to save after one has ended
STOPS = (signal.SIGTERM, signal.SIGUSR1)  # "save and stop": a scheduler's, and Slurm's warning before it preempts
SAME = 1.0  # seconds within which two SIGINT are one Ctrl-C: the terminal sends it, and torchrun sends it once more


@dataclass(slots=True)
class Stop:
    """Whether somebody asked this process to stop. `saves`: training runs, and its loop saves before it stops."""

    told: int = 0  # the exit code that was asked for: EXIT_PREEMPTED, or EXIT_INTERRUPTED by Ctrl-C
    saves: bool = False
    pressed: float = -math.inf  # when Ctrl-C came first

    def again(self) -> bool:
        """Notes a Ctrl-C; whether one came before it, so that this one is to end everything at once."""
        first, now = math.isinf(self.pressed), time.monotonic()
        if first:
            self.pressed, self.told = now, EXIT_INTERRUPTED
            # Not through sys.stderr, which the loop may be writing to.
            os.write(2, b"\nThis step is finished and saved; Ctrl-C once more ends at once.\n")
        return not first and now - self.pressed > SAME


@contextmanager
def stoppable(what: str) -> Iterator[Stop]:
    """SIGTERM, SIGUSR1 and a first Ctrl-C set `told` where the loop saves; before that nothing is to be saved, and they raise.

    Preempted is raised, and KeyboardInterrupt for Ctrl-C, also for the second one. Outside the main thread signals are
    somebody else's, and nothing happens. `what` is named in the error.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def tell(number: int, frame: FrameType | None) -> None:
        stop.told = stop.told or EXIT_PREEMPTED
        if not stop.saves:
            raise Preempted(f"{what}: a signal came before training began.", "Start the same command again.")

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not stop.saves or stop.again():
            raise KeyboardInterrupt

    with _handlers({**dict.fromkeys(STOPS, tell), signal.SIGINT: interrupt}):
        yield stop
    if stop.told == EXIT_INTERRUPTED:  # it came when all was done: whoever called must not go on with something else
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


class PeerGone(CommonArtError):
    """Another process of this training has ended; what it ended with says more than this."""


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes were started together: torchrun's count, else srun's, else 1."""
    if "WORLD_SIZE" in environ:
        return int(environ["WORLD_SIZE"])
    return int(environ.get("SLURM_NTASKS", "1")) if _inside_srun(environ) else 1


def check_gpus(gpus: int | None) -> None:
    """Raises UsageError for a number that cannot be one of GPUs."""
    if gpus is not None and gpus < 1:
        raise UsageError(f"--gpus {gpus} is no number of GPUs.", "Use 1 or more, or leave it out.")


def must_spawn(gpus: int | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to start `gpus` others. Raises UsageError where another number was started already."""
    check_gpus(gpus)
    if gpus is None:
        return False
    if "WORLD_SIZE" not in environ and not _inside_srun(environ):
        return gpus > 1
    size, starter = world_size(environ), "torchrun" if "WORLD_SIZE" in environ else "srun"
    if size != gpus:
        option = "--nproc-per-node times --nnodes" if starter == "torchrun" else "--ntasks"
        raise UsageError(f"--gpus {gpus}, but {starter} started {size} processes.", f"Make {option} equal to --gpus.")
    return False


def adopt_srun(environ: MutableMapping[str, str] = os.environ) -> None:
    """Under srun, sets the variables that torch.distributed reads (RANK, WORLD_SIZE, ...); elsewhere does nothing."""
    if "WORLD_SIZE" in environ or not _inside_srun(environ) or world_size(environ) == 1:
        return
    environ["RANK"] = environ["SLURM_PROCID"]
    environ["LOCAL_RANK"] = environ.get("SLURM_LOCALID", "0")
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_NTASKS_PER_NODE", "1")  # "2(x3),1"
    environ["LOCAL_WORLD_SIZE"] = re.split(r"[(,]", per_node)[0]
    environ["WORLD_SIZE"] = environ["SLURM_NTASKS"]
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    environ.setdefault("MASTER_ADDR", first_host(hosts))
    # Every task must find the same port without talking: one that follows from the job and its step.
    job, step = int(environ.get("SLURM_JOB_ID", "0")), int(environ.get("SLURM_STEP_ID", "0"))
    environ.setdefault("MASTER_PORT", str(20000 + (job * 31 + step) % 20000))


def first_host(nodelist: str) -> str:
    """The first host of a Slurm node list: "gpu[03-05,9],cpu1" -> "gpu03"."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodelist)
    if match is None:
        raise UsageError(f"SLURM_JOB_NODELIST={nodelist} names no host.", "Set MASTER_ADDR to the first host's name.")
    return match[1] + (match[2] or "") + (match[3] or "")


def _inside_srun(environ: Mapping[str, str]) -> bool:
    # A batch script sees SLURM_PROCID too; only a step of srun's has both.
    return "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ


def spawn(command: Sequence[str], count: int, environ: Mapping[str, str] = os.environ) -> Any:
    """Runs `command` in `count` processes that form one world on this machine. What the first of them left with `leave`.

    SIGTERM and SIGUSR1 are passed on, a first Ctrl-C as SIGUSR1; the second ends all at once. When one ends with an error
    the others get time to end too, then they are stopped.
    Raises what the first one to fail raised (CommonArtError, Preempted), or KeyboardInterrupt.
    """
    with tempfile.TemporaryDirectory(prefix="commonart-") as home:
        shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(_free_port())
        threads = str(max(1, (os.cpu_count() or 1) // count))
        shared["OMP_NUM_THREADS"] = environ.get("OMP_NUM_THREADS", threads)
        processes: list[subprocess.Popen[bytes]] = []
        stop = Stop()

        def forward(number: int, frame: FrameType | None) -> None:
            stop.told = stop.told or EXIT_PREEMPTED
            for process in processes:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

        def interrupt(number: int, frame: FrameType | None) -> None:
            told = stop.told
            if stop.again():
                raise KeyboardInterrupt
            if not told:
                forward(signal.SIGUSR1, frame)

        with _handlers({**dict.fromkeys(STOPS, forward), signal.SIGINT: interrupt}):
            try:
                for rank in range(count):
                    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), WORD_FILE: f"{home}/{rank}.json"}
                    own[STARTER] = str(os.getpid())
                    if not stop.told:
                        # A terminal sends Ctrl-C to all of them, and only this process knows which one it is.
                        processes.append(subprocess.Popen(command, env={**environ, **shared, **own}, preexec_fn=_deaf))
                _wait(processes)
                codes = [process.poll() for process in processes]
            finally:
                for process in processes:
                    if process.poll() is None:
                        process.kill()
                    process.wait()
        words = [
            (rank, json.loads(path.read_text()))
            for rank in range(count)
            if (path := Path(home, f"{rank}.json")).exists()
        ]
        _raise(codes, words, stop)
        if stop.told == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        return next((word for rank, word in words if rank == 0), None)


def _deaf() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def follow() -> None:
    """In a process of `spawn`: to be told by SIGTERM when the one that started it is killed, where the system can (Linux)."""
    if STARTER in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, for deaths from now on
        if os.getppid() != int(os.environ[STARTER]):
            sys.exit(EXIT_FAILED)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or GRACE seconds after the first has failed."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        if deadline == float("inf") and any(process.poll() for process in processes):
            # A lone rank leaves the others waiting for it in a collective: they are told, then given up.
            preempted = any(process.poll() == EXIT_PREEMPTED for process in processes)
            deadline = time.monotonic() + (GRACE if preempted else 5.0)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _raise(codes: Sequence[int | None], words: Sequence[tuple[int, Any]], stop: Stop) -> None:
    """The error of the process that failed first. `codes`: exit codes, None of one that had to be stopped."""
    errors = [word["error"] for _, word in words if "error" in word]
    own = [error for error in errors if error["code"] != EXIT_PREEMPTED and not error["peer"]]
    if own:
        raise CommonArtError(own[0]["what"], own[0]["fix"], own[0]["code"])
    early = {-each for each in STOPS}  # told before it could listen: it had nothing to save
    told = (EXIT_PREEMPTED, *early) if stop.told else (EXIT_PREEMPTED,)
    some_saved = EXIT_PREEMPTED in codes and all(code in (*told, None) for code in codes)
    if some_saved or (stop.told and set(codes) <= set(told)):
        said = next((error for error in errors), {"what": "A signal came before training began.", "fix": AGAIN})
        raise Preempted(said["what"], said["fix"], stop.told or EXIT_PREEMPTED)
    killed = [(rank, code) for rank, code in enumerate(codes) if code is not None and code < 0]
    failed = killed or [(rank, code) for rank, code in enumerate(codes) if code]
    if killed or (failed and not errors):
        rank, code = failed[0]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise CommonArtError(
            f"Training process {rank} of {len(codes)} {how}.",
            f"{AGAIN} What it printed stands above.",
        )
    if errors:
        raise CommonArtError(errors[0]["what"], errors[0]["fix"], EXIT_FAILED)


def leave(word: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """In a started process: leaves a JSON value, or an error, for the one that started it. False where nobody waits."""
    if WORD_FILE not in environ:
        return False
    if isinstance(word, CommonArtError):
        peer = isinstance(word, PeerGone)
        word = {"error": {"what": word.what, "fix": word.fix, "code": word.code, "peer": peer}}
    Path(environ[WORD_FILE]).write_text(json.dumps(word))
    return True


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def child_command(settings: Mapping[str, Any]) -> list[str]:
    """The command of one process of `spawn`: the same training, its settings as one JSON argument."""
    return [sys.executable, "-m", "commonart.stages.train", json.dumps(settings)]


def _queued(args: Sequence[str]) -> list[str]:
    """`args` without what the script says itself, and without what would keep it from training."""
    flags, valued = ("--slurm-script", "--dry-run"), ("--gpus", "--calibrate")
    kept: list[str] = []
    skip = False
    for word in args:
        if not skip and word.partition("=")[0] not in (*flags, *valued):
            kept.append(word)
        skip = not skip and word in valued
    return kept


def sbatch_script(
    args: Sequence[str], *, name: str, gpus: int, hours: int = 24, cpus: int = 8, partition: str = ""
) -> str:
    """An sbatch file that trains with `commonart train ARGS`, one task per GPU, and requeues itself when it is preempted.

    Slurm sends SIGUSR1 two minutes before the time is over: every task saves and ends with 75, and the job goes back into the
    queue. Nodes are taken to have 8, 4, 2 or 1 GPUs, as many as `gpus` fills whole ones of.
    """
    per_node = next(count for count in (8, 4, 2, 1) if gpus % count == 0)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={gpus // per_node}   # times the next line are the GPUs: change both to what your nodes have",
        f"#SBATCH --ntasks-per-node={per_node}",
        "#SBATCH --gpus-per-task=1",
        f"#SBATCH --cpus-per-task={cpus}",
        f"#SBATCH --time={hours}:00:00",
        "#SBATCH --signal=USR1@120        # to the tasks, 120 s before the time is over: they save and end with 75",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=%x-%j.log",
        *([f"#SBATCH --partition={partition}"] if partition else []),
        "",
        f"srun --kill-on-bad-exit=0 commonart train {shlex.join([*_queued(args), '--gpus', str(gpus)])}",
        "code=$?",
        f'if [ "$code" -eq {EXIT_PREEMPTED} ]; then   # preempted: the same job goes on from its checkpoint',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "    exit 0",
        "fi",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"
