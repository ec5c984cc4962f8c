"""What run.json says of a run beside its data and models: the code, the machines, and what it has cost so far."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import orjson
import torch

from commonart.core.data.files import write_json
from commonart.core.training.distributed import World

ROOT = Path(__file__).resolve().parents[2]
ENERGY = "boards' default power limit (nvidia-smi power.default_limit) x time: without the rest of the machines, and an upper bound"


def code() -> dict[str, Any]:
    """Return the version, the commit where it is known, and whether files of a checkout differ from it (None: not known)."""
    package = distribution("commonart")
    source = orjson.loads(package.read_text("direct_url.json") or "{}")
    commit, modified = source.get("vcs_info", {}).get("commit_id"), None
    if (ROOT / ".git").exists():  # a checkout of its own, and no other project that this one is installed in
        commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD") or None
        changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
        modified = bool(changes) if commit and changes is not None else None
    return {"version": package.version, "commit": commit, "modified": modified}


def devices(world: World) -> dict[str, Any]:
    """Return what the run computes on: the devices' name, their number, and the watts of one where that is known."""
    if world.device.type != "cuda":
        name = _cpu_name() if world.device.type == "cpu" else f"{platform.machine()} {world.device.type}"
        return {"device": world.device.type, "name": name, "count": world.size, "watts": None}
    about = torch.cuda.get_device_properties(world.device)
    return {"device": "cuda", "name": about.name, "count": world.size, "watts": board_watts(str(about.uuid))}


@lru_cache
def board_watts(uuid: str) -> float | None:
    """Return the default power limit of an NVIDIA board; None where nvidia-smi does not say it, as of a part of one (MIG)."""
    query = "nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=power.default_limit", "--format=csv,noheader,nounits"
    try:
        return float(_output(*query) or "")
    except ValueError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def compute(
    before: Sequence[Mapping[str, Any]],
    used: Mapping[str, Any],
    *,
    step: int,
    images: int,
    seconds: float,
    flops: float,
) -> dict[str, Any]:
    """Return what run.json keeps of the cost so far, whose energy is null where a device's power is not known.

    Args:
        before: the "devices" that it kept until now; `used` counts on where it is the last of them.
        used: what `devices` returned.
        step, images, seconds, flops: of the whole run, earlier calls included.
    """
    same = bool(before) and {name: before[-1].get(name) for name in used} == used
    earlier = [dict(one) for one in (before[:-1] if same else before)]
    own = max(0.0, seconds - sum(one["seconds"] for one in earlier))
    rows = [*earlier, {**used, "seconds": round(own, 3)}]
    known = all(row["watts"] is not None for row in rows)
    energy = sum(row["watts"] * row["count"] * row["seconds"] for row in rows) / 3.6e6 if known else None
    return {
        "step": step, "images": images, "seconds": round(seconds, 3), "flops": flops, "devices": rows,
        "energy_kwh": energy, "energy_is": ENERGY if known else "not known: the power of a device is not",
    }  # fmt: skip


def save(run: Path, used: Mapping[str, Any], **done: Any) -> None:
    """Bring `compute` in run.json up to date, where there is one, and its `ended`: when the newest checkpoint was complete."""
    path = run / "run.json"
    if path.exists():
        described = orjson.loads(path.read_bytes())
        before = (described.get("compute") or {}).get("devices", [])
        ended = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        write_json(path, {**described, "compute": {**compute(before, used, **done), "ended": ended}})
