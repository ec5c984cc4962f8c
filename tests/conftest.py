"""What the tests share: no network, few threads, and two ways to run a command line."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from commands import Command

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spin on a busy machine
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The key that signs images is made once for all tests, and not in the home of whoever runs them.
os.environ["XDG_DATA_HOME"] = os.path.join(tempfile.gettempdir(), f"commonart-tests-{getpass.getuser()}")

# A shell starts background jobs with Ctrl-C ignored, and so would be what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# Processes that tests start import their helpers, and the tests themselves as `tests.FOLDER.test_NAME`.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
)

settings.register_profile("default", deadline=None)  # 100 examples a property
settings.register_profile("thorough", deadline=None, max_examples=1000)  # what CI takes
settings.load_profile("default")
SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No workers for the tests of one file, nor with -s, whose output they would swallow; else one a core."""
    files = {argument.split("::")[0] for argument in config.args}
    one_file = len(files) == 1 and files.pop().endswith(".py")
    return 0 if one_file or config.option.capture == "no" else None


@pytest.fixture
def commonart(tmp_path: Path) -> Command:
    """Run `commonart ARGS...` in an empty folder, as a user would; returns the finished process."""

    def run(*args: str, input: bytes = b"", cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[bytes]:
        plain = {k: v for k, v in os.environ.items() if k not in SLURM}
        command = [sys.executable, "-m", "commonart.cli.main", *args]
        return subprocess.run(
            command, input=input, capture_output=True, cwd=cwd, env={**plain, **env}, timeout=600, check=False
        )

    return run


@pytest.fixture
def in_process(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run `commonart ARGS...` in this process, where torch is imported once: for what a process of its own adds nothing to."""
    from commands import call

    def run(*args: str, input: bytes = b"", cwd: Path = tmp_path) -> subprocess.CompletedProcess[bytes]:
        capfdbinary.readouterr()
        code = call(cwd, *args, stdin=input)
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess(args, code, out, err)

    return run
