"""Which part of the shards is this process's: `--task-index` and `--num-tasks`, or Slurm's word.

sbatch --array 0-15 --wrap "commonart caption --model florence2 shards/ -o captioned/"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from commonart.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Task:
    """Which part of the shards is this process's: shard number i goes to task i % count."""

    index: int
    count: int

    def own_file(self, path: str) -> str:
        """`path` where there is one task; else this task's own: kept.jsonl -> kept-00002-of-00016.jsonl."""
        if self.count == 1 or path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
            return path
        folder, name = os.path.split(path)
        stem, dot, ending = name.partition(".")
        return os.path.join(folder, f"{stem}-{self.index:05d}-of-{self.count:05d}{dot}{ending}")

    def owns(self, number: int) -> bool:
        """Whether shard `number` is this task's."""
        return number % self.count == self.index


def this_task(index: int | None = None, count: int | None = None, environ: Mapping[str, str] = os.environ) -> Task:
    """The task from the flags, else from a Slurm array, else from srun, else the only one.

    Raises:
        UsageError: one flag without the other, or an index outside the count.
    """
    if (index is None) != (count is None):
        raise UsageError("--task-index and --num-tasks go together.", "Give both or none.")
    if index is None or count is None:
        for name, total in (
            ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
            ("SLURM_PROCID", "SLURM_NTASKS"),
        ):
            if name in environ and total in environ:
                start = "SLURM_ARRAY_TASK_MIN" if "ARRAY" in name else ""
                index, count = _number(environ, name) - _number(environ, start), _number(environ, total)
                last = "SLURM_ARRAY_TASK_MAX" if start else ""
                if last in environ and _number(environ, last) - _number(environ, start) + 1 != count:
                    raise UsageError(
                        "the array's tasks do not follow each other, so that shards would be left out.",
                        "Submit --array=0-N, or give --task-index and --num-tasks.",
                    )
                break
        else:
            index, count = 0, 1
    if not 0 <= index < count:
        raise UsageError(f"task {index} of {count} does not exist.", "--task-index counts from 0 to --num-tasks - 1.")
    return Task(index, count)


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ.get(name, 0))
    except ValueError:
        raise UsageError(f"{name}={environ[name]} is no whole number.", "Give --task-index and --num-tasks.") from None
