"""Slurm: what a task of srun knows of the others, and the sbatch file that trains and requeues itself."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, MutableMapping, Sequence

from commonart.core.errors import EXIT_PREEMPTED, UsageError

INTERACTIVE_STEP = "4294967290"  # salloc's shell is a step of its own where LaunchParameters=use_interactive_step
PORTS = "COMMONART_PORTS"  # where the first task may listen, in the order in which all of them try
CANDIDATES = 8


def step_tasks(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return how many tasks srun started together with this process; None where it was not started by srun.

    A batch script and salloc's interactive shell see the job's SLURM_NTASKS, but no other task was started for them.
    """
    if "SLURM_PROCID" not in environ or environ.get("SLURM_STEP_ID", INTERACTIVE_STEP) == INTERACTIVE_STEP:
        return None
    return int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", "1"))


def adopt_step(environ: MutableMapping[str, str] = os.environ) -> None:
    """Under srun, set the variables that torch.distributed reads (RANK, WORLD_SIZE, ...); elsewhere do nothing."""
    tasks = step_tasks(environ)
    if "WORLD_SIZE" in environ or tasks is None or tasks == 1:
        return
    # Tasks of each node: "2(x3),1" is 2, 2, 2, 1.
    counts = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_NTASKS_PER_NODE", "1")
    per_node = [n for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts) for _ in range(int(times or 1))] or ["1"]
    node = int(environ.get("SLURM_NODEID", "0"))
    environ["RANK"] = environ["SLURM_PROCID"]
    environ["LOCAL_RANK"] = environ.get("SLURM_LOCALID", "0")
    environ["LOCAL_WORLD_SIZE"] = per_node[min(node, len(per_node) - 1)]
    environ["WORLD_SIZE"] = str(tasks)
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    environ.setdefault("MASTER_ADDR", first_host(hosts))
    if "MASTER_PORT" not in environ:
        # Every task must find the same ports without talking. Another job may have one of them, so there are several; below
        # 32768, where systems begin to take ports for outgoing connections.
        job, step = int(environ.get("SLURM_JOB_ID", "0")), int(environ["SLURM_STEP_ID"])
        first = (job * 31 + step) * CANDIDATES
        environ[PORTS] = " ".join(str(20000 + (first + n) % 12000) for n in range(CANDIDATES))


def first_host(nodelist: str) -> str:
    """Return the first host of a Slurm node list: "gpu[03-05,9],cpu1" -> "gpu03"."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodelist)
    if match is None:
        raise UsageError(f"SLURM_JOB_NODELIST={nodelist} names no host.", "Set MASTER_ADDR to the first host's name.")
    return match[1] + (match[2] or "") + (match[3] or "")


def sbatch_script(args: Sequence[str], *, name: str, gpus: int) -> str:
    """Return an sbatch file that trains with `commonart train ARGS`, one task per GPU, and requeues itself when preempted.

    Nodes are taken to have 8, 4, 2 or 1 GPUs, as many as `gpus` fills whole ones of.
    """
    per_node = next(count for count in (8, 4, 2, 1) if gpus % count == 0)
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={gpus // per_node}   # times the next line are the GPUs: change both to what your nodes have
#SBATCH --ntasks-per-node={per_node}
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120        # to the tasks, 120 s before the time is over: they save and end with {EXIT_PREEMPTED}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

srun --kill-on-bad-exit=0 commonart train {shlex.join([*_queued(args), "--gpus", str(gpus)])}
code=$?
if [ "$code" -eq {EXIT_PREEMPTED} ]; then   # preempted: the same job goes on from its checkpoint
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
"""


def _queued(args: Sequence[str]) -> list[str]:
    """`args` without what the script says itself, and without what would keep it from training."""
    flags, valued = ("--slurm-script", "--dry-run"), ("--gpus", "--calibrate")
    queued: list[str] = []
    skip = False
    for word in args:
        if not skip and word.partition("=")[0] not in (*flags, *valued):
            queued.append(word)
        skip = not skip and word in valued
    return queued
