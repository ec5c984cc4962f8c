"""--task-index and --num-tasks, or Slurm's word: which shards and which file are a task's."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonl_stages import keep_even, make_jsonl, tree

from commonart.core.data import jsonl, stream, tasks
from commonart.core.errors import UsageError


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_tasks_share_the_shards_without_loss(tmp_path: Path, count: int) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 55)
    alone, together = tmp_path / "alone", tmp_path / "together"
    stream.run("even", keep_even, source=source, out=str(alone), shard_size=10)
    for index in range(count):
        stream.run("even", keep_even, source=source, out=str(together), shard_size=10, task=tasks.Task(index, count))
    assert tree(alone) == tree(together)


def test_each_task_writes_files_of_its_own(tmp_path: Path) -> None:
    source = make_jsonl(tmp_path / "in.jsonl", 55)
    for index in range(3):
        stream.run(
            "even", keep_even, source=source, out=str(tmp_path / "even.jsonl"), rejects=str(tmp_path / "odd.jsonl.gz"),
            shard_size=10, task=tasks.Task(index, 3),
        )  # fmt: skip
    for name, rest, ending in (("even", 0, "jsonl"), ("odd", 1, "jsonl.gz")):
        files = [str(tmp_path / f"{name}-{index:05d}-of-00003.{ending}") for index in range(3)]
        assert sorted(r["n"] for file in files for r in jsonl.read(file)) == list(range(rest, 55, 2))
    assert not (tmp_path / "even.jsonl").exists()


def test_the_task_comes_from_the_flags_or_from_slurm() -> None:
    with pytest.raises(UsageError, match="SLURM_PROCID=x"):
        tasks.this_task(environ={"SLURM_PROCID": "x", "SLURM_STEP_NUM_TASKS": "8"})
    assert tasks.this_task(environ={}) == tasks.Task(0, 1)
    array = {
        f"SLURM_ARRAY_TASK_{name}": value for name, value in (("ID", "3"), ("COUNT", "16"), ("MIN", "0"), ("MAX", "15"))
    }
    assert tasks.this_task(environ=array) == tasks.Task(3, 16)
    assert tasks.this_task(environ={**array, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == tasks.Task(3, 16)
    assert tasks.this_task(environ={**array, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}) == tasks.Task(7, 32)
    assert tasks.this_task(environ={"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}) == tasks.Task(3, 8)
    assert tasks.this_task(environ={"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == tasks.Task(
        0, 1
    )  # a batch script, no srun
    assert tasks.this_task(1, 2, environ=array) == tasks.Task(1, 2)
    with pytest.raises(UsageError):
        tasks.this_task(2, 2, environ={})
    with pytest.raises(UsageError):
        tasks.this_task(1, None, environ={})
    with pytest.raises(UsageError, match="go together"):
        tasks.this_task(None, 4, environ={})


@pytest.mark.parametrize(
    ("ids", "whole"),
    [(["3", "4"], 16), (["0", "2"], 4), (["15"], 16), (["0"], 16), (["1", "2", "3"], 4), (["0", "2", "4"], 6)],
)
def test_part_of_an_array_needs_the_number_of_the_whole(ids: list[str], whole: int) -> None:
    part = {"SLURM_ARRAY_TASK_COUNT": str(len(ids)), "SLURM_ARRAY_TASK_MIN": ids[0], "SLURM_ARRAY_TASK_MAX": ids[-1]}
    for name in ids:
        environ = {**part, "SLURM_ARRAY_TASK_ID": name, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
        with pytest.raises(UsageError, match="a part of another one") as error:
            tasks.this_task(environ=environ)
        assert "--num-tasks" in error.value.fix
        assert tasks.this_task(None, whole, environ=environ) == tasks.Task(int(name), whole)
    if ids[-1] == "0":
        assert tasks.this_task(None, 1, environ={**part, "SLURM_ARRAY_TASK_ID": "0"}) == tasks.Task(0, 1)
    else:
        with pytest.raises(UsageError, match=f"task {ids[-1]} of 1 does not exist"):
            tasks.this_task(None, 1, environ={**part, "SLURM_ARRAY_TASK_ID": ids[-1]})


def test_files_of_another_number_of_tasks_are_not_mixed_in(tmp_path: Path) -> None:
    path = str(tmp_path / "kept.jsonl")
    Path(tasks.Task(2, 16).own_file(path)).touch()
    assert tasks.Task(3, 16).own_file(path).endswith("kept-00003-of-00016.jsonl")
    assert tasks.Task(0, 5).own_file(str(tmp_path / "other.jsonl")).endswith("other-00000-of-00005.jsonl")
    with pytest.raises(UsageError, match="one of 16 tasks; this is one of 5"):  # --array=0-4 of a former 0-15
        tasks.Task(0, 5).own_file(path)
    with pytest.raises(UsageError, match="one of 16 tasks; this is one of 1"):
        tasks.Task(0, 1).own_file(path)
    Path(path).touch()
    with pytest.raises(UsageError, match="kept.jsonl was written by one task"):
        tasks.Task(2, 16).own_file(path)
