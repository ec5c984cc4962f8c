"""The machine that a benchmark ran on, for its results."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The CPU's name, as Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
