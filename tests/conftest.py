"""What the tests share: no network, few threads, a way to run the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spin on a busy machine
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
# Processes that tests start import their helpers, and the tests themselves as `tests.FOLDER.test_NAME`.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
)
SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


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
