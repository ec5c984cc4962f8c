"""`--gpus N`: which process has which shards, and how the processes end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import refused

from commonart.core import launch
from commonart.core.data import local_tasks
from commonart.core.data.files import lock
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, UsageError

CHILD = """
import os, signal, sys, time
from pathlib import Path
from commonart.core import errors, launch
launch.stop_with_starter()
rank, what, place = os.environ["RANK"], sys.argv[1], Path(sys.argv[2])
if what == "refused" and rank == "1":
    launch.report(errors.UsageError("That is wrong.", "Mend it."))
    sys.exit(2)
if what == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "fine":
    launch.report([rank, os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]])
    sys.exit(0)
place.joinpath(rank).write_text(str(os.getpid()))
time.sleep(60)
"""


def command(what: str, place: Path) -> list[str]:
    return [sys.executable, "-c", CHILD, what, str(place)]


def ended(pids: list[int], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # A zombie whose parent is gone is nobody's work any more.
        if not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def started(place: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pids = [int(text) for path in place.glob("[0-9]") if (text := path.read_text())]
        if len(pids) == count:
            return pids
        time.sleep(0.05)
    raise AssertionError("the processes did not start")


def test_the_processes_of_a_task_share_its_shards_and_no_other() -> None:
    for outer in (Task(0, 1), Task(1, 3)):
        parts = [
            local_tasks.own_task(outer, {"RANK": str(rank), "WORLD_SIZE": "4", launch.STARTER: "1"})
            for rank in range(4)
        ]
        for shard in range(48):
            assert sum(part.owns(shard) for part in parts) == outer.owns(shard), (outer, shard)
    assert local_tasks.own_task(Task(1, 3), {"RANK": "2", "WORLD_SIZE": "4"}) == Task(1, 3), "torchrun's, not ours"


def test_what_cannot_be_shared(tmp_path: Path) -> None:
    raw = str(tmp_path)
    refused(UsageError, 2, "--gpus 2 needs a SOURCE", "not stdin", lambda: local_tasks.check(2, "-", "out"))
    refused(UsageError, 2, "--gpus 2 needs a SOURCE", "not stdin", lambda: local_tasks.check(2, None, "out"))
    refused(CommonArtError, 1, "raw does not exist", "folder", lambda: local_tasks.check(2, raw + "/raw", "out"))
    for out in (None, "-", "x.jsonl", "x.jsonl.gz", __file__):
        refused(UsageError, 2, "--gpus 2 needs a folder", "-o FOLDER/", lambda out=out: local_tasks.check(2, raw, out))
    local_tasks.check(2, raw, str(tmp_path / "new"))


def test_reports_come_in_order(tmp_path: Path) -> None:
    told = local_tasks.run(command("fine", tmp_path), 2, str(tmp_path), Task(0, 1))
    assert told == [["0", "0", "2", "2"], ["1", "1", "2", "2"]]


@pytest.mark.parametrize(
    ("what", "code", "says", "fix"),
    [
        ("refused", 2, "That is wrong.", "Mend it."),
        ("killed", 1, "Process 1 of 2 was killed by SIGKILL.", "finished shards are kept"),
    ],
)
def test_one_that_fails_ends_the_others(what: str, code: int, says: str, fix: str, tmp_path: Path) -> None:
    began = time.monotonic()
    refused(
        CommonArtError, code, says, fix, lambda: local_tasks.run(command(what, tmp_path), 2, str(tmp_path), Task(0, 1))
    )
    assert time.monotonic() - began < 50, "the other one would sleep for a minute"


def test_a_folder_that_is_in_use(tmp_path: Path) -> None:
    with lock(tmp_path, Task(0, 1).lock):
        refused(
            CommonArtError, 1, "is in use by process", "Wait",
            lambda: local_tasks.run(command("fine", tmp_path), 2, str(tmp_path), Task(0, 1)),
        )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_they_end_with_the_one_that_started_them(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import signal, sys; from commonart.core.data import local_tasks; from commonart.core.data.tasks import Task\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"local_tasks.run({command('waits', tmp_path)!r}, 2, {str(tmp_path)!r}, Task(0, 1))"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = started(tmp_path, 2)
    os.kill(starter.pid, number)
    assert starter.wait(40) in (143, -number)
    assert ended(pids)
