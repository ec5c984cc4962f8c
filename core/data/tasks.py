"""Which part of the shards is this process's: `--task-index` and `--num-tasks`, or Slurm's word."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from commonart.core.data.files import LOCK
from commonart.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Task:
    """Which part of the shards is this process's: shard number i goes to task i % count."""

    index: int
    count: int

    def own_file(self, path: str) -> str:
        """`path` where there is one task; else this task's own: kept.jsonl -> kept-00002-of-00016.jsonl.

        Raises UsageError where another number of tasks has written there: whoever reads all would read records twice.
        """
        if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
            return path
        if self.count > 1 and os.path.exists(path):
            raise UsageError(
                f"{path} was written by one task; this is one of {self.count}.", "Remove it, or name another -o."
            )
        folder, name = os.path.split(path)
        stem, dot, ending = name.partition(".")
        others = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-(\d{{5}}){re.escape(dot + ending)}")
        for file_name in sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else ():
            if (match := others.fullmatch(file_name)) and (count := int(match[1])) != self.count:
                other = os.path.join(folder, file_name)
                raise UsageError(
                    f"{other} was written by one of {count} tasks; this is one of {self.count}.",
                    f"Give --num-tasks {count} to go on with that, or remove those files.",
                )
        if self.count == 1:
            return path
        return os.path.join(folder, f"{stem}-{self.index:05d}-of-{self.count:05d}{dot}{ending}")

    @property
    def lock(self) -> str:
        """The file that keeps other processes out of this task's shards; the tasks of an array share the folder."""
        return LOCK if self.count == 1 else f"{LOCK}-{self.index}-of-{self.count}"

    def owns(self, number: int) -> bool:
        """Return whether shard `number` is this task's."""
        return number % self.count == self.index


def this_task(index: int | None = None, count: int | None = None, environ: Mapping[str, str] = os.environ) -> Task:
    """Return the task from the flags, else from a Slurm array, else from srun, else the only one.

    srun inside an array shares each of its tasks out once more. A batch script has a SLURM_PROCID and SLURM_NTASKS, too:
    only in a step of srun's is there SLURM_STEP_NUM_TASKS. A number of tasks alone takes the index from Slurm, so that a part
    of an array can be submitted again.

    Raises UsageError for an index without a number of tasks or outside of it, and for an array whose tasks are not 0, 1, ... N:
    Slurm tells no task how many the whole work was shared by when only some of them are submitted again.
    """
    array, step = "SLURM_ARRAY_TASK_ID" in environ, _number(environ, "SLURM_STEP_NUM_TASKS") or 1
    slurm_index = _number(environ, "SLURM_ARRAY_TASK_ID") * step + (_number(environ, "SLURM_PROCID") if step > 1 else 0)
    if index is None and count is not None and (array or "SLURM_STEP_NUM_TASKS" in environ):
        index = slurm_index
    if (index is None) != (count is None):
        raise UsageError("--task-index and --num-tasks go together.", "Give both, or inside Slurm --num-tasks alone.")
    if index is None or count is None:
        size = _number(environ, "SLURM_ARRAY_TASK_COUNT") if array else 1
        first, last = (environ.get(f"SLURM_ARRAY_TASK_{end}") for end in ("MIN", "MAX"))
        if array and (size == 1 or first not in (None, "0") or last not in (None, str(size - 1))):
            raise UsageError(
                f"the array holds {size} of the tasks {first} to {last}: it may be a part of another one.",
                "Submit --array=0-N, or add --num-tasks with the number of the whole.",
            )
        index, count = slurm_index, size * step
    if not 0 <= index < count:
        raise UsageError(f"task {index} of {count} does not exist.", "--task-index counts from 0 to --num-tasks - 1.")
    return Task(index, count)


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ.get(name, 0))
    except ValueError:
        raise UsageError(
            f"{name}={environ[name]} is not a whole number.", "Give --task-index and --num-tasks."
        ) from None
